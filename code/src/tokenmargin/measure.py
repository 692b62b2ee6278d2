"""What is measured on a trajectory: direction error, residual, sparsification, exponents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from .dynamics import Trajectory
from .svm import TokenSVM

Array = np.ndarray


def direction_error(trajectory: Trajectory, svm: TokenSVM) -> Array:
    """|| W_t/||W_t|| - W_mm/||W_mm|| ||_F at each record, shape (K,); nan where W_t = 0.

    Computed from the difference of the normalised matrices (in coefficient form, of the coefficients), so that it
    resolves errors far below the 1e-8 at which sqrt(2 - 2 cos) stops.
    """
    return np.array([_direction_error(trajectory, svm, k) for k in range(len(trajectory))])


def _direction_error(trajectory: Trajectory, svm: TokenSVM, k: int) -> float:
    norm = trajectory.norms[k]
    if norm == 0.0:
        return np.nan
    if trajectory.coefficients is None or svm.constraints is not trajectory.problem.constraints:
        return float(np.linalg.norm(trajectory.W(k) / norm - svm.W / svm.norm))
    difference = trajectory.coefficients[k] / norm - svm.duals / svm.norm
    return float(np.linalg.norm(trajectory.W0 / norm + svm.constraints.combine(difference)))


def along(trajectory: Trajectory, svm: TokenSVM) -> Array:
    """c_t = <W_t, W_mm/||W_mm||>, shape (K,)."""
    return np.array([np.vdot(trajectory.W(k), svm.W) for k in range(len(trajectory))]) / svm.norm


def residual(trajectory: Trajectory, svm: TokenSVM, k: int = -1) -> Array:
    """R_t = W_t - c_t W_mm/||W_mm|| at record k, shape (d, d)."""
    unit = svm.W / svm.norm
    if trajectory.coefficients is None or svm.constraints is not trajectory.problem.constraints:
        W = trajectory.W(k)
        return W - np.vdot(W, unit) * unit
    c = np.vdot(trajectory.W(k), unit)
    rest = trajectory.W0 + svm.constraints.combine(trajectory.coefficients[k] - (c / svm.norm) * svm.duals)
    return rest - np.vdot(rest, unit) * unit


def residual_norm(trajectory: Trajectory, svm: TokenSVM) -> Array:
    """e_t = ||R_t||_F, shape (K,)."""
    return np.array([np.linalg.norm(residual(trajectory, svm, k)) for k in range(len(trajectory))])


def residual_parts(trajectory: Trajectory, svm: TokenSVM) -> tuple[Array, Array]:
    """Norms of R_t's part in the span of the support vectors and of the rest, shapes (K,), (K,)."""
    c, on = svm.constraints, svm.support
    gram = (c.difference[on] @ c.difference[on].T) * (c.query_vector[on] @ c.query_vector[on].T)
    weights, parts = np.zeros(len(c)), []
    for k in range(len(trajectory)):
        R = residual(trajectory, svm, k)
        weights[on] = np.linalg.lstsq(gram, c.margins(R)[on], rcond=1e-12)[0]
        active = c.combine(weights)
        parts.append((np.linalg.norm(active), np.linalg.norm(R - active)))
    return tuple(np.array(parts).T)


def worst_off_attention(trajectory: Trajectory) -> Array:
    """max over sequences and queries of log(1 - s_opt), shape (K,)."""
    return np.nanmax(trajectory.log_off_attention, axis=(1, 2))


def selects(trajectory: Trajectory, selection: ArrayLike | None = None) -> bool:
    """Whether at the last record every query attends most to the selected (default: optimal) token."""
    wanted = trajectory.problem.optimal if selection is None else np.asarray(selection)
    agree = trajectory.selection == wanted[:, None]
    return bool(agree[trajectory.problem.query_mask].all())


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
