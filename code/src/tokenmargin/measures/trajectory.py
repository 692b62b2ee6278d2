"""What is measured on a trajectory: direction error, residual, sparsification."""

from __future__ import annotations

import numpy as np

from ..margin.max_norm import MaxNormSVM
from ..margin.token_svm import TokenSVM
from ..training.trajectory import Trajectory
from ..types import Array
from .geometry import gram_norm, unit_gram


def direction_error(trajectory: Trajectory, svm: TokenSVM) -> Array:
    """|| W_t/||W_t|| - W_mm/||W_mm|| ||_F at each record, shape (K,); nan where W_t = 0.

    Computed from the difference of the normalised matrices (in coefficient form, of the coefficients), so that it
    resolves errors far below the 1e-8 at which sqrt(2 - 2 cos) stops.

    Examples
    --------
    >>> import tokenmargin as tm
    >>> problem = tm.gaussian(5, 4, 100, seed=0)
    >>> svm = tm.solve_token_svm(problem)
    >>> run = tm.train(problem, tm.NormalizedGD(0.1), 2000)
    >>> limit = tm.direction_error(run, svm)[-1] * run.norms[-1]
    >>> bool(abs(limit / tm.e_inf(problem, svm) - 1.0) < 1e-4)
    True
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


def margin_component(trajectory: Trajectory, svm: TokenSVM) -> Array:
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
    cosines, norms = unit_gram(c, on)
    weights, parts = np.zeros(len(c)), []
    for k in range(len(trajectory)):
        R = residual(trajectory, svm, k)
        weights[on] = np.linalg.lstsq(cosines, c.margins(R)[on] / norms, rcond=1e-12)[0] / norms
        active = c.combine(weights)
        parts.append((np.linalg.norm(active), np.linalg.norm(R - active)))
    return tuple(np.array(parts).T)


def worst_off_attention(trajectory: Trajectory) -> Array:
    """max over sequences and queries of log(1 - s_opt), shape (K,)."""
    return np.nanmax(trajectory.log_off_attention, axis=(1, 2))


def residual_sizes(trajectory: Trajectory, svm: TokenSVM) -> Array:
    """e_t = ||R_t||_F of a run from W_0 = 0 in coefficient form, shape (K,), from the Gram matrix alone.

    The same numbers as `residual_norm`, without forming a d x d matrix: for thousands of short runs.

    Raises
    ------
    ValueError
        If the run is in matrix form, or did not start from zero.
    FloatRangeError
        If a squared norm is not a finite number.
    """
    C = trajectory.coefficients
    if C is None:
        raise ValueError('the run is in matrix form; give one with form="gram", or use `residual_norm`.')
    if trajectory.W0.any():
        raise ValueError("the run did not start from W_0 = 0, which coefficients do not hold: use `residual_norm`.")
    along = (C @ svm.margins) / (svm.duals @ svm.margins)
    return gram_norm(svm.constraints.gram, C - along[:, None] * svm.duals)


def max_norm_margin(trajectory: Trajectory, svm: MaxNormSVM) -> Array:
    """min_k <V_k, W_t> / max_ij |W_t,ij| over the SVM's constraints at each record, shape (K,); nan where W_t = 0."""
    iterates = [trajectory.W(k) for k in range(len(trajectory))]
    least = np.array([svm.constraints.margins(W).min() for W in iterates])
    size = np.array([np.abs(W).max() for W in iterates])
    return np.divide(least, size, out=np.full(len(size), np.nan), where=size > 0.0)
