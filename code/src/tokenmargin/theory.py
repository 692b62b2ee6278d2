"""The companion's theorems as numbers: every constant is computed from the data, none is fitted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from . import attention as model
from .attention import Loss
from .dynamics import Trajectory
from .errors import AssumptionError
from .measure import along, residual_norm, residual_parts
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
    least, largest = np.full(rows, np.inf), np.zeros(rows)
    np.minimum.at(least, row, gaps)
    np.maximum.at(largest, row, gaps)
    equal = largest - np.minimum(least, largest) <= 1e-12 * largest
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
    cosine, k, l = _worst_cosine(c)
    mu = c.margins(np.zeros((problem.d, problem.d)) if W is None else W)
    slack = entry_slack(problem, mu)
    return Conditions(
        bool(spread.max() <= rounding), float(spread.max()), int(spread.argmax()),
        bool(cosine >= -rounding and c.norms.min() > 0.0), cosine, (k, l),
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
    """The sharp-order theorem's bound on e_t, and with it the bound on the direction error; shapes (), (K,).

    The constants kappa, hbar and F, the largest part of the residual off the active constraints' span, are read from the
    records. Counted, as `one_clock_bound`, from the first record t0 from which (E) and c >= 0 hold; nan before it.

    Returns
    -------
    E : float
        Bound of e_t: with A the active constraints, max(||R^A_t0||, (C + B (hbar/2 + F))/beta + hbar) + F.
    direction : array, shape (K,)
        E/(c_t0 + (rho/B)(S_t - S_t0)).

    Raises
    ------
    AssumptionError
        If a constraint of margin one has no weight in W_mm (strict complementarity), or (E) fails to the last record.
    """
    problem = trajectory.problem
    _require_strict_complementarity(svm)
    first = one_clock_bound(trajectory, svm)
    late = slice(first.start, None)
    kap = max(kappa(problem, mu, trajectory.loss) for mu in trajectory.margins[late])
    eigenvalues = np.linalg.eigvalsh(_active(svm)[0])
    sigma = np.sqrt(eigenvalues[eigenvalues > 1e-10 * eigenvalues[-1]][0])
    beta = svm.margin**2 * svm.duals[svm.support].min() * sigma / 2.0
    hbar = np.nanmax(trajectory.effective_steps[late])
    active, rest = residual_parts(trajectory, svm)
    F, big = rest[late].max(), B(problem)
    E = max(active[first.start], (C(problem, kap) + big * (hbar / 2.0 + F)) / beta + hbar) + F
    with np.errstate(divide="ignore"):
        return float(E), E / first.along


def log_loss_gap_bound(problem: TokenProblem, bound: Bound, loss: Loss = "logistic") -> Array:
    """Upper bound of log(L(W_t) - L*), shape (K,): slope times largest score gap times the bound on 1 - s_opt (loss-gap corollary).

    Under (E) every output exceeds the runner-up's score, so -l'(m_i) is at most -l' there.
    """
    steepest = model.negative_slope(problem.second_scores, loss).max()
    return np.log(steepest * score_gaps(problem).max()) + bound.log_off_attention


def _active(svm: TokenSVM) -> tuple[Array, Array]:
    """Gram matrix and duals of the support vectors, shapes (A, A) and (A,); the others' Gram matrix is never formed."""
    difference, query = svm.constraints.difference[svm.support], svm.constraints.query_vector[svm.support]
    return (difference @ difference.T) * (query @ query.T), svm.duals[svm.support]


# --- The residual's limit and its stability --------------------------------------------------------


def alpha(problem: TokenProblem, svm: TokenSVM, loss: Loss = "logistic") -> float:
    """alpha = exp(rho^2 sum_k lambda_k log(q_k/lambda_k)) over the support vectors, the scale of the sharp-constant theorem."""
    q, duals = limit_weights(problem, loss)[svm.support], svm.duals[svm.support]
    return float(np.exp(svm.margin**2 * duals @ np.log(q / duals)))


def residual_limit(problem: TokenProblem, svm: TokenSVM, loss: Loss = "logistic") -> Array:
    """Coefficients r, shape (N,), of R_inf = sum_k r_k V_k over the support vectors, zero elsewhere.

    R_inf solves <V_k, R> = log(q_k/lambda_k) - log(alpha) for every support vector k (sharp-constant theorem): the limit of
    the residual where all constraints are support vectors, else of its part in their span.

    Raises
    ------
    AssumptionError
        If a constraint of margin one has no weight in W_mm, or the support vectors are linearly dependent.
    """
    _require_strict_complementarity(svm)
    on, (gram, duals) = svm.support, _active(svm)
    if np.linalg.cond(gram) > 1e12:
        raise AssumptionError(
            f"the sharp-constant theorem needs linearly independent constraints; their Gram matrix has condition {np.linalg.cond(gram):.1e}."
        )
    b = np.log(limit_weights(problem, loss)[on] / duals) - np.log(alpha(problem, svm, loss))
    r = np.zeros(len(svm.duals))
    r[on] = np.linalg.solve(gram, b)
    return r


def e_inf(problem: TokenProblem, svm: TokenSVM, loss: Loss = "logistic") -> float:
    """e_inf = ||R_inf||_F, the limit of direction error times ||W_t|| for every step rule (sharp-constant theorem).

    Raises
    ------
    AssumptionError
        If some constraint is not a support vector: then the limit depends on the path, and `e_active` is its known part.
    """
    _require_all_support(svm)
    return e_active(problem, svm, loss)


