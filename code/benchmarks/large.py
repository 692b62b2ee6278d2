"""Large problems: one step at n = 10 000, T = 16, d = 64 beside its bare matrix products, and token SVMs at d = 64.

Times are of the processor, on one core, so that other work on the machine matters little.
"""

from __future__ import annotations

import resource
import sys
import time

import numpy as np
from speed import median_seconds
from tokenmargin.data.problem import TokenProblem
from tokenmargin.data.synthetic import gaussian, taught
from tokenmargin.margin.token_svm import solve_token_svm
from tokenmargin.training.rules import NormalizedGD
from tokenmargin.training.train import train

UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss


def step_seconds(problem: TokenProblem, steps: int = 20) -> float:
    """Seconds of one step of the matrix form: a run less a run of one step, which sets up and records as much."""
    rule = NormalizedGD(0.05)

    def run(k: int) -> float:
        return median_seconds(lambda: train(problem, rule, k, record=[k], form="matrix"), 3, time.process_time)

    return (run(steps + 1) - run(1)) / steps


def product_seconds(problem: TokenProblem) -> float:
    """Seconds of the four matrix products of one step alone, on arrays of the same sizes."""
    n, T, d, Q = problem.n, problem.T, problem.d, problem.Q
    rng = np.random.default_rng(0)
    X, Z, W = problem.tokens, problem.queries.reshape(-1, d), rng.standard_normal((d, d))
    turned, force = rng.standard_normal((n, Q, d)), rng.standard_normal((n, Q, T))

    def products() -> None:
        Z @ W.T
        turned @ X.transpose(0, 2, 1)
        force @ X
        turned.reshape(-1, d).T @ Z

    return median_seconds(products, 7, time.process_time)


def peak() -> float:
    """Largest memory of this process so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT / 2**30


def step_record(shape: tuple[int, int, int] = (10_000, 16, 64)) -> dict:
    """A step of the matrix form, the bare products, and the memory of the process."""
    problem = gaussian(*shape, seed=0)
    step, products = step_seconds(problem), product_seconds(problem)
    N = len(problem.constraints)
    return {"shape": shape, "N": N, "step_ms": 1e3 * step, "products_ms": 1e3 * products, "peak_gib": peak()}


def svm_record(n: int, T: int, d: int) -> dict:
    """Size, time and certificate of the token SVM of a separable problem."""
    problem = taught(n, T, d, seed=0)
    began = time.process_time()
    svm = solve_token_svm(problem)
    return {
        "shape": (n, T, d),
        "N": len(svm.duals),
        "support": int(svm.support.sum()),
        "seconds": time.process_time() - began,
        "certificate": svm.certificate(),
        "peak_gib": peak(),
    }
