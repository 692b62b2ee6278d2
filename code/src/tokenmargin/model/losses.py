"""The losses l(m): value, slope, and the log-scale ratio that the kernels use. The only room that knows them."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from ..compilation import compiled
from ..types import Array

Loss = Literal["logistic", "exponential"]


def pointwise_loss(m: ArrayLike, loss: Loss = "logistic") -> Array:
    """l(m): log(1 + e^-m) (logistic) or e^-m (exponential)."""
    m = np.asarray(m, dtype=float)
    return np.logaddexp(0.0, -m) if known_loss(loss) == "logistic" else np.exp(-m)


def negative_slope(m: ArrayLike, loss: Loss = "logistic") -> Array:
    """-l'(m) > 0: 1/(1 + e^m) (logistic) or e^-m (exponential)."""
    m = np.asarray(m, dtype=float)
    return expit(-m) if known_loss(loss) == "logistic" else np.exp(-m)


def known_loss(loss: Loss) -> Loss:
    if loss not in ("logistic", "exponential"):
        raise ValueError(f"loss is {loss!r}; it must be 'logistic' or 'exponential'.")
    return loss


@compiled
def softplus(m):
    """log(1 + e^m), which is -log of the logistic loss's slope, at any m."""
    return m + math.log1p(math.exp(-m)) if m > 0.0 else math.log1p(math.exp(m))


@compiled
def log_share_lost(delta, log_delta):
    """log(1 - e^-delta) for delta >= 0, given with its logarithm: delta itself may underflow."""
    if delta > 30.0:
        return math.log1p(-math.exp(-delta))
    return math.log(-math.expm1(-delta)) if delta > 1e-17 else log_delta


@compiled
def log_loss_gap_of(delta, log_delta, gamma, exponential):
    """log(l(gamma - delta) - l(gamma)) for delta >= 0, given with its logarithm: delta itself may underflow.

    l(gamma - delta) - l(gamma) = e^y (exponential) or log(1 + e^y) (logistic) with
    y = log(e^delta - 1) + log(-l'(gamma)): no difference is taken, and nothing overflows.
    """
    log_expm1 = delta + log_share_lost(delta, log_delta)
    if exponential:
        return log_expm1 - gamma
    y = log_expm1 - softplus(gamma)
    return y if y < -37.0 else math.log(softplus(y))


@compiled
def relative_log_loss_gap(delta, log_delta, gamma, log_slope, ref, exponential):
    """log(l(gamma - delta) - l(gamma)) - ref, where log(-l') = log_slope + ref where -l' is an exponential (ref < -37).

    e^-m (1 - e^-delta), over 1 + e^-gamma for the logistic loss: a difference of two large outputs is never taken twice.
    """
    if exponential:
        return log_slope + log_share_lost(delta, log_delta)
    if ref < -37.0:
        return log_slope + log_share_lost(delta, log_delta) - softplus(-gamma)
    return log_loss_gap_of(delta, log_delta, gamma, exponential) - ref


@compiled
def log_mean(logs):
    """log of the mean of numbers given by their logarithms."""
    top = logs.max()
    if top == -np.inf:
        return top
    total = 0.0
    for value in logs:
        total += math.exp(value - top)
    return top + math.log(total / len(logs))
