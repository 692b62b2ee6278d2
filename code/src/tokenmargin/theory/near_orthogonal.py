"""Nearly orthogonal tokens: when constraints that are only almost acute still keep the least margin from falling."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..data.problem import TokenProblem
from ..margin.token_svm import TokenSVM
from ..measures.geometry import unit_gram
from ..model.attention import query_weights
from ..model.losses import Loss
from ..model.weights import log_negative_slope, score_gaps
from ..training.rules import require_positive
from ..types import Array

CELLS = 100  # cells of e^-M, each a factor of 1.1, in which the interference is bounded from above
SAFE = 1.0 - 1e-9  # largest interference that counts as below one in floating point
LOWEST = -30.0  # least margin that is tried


@dataclass(frozen=True)
class Robustness:
    """What the near-orthogonality theorem says of a problem, a least margin M_0 and a longest step.

    Attributes
    ----------
    interference : float
        The largest, over constraints and over least margins M >= M_0, of what the others can take from a constraint near the
        least margin, relative to what it gains by itself; infinite where (E) may fail. Up to one is enough.
    slack : float
        hbar delta/rho, the most that one step can lower any margin; delta the largest -<V_k, V_l>.
    entered : bool
        Whether (E) holds wherever all margins are at least M_0.
    certified : bool
        Whether from every W_0 with margins >= M_0, and for every rule with steps up to hbar, the least margin never falls, (E)
        holds for ever, and the run converges in direction to W_mm.
    """

    interference: float
    slack: float
    entered: bool
    certified: bool


def robustness(
    problem: TokenProblem, svm: TokenSVM, hbar: float, *, least_margin: float = 0.0, loss: Loss = "logistic"
) -> Robustness:
    """Check the near-orthogonality theorem, with explicit constants.

    Parameters
    ----------
    hbar : float
        Longest effective step, > 0.
    least_margin : float
        M_0 = min_k <V_k, W_0>; zero at W_0 = 0.

    Examples
    --------
    >>> import tokenmargin as tm
    >>> from tokenmargin.theory.near_orthogonal import robustness
    >>> problem = tm.gaussian(4, 4, 400, seed=0)
    >>> tm.conditions(problem).acute, robustness(problem, tm.solve_token_svm(problem), 0.5).certified
    (False, True)
    """
    require_positive("hbar", hbar)
    cosines, norms = unit_gram(problem.constraints)
    against = np.maximum(-cosines, 0.0)
    np.fill_diagonal(against, 0.0)
    slack = hbar / svm.margin * float((norms[:, None] * against * norms).max())
    top = np.exp(-least_margin)
    entered = bool((_least_outputs(problem, np.array([top])) > problem.second_scores).all())
    if not entered:
        return Robustness(np.inf, slack, False, False)
    edges = np.append(0.0, top * np.geomspace(1e-4, 1.0, CELLS))
    worst = _interference(problem, against * norms / norms[:, None], edges, loss)
    interference = float(np.exp(slack) * worst)
    return Robustness(interference, slack, True, interference <= SAFE)


def lowest_certified_margin(
    problem: TokenProblem, svm: TokenSVM, hbar: float, *, loss: Loss = "logistic", tolerance: float = 1e-3
) -> float:
    """The lowest M_0, down to -30, with which `robustness` certifies: starts of norm up to -M_0/B are then certified; else inf.

    Found by bisection to `tolerance`; certification at M_0 implies it above.
    """

    def certified(M: float) -> bool:
        return robustness(problem, svm, hbar, least_margin=M, loss=loss).certified

    low, high = LOWEST, -LOWEST
    if certified(low):
        return low
    if not certified(high):
        return np.inf
    while high - low > tolerance:
        middle = 0.5 * (low + high)
        low, high = (low, middle) if certified(middle) else (middle, high)
    return high


def _interference(problem: TokenProblem, against: Array, edges: Array, loss: Loss) -> float:
    """The largest r_k(e) over e = e^-M below the last of the ascending edges; against_kl = (-<V_k, V_l>)_+/||V_k||^2.

    In each cell every factor is taken at the end where it is largest.
    """
    c = problem.constraints
    i, low, high = c.sequence, edges[:-1, None], edges[1:, None]
    m = _least_outputs(problem, edges[1:])
    weight = query_weights(problem)[i, c.query]
    steepest, flattest = log_negative_slope(m, loss)[:, i], log_negative_slope(problem.optimal_scores, loss)[i]
    scale, others = steepest.max(), problem.mask.sum(axis=1)[i] - 1
    spread = np.where(low <= 1.0, 1.0 / (1.0 + low) ** 2, 0.25 / np.maximum(low, 1.0))
    taken = spread * (weight * np.exp(steepest - scale) * score_gaps(problem)) @ against.T
    gained = weight * np.exp(flattest - scale) * (m[:, i] - problem.scores[i, c.token]) / (1.0 + others * high)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.where(taken > 0.0, taken / gained, 0.0).max())


def _least_outputs(problem: TokenProblem, e: Array) -> Array:
    """The least m_iq where all margins are at least -log e, shape (len(e), n): e^-mu is e on the tokens of lowest scores, else 0."""
    scores = np.sort(np.where(problem.mask, problem.scores, np.inf), axis=1)[:, : problem.T - 1]
    best = problem.optimal_scores[:, None]
    lower = scores < best
    total, count = np.cumsum(np.where(lower, scores, 0.0), axis=1), np.cumsum(lower, axis=1)
    e = e[:, None, None]
    return ((best + e * total) / (1.0 + e * count)).min(axis=2)
