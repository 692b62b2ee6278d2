"""Capture: from one computed iterate, a proof that the run stays for ever in a cone around the max-margin ray of its tokens.

The cone is {c >= c_0, ||R^A - R_inf|| <= E, ||R^perp - R^perp_0|| <= F}, for W = c What + R^A + R^perp with R^A in the span of the
active constraints, those of margin one. The capture theorem gives inequalities between numbers of the data, of the iterate, and the longest step to come,
under which no step leaves it. They are checked in floating point, each with the relative margin `SLACK` against rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..data.constraints import Constraints
from ..data.problem import TokenProblem
from ..errors import AssumptionError
from ..margin.token_svm import TokenSVM
from ..measures.geometry import unit_factors, unit_gram
from ..measures.trajectory import residual
from ..model.attention import query_weights
from ..model.losses import Loss
from ..model.weights import log_negative_slope, require_finite
from ..training.rules import GradientDescent, NormalizedGD, Polyak, Step
from ..training.trajectory import Trajectory
from ..types import Array
from .one_clock import require_gradient_rule
from .residual import require_strict_complementarity
from .rest_point import rest_point

SLACK = 1e-5  # relative margin left at every inequality
CERTIFICATE = 1e-11  # largest certificate of the token SVM accepted: W_mm is then known to its square root, below SLACK
ACTIVE = 1e-9  # excess over one of a margin that floating point takes for one
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
        The run's; svm is the token SVM of the selection alpha around whose ray the cone lies.
    active : bool array, shape (N,)
        The A constraints of margin one.
    cross : array, shape (N, A)
        <V_k, V_l>, l active; `inverse`, shape (A, A), is the pseudo-inverse of its active rows.
    centre : array, shape (N,)
        <V_k, R_inf>, and `size` = ||R_inf||.
    reach, off : arrays, shape (N,)
        Norms of V_k's part in the active span across W_mm, and of its part off the active span.
    gaps, log_slopes : arrays, shape (N,)
        gamma_alpha - gamma_t, and log of q_k at infinity over it.
    log_alpha : float
        log sum_k q_k e^{-<V_k, R_inf>} + 2 log rho over the active constraints.
    stiffness, diameter, largest : float
        rho sqrt(omega_1), zero where the active constraints leave no direction to a residual; D = max ||V_k - V_l|| over active
        pairs; B = max ||V_k||.
    blur : float
        Bound of the error of W_mm/||W_mm||, from the margins that the active constraints have in floating point.
    """

    problem: TokenProblem
    svm: TokenSVM
    loss: Loss
    active: Array
    cross: Array
    inverse: Array
    centre: Array
    size: float
    reach: Array
    off: Array
    gaps: Array
    log_slopes: Array
    log_alpha: float
    stiffness: float
    diameter: float
    largest: float
    blur: float

    @classmethod
    def of(cls, problem: TokenProblem, svm: TokenSVM, loss: Loss = "logistic") -> Cone:
        """Prepare the check for one problem and the token SVM of its optimal tokens, or of any others.

        Constraints whose margin is one to 1e-9 count as active; they may be linearly dependent.

        Raises
        ------
        AssumptionError
            If a token of an active constraint scores as high as the selected one, if no dual is positive on all active
            constraints, or if W_mm is not known to `CERTIFICATE`.
        """
        if not svm.certificate() <= CERTIFICATE:
            raise AssumptionError(
                f"the token SVM's certificate is {svm.certificate():.1e}; capture needs {CERTIFICATE:.0e}: solve it by another "
                "method, or rescale the tokens."
            )
        c, on = svm.constraints, svm.support | (svm.margins <= 1.0 + ACTIVE)
        require_strict_complementarity(svm, active=on)
        gaps, log_slopes = _gaps_and_slopes(problem, c, loss)
        _require_locally_optimal(c, on, gaps)
        rest = rest_point(svm, on, log_slopes[on] + np.log(gaps[on]))
        norms = unit_factors(c)[2]
        cross = c.gram[:, on]
        inside = np.einsum("kl,lm,km->k", cross, rest.inverse, cross, optimize=True)  # squared norm in the active span
        rounding = (SLACK * norms) ** 2
        reach = np.sqrt(np.maximum(inside - (svm.margin * svm.margins) ** 2, 0.0) + rounding)
        off = np.where(on, 0.0, np.sqrt(np.maximum(norms**2 - inside, 0.0) + rounding))
        known = np.abs(1.0 - svm.margins[on]) + 8.0 * np.finfo(float).eps
        blur = svm.margin * float(np.sqrt(np.linalg.norm(rest.inverse, 2)) * np.linalg.norm(known))
        return cls(
            problem, svm, loss, on, cross, rest.inverse, cross @ rest.coefficients, rest.size, reach, off, gaps, log_slopes,
            rest.log_alpha, rest.stiffness, _diameter(c, on), float(norms.max()), blur,
        )  # fmt: skip

    @property
    def alone(self) -> bool:
        """Whether the active constraints leave no direction to a residual."""
        return self.stiffness == 0.0

    @property
    def settling_step(self) -> float:
        """8 rho/D^2, below which R_t^A tends to R_inf (sharp-constant theorem)."""
        return np.inf if self.alone else 8.0 * self.svm.margin / self.diameter**2

    def place(self, R: Array, along: float) -> tuple[Array, float, float]:
        """<V_k, R_inf + R^perp>, shape (N,), ||R^A - R_inf|| and ||R^perp|| of a residual R, shape (d, d); both bounded from above."""
        c, on = self.svm.constraints, self.active
        margins = c.margins(R)
        coefficients = np.zeros(len(margins))
        coefficients[on] = self.inverse @ margins[on]
        rest = R - c.combine(coefficients)
        x = margins[on] - self.centre[on]
        across = np.where(on, 0.0, c.margins(rest))
        unknown = 2.0 * self.blur * (along + self.size)
        distance = float(np.sqrt(max(x @ self.inverse @ x, 0.0)))
        return self.centre + across, distance + unknown, float(np.linalg.norm(rest)) + unknown

    def pull(self, radius: float, epsilon: float) -> float:
        """Lower bound of J, the divergence that draws R^A to R_inf, at the distance `radius` (capture theorem)."""
        spread = self.stiffness * radius * (1.0 - SLACK) - epsilon
        width = self.diameter * radius * (1.0 + SLACK) + 2.0 * epsilon
        return spread**2 * -np.expm1(-width) / width if spread > 0.0 else 0.0


