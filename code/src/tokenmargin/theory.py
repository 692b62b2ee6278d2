"""The companion's theorems as numbers: every constant is computed from the data, none is fitted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from . import attention as model
from .attention import Loss
from .dynamics import Trajectory
from .errors import AssumptionError
from .measure import along, residual_norm
from .problem import Constraints, TokenProblem
from .steps import GradientDescent, NormalizedGD, Polyak, Step
from .svm import TokenSVM

Array = np.ndarray


# --- Setting and notation -------------------------------------------------------------------------------------------


def score_gaps(problem: TokenProblem) -> Array:
    """gamma_{i,opt} - gamma_it of each constraint, shape (N,)."""
    c = problem.constraints
    return problem.optimal_scores[c.sequence] - problem.scores[c.sequence, c.token]


def B(problem: TokenProblem) -> float:
    """B = max_k ||V_k||_F."""
    return float(problem.constraints.norms.max())


def weights(problem: TokenProblem, margins: ArrayLike, loss: Loss = "logistic") -> tuple[Array, Array]:
    """p_k and q_k = p_k e^{mu_k} at margins mu, each of shape (N,): -grad L = sum_k p_k V_k.

    q_k = (1/n) w_iq (-l'(m_i)) s_{iq,opt} (m_iq - gamma_it), formed without p's underflow.
    """
    mu = np.asarray(margins, dtype=float)
    c = problem.constraints
    row = c.sequence * problem.Q + c.query
    rows = problem.n * problem.Q
    share = np.exp(-np.logaddexp(0.0, _log_sum_exp(-mu, row, rows)))  # s_opt of each row
    short = share * np.bincount(row, np.exp(np.minimum(-mu, 700.0)) * score_gaps(problem), rows)  # gamma_opt - m_iq
    query_weight = model.query_weights(problem).reshape(-1)
    m = problem.optimal_scores - (query_weight * short).reshape(problem.n, problem.Q).sum(axis=1)
    slope = model.negative_slope(m, loss)
    q = slope[c.sequence] * query_weight[row] * share[row] * (score_gaps(problem) - short[row]) / problem.n
    return q * np.exp(np.minimum(-mu, 700.0)), q


def limit_weights(problem: TokenProblem, loss: Loss = "logistic") -> Array:
    """q_k at infinity: (1/n) w_iq (-l'(gamma_{i,opt})) (gamma_{i,opt} - gamma_it), shape (N,)."""
    c = problem.constraints
    slope = model.negative_slope(problem.optimal_scores, loss)
    return slope[c.sequence] * model.query_weights(problem)[c.sequence, c.query] * score_gaps(problem) / problem.n


def kappa(problem: TokenProblem, margins: ArrayLike, loss: Loss = "logistic") -> float:
    """kappa(W) = max q / min q; infinite where the entry condition (E) fails."""
    q = weights(problem, margins, loss)[1]
    return float(q.max() / q.min()) if q.min() > 0.0 else np.inf


def C(problem: TokenProblem, kappa: float) -> float:
    """C = kappa (N - 1)/e, the constant of inequality (b)."""
    return kappa * (len(problem.constraints) - 1) / np.e


def entry_slack(problem: TokenProblem, margins: ArrayLike) -> Array:
    """m_iq - gamma_it of each constraint, shape (N,): (E) holds where all are positive."""
    mu = np.asarray(margins, dtype=float)
    c = problem.constraints
    row = c.sequence * problem.Q + c.query
    rows = problem.n * problem.Q
    share = np.exp(-np.logaddexp(0.0, _log_sum_exp(-mu, row, rows)))
    gaps = score_gaps(problem)
    off = np.exp(-mu - np.logaddexp(0.0, _log_sum_exp(-mu, row, rows))[row])  # s_t
    short = np.bincount(row, off * gaps, rows)
    equal = np.isclose(
        np.bincount(row, gaps**2, rows) * np.bincount(row, minlength=rows), np.bincount(row, gaps, rows) ** 2
    )
    exact = share[row] * gaps  # m - gamma_t under equal off-scores, without cancellation
    return np.where(equal[row], exact, gaps - short[row])


def _log_sum_exp(values: Array, row: Array, rows: int) -> Array:
    top = np.full(rows, -np.inf)
    np.maximum.at(top, row, values)
    safe = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return safe + np.log(np.bincount(row, np.exp(values - safe[row]), rows))


# --- The conditions of global convergence (global-convergence theorem) ---------------------------------------------------------------


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
        (A): <V_k, V_l> >= 0 for all pairs.
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
    cosine, k, l = _worst_cosine(c)
    mu = c.margins(np.zeros((problem.d, problem.d)) if W is None else W)
    slack = entry_slack(problem, mu)
    return Conditions(
        bool(spread.max() <= rounding), float(spread.max()), int(spread.argmax()),
        bool(cosine >= -rounding), cosine, (k, l),
        bool(slack.min() > 0.0), float(slack.min()), int(slack.argmin()),
    )  # fmt: skip


def _worst_cosine(c: Constraints, entries: int = 1 << 22) -> tuple[float, int, int]:
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


# --- One clock, the path length ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bound:
    """The one-clock theorem evaluated along a trajectory, from its first record where (E), kappa and c >= 0 hold; shapes (K,).

    Attributes
    ----------
    start : int
        The record from which the bound is counted (records before it are nan).
    along : array
        Lower bound of c_t.
    residual : array
        Upper bound of e_t.
    direction : array
        Upper bound of the direction error, e_t/c_t.
    log_off_attention : array
        Upper bound of log(1 - s_opt).
    """

    start: int
    along: Array
    residual: Array
    direction: Array
    log_off_attention: Array


def one_clock_bound(trajectory: Trajectory, svm: TokenSVM, *, start: int | None = None) -> Bound:
    """The bounds of the one-clock theorem with kappa and the largest step taken over the trajectory's records (a posteriori).

    Raises
    ------
    AssumptionError
        If at no record (E) and c_t >= 0 hold from there on.
    """
    problem = trajectory.problem
    kappas = np.array([kappa(problem, mu, trajectory.loss) for mu in trajectory.margins])
    c = along(trajectory, svm)
    fine = np.isfinite(kappas) & (c >= 0.0)
    first = int(np.flatnonzero(~fine)[-1]) + 1 if not fine.all() else 0
    start = first if start is None else max(start, first)
    if start >= len(trajectory):
        raise AssumptionError(
            "the one-clock theorem needs (E) and <W_t, W_mm> >= 0 along the path; neither holds to the last record."
        )
    rho, big = svm.margin, B(problem)
    constant = C(problem, kappas[start:].max())
    e = residual_norm(trajectory, svm)
    S = trajectory.path_length - trajectory.path_length[start]
    S = np.where(np.arange(len(S)) >= start, S, np.nan)
    longest = np.nanmax(trajectory.effective_steps[start:])
    low = c[start] + (rho / big) * S
    high = np.sqrt(e[start] ** 2 + S * (2.0 * constant / rho + longest))
    with np.errstate(divide="ignore", invalid="ignore"):
        direction = np.where(low > 0.0, high / low, np.inf)
    direction = np.where(np.isnan(S), np.nan, direction)
    return Bound(start, low, high, direction, np.log(problem.mask.sum(axis=1).max() - 1) - (rho * low - big * high))


def sharp_order_bound(trajectory: Trajectory, svm: TokenSVM) -> tuple[float, Array]:
    """E and the bound E/(c_t0 + (rho/B)(S_t - S_t0)) of the sharp-order theorem, with kappa and hbar from the records.

    Counted, as `one_clock_bound`, from the first record t0 from which (E) and c >= 0 hold; nan before it.

    Raises
    ------
    AssumptionError
        If some constraint is not a support vector, or (E) fails to the last record.
    """
    problem = trajectory.problem
    _require_all_support(svm)
    first = one_clock_bound(trajectory, svm)
    kap = max(kappa(problem, mu, trajectory.loss) for mu in trajectory.margins[first.start :])
    eigenvalues = np.linalg.eigvalsh(svm.constraints.gram)
    sigma = np.sqrt(eigenvalues[eigenvalues > 1e-10 * eigenvalues[-1]][0])
    beta = svm.margin**2 * svm.duals.min() * sigma / 2.0
    hbar = np.nanmax(trajectory.effective_steps[first.start :])
    E = max(first.residual[first.start], (C(problem, kap) + hbar * B(problem) / 2.0) / beta + hbar)
    with np.errstate(divide="ignore"):
        return float(E), E / first.along


# --- The residual's limit and its stability --------------------------------------------------------


def alpha(problem: TokenProblem, svm: TokenSVM, loss: Loss = "logistic") -> float:
    """alpha = exp(rho^2 sum_k lambda_k log(q_k/lambda_k)), the scale of the sharp-constant theorem."""
    _require_all_support(svm)
    q = limit_weights(problem, loss)
    return float(np.exp(svm.margin**2 * svm.duals @ np.log(q / svm.duals)))


def residual_limit(problem: TokenProblem, svm: TokenSVM, loss: Loss = "logistic") -> Array:
    """Coefficients r of R_inf = sum_k r_k V_k, the solution of <V_k, R> = log(q_k/lambda_k) - log(alpha) (sharp-constant theorem).

    Raises
    ------
    AssumptionError
        If some constraint is not a support vector, or the V_k are linearly dependent.
    """
    log_alpha = np.log(alpha(problem, svm, loss))
    b = np.log(limit_weights(problem, loss) / svm.duals) - log_alpha
    gram = svm.constraints.gram
    if np.linalg.cond(gram) > 1e12:
        raise AssumptionError(
            f"the sharp-constant theorem needs linearly independent constraints; their Gram matrix has condition {np.linalg.cond(gram):.1e}."
        )
    return np.linalg.solve(gram, b)


def e_inf(problem: TokenProblem, svm: TokenSVM, loss: Loss = "logistic") -> float:
    """e_inf = ||R_inf||_F, the limit of direction error times ||W_t|| for every step rule (sharp-constant theorem)."""
    r = residual_limit(problem, svm, loss)
    return float(np.sqrt(max(0.0, r @ svm.constraints.gram @ r)))


def lambda_max(svm: TokenSVM) -> float:
    """Largest eigenvalue of H = Pi (sum_k lambda_k V_k V_k') Pi, Pi the projection off W_mm (edge theorem)."""
    gram, lam = svm.constraints.gram, svm.duals
    v = gram @ lam
    projected = gram - np.outer(v, v) / (lam @ v)
    root = np.sqrt(lam)
    return float(np.linalg.eigvalsh(root[:, None] * projected * root)[-1])


def stability_threshold(svm: TokenSVM) -> float:
    """h* = 2 ||W_mm|| / lambda_max(H): constant effective steps below it are stable (edge theorem)."""
    return 2.0 * svm.norm / _positive_curvature(svm)


def polyak_threshold(svm: TokenSVM) -> float:
    """theta* = 2 / lambda_max(H): Polyak's relaxation below it is stable (edge theorem)."""
    return 2.0 / _positive_curvature(svm)


def _positive_curvature(svm: TokenSVM) -> float:
    largest = lambda_max(svm)
    if largest <= 1e-12:
        raise AssumptionError(
            "with a single direction of motion the residual cannot oscillate: no finite threshold exists."
        )
    return largest


# --- The rate table -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rates:
    """The leading laws of one rule at iterations t, arrays like t (the rate table of the sharp-constant theorem).

    Attributes
    ----------
    norm : array
        ||W_t||_F.
    direction_error : array
    log_off_attention : array, shape (len(t), rows)
        log(1 - s_opt): GD has one law per (sequence, query); the normalised rules one slope for all.
    """

    norm: Array
    direction_error: Array
    log_off_attention: Array


def rates(problem: TokenProblem, svm: TokenSVM, step: Step, t: ArrayLike, loss: Loss = "logistic") -> Rates:
    """The rate table's laws, in the setting of the sharp-constant theorem.

    Parameters
    ----------
    t : array
        Iterations > 0.

    Raises
    ------
    AssumptionError
        Outside the setting of the sharp-constant theorem, or for a rule without a law.
    """
    t = np.atleast_1d(np.asarray(t, dtype=float))
    rho, limit = svm.margin, e_inf(problem, svm, loss)
    if isinstance(step, GradientDescent):
        norm = np.log(step.eta * alpha(problem, svm, loss) * t) / rho
        c = problem.constraints
        row = c.sequence * problem.Q + c.query
        sums = np.bincount(row, svm.duals / limit_weights(problem, loss), problem.n * problem.Q)
        off = np.log(sums[sums > 0])[None, :] - np.log(step.eta * t)[:, None]
        return Rates(norm, limit / norm, off)
    norm = _normalized_norm(svm, step, t)
    return Rates(norm, limit / norm, -rho * norm[:, None])


def _normalized_norm(svm: TokenSVM, step: Step, t: Array) -> Array:
    """||W_t|| to leading order: the path length of a normalised rule."""
    if isinstance(step, NormalizedGD) and step.decay < 1.0:
        return step.eta * t ** (1.0 - step.decay) / (1.0 - step.decay)
    if isinstance(step, Polyak):
        return step.theta * svm.norm * t
    raise AssumptionError(
        f"no law is known here for {step!r}: use GradientDescent, NormalizedGD with decay < 1, or Polyak."
    )


def _require_all_support(svm: TokenSVM) -> None:
    missing = int((~svm.support).sum())
    if missing:
        raise AssumptionError(
            f"{missing} of {len(svm.duals)} constraints are not support vectors; the sharp constants need all of them "
            "(over-parameterised data: larger d)."
        )
