"""Microseconds per step of the engine and of the reference, and seconds of the two token SVM solvers: `make bench`.

Every figure is a median over several runs in this one process.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from tokenmargin.data.synthetic import gaussian
from tokenmargin.margin.token_svm import solve_token_svm
from tokenmargin.training.rules import NormalizedGD
from tokenmargin.training.train import train


def median_seconds(run: Callable[[], object], runs: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Median time of `run` over `runs` calls by a clock, default the wall's, after one warm-up call."""
    run()
    times = []
    for _ in range(runs):
        start = clock()
        run()
        times.append(clock() - start)
    return statistics.median(times)


def step_times(n: int, T: int, d: int) -> tuple[float, float]:
    """Microseconds per NGD step: (engine, reference)."""
    problem, step = gaussian(n, T, d, seed=0), NormalizedGD(0.05)
    engine = median_seconds(lambda: train(problem, step, 100_000, record=[100_000], form="gram"), 5) / 1e5
    reference = median_seconds(lambda: train(problem, step, 300, record=[300], form="reference"), 5) / 300
    return 1e6 * engine, 1e6 * reference


def svm_times(n: int, T: int, d: int) -> tuple[float, float, float]:
    """Seconds of the Gram method and of cvxpy's primal, and their largest relative difference in W_mm."""
    problem = gaussian(n, T, d, seed=0)
    fast, slow = solve_token_svm(problem), solve_token_svm(problem, method="cvxpy", tolerance=1e-5)
    difference = abs(fast.W - slow.W).max() / abs(fast.W).max()
    gram = median_seconds(lambda: solve_token_svm(gaussian(n, T, d, seed=0)), 5)
    primal = median_seconds(lambda: solve_token_svm(gaussian(n, T, d, seed=0), method="cvxpy", tolerance=1e-5), 3)
    return gram, primal, difference


def main() -> None:
    """Print both tables."""
    for shape in [(5, 4, 100), (10, 6, 100)]:
        engine, reference = step_times(*shape)
        print(
            f"(n, T, d) = {shape}: {engine:.2f} us/step, reference {reference:.0f} us/step: {reference / engine:.0f} times"
        )
    shape = (20, 10, 100)
    gram, primal, difference = svm_times(*shape)
    print(
        f"token SVM {shape}: {gram:.4f} s, cvxpy with a d x d variable {primal:.2f} s: {primal / gram:.0f} times; "
        f"largest relative difference {difference:.1e}"
    )


if __name__ == "__main__":
    main()
