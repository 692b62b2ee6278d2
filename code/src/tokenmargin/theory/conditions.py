"""The conditions of global convergence: (S) equal scores, (A) acute constraints, (E) entry."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..data.constraints import Constraints
from ..data.problem import TokenProblem
from ..model.weights import entry_slack


@dataclass(frozen=True)
class Conditions:
    """Which of (S), (A), (E) hold, by how much, and where each fails worst.

    Attributes
    ----------
    equal_scores : bool
        (S): the non-optimal scores of every sequence are equal.
    score_spread : float
        Largest spread of the off-scores of one sequence; `worst_sequence` is where.
    acute : bool
        (A): <V_k, V_l> >= 0 for all pairs, and no V_k is zero.
    cosine : float
        Smallest cosine between two constraints; `worst_pair` is the pair (k, l).
    entered : bool
        (E) at the given W: m_iq > gamma_it for every constraint.
    slack : float
        Smallest m_iq - gamma_it; `worst_constraint` is where.
    """

    equal_scores: bool
    score_spread: float
    worst_sequence: int
    acute: bool
    cosine: float
    worst_pair: tuple[int, int]
    entered: bool
    slack: float
    worst_constraint: int


def conditions(problem: TokenProblem, W: ArrayLike | None = None, *, rounding: float = 1e-12) -> Conditions:
    """Check (S), (A) and, at W (default zero), (E).

    Parameters
    ----------
    rounding : float
        Cosines above -rounding and spreads below rounding count as zero.
    """
    off = np.where(np.arange(problem.T) == problem.optimal[:, None], np.nan, problem.scores)
    off[~problem.mask] = np.nan
    spread = np.nanmax(off, axis=1) - np.nanmin(off, axis=1)
    c = problem.constraints
    cosine, k, l = worst_cosine(c)
    mu = c.margins(np.zeros((problem.d, problem.d)) if W is None else W)
    slack = entry_slack(problem, mu)
    return Conditions(
        bool(spread.max() <= rounding), float(spread.max()), int(spread.argmax()),
        bool(cosine >= -rounding and c.norms.min() > 0.0), cosine, (k, l),
        bool(slack.min() > 0.0), float(slack.min()), int(slack.argmin()),
    )  # fmt: skip


def worst_cosine(c: Constraints, entries: int = 1 << 22) -> tuple[float, int, int]:
    """The smallest cosine between two constraints and its pair; by blocks of rows, so that N x N is never held."""
    block = max(1, entries // len(c))
    tiny = np.finfo(float).tiny  # a zero constraint has cosine 0 with all
    difference, query = (
        v / np.maximum(np.linalg.norm(v, axis=1), tiny)[:, None] for v in (c.difference, c.query_vector)
    )
    worst = (np.inf, 0, 0)
    for first in range(0, len(c), block):
        rows = slice(first, first + block)
        cosine = (difference[rows] @ difference.T) * (query[rows] @ query.T)
        k, l = divmod(int(np.argmin(cosine)), len(c))
        worst = min(worst, (float(cosine[k, l]), first + k, l))
    return worst
