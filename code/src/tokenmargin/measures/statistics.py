"""Fitted exponents and intervals of shares: shown beside the theory, never part of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


@dataclass(frozen=True)
class Exponent:
    """A fitted exponent p in y ~ x^p with its 95% confidence interval."""

    value: float
    low: float
    high: float


def exponent(x: ArrayLike, y: ArrayLike, window: tuple[float, float] | None = None) -> Exponent:
    """Least-squares slope of log y against log x over low <= x <= high, with a 95% Student interval.

    Fitted slopes are shown only beside the theory's; none enters a prediction.

    Raises
    ------
    ValueError
        If fewer than three positive points lie in the window.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    low, high = window or (0.0, np.inf)
    keep = (x > 0) & (y > 0) & (x >= low) & (x <= high)
    if keep.sum() < 3:
        raise ValueError(f"only {keep.sum()} positive points lie in the window {(low, high)}; an exponent needs three.")
    fit = stats.linregress(np.log(x[keep]), np.log(y[keep]))
    half = stats.t.ppf(0.975, keep.sum() - 2) * fit.stderr
    return Exponent(float(fit.slope), float(fit.slope - half), float(fit.slope + half))


def wilson_interval(successes: int, runs: int) -> tuple[float, float]:
    """95% Wilson score interval of a share."""
    interval = stats.binomtest(int(successes), int(runs)).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)
