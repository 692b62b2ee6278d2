"""The rate table: the leading laws of each rule, nothing fitted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..data.problem import TokenProblem
from ..errors import AssumptionError
from ..margin.token_svm import TokenSVM
from ..model.losses import Loss
from ..model.weights import limit_weights
from ..training.rules import GradientDescent, NormalizedGD, Polyak, Step
from ..types import Array
from .residual import alpha, e_inf


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