def e_active(problem: TokenProblem, svm: TokenSVM, loss: Loss = "logistic") -> float:
    """Limit of the norm of the residual's part in the span of the support vectors, e_inf where all are (sharp-constant theorem)."""
    r = residual_limit(problem, svm, loss)[svm.support]
    return float(np.sqrt(max(0.0, r @ _active(svm)[0] @ r)))


def curvatures(svm: TokenSVM) -> Array:
    """Nonzero eigenvalues of H = Pi (sum_k lambda_k V_k V_k') Pi, ascending; Pi the projection off W_mm (edge theorem).

    They rule the residual near its limit: a step of length h contracts the j-th mode by 1 - h rho curvature_j. Empty for a
    single constraint, which leaves no direction for a residual.
    """
    gram, lam = _active(svm)
    v = gram @ lam
    root = np.sqrt(lam)
    values = np.linalg.eigvalsh(root[:, None] * (gram - np.outer(v, v) / (lam @ v)) * root)
    return values[values > 1e-10]


def transverse_operator(svm: TokenSVM) -> Array:
    """H in coefficients, shape (N, N): if R = sum_k r_k V_k then H R = sum_k (T r)_k V_k (edge theorem).

    T = (I - lambda (G lambda)'/(lambda' G lambda)) diag(lambda) G, with G the Gram matrix. Near its limit the residual of a
    constant effective step h moves by R_{t+1} - R_inf = (I - h rho H)(R_t - R_inf).
    """
    gram, lam = svm.constraints.gram, svm.duals
    v = gram @ lam
    moved = lam[:, None] * gram
    return moved - np.outer(lam, v @ moved) / (lam @ v)


def contraction(svm: TokenSVM, h: float) -> float:
    """max_j |1 - h rho curvature_j|: factor by which a constant effective step h shrinks the residual's distance to its limit."""
    return float(np.abs(1.0 - h * svm.margin * _require_modes(svm)).max())


def proved_step(svm: TokenSVM) -> float:
    """8 rho/D^2, D = max ||V_k - V_l||_F over the support vectors: shorter steps are proved to settle (sharp-constant theorem).

    Never above the edge h*, the longest step that can; infinite for a single constraint.
    """
    gram, _ = _active(svm)
    square = np.diag(gram)[:, None] + np.diag(gram) - 2.0 * gram
    return float(8.0 * svm.margin / square.max()) if square.max() > 0.0 else np.inf


def lambda_max(svm: TokenSVM) -> float:
    """Largest eigenvalue of H (edge theorem)."""
    return float(_require_modes(svm)[-1])


def stability_threshold(svm: TokenSVM) -> float:
    """h* = 2 ||W_mm|| / lambda_max(H): constant effective steps below it are stable (edge theorem)."""
    return 2.0 * svm.norm / lambda_max(svm)


def polyak_threshold(svm: TokenSVM) -> float:
    """theta* = 2 / lambda_max(H): Polyak's relaxation below it is stable (edge theorem)."""
    return 2.0 / lambda_max(svm)


def _require_modes(svm: TokenSVM) -> Array:
    modes = curvatures(svm)
    if not len(modes):
        raise AssumptionError(
            "with a single direction of motion the residual cannot oscillate: no finite threshold exists."
        )
    return modes


# --- The rate table -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rates:
    """The leading laws of one rule at iterations t, arrays like t (rate table).

    Attributes
    ----------
    norm : array
        ||W_t||_F.
    direction_error : array
    log_off_attention : array, shape (len(t), rows)
        log(1 - s_opt): GD has one law per (sequence, query); the normalised rules one slope for all.
    log_loss_gap : array
        log(L - L*): for GD exact to o(1), -log(rho^2 eta t); for the normalised rules the slope, up to O(1).
    """

    norm: Array
    direction_error: Array
    log_off_attention: Array
    log_loss_gap: Array


def rates(problem: TokenProblem, svm: TokenSVM, step: Step, t: ArrayLike, loss: Loss = "logistic") -> Rates:
    """The rate table's laws, in the setting of the sharp-constant theorem with all constraints active.

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
        clock = np.log(step.eta * t)
        norm = (clock + np.log(alpha(problem, svm, loss))) / rho
        c = problem.constraints
        row = c.sequence * problem.Q + c.query
        sums = np.bincount(row, svm.duals / limit_weights(problem, loss), problem.n * problem.Q)
        off = np.log(sums[sums > 0])[None, :] - clock[:, None]
        return Rates(norm, limit / norm, off, -clock - 2.0 * np.log(rho))
    norm = _normalized_norm(svm, step, t)
    return Rates(norm, limit / norm, -rho * norm[:, None], -rho * norm)


def loss_gap_constant(problem: TokenProblem, svm: TokenSVM, loss: Loss = "logistic") -> float:
    """alpha/rho^2, the limit of (L(W_t) - L*) e^(rho c_t) for every step rule (loss-gap corollary); c_t ~ ||W_t||."""
    return alpha(problem, svm, loss) / svm.margin**2


def _normalized_norm(svm: TokenSVM, step: Step, t: Array) -> Array:
    """||W_t|| to leading order: the path length of a normalised rule."""
    if isinstance(step, NormalizedGD) and step.decay < 1.0:
        return step.eta * t ** (1.0 - step.decay) / (1.0 - step.decay)
    if isinstance(step, Polyak):
        return min(step.theta * svm.norm, step.cap or np.inf) * t
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


def _require_strict_complementarity(svm: TokenSVM, slack: float = 1e-7) -> None:
    idle = int((~svm.support & (svm.margins < 1.0 + slack)).sum())
    if idle:
        raise AssumptionError(
            f"{idle} constraint(s) have margin one but no weight in W_mm; the theorem needs strict complementarity, which "
            "generic data have: perturb the tokens."
        )