def _gaps_and_slopes(problem: TokenProblem, c: Constraints, loss: Loss) -> tuple[Array, Array]:
    """gamma_alpha - gamma_t, of any sign, and log (w_iq/n)(-l'(gamma_alpha)), of each constraint, shapes (N,)."""
    i = c.sequence
    chosen = problem.scores[np.arange(problem.n), c.selection]
    gaps = require_finite(
        "the gap of two scores", chosen[i] - problem.scores[i, c.token], "divide the decoder by its norm"
    )
    slopes = log_negative_slope(chosen, loss)[i] + np.log(query_weights(problem)[i, c.query]) - np.log(problem.n)
    return gaps, slopes


def _require_locally_optimal(c: Constraints, on: Array, gaps: Array) -> None:
    if not (gaps[on] > 0.0).all():
        i = int(c.sequence[on][np.argmin(gaps[on])])
        raise AssumptionError(
            f"in sequence {i} a token with an active constraint scores no lower than the selected one: no run stays there. Select "
            "the tokens of best score, or those on which a run has settled."
        )


def _diameter(c: Constraints, on: Array) -> float:
    unit, norms = unit_gram(c, on)
    apart = norms[:, None] ** 2 + norms**2 - 2.0 * norms[:, None] * unit * norms
    return float(np.sqrt(max(apart.max(), 0.0)))


