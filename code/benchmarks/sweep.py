"""Seconds of a part of the convergence map with one worker and with two, and their ratio.

Run on an idle machine: ``.venv/bin/python code/benchmarks/sweep.py``.
"""

import time

from tokenmargin.basins import selected_share
from tokenmargin.sweep import sweep

GRID = {"n": [4], "T": [4], "runs": [50], "seed": [0], "scores": ["equal", "gaussian"], "d": (3, 4, 6, 8, 12, 20), "norm": (1.0, 10.0)}  # fmt: skip


def seconds(workers: int) -> float:
    """Wall time of the sweep."""
    start = time.perf_counter()
    sweep(selected_share, GRID, workers=workers)
    return time.perf_counter() - start


if __name__ == "__main__":
    sweep(selected_share, GRID | {"runs": [1]}, workers=2)  # start the workers, load the compiled code
    one, two = seconds(1), seconds(2)
    print(f"one worker {one:.1f} s, two workers {two:.1f} s, speed-up {one / two:.2f}")
