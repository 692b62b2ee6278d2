"""The conditions of global convergence: (S) equal scores, (A) acute constraints, (E) entry."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..data.constraints import Constraints
from ..data.problem import TokenProblem
from ..measures.geometry import normalized
from ..model.weights import entry_slack, require_finite
from ..types import Array


@dataclass(frozen=True)
class Conditions:
    """Which of (S), (A), (E) hold, by how much, and where each fails worst.

    Attributes
    ----------
    equal_scores : bool
        (S): the non-optimal scores of every sequence are equal.
    score_spread : float
        Largest spread of the off-scores of one sequence, in the scores' unit; `worst_sequence` is where.
    relative_spread : float
        Largest spread of a sequence's off-scores over its own gap gamma_opt - gamma_second: free of units.
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
    relative_spread: float
    worst_sequence: int
    acute: bool
    cosine: float
    worst_pair: tuple[int, int]
    entered: bool
    slack: float
    worst_constraint: int


def conditions(problem: TokenProblem, W: ArrayLike | None = None, *, rounding: float = 1e-12) -> Conditions:
    """Check (S), (A) and, at W (default zero), (E); no answer depends on the unit of tokens, queries or decoder.

    Parameters
    ----------
    rounding : float
        Cosines above -rounding count as zero, and so does a spread of a sequence's off-scores below `rounding` times its own
        score gap, or below what the products u'v_it can round: v eps max_t sum_j |u_j v_itj|.

    Raises
    ------
    FloatRangeError
        If a difference of scores or tokens is beyond the largest float.

    Examples
    --------
    >>> import tokenmargin as tm
    >>> problem = tm.gaussian(5, 4, 100, seed=0)
    >>> found = tm.conditions(problem)
    >>> found.equal_scores, found.acute, found.entered
    (True, False, True)
    """
    spread, gap = _spread_and_gap(problem)
    with np.errstate(over="ignore"):
        size = np.where(problem.mask, np.abs(problem.values) @ np.abs(problem.decoder), 0.0).max(axis=1)
        relative = float((spread / gap).max())
    require_finite("sum_j |u_j v_itj|", size, "divide the decoder by its norm")
    lost = np.maximum(rounding * gap, problem.values.shape[2] * np.finfo(float).eps * size)
    cosine, k, l = worst_cosine(problem.constraints)
    c = problem.constraints
    nonzero = c.difference.any(axis=1) & c.query_vector.any(axis=1)
    slack = entry_slack(problem, np.zeros(len(c)) if W is None else c.margins(W))
    return Conditions(
        bool((spread <= lost).all()), float(spread.max()), relative, int(spread.argmax()),
        bool(cosine >= -rounding and nonzero.all()), cosine, (k, l),
        bool(slack.min() > 0.0), float(slack.min()), int(slack.argmin()),
    )  # fmt: skip


def _spread_and_gap(problem: TokenProblem) -> tuple[Array, Array]:
    """Largest minus smallest off-score, and best minus second score, of each sequence; shapes (n,)."""
    lowest = np.where(problem.mask, problem.scores, np.inf).min(axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        spread, gap = problem.second_scores - lowest, problem.optimal_scores - problem.second_scores
    what, advice = "the difference of two scores", "divide the decoder by its norm"
    return require_finite(what, spread, advice), require_finite(what, gap, advice)


def worst_cosine(c: Constraints, entries: int = 1 << 22) -> tuple[float, int, int]:
    """The smallest cosine between two constraints and its pair; by blocks of rows, so that N x N is never held.

    A zero constraint has cosine 0 with all.
    """
    block = max(1, entries // len(c))
    difference, query = (normalized(v)[0] for v in (c.difference, c.query_vector))
    worst = (np.inf, 0, 0)
    for first in range(0, len(c), block):
        rows = slice(first, first + block)
        cosine = (difference[rows] @ difference.T) * (query[rows] @ query.T)
        k, l = divmod(int(np.argmin(cosine)), len(c))
        worst = min(worst, (float(cosine[k, l]), first + k, l))
    return worst