@dataclass(frozen=True, eq=False)
class _Bounds:
    """What holds at every W whose margins are at least `low`; shapes (N,)."""

    free: Array  # whether the sign of m_iq - gamma_it is not certain to be plus
    shortfall: Array  # (gamma_alpha - m_iq)/(gamma_alpha - gamma_it), at most
    log_weight: Array  # log |q_k(W)|, at most
    epsilon: float  # |log q_k(W)/q_k| of the active constraints, at most


def _bounds(cone: Cone, low: Array) -> _Bounds:
    """By s_t <= e^{-mu} <= e^{-low}: m_iq lies between gamma_alpha - worse and gamma_alpha + better; |(log -l')'| <= 1."""
    problem, c, gaps, on = cone.problem, cone.svm.constraints, cone.gaps, cone.active
    row, rows = c.sequence * problem.Q + c.query, problem.n * problem.Q
    share = query_weights(problem)
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        weight = np.exp(-low)
        off, worse, better = (
            np.bincount(row, weight * w, rows)
            for w in (np.ones_like(gaps), np.maximum(gaps, 0.0), np.maximum(-gaps, 0.0))
        )
        fall, rise = ((share * s.reshape(share.shape)).sum(axis=1)[c.sequence] for s in (worse, better))
        worse, better, off = worse[row], better[row], off[row]
        free = ~(gaps - worse > SLACK * np.abs(gaps))
        size = np.maximum(gaps + better, worse - gaps)
        shortfall = np.where(free, np.inf, worse / gaps)
        log_weight = cone.log_slopes + np.log(size) + fall
        up, down = fall + np.log1p(better / gaps), rise + off - np.log1p(-np.minimum(shortfall, 1.0))
        epsilon = float(np.maximum(up, down)[on].max())
    return _Bounds(free, shortfall, log_weight, epsilon * (1.0 + SLACK))


def _longest_step(cone: Cone, step: Step | float, t: int, low: Array, bounds: _Bounds) -> float:
    """hbar, the longest step that the rule can take in the cone from iteration t on."""
    if isinstance(step, (int, float)):
        return float(step)
    if isinstance(step, NormalizedGD):
        return step.effective_step(t, 0.0, 0.0)
    if isinstance(step, GradientDescent):  # eta ||grad L|| <= eta B sum |p|
        return float(step.eta * cone.largest * np.exp(np.minimum(bounds.log_weight - low, 700.0)).sum())
    if isinstance(step, Polyak):  # L - L* <= Gamma P and ||grad L|| >= rho P; elsewhere L - L* does not vanish
        best = bool((cone.svm.constraints.selection == cone.problem.optimal).all())
        longest = (
            step.theta * cone.svm.norm / (1.0 - bounds.shortfall.max()) if best and not bounds.free.any() else np.inf
        )
        return float(min(longest, step.cap or np.inf))
    raise AssumptionError(
        f"no bound is known here for the steps of {step!r}: use GradientDescent, NormalizedGD or Polyak, or give the longest "
        "step as a number."
    )


@dataclass(frozen=True)
class _Escape:
    """What the inactive constraints do at most, in units of the active weights' sum P_A."""

    push: float = 0.0  # eta, on R^A
    sideways: float = 0.0  # zeta, on R^perp
    drift: float = 0.0  # F: how far they move R^perp for ever
    forward: float = 0.0  # <-grad L, What>/P_A at least
    growth: float = 0.0  # of c for a unit of path, at least


