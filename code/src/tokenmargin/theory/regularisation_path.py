"""The regularisation path: the W of least loss in a ball, as the ball grows. No dynamics enters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.optimize import root as root_of

from ..data.problem import TokenProblem
from ..errors import SolverError
from ..margin.least_distance import square_root
from ..margin.token_svm import TokenSVM
from ..model.losses import Loss
from ..training.kernels import layout_of, scaled_weights
from ..training.rules import require_positive
from ..types import Array
from .residual import residual_limit, transverse_operator

FLAT = (
    1e-9  # norm of the gradient of log(L - L*) along the sphere, relative to its size, at which a minimum is accepted
)


@dataclass(frozen=True, eq=False)
class PathPoint:
    """W(r) = sum_k coefficients_k V_k, a stationary point of the loss on the sphere of norm r, sought from r What.

    For large r it is the least-loss matrix: that has a bounded residual, and among those log(L - L*) is strictly convex in the residual.

    Attributes
    ----------
    radius : float
    coefficients : array, shape (N,)
    residual : array, shape (N,)
        Coefficients of R(r) = W(r) - <W(r), What> What.
    log_loss_gap : float
        log(L(W(r)) - L*).
    flatness : float
        ||gradient along the sphere||/||gradient|| of log(L - L*): zero exactly at a stationary point.
    """

    radius: float
    coefficients: Array
    residual: Array
    log_loss_gap: float
    flatness: float


def path_point(
    problem: TokenProblem, svm: TokenSVM, radius: float, *, start: Array | None = None, loss: Loss = "logistic"
) -> PathPoint:
    """Descend the loss over ||W|| = radius to a stationary point, from r What plus a residual given by its coefficients (default zero).

    The objective is log(L - L*), exact where L - L* underflows. W = sqrt(r^2 - ||R||^2) What + R, with R in the constraints'
    span and orthogonal to W_mm, is searched by BFGS.

    Raises
    ------
    SolverError
        If the search does not end at a stationary point of the sphere.
    """
    require_positive("radius", radius)
    c = problem.constraints
    root, layout = square_root(c.gram), layout_of(problem, loss)
    unit = root @ svm.duals
    unit /= np.linalg.norm(unit)
    plane = np.linalg.svd(unit[None])[2][1:].T
    p = np.empty(len(c))

    def objective(y: Array) -> tuple[float, Array]:
        R = plane @ y
        along = np.sqrt(radius**2 - R @ R)
        log_scale, log_gap = scaled_weights(root.T @ (along * unit + R), layout, p)
        slope = -np.exp(log_scale - log_gap) * (root @ p)
        return log_gap, plane.T @ slope - (unit @ slope / along) * y

    y = np.zeros(plane.shape[1]) if start is None else plane.T @ (root @ start)
    if len(y):  # a single direction leaves no residual to search
        found = minimize(objective, y, jac=True, method="BFGS", options={"gtol": 1e-12, "maxiter": 2000})
        y = root_of(
            lambda y: objective(y)[1], found.x, tol=1e-14
        ).x  # the slope is exact where differences of the loss are not
    log_gap, slope = objective(y)
    flatness = float(np.linalg.norm(slope) / svm.margin)
    if not flatness <= FLAT:
        raise SolverError(
            f"the search on the sphere of radius {radius:.3g} stopped at a slope of {flatness:.1e}: try another start."
        )
    R = plane @ y
    inverse = np.linalg.pinv(root)
    W = np.sqrt(radius**2 - R @ R) * unit + R
    return PathPoint(radius, inverse @ W, inverse @ R, float(log_gap), flatness)


def path_residual(problem: TokenProblem, svm: TokenSVM, radius: float, loss: Loss = "logistic") -> Array:
    """Coefficients of R(r) to first order, R_inf - (rho r)^-1 H^-1 R_inf, shape (N,) (regularisation-path theorem).

    Raises
    ------
    AssumptionError
        Where `residual_limit` or `transverse_operator` refuses.
    """
    require_positive("radius", radius)
    limit = residual_limit(problem, svm, loss)
    on = svm.support
    H = transverse_operator(svm)[np.ix_(on, on)]
    first = np.zeros(len(limit))
    first[on] = np.linalg.lstsq(H, limit[on], rcond=1e-10)[0]
    first -= (svm.margins @ first) / (svm.margins @ svm.duals) * svm.duals
    return limit - first / (svm.margin * radius)
