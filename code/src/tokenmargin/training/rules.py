"""Step rules: W_{t+1} = W_t - h_t grad L/||grad L||, each rule one formula for the effective step h_t.

All see the gradient through logarithms of its norm and of the loss gap, which stay finite where the numbers
themselves underflow. Where the gradient is exactly zero every rule stays where it is: h_t = 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from ..errors import LostStepError, UnboundedStepError

LARGEST_LOG = 700.0  # e^700 is near the largest float
MODERATE_LOG = 20.0  # loss gap over gradient, in units of 1/max ||V_k||, up to which no wrong token has saturated


class Step(Protocol):
    """Anything with this method is a step rule; the built-in ones also run compiled."""

    def effective_step(self, t: int, log_gradient_norm: float, log_loss_gap: float) -> float:
        """h_t from the iteration t = 0, 1, …, log ||grad L(W_t)|| and log(L(W_t) - L*)."""
        ...


@dataclass(frozen=True)
class GradientDescent:
    """h_t = eta ||grad L(W_t)||: W_{t+1} = W_t - eta grad L(W_t).

    Any eta > 0 is allowed: the one-clock theorem needs no smoothness.

    Examples
    --------
    >>> import tokenmargin as tm
    >>> problem = tm.gaussian(5, 4, 100, seed=0)
    >>> run = tm.train(problem, tm.GradientDescent(1.0), 100)
    >>> bool(run.log_loss_gap[-1] < run.log_loss_gap[0])
    True
    """

    eta: float

    def __post_init__(self) -> None:
        require_positive("eta", self.eta)

    def effective_step(self, t: int, log_gradient_norm: float, log_loss_gap: float) -> float:
        return exp_or_inf(math.log(self.eta) + log_gradient_norm)


@dataclass(frozen=True)
class NormalizedGD:
    """h_t = eta (t+1)^-decay: steepest descent in the Frobenius norm with a prescribed length.

    decay = 0 is constant-step NGD; decay = 1/2 is NGD with 1/sqrt(t+1). The path length diverges only for
    decay <= 1, so larger ones are refused.

    Examples
    --------
    >>> import tokenmargin as tm
    >>> problem = tm.gaussian(5, 4, 100, seed=0)
    >>> run = tm.train(problem, tm.NormalizedGD(0.1), 100)
    >>> round(float(run.path_length[-1]), 9)
    10.0
    """

    eta: float
    decay: float = 0.0

    def __post_init__(self) -> None:
        require_positive("eta", self.eta)
        if not 0.0 <= self.decay <= 1.0:
            raise ValueError(f"decay is {self.decay}; it must lie in [0, 1], or the path length stays finite.")

    def effective_step(self, t: int, log_gradient_norm: float, log_loss_gap: float) -> float:
        return self.eta * (t + 1.0) ** -self.decay


@dataclass(frozen=True)
class Polyak:
    """h_t = min(theta (L(W_t) - L*)/||grad L(W_t)||, cap): Polyak's step-size, relaxed by theta.

    Warnings
    --------
    L* is the infimum over W, `model.attention.infimum`: it is positive, and reached only as ||W|| -> infinity. With
    L* = 0 the steps would be far too long. Without a cap the step is unbounded near a saturated wrong token, where
    the loss gap is O(1) and the gradient exponentially small; the cap is on the step's length h,
    where the rule SPS_max of Loizou et al. (2021) caps the multiplier h/||grad L|| of the gradient.

    Examples
    --------
    >>> import tokenmargin as tm
    >>> problem = tm.gaussian(5, 4, 100, seed=0)
    >>> run = tm.train(problem, tm.Polyak(0.5), 500)
    >>> svm = tm.solve_token_svm(problem)
    >>> round(float(run.effective_steps[-1] / (0.5 * svm.norm)), 6)
    1.0
    """

    theta: float = 1.0
    cap: float | None = None

    def __post_init__(self) -> None:
        require_positive("theta", self.theta)
        if self.cap is not None:
            require_positive("cap", self.cap)

    def effective_step(self, t: int, log_gradient_norm: float, log_loss_gap: float) -> float:
        log_step = math.log(self.theta) + log_loss_gap - log_gradient_norm
        if self.cap is not None:
            return math.exp(min(log_step, math.log(self.cap)))
        if log_step > LARGEST_LOG:
            raise unbounded_step(t, log_step)
        return math.exp(log_step)


def exp_or_inf(x: float) -> float:
    """e^x, infinite beyond the largest float."""
    return math.exp(x) if x < LARGEST_LOG else math.inf


def power_of_e(x: float) -> str:
    """e^x in print: the exponent in at most four figures, however large."""
    return f"e^{x:.4g}"


def unbounded_step(
    t: int, log_step: float, cap: float | None = None, sequence: int | None = None, step: object = None
) -> UnboundedStepError:
    """The error for a step that no path in float64 can take.

    Parameters
    ----------
    cap : float, optional
        1/max ||V_k||: a step of this length changes no margin by more than one.
    sequence : int, optional
        One whose attention has saturated on a wrong token; default none has.
    step : object, optional
        The rule; default Polyak's, whose step is long because the loss gap is.
    """
    size = f"at iteration {t} the step is {power_of_e(log_step)}"
    limit = "" if cap is None else f" (one of {cap:.3g} changes no margin by more than one)"
    if isinstance(step, Polyak) and step.cap is not None:
        return UnboundedStepError(f"{size}, its cap, which makes margins that float64 cannot resolve: lower it{limit}.")
    if step is not None and not isinstance(step, Polyak):
        advice = f"give the rule a shorter step{limit}"
        if log_step > 2.0 * LARGEST_LOG:
            advice = "no step-size in float64 is short enough: divide the decoder by its norm, or take normalised steps"
        return UnboundedStepError(f"{size}, which makes margins that float64 cannot resolve: {advice}.")
    if isinstance(step, Polyak) and log_step - math.log(step.theta) - math.log(cap or 1.0) < MODERATE_LOG:
        return UnboundedStepError(
            f"{size}, which makes margins that float64 cannot resolve: give a smaller theta{limit}."
        )
    given = "..." if cap is None else f"{cap:.3g}"
    cause = (
        "a token that is not optimal has saturated" if step is None else "the forces of the constraints nearly cancel"
    )
    if sequence is not None:
        cause = f"the attention of sequence {sequence} has saturated on a token that is not optimal"
    return UnboundedStepError(
        f"{size}: {cause}, so the loss gap is O(1) while the gradient is exponentially small. Give the rule a cap, "
        f"Polyak(theta, cap={given}){limit}."
    )


def lost_step(t: int, h: float, norm: float, step: object = None) -> LostStepError:
    """The error for a prescribed step that rounding takes away."""
    advice = "take longer steps or fewer of them, or a smaller W0"
    if isinstance(step, Polyak):
        advice = "take a smaller W0; where scores are very large, divide the decoder by its norm"
    return LostStepError(
        f"at iteration {t} the step, of length {h:.3g}, is lost in the rounding of W, whose norm is {norm:.3g}: {advice}."
    )


def lost_gradient(t: int) -> LostStepError:
    """The error for a direction that is rounding error alone."""
    return LostStepError(
        f"at iteration {t} the forces of the constraints cancel to rounding: W is a stationary point as far as float64 can "
        "tell, and a normalised step from it has no direction. Take fewer steps, gradient descent, or another W0."
    )


def coarse_slopes(t: int, error: float) -> LostStepError:
    """The error for outputs whose rounding the losses' slopes see."""
    return LostStepError(
        f"at iteration {t} float64 resolves the outputs, cancelling sums of very large scores, no better than to a change of "
        f"{error:.1g} of the step: divide the decoder by its norm."
    )


def require_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0.0):
        raise ValueError(f"{name} is {value}; it must be a positive finite number.")
