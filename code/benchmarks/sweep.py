"""Seconds of a part of the convergence map with one worker and with two, and their ratio."""

from __future__ import annotations

import os
import time

from tokenmargin.basins import selected_share
from tokenmargin.sweep import sweep

GRID = {
    "n": [4],
    "T": [4],
    "runs": [50],
    "seed": [0],
    "scores": ["equal", "gaussian"],
    "d": (3, 4, 6, 8, 12, 20),
    "norm": (1.0, 10.0),
}


def seconds(workers: int) -> float:
    """Wall time of the sweep."""
    start = time.perf_counter()
    sweep(selected_share, GRID, workers=workers)
    return time.perf_counter() - start


def speed_up_record(repeats: int = 15) -> dict:
    """The sweep with one worker and with two, in turn, and the ratio of the least times, which other work disturbs least.

    The load is the average of the last minute, these runs among it.
    """
    sweep(selected_share, GRID | {"runs": [1]}, workers=2)  # starts the workers, loads the compiled code
    pairs = [(seconds(1), seconds(2)) for _ in range(repeats)]
    return {
        "one_s": [one for one, _ in pairs],
        "two_s": [two for _, two in pairs],
        "speed_up": [one / two for one, two in pairs],
        "best": min(one for one, _ in pairs) / min(two for _, two in pairs),
        "load": os.getloadavg()[0],
    }
