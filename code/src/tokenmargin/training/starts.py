"""Starts of a given norm: random, and adversarial."""

from __future__ import annotations

import numpy as np

from ..data.problem import TokenProblem
from ..types import Array


def random_start(problem: TokenProblem, norm: float | Array, rng: np.random.Generator) -> Array:
    """W_0 of Frobenius norm `norm` in a uniformly random direction, shape (d, d); (K, d, d) for norms of shape (K, 1, 1)."""
    W = rng.standard_normal((problem.d, problem.d))
    return norm * W / np.linalg.norm(W)


def adversarial_start(problem: TokenProblem, norm: float, rng: np.random.Generator) -> Array:
    """W_0 of norm `norm` that points each sequence, with a random weight, at a random token that is not optimal.

    W_0 is proportional to sum_i w_i (x_{i,wrong} - x_{i,opt}) z_i', w_i uniform in (0, 1), over all queries; shape (d, d).
    """
    c = problem.constraints
    wrong = np.array([rng.choice(c.token[c.sequence == i]) for i in range(problem.n)])
    weight = rng.uniform(size=problem.n)[c.sequence] * (c.token == wrong[c.sequence])
    W = -c.combine(weight)
    return norm * W / np.linalg.norm(W)
