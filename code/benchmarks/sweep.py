"""A part of the convergence map with one worker and with two: their times by the clock and by the processor."""

from __future__ import annotations

import os
import time

from tokenmargin.studies.basins import selected_share
from tokenmargin.studies.sweep import sweep

GRID = {
    "n": [4],
    "T": [4],
    "runs": [100],
    "seed": [0],
    "scores": ["equal", "gaussian"],
    "d": (3, 4, 6, 8, 12, 20),
    "norm": (1.0, 10.0),
}


def timed_share(**arguments) -> dict:
    """What `selected_share` counts, the processor seconds that it took, and the process."""
    start = time.process_time()
    counts = selected_share(**arguments)
    return {**counts, "processor": time.process_time() - start, "process": os.getpid()}


def seconds(workers: int) -> tuple[float, float]:
    """Wall time of the sweep, and processor time of the busiest worker."""
    start = time.perf_counter()
    table = sweep(timed_share, GRID, workers=workers)
    return time.perf_counter() - start, float(table.groupby("process").processor.sum().max())


def speed_up_record(repeats: int = 9) -> dict:
    """The sweep with one worker and with two, in turn.

    By the clock, and by the processor: the time of the only worker over that of the busier of two, which other work on the
    machine leaves alone. The load is the average of the last minute, these runs among it.
    """
    sweep(timed_share, GRID | {"runs": [1]}, workers=2)  # starts the workers, loads the compiled code
    pairs = [(seconds(1), seconds(2)) for _ in range(repeats)]
    return {
        "one_s": [one for (one, _), _ in pairs],
        "two_s": [two for _, (two, _) in pairs],
        "speed_up": [one / two for (one, _), (two, _) in pairs],
        "processor_speed_up": [one / two for (_, one), (_, two) in pairs],
        "load": os.getloadavg()[0],
    }
