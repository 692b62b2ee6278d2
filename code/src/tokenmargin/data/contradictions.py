"""Makers of token problems that no W separates: an optimal token among its rivals, and a sequence with two labels."""

from __future__ import annotations

import numpy as np

from ..types import Array
from .problem import TokenProblem
from .synthetic import gaussian

GRID = 2.0**20  # tokens are multiples of its inverse, so that sums of few of them are exact


def among_rivals(n: int, d: int, *, seed: int, contradicted: int = 1) -> TokenProblem:
    """n sequences of three Gaussian tokens N(0, I/d), equal off-scores; in the first ones the optimal token is the mean of the others.

    Its two constraints V and -V add up to zero, exactly: no W attends more to the mean of two tokens than to both.
    """
    problem = gaussian(n, 3, d, seed=seed)
    tokens = _on_grid(problem.tokens)
    for i in range(contradicted):
        others = [t for t in range(3) if t != problem.optimal[i]]
        tokens[i, problem.optimal[i]] = tokens[i, others].mean(axis=0)
    queries = np.random.default_rng([seed, 1]).standard_normal((n, d)) / np.sqrt(d)
    return TokenProblem(tokens, problem.labels, problem.decoder, queries, values=problem.values)


def two_labels(n: int, d: int, *, seed: int, low: float = -1.0, high: float = 1.0) -> TokenProblem:
    """n sequences of two Gaussian tokens N(0, I/d) that predict `high` and `low`, label +1, and a copy of the first with label -1.

    The copy's optimal token is the one that predicts `low`: its constraint is minus that of the first.
    """
    rng = np.random.default_rng(seed)
    tokens = _on_grid(rng.standard_normal((n, 2, d)) / np.sqrt(d))
    labels = np.append(np.ones(n), -1.0)
    values = np.broadcast_to([[high], [low]], (n + 1, 2, 1))
    return TokenProblem(np.concatenate([tokens, tokens[:1]]), labels, np.ones(1), values=values)


def _on_grid(tokens: Array) -> Array:
    return np.round(tokens * GRID) / GRID