def _escape(cone: Cone, along: float, low: Array, bounds: _Bounds, hbar: float) -> _Escape:
    svm, on, rho = cone.svm, cone.active, cone.svm.margin
    if on.all():
        return _Escape(forward=rho, growth=rho / cone.largest)
    log_share = bounds.log_weight + bounds.epsilon - low + rho * along - cone.log_alpha + 2.0 * np.log(rho)
    with np.errstate(under="ignore", over="ignore", invalid="ignore"):
        share = (1.0 + SLACK) * np.where(on, 0.0, np.exp(log_share))
        back = float(share[bounds.free] @ svm.margins[bounds.free])  # of those that may point backwards
        if not back < 1.0:
            return _Escape(drift=np.inf)
        forward = (1.0 - SLACK) * rho * (1.0 - back)
        growth = rho / cone.largest if back == 0.0 else forward / (cone.largest * (1.0 + share.sum()))
        lasting = hbar + 1.0 / (growth * rho * np.where(on, np.inf, svm.margins - 1.0))
        drift = float((share * lasting) @ cone.off) / forward
    return _Escape(float(share @ cone.reach), float(share @ cone.off), drift, forward, growth)


def _rate(cone: Cone, radius: float, bounds: _Bounds, escape: _Escape) -> float:
    """Least cosine between a step and What: the part across is at most g + eta in the active span, g <= D (D E + 2 epsilon)/4."""
    widest = float(cone.reach[cone.active].max())
    gradient = min(0.25 * cone.diameter * (cone.diameter * radius + 2.0 * bounds.epsilon), widest) + escape.push
    narrow = escape.forward / float(np.sqrt(escape.forward**2 + gradient**2 + escape.sideways**2))
    return (1.0 - SLACK) * max(escape.growth, narrow)


def _holds_inward(cone: Cone, radius: float, shell: float, bounds: _Bounds, escape: _Escape, hbar: float) -> bool:
    """Whether every step of length <= hbar from a distance in [shell, radius] ends no farther: the theorem's third inequality.

    With y^2 = J the squared distance changes by at most -r times 2 (y^2 - epsilon y - eta E) - hbar (D + eta)^2/|(rho, D - eta)|,
    D the least of sqrt(Lambda) y and max ||Pi V_k||. Over y^2 that is increasing in y: the least y decides, and must be positive.
    """
    y, push = np.sqrt(cone.pull(shell, bounds.epsilon)), escape.push
    gradient = min(0.5 * cone.diameter * y, float(cone.reach[cone.active].max()))
    inward = 2.0 * (y**2 - bounds.epsilon * y - push * radius)
    outward = hbar * (gradient + push) ** 2 / np.hypot(escape.forward, max(gradient - push, 0.0))
    return bool(push <= escape.forward and y > 0.0 and inward - outward > SLACK * y**2)


class _TooWide(Exception):
    """That active constraints pull is not certain in a cone of this radius, nor in a wider one."""


def _try(
    cone: Cone, place: tuple[Array, float, float], along: float, shell: float, step: Step | float, t: int
) -> Capture | None:
    """The certificate with the radius shell + hbar, or None; hbar and F are bounded in the cone that they define."""
    base, distance, rest = place
    svm, on = cone.svm, cone.active
    radius, drift, hbar = shell, 0.0, 0.0
    for _ in range(4):  # enlarge the cone until the bounds that hold in it fit into it
        low = (1.0 - SLACK) * svm.margin * along * svm.margins + base - SLACK * np.abs(base)
        low = low - (1.0 + SLACK) * (cone.reach * radius + cone.off * drift)
        bounds = _bounds(cone, low)
        if bounds.free[on].any():
            raise _TooWide
        longest = _longest_step(cone, step, t, low, bounds)
        escape = _escape(cone, along, low, bounds, longest)
        if not np.isfinite(escape.drift + longest):
            return None
        fits = longest <= hbar and escape.drift <= drift and radius >= distance * (1.0 + SLACK)
        if fits and (cone.alone or _holds_inward(cone, radius, shell, bounds, escape, hbar)):
            whole = radius + drift + rest + cone.size
            rate = _rate(cone, radius, bounds, escape)
            return Capture(t, along, rate, radius, drift, whole, hbar, bool(hbar < cone.settling_step))
        hbar, drift = longest if isinstance(step, (int, float, NormalizedGD)) else 1.001 * longest, 1.5 * escape.drift
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
    place = cone.place(R, along)
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
