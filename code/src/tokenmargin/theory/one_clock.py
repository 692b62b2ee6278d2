"""One clock, the path length: bounds along a run, every constant computed from the data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..data.problem import TokenProblem
from ..errors import AssumptionError
from ..margin.token_svm import TokenSVM
from ..measures.geometry import unit_factors, unit_gram
from ..measures.trajectory import margin_component, residual_norm, residual_parts
from ..model.attention import outputs
from ..model.losses import Loss
from ..model.weights import (
    exponential,
    kappa,
    log_entry_slack,
    log_negative_slope,
    log_score_gaps,
    require_finite,
)
from ..training.trajectory import Trajectory
from ..types import Array
from .residual import DEPENDENT, require_strict_complementarity


def largest_constraint(problem: TokenProblem) -> float:
    """B = max_k ||V_k||_F."""
    return float(unit_factors(problem.constraints)[2].max())


def spread_constant(problem: TokenProblem, kappa: float) -> float:
    """C = kappa (N - 1)/e, the constant of inequality (b)."""
    return kappa * (len(problem.constraints) - 1) / np.e


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
        If the run's rule does not step along the gradient (momentum, Adam), or if at no record (E) and c_t >= 0 hold from
        there on.
    """
    problem = trajectory.problem
    require_gradient_rule(trajectory)
    kappas = np.array([kappa(problem, mu, trajectory.loss) for mu in trajectory.margins])
    c = margin_component(trajectory, svm)
    fine = np.isfinite(kappas) & (c >= 0.0)
    first = int(np.flatnonzero(~fine)[-1]) + 1 if not fine.all() else 0
    start = first if start is None else max(start, first)
    if start >= len(trajectory):
        raise AssumptionError(
            "the one-clock theorem needs (E) and <W_t, W_mm> >= 0 along the path; neither holds to the last record."
        )
    rho, big = svm.margin, largest_constraint(problem)
    constant = spread_constant(problem, kappas[start:].max())
    e = residual_norm(trajectory, svm)
    S = trajectory.path_length - trajectory.path_length[start]
    S = np.where(np.arange(len(S)) >= start, S, np.nan)
    longest = _longest_step(trajectory, start)
    low = c[start] + (rho / big) * S
    high = np.sqrt(e[start] ** 2 + S * (2.0 * constant / rho + longest))
    with np.errstate(divide="ignore", invalid="ignore"):
        direction = np.where(low > 0.0, high / low, np.inf)
    direction = np.where(np.isnan(S), np.nan, direction)
    return Bound(start, low, high, direction, np.log(problem.mask.sum(axis=1).max() - 1) - (rho * low - big * high))


def require_gradient_rule(trajectory: Trajectory) -> None:
    """Refuse runs whose steps are not -h_t grad L/||grad L||."""
    if not callable(getattr(trajectory.step, "effective_step", None)):
        raise AssumptionError(
            f"the run's rule is {trajectory.step!r}: its steps are not along the gradient, and the one-clock theorem is about "
            "those. Use GradientDescent, NormalizedGD, Polyak, or a rule with `effective_step`."
        )


def _longest_step(trajectory: Trajectory, start: int) -> float:
    """hbar, the longest effective step of the records from `start` on."""
    steps = require_finite(
        "an effective step", trajectory.effective_steps[start:], "the run has left the range of floats"
    )
    return float(steps.max())


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
        If a constraint of margin one has no weight in W_mm (strict complementarity), the run's rule does not step along the
        gradient, or (E) fails to the last record.
    """
    problem = trajectory.problem
    require_strict_complementarity(svm)
    first = one_clock_bound(trajectory, svm)
    late = slice(first.start, None)
    kap = np.max([kappa(problem, mu, trajectory.loss) for mu in trajectory.margins[late]])
    beta = svm.margin**2 * svm.duals[svm.support].min() * _least_singular_value(svm) / 2.0
    hbar = _longest_step(trajectory, first.start)
    active, rest = residual_parts(trajectory, svm)
    F, big = rest[late].max(), largest_constraint(problem)
    E = max(active[first.start], (spread_constant(problem, kap) + big * (hbar / 2.0 + F)) / beta + hbar) + F
    with np.errstate(divide="ignore"):
        return float(E), E / first.along


def _least_singular_value(svm: TokenSVM) -> float:
    """sigma_min: the least nonzero singular value of R -> (<V_k, R>)_k over the support vectors.

    The rank is that of the constraints scaled to norm one. Where their norms differ so much that rounding hides the value, its
    lower bound min ||V_k|| times that of the scaled constraints, with which the theorem holds too.
    """
    unit, norms = unit_gram(svm.constraints, svm.support)
    scaled = np.linalg.eigvalsh(unit)
    first = int(np.argmax(scaled > DEPENDENT * scaled[-1]))
    ratio = norms / norms.max()
    values = np.linalg.eigvalsh(ratio[:, None] * unit * ratio)
    direct = values[first] if values[first] > DEPENDENT * values[-1] else 0.0
    return float(norms.max() * np.sqrt(max(direct, ratio.min() ** 2 * scaled[first])))


def log_loss_gap_bound(problem: TokenProblem, bound: Bound, loss: Loss = "logistic") -> Array:
    """Upper bound of log(L(W_t) - L*), shape (K,): slope times largest score gap times the bound on 1 - s_opt (loss-gap corollary).

    Under (E) every output exceeds the runner-up's score, so -l'(m_i) is at most -l' there.
    """
    steepest = log_negative_slope(problem.second_scores, loss).max()
    return steepest + log_score_gaps(problem).max() + bound.log_off_attention


def polyak_bounds(
    problem: TokenProblem, svm: TokenSVM, W0: Array, theta: float = 1.0, loss: Loss = "logistic"
) -> tuple[float, float]:
    """Least and largest step that Polyak's rule can take from W_0 on, under (A) and (E).

    They are theta r/B and theta Gamma/rho, with r = min_i l'(gamma_{i,opt})/l'(m_i(W_0)) and
    Gamma = max (gamma_{i,opt} - gamma_it)/(m_iq(W_0) - gamma_it): the chapter on global convergence proves it.

    Raises
    ------
    AssumptionError
        If (E) does not hold at W_0: Gamma is then infinite or negative.
    """
    sign, log_slack = log_entry_slack(problem, svm.constraints.margins(W0))
    if not (sign > 0.0).all():
        raise AssumptionError(
            "Polyak's step is bounded from W0 on only if (E) holds there: start where every output beats the runner-up token."
        )
    ratio = log_negative_slope(problem.optimal_scores, loss) - log_negative_slope(outputs(problem, W0), loss)
    shortest = np.log(theta) + ratio.min() - np.log(largest_constraint(problem))
    longest = np.log(theta) + (log_score_gaps(problem) - log_slack).max() + np.log(svm.norm)
    advice = "start where the entry condition holds by more"
    return float(exponential("Polyak's shortest step", shortest, advice)), float(
        exponential("Polyak's longest step", longest, advice)
    )
