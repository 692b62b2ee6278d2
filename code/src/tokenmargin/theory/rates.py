"""The rate table: the leading laws of each rule, nothing fitted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..data.problem import TokenProblem
from ..errors import AssumptionError
from ..margin.token_svm import TokenSVM
from ..model.losses import Loss
from ..model.weights import log_limit_weights
from ..training.rules import GradientDescent, NormalizedGD, Polyak, Step
from ..types import Array
from .residual import alpha, curvatures, e_inf, log_alpha


@dataclass(frozen=True)
class Rates:
    """The leading laws of one rule at iterations t, arrays like t (rate table); nan where a law says nothing.

    Attributes
    ----------
    norm : array
        ||W_t||_F: GD log(eta alpha t)/rho, nan until eta alpha t > 1; the normalised rules' path length, up to O(1).
    direction_error : array
        e_inf/||W_t||; nan where it exceeds 2, which no direction error does, and where a constraint is not a support vector:
        the limit of the residual then depends on the path.
    log_off_attention : array, shape (len(t), rows)
        log(1 - s_opt), a law for each existing (sequence, query). GD: exact to o(1) for rows with a support vector, nan for
        the others and as long as the law is not below 0. The normalised rules: the slope, up to O(1): -rho ||W_t|| times the
        row's least margin under W_mm, which is one where it has a support vector.
    log_loss_gap : array
        log(L - L*): for GD exact to o(1), -log(rho^2 eta t); for the normalised rules the slope, up to O(1).
    deviation : array
        Order, up to a constant, of ||R_t - R_inf|| and so of the relative deviation of ||W_t|| times direction error,
        (1 - s_opt) e^{rho ||W_t||} and (L - L*) e^{rho ||W_t||} from their constants: e^{-omega rho ||W_t||} with omega =
        min(omega_1, 1, mu - 1): omega_1 the least curvature, 1 the rate at which attention leaves the other tokens, mu the
        least margin of the constraints that are not support vectors. A constant step h near the edge is held up by its
        fastest mode instead: |1 - h rho omega_N|^t. Nan where `settles` is False, and where norm is nan.
    settles : bool
        Whether the laws' premise R_t -> R_inf can hold: for constant steps (NGD, Polyak in the limit) only below the edge
        h*. It is proved below `proved_step` and for steps that tend to zero, measured up to h*. Where False the residual
        oscillates for ever, and no row but the order in t holds: the laws are given so that they can be drawn beside a run.
    """

    norm: Array
    direction_error: Array
    log_off_attention: Array
    log_loss_gap: Array
    deviation: Array
    settles: bool


def rates(problem: TokenProblem, svm: TokenSVM, step: Step, t: ArrayLike, loss: Loss = "logistic") -> Rates:
    """The rate table's laws, in the setting of the sharp-constant theorem.

    Parameters
    ----------
    t : array
        Iterations > 0.

    Raises
    ------
    AssumptionError
        If a constraint of margin one has no weight in W_mm, the support vectors are linearly dependent, or the rule has no
        law.
    ValueError
        If an iteration is not a positive finite number.

    Examples
    --------
    >>> import tokenmargin as tm
    >>> problem = tm.gaussian(5, 4, 100, seed=0)
    >>> svm = tm.solve_token_svm(problem)
    >>> laws = tm.rates(problem, svm, tm.NormalizedGD(0.1), [1000.0, 2000.0])
    >>> laws.norm.tolist()
    [100.0, 200.0]
    """
    t = np.atleast_1d(np.asarray(t, dtype=float))
    if not (np.isfinite(t) & (t > 0.0)).all():
        raise ValueError("t must hold iterations > 0: the laws begin after the first step.")
    modes, rho = curvatures(svm), svm.margin
    if isinstance(step, GradientDescent):
        clock = np.log(step.eta) + np.log(t)
        norm = _where_positive(clock + log_alpha(problem, svm, loss)) / rho
        off, gap, h = _gd_attention(problem, svm, clock, loss), -clock - 2.0 * np.log(rho), 0.0
    else:
        norm, h = _normalized_norm(svm, step, t)
        off, gap = -rho * norm[:, None] * _least_margins(problem, svm), -rho * norm
    error = e_inf(problem, svm, loss) / norm if svm.support.all() else np.full(len(t), np.nan)
    settles = bool(h * rho * modes[-1] < 2.0) if len(modes) else True
    deviation = _deviation(svm, modes, norm, h, t) if settles else np.full(len(t), np.nan)
    return Rates(norm, np.where(error <= 2.0, error, np.nan), off, gap, deviation, settles)


def loss_gap_constant(problem: TokenProblem, svm: TokenSVM, loss: Loss = "logistic") -> float:
    """alpha/rho^2, the limit of (L(W_t) - L*) e^(rho c_t) for every step rule (loss-gap corollary); c_t ~ ||W_t||."""
    return alpha(problem, svm, loss) / svm.margin**2


def _where_positive(x: Array) -> Array:
    return np.where(x > 0.0, x, np.nan)


def _rows(problem: TokenProblem) -> tuple[Array, Array]:
    """Row i Q + q of each constraint, and the rows of the existing queries."""
    c = problem.constraints
    return c.sequence * problem.Q + c.query, np.flatnonzero(problem.query_mask.reshape(-1))


def _gd_attention(problem: TokenProblem, svm: TokenSVM, clock: Array, loss: Loss) -> Array:
    """log(sum_t lambda_it/q_it) - log(eta t) for each row, over its support vectors; shape (len(t), rows)."""
    on, (row, existing) = svm.support, _rows(problem)
    constant = np.full(problem.n * problem.Q, -np.inf)
    np.logaddexp.at(constant, row[on], np.log(svm.duals[on]) - log_limit_weights(problem, loss)[on])
    return -_where_positive(clock[:, None] - np.where(np.isfinite(constant), constant, np.nan)[existing])


def _least_margins(problem: TokenProblem, svm: TokenSVM) -> Array:
    """Least <V_k, W_mm> of each row, exactly one where it has a support vector; shape (rows,)."""
    row, existing = _rows(problem)
    least = np.full(problem.n * problem.Q, np.inf)
    np.minimum.at(least, row, np.where(svm.support, 1.0, svm.margins))
    return least[existing]


def _deviation(svm: TokenSVM, modes: Array, norm: Array, h: float, t: Array) -> Array:
    idle = svm.margins[~svm.support] - 1.0
    omega = min([1.0, *modes[:1], *idle])
    fastest = abs(1.0 - h * svm.margin * modes[-1]) if len(modes) else 0.0
    with np.errstate(under="ignore"):
        return np.maximum(np.exp(-omega * svm.margin * norm), fastest**t)


def _normalized_norm(svm: TokenSVM, step: Step, t: Array) -> tuple[Array, float]:
    """||W_t|| to leading order, the path length of a normalised rule, and the limit of its effective step."""
    if isinstance(step, NormalizedGD) and step.decay < 1.0:
        return step.eta * t ** (1.0 - step.decay) / (1.0 - step.decay), 0.0 if step.decay else step.eta
    if isinstance(step, Polyak):
        h = min(step.theta * svm.norm, step.cap or np.inf)
        return h * t, h
    raise AssumptionError(
        f"no law is known here for {step!r}: use GradientDescent, NormalizedGD with decay < 1, or Polyak."
    )
