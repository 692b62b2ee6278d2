"""Step rules: W_{t+1} = W_t - h_t grad L/||grad L||, each rule one formula for the effective step h_t.

All see the gradient through logarithms of its norm and of the loss gap, which stay finite where the numbers
themselves underflow. Where the gradient is exactly zero every rule stays where it is: h_t = 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from ..errors import UnboundedStepError

LARGEST_LOG_STEP = 100.0 * math.log(10.0)


class Step(Protocol):
    """Anything with this method is a step rule; the built-in ones also run compiled."""

    def effective_step(self, t: int, log_gradient_norm: float, log_loss_gap: float) -> float:
        """h_t from the iteration t = 0, 1, …, log ||grad L(W_t)|| and log(L(W_t) - L*)."""
        ...


@dataclass(frozen=True)
class GradientDescent:
    """h_t = eta ||grad L(W_t)||: W_{t+1} = W_t - eta grad L(W_t).

    Any eta > 0 is allowed: the one-clock theorem needs no smoothness.
    """

    eta: float

    def __post_init__(self) -> None:
        require_positive("eta", self.eta)

    def effective_step(self, t: int, log_gradient_norm: float, log_loss_gap: float) -> float:
        return self.eta * math.exp(log_gradient_norm)


@dataclass(frozen=True)
class NormalizedGD:
    """h_t = eta (t+1)^-decay: steepest descent in the Frobenius norm with a prescribed length.

    decay = 0 is constant-step NGD; decay = 1/2 is NGD with 1/sqrt(t+1). The path length diverges only for
    decay <= 1, so larger ones are refused.
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
    the loss gap is O(1) and the gradient exponentially small; the cap is the SPS_max rule of Loizou et al. (2021).
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
        if log_step > LARGEST_LOG_STEP:
            raise unbounded_step(t, log_step)
        return math.exp(log_step)


def unbounded_step(t: int, log_step: float) -> UnboundedStepError:
    """The error for a Polyak step that no finite path can take."""
    return UnboundedStepError(
        f"at iteration {t} Polyak's step is e^{log_step:.0f}: a token that is not optimal has saturated, so the loss gap "
        "is O(1) while the gradient is exponentially small. Give the rule a cap, Polyak(theta, cap=...), or start from "
        "a smaller W0."
    )


def require_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0.0):
        raise ValueError(f"{name} is {value}; it must be a positive finite number.")
