"""Capture: from one computed iterate, a proof that the run stays for ever in a cone around the max-margin ray.

The cone is {c >= c_0, ||R^A - R_inf|| <= E, ||R^perp - R^perp_0|| <= F}, for W = c What + R^A + R^perp with R^A in the span of the
support vectors. The capture theorem gives inequalities between numbers of the data, of the iterate, and the longest step to come,
under which no step leaves it. They are checked in floating point, each with the relative margin `SLACK` against rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..data.problem import TokenProblem
from ..errors import AssumptionError
from ..margin.token_svm import TokenSVM
from ..measures.geometry import unit_factors, unit_gram
from ..measures.trajectory import residual
from ..model.attention import query_weights
from ..model.losses import Loss
from ..model.weights import log_limit_weights, score_gaps
from ..training.rules import GradientDescent, NormalizedGD, Polyak, Step
from ..training.trajectory import Trajectory
from ..types import Array
from .one_clock import require_gradient_rule
from .residual import curvatures, e_active, log_alpha, proved_step, require_unique_duals, residual_limit

SLACK = 1e-5  # relative margin left at every inequality
CERTIFICATE = 1e-11  # largest certificate of the token SVM accepted: W_mm is then known to its square root, below SLACK
RADII = np.geomspace(1e-3, 1e4, 71)  # the radii E - hbar that are tried, in units of 1/D


@dataclass(frozen=True)
class Capture:
    """What the capture theorem says of a captured iterate W_0, for every later W_t.

    Attributes
    ----------
    iteration : int
        When the iterate was met, t_0.
    along : float
        c_0 = <W_0, What>; c_t >= along + rate (S_t - S_0).
    rate : float
        Least growth of c for a unit of path: rho/B, or more where the cone is narrow.
    radius : float
        E: ||R_t^A - R_inf||_F <= radius.
    drift : float
        F: ||R_t^perp - R_0^perp||_F <= drift; 0 where all constraints are support vectors.
    residual : float
        ||R_t||_F <= residual.
    longest_step : float
        hbar: the rule's steps are proved to be no longer, or are assumed so where a number was given.
    settles : bool
        Whether hbar is below the proved step, so that R_t^A tends to R_inf (sharp-constant theorem).
    """

    iteration: int
    along: float
    rate: float
    radius: float
    drift: float
    residual: float
    longest_step: float
    settles: bool

    def direction_bound(self, path: ArrayLike) -> Array:
        """Bound of the direction error after a further path length S_t - S_0, shape of `path`."""
        return self.residual / (self.along + self.rate * np.asarray(path, dtype=float))


@dataclass(frozen=True, eq=False)
class Cone:
    """What the capture theorem needs of the data, computed once for all iterates; `Cone.of` makes it.

    Attributes
    ----------
    problem, svm, loss
        The run's.
    cross : array, shape (N, A)
        <V_k, V_l>, l active; `inverse`, shape (A, A), is that of its active rows.
    centre : array, shape (N,)
        <V_k, R_inf>, and `size` = ||R_inf||.
    reach, off : arrays, shape (N,)
        Norms of V_k's part in the active span across W_mm, and of its part off the active span.
    gaps, log_weights : arrays, shape (N,)
        gamma_opt - gamma_t, and log q_k at infinity.
    stiffness, diameter, largest : float
        rho sqrt(omega_1), D = max ||V_k - V_l|| over active pairs, B = max ||V_k||.
    """

    problem: TokenProblem
    svm: TokenSVM
    loss: Loss
    cross: Array
    inverse: Array
    centre: Array
    size: float
    reach: Array
    off: Array
    gaps: Array
    log_weights: Array
    stiffness: float
    diameter: float
    largest: float

    @classmethod
    def of(cls, problem: TokenProblem, svm: TokenSVM, loss: Loss = "logistic") -> Cone:
        """Prepare the check for one problem.

        Raises
        ------
        AssumptionError
            If the duals are not unique, or W_mm is not known to `CERTIFICATE`.
        """
        require_unique_duals(svm)
        if not svm.certificate() <= CERTIFICATE:
            raise AssumptionError(
                f"the token SVM's certificate is {svm.certificate():.1e}; capture needs {CERTIFICATE:.0e}: solve it by another "
                "method, or rescale the tokens."
            )
        c, on = problem.constraints, svm.support
        norms = unit_factors(c)[2]
        cross = c.gram[:, on]
        inverse = np.linalg.inv(cross[on])
        inside = np.einsum("kl,lm,km->k", cross, inverse, cross, optimize=True)  # squared norm in the active span
        rounding = (SLACK * norms) ** 2
        reach = np.sqrt(np.maximum(inside - (svm.margin * svm.margins) ** 2, 0.0) + rounding)
        off = np.where(on, 0.0, np.sqrt(np.maximum(norms**2 - inside, 0.0) + rounding))
        centre = c.gram @ residual_limit(problem, svm, loss)
        numbers = (*_stiffness_and_diameter(svm), float(norms.max()))
        weights = score_gaps(problem), log_limit_weights(problem, loss)
        size = e_active(problem, svm, loss)
        return cls(problem, svm, loss, cross, inverse, centre, size, reach, off, *weights, *numbers)

    def place(self, R: Array) -> tuple[Array, float, float]:
        """<V_k, R_inf + R^perp>, shape (N,), ||R^A - R_inf|| and ||R^perp|| of a residual R, shape (d, d)."""
        c, on = self.problem.constraints, self.svm.support
        margins = c.margins(R)
        coefficients = np.zeros(len(margins))
        coefficients[on] = self.inverse @ margins[on]
        rest = R - c.combine(coefficients)
        x = margins[on] - self.centre[on]
        across = np.where(on, 0.0, c.margins(rest))
        return self.centre + across, float(np.sqrt(max(x @ self.inverse @ x, 0.0))), float(np.linalg.norm(rest))

    def pull(self, radius: float, epsilon: float) -> float:
        """Lower bound of J, the divergence that draws R^A to R_inf, at the distance `radius` (capture theorem)."""
        spread = self.stiffness * radius * (1.0 - SLACK) - epsilon
        width = self.diameter * radius * (1.0 + SLACK) + 2.0 * epsilon
        return spread**2 * -np.expm1(-width) / width if spread > 0.0 else 0.0


def _stiffness_and_diameter(svm: TokenSVM) -> tuple[float, float]:
    modes = curvatures(svm)
    unit, norms = unit_gram(svm.constraints, svm.support)
    apart = norms[:, None] ** 2 + norms**2 - 2.0 * norms[:, None] * unit * norms
    return svm.margin * float(np.sqrt(modes[0])) if len(modes) else 0.0, float(np.sqrt(max(apart.max(), 0.0)))


@dataclass(frozen=True, eq=False)
class _Bounds:
    """What holds at every W whose margins are at least `low`: rows of the first two belong to constraints, shape (N,)."""

    shortfall: Array  # (gamma_opt - m_iq)/(gamma_opt - gamma_it), at most; (E) says that it is below one
    log_rise: Array  # log q_k(W)/q_k, at most
    epsilon: float  # |log q_k(W)/q_k| of the active constraints, at most


def _bounds(cone: Cone, low: Array) -> _Bounds:
    """By e^{-mu} <= e^{-low}: gamma_opt - m_iq <= sum_t e^{-low} gap, -log s_opt <= sum_t e^{-low}, |(log -l')'| <= 1."""
    problem, c = cone.problem, cone.problem.constraints
    row = c.sequence * problem.Q + c.query
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        weight = np.exp(-low)
        off = np.bincount(row, weight, problem.n * problem.Q)
        short = np.bincount(row, weight * cone.gaps, problem.n * problem.Q)
        total = (query_weights(problem) * short.reshape(problem.n, problem.Q)).sum(axis=1)
        shortfall, rise = short[row] / cone.gaps, total[c.sequence]
        fall = np.where(shortfall < 1.0, off[row] - np.log1p(-np.minimum(shortfall, 1.0)), np.inf)
        epsilon = float(np.maximum(rise, fall)[cone.svm.support].max())
    return _Bounds(shortfall, rise, epsilon * (1.0 + SLACK))


def _longest_step(cone: Cone, step: Step | float, t: int, low: Array, bounds: _Bounds) -> float:
    """hbar, the longest step that the rule can take in the cone from iteration t on."""
    if isinstance(step, (int, float)):
        return float(step)
    if isinstance(step, NormalizedGD):
        return step.effective_step(t, 0.0, 0.0)
    if isinstance(step, GradientDescent):  # eta ||grad L|| <= eta B P
        logs = cone.log_weights + bounds.log_rise - low
        return float(step.eta * cone.largest * np.exp(np.minimum(logs, 700.0)).sum())
    if isinstance(step, Polyak):  # L - L* <= Gamma P and ||grad L|| >= rho P
        longest = step.theta * cone.svm.norm / (1.0 - bounds.shortfall.max())
        return float(min(longest, step.cap or np.inf))
    raise AssumptionError(
        f"no bound is known here for the steps of {step!r}: use GradientDescent, NormalizedGD or Polyak, or give the longest "
        "step as a number."
    )


def _escape(cone: Cone, along: float, low: Array, bounds: _Bounds, hbar: float) -> tuple[float, float, float]:
    """What the inactive constraints do at most: eta, their push on R^A, zeta, that on R^perp, in units of the active weights' sum;
    and F, their drift for ever."""
    svm, on = cone.svm, cone.svm.support
    if on.all():
        return 0.0, 0.0, 0.0
    rho, slack = svm.margin, np.where(on, np.inf, svm.margins - 1.0)
    excess = cone.log_weights + bounds.log_rise + bounds.epsilon - low + rho * along
    log_scale = log_alpha(cone.problem, svm, cone.loss) - 2.0 * np.log(rho)
    with np.errstate(under="ignore", over="ignore"):
        share = np.where(on, 0.0, np.exp(excess - log_scale))
        lasting = hbar + cone.largest / (rho**2 * slack)
        moved = share @ cone.reach, share @ cone.off, (share * lasting / rho) @ cone.off
    push, sideways, drift = ((1.0 + SLACK) * float(number) for number in moved)
    return push, sideways, drift


def _rate(cone: Cone, radius: float, bounds: _Bounds, push: float, sideways: float) -> float:
    """Least cosine between a step and What: the part across is at most g + eta in the active span, g <= D (D E + 2 epsilon)/4."""
    rho, widest = cone.svm.margin, float(cone.reach[cone.svm.support].max())
    gradient = min(0.25 * cone.diameter * (cone.diameter * radius + 2.0 * bounds.epsilon), widest) + push
    narrow = rho / float(np.sqrt(rho**2 + gradient**2 + sideways**2))
    return (1.0 - SLACK) * max(rho / cone.largest, narrow)


def _holds_inward(cone: Cone, radius: float, shell: float, bounds: _Bounds, push: float, hbar: float) -> bool:
    """Whether every step of length <= hbar from a distance in [shell, radius] ends no farther: the theorem's third inequality.

    With y^2 = J the squared distance changes by at most -r times 2 (y^2 - epsilon y - eta E) - hbar (D + eta)^2/|(rho, D - eta)|,
    D the least of sqrt(Lambda) y and max ||Pi V_k||. Over y^2 that is increasing in y: the least y decides.
    """
    rho, y = cone.svm.margin, np.sqrt(cone.pull(shell, bounds.epsilon))
    gradient = min(0.5 * cone.diameter * y, float(cone.reach[cone.svm.support].max()))
    inward = 2.0 * (y**2 - bounds.epsilon * y - push * radius)
    outward = hbar * (gradient + push) ** 2 / np.hypot(rho, max(gradient - push, 0.0))
    return bool(push <= rho and inward - outward > SLACK * y**2)


class _TooWide(Exception):
    """(E) is not certain in a cone of this radius, nor in a wider one."""


def _try(
    cone: Cone, place: tuple[Array, float, float], along: float, shell: float, step: Step | float, t: int
) -> Capture | None:
    """The certificate with the radius shell + hbar, or None; hbar and F are bounded in the cone that they define."""
    base, distance, rest = place
    svm, alone = cone.svm, cone.svm.support.sum() == 1
    radius, drift, hbar = shell, 0.0, 0.0
    for _ in range(4):  # enlarge the cone until the bounds that hold in it fit into it
        low = (1.0 - SLACK) * svm.margin * along * svm.margins + base - SLACK * np.abs(base)
        low = low - (1.0 + SLACK) * (cone.reach * radius + cone.off * drift)
        bounds = _bounds(cone, low)
        if not bounds.shortfall.max() < 1.0 - SLACK:
            raise _TooWide
        longest = _longest_step(cone, step, t, low, bounds)
        push, sideways, moved = _escape(cone, along, low, bounds, longest)
        if not np.isfinite(moved):
            return None
        fits = longest <= hbar and moved <= drift and radius >= distance * (1.0 + SLACK)
        if fits and (alone or _holds_inward(cone, radius, shell, bounds, push, hbar)):
            whole = radius + drift + rest + cone.size
            rate = _rate(cone, radius, bounds, push, sideways)
            return Capture(t, along, rate, radius, drift, whole, hbar, bool(hbar < proved_step(svm)))
        hbar, drift = longest if isinstance(step, (int, float, NormalizedGD)) else 1.001 * longest, 1.5 * moved
        radius = shell + hbar
    return None


def capture(
    cone: Cone, W: ArrayLike, step: Step | float, *, iteration: int = 0, residual_of_W: Array | None = None
) -> Capture | None:
    """Whether W is captured: a certificate that every run from it with this rule converges to W_mm, or None if there is none.

    Parameters
    ----------
    cone : Cone
        Of the problem.
    W : array, shape (d, d)
        One iterate.
    step : Step or float
        The rule that is to go on, or the longest step that any rule will take.
    iteration : int
        t of W, for steps that decay.
    residual_of_W : array, shape (d, d), optional
        R = W - c What, where it is known better than from W.

    Returns
    -------
    Capture or None
        None says that the theorem's inequalities do not hold for any radius tried, not that the run will leave.

    Raises
    ------
    AssumptionError
        If the rule's steps have no bound here.
    """
    svm = cone.svm
    W = np.asarray(W, dtype=float)
    along = float(np.vdot(W, svm.W) / svm.norm)
    R = W - along * (svm.W / svm.norm) if residual_of_W is None else residual_of_W
    if not along > 0.0:
        return None
    place = cone.place(R)
    scale = cone.diameter if cone.diameter > 0.0 else 1.0
    least = place[1] * (1.0 + 2.0 * SLACK)
    shells = RADII / scale
    try:
        for shell in np.concatenate([[least], shells[shells > least / 2.0]]):
            found = _try(cone, place, along, float(shell), step, iteration)
            if found is not None:
                return found
    except _TooWide:
        pass
    return None


def first_capture(trajectory: Trajectory, svm: TokenSVM) -> Capture | None:
    """The certificate of the first record of a run that is captured, or None if no record is.

    Raises
    ------
    AssumptionError
        Where `Cone.of` or `capture` refuse.
    """
    require_gradient_rule(trajectory)
    cone = Cone.of(trajectory.problem, svm, trajectory.loss)
    for k, t in enumerate(trajectory.iterations):
        R = residual(trajectory, svm, k)
        found = capture(cone, trajectory.W(k), trajectory.step, iteration=int(t), residual_of_W=R)
        if found is not None:
            return found
    return None
