"""The losses l(m): value, slope, and the log-scale ratio that the kernels use. The only room that knows them."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numba import njit
from numpy.typing import ArrayLike
from scipy.special import expit

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


def known_loss(loss: str) -> str:
    if loss not in ("logistic", "exponential"):
        raise ValueError(f"loss is {loss!r}; it must be 'logistic' or 'exponential'.")
    return loss


@njit(cache=True)
def loss_gap_ratio(delta, gamma, exponential):
    """(l(gamma - delta) - l(gamma)) / delta, with its limit -l'(gamma) below rounding (and so where delta is subnormal)."""
    if exponential:
        return math.exp(-gamma) * (math.expm1(delta) / delta if delta > 1e-17 else 1.0)
    sigma = 1.0 / (1.0 + math.exp(gamma))
    return math.log1p(math.expm1(delta) * sigma) / delta if delta > 1e-17 else sigma
