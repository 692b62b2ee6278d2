"""Minibatch NGD with a short step: where its residual fluctuates, how far, and how fast its clock runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.linalg import solve_discrete_lyapunov
from scipy.optimize import root as root_of

from ..data.problem import TokenProblem
from ..errors import AssumptionError
from ..margin.least_distance import square_root
from ..margin.token_svm import TokenSVM
from ..model.losses import Loss
from ..model.weights import log_limit_weights
from ..training.rules import require_positive
from ..types import Array
from .residual import require_all_support, require_modes, residual_limit

Map = Callable[[Array], Array]


@dataclass(frozen=True)
class MinibatchLaw:
    """The stationary law of the residual to first order in the step, nothing fitted.

    Attributes
    ----------
    rest : float
        ||R_b||, where the mean step has no part off W_mm: the residual of an infinitely short step; e_inf for the full batch.
    drift : float
        ||m||, the shift of the mean by the curvature of the mean step, of order eta.
    variance : float
        Trace of the covariance, of order eta.
    size : float
        Root mean square of e_t, sqrt(||R_b + m||^2 + variance).
    speed : float
        Advance along W_mm a step, over eta, at R_b: one for the full batch.
    """

    rest: float
    drift: float
    variance: float
    size: float
    speed: float


def minibatch_law(
    problem: TokenProblem, svm: TokenSVM, eta: float, batch: int, loss: Loss = "logistic"
) -> MinibatchLaw:
    """The law for batches of `batch` sequences drawn without replacement, all of which are enumerated.

    Near infinity the direction of a step depends on R alone: D_B(R), along sum over B of q_k e^{-<V_k, R>} V_k. The mean step
    E D_B vanishes off W_mm at R_b; around it R is an autoregression with the Jacobian -A of the mean step and the covariance C of
    one step, whose stationary covariance solves Sigma = (1 - eta A) Sigma (1 - eta A)' + eta^2 C.

    Raises
    ------
    AssumptionError
        If some constraint is not a support vector, they are linearly dependent, there is only one, or no rest is found: batches of one sequence,
        whose steps are all equally long, have none.
    """
    require_positive("eta", eta)
    require_all_support(svm)
    require_modes(svm)
    start = residual_limit(problem, svm, loss)
    step, plane, root = _steps(problem, svm, batch, loss)

    def mean(y: Array) -> Array:
        return step(y).mean(axis=0)[1:]

    found = root_of(mean, plane.T @ (root @ start), tol=1e-12)
    if not np.linalg.norm(mean(found.x)) < 1e-8:
        raise AssumptionError(
            f"batches of {batch} of {problem.n} sequences have no rest: their normalised steps do not average to a multiple of W_mm "
            "at any residual that could be found. Use larger batches."
        )
    rest, steps = found.x, step(found.x)
    A = -_jacobian(mean, rest)
    noise = steps[:, 1:] - steps[:, 1:].mean(axis=0)
    flow = np.eye(len(rest)) - eta * A
    covariance = solve_discrete_lyapunov(flow, eta**2 * noise.T @ noise / len(noise))
    shift = np.linalg.solve(A, _curved(mean, rest, covariance))
    variance = float(np.trace(covariance))
    size = float(np.sqrt(np.sum((rest + shift) ** 2) + variance))
    return MinibatchLaw(
        float(np.linalg.norm(rest)), float(np.linalg.norm(shift)), variance, size, float(steps[:, 0].mean())
    )


def _steps(problem: TokenProblem, svm: TokenSVM, batch: int, loss: Loss) -> tuple[Map, Array, Array]:
    """The function y -> all D_B, shape (batches, 1 + dimension), first along W_mm; the plane's basis; and the constraints' root."""
    root = square_root(problem.constraints.gram)
    unit = root @ svm.duals / svm.norm
    plane = np.linalg.svd(unit[None])[2][1:].T
    frame = np.column_stack([unit, plane])
    log_q = log_limit_weights(problem, loss)
    batches = list(combinations(range(problem.n), batch))
    member = np.array([np.isin(problem.constraints.sequence, chosen) for chosen in batches])

    def step(y: Array) -> Array:
        logs = np.where(member, log_q - root.T @ (plane @ y), -np.inf)
        weights = np.exp(logs - logs.max(axis=1, keepdims=True))
        directions = weights @ root.T
        return directions / np.linalg.norm(directions, axis=1, keepdims=True) @ frame

    return step, plane, root


def _jacobian(f: Map, y: Array, eps: float = 1e-5) -> Array:
    return np.column_stack([(f(y + e) - f(y - e)) / (2.0 * eps) for e in eps * np.eye(len(y))])


def _curved(f: Map, y: Array, covariance: Array, eps: float = 1e-3) -> Array:
    """(1/2) sum_ij covariance_ij d_i d_j f at y, by second differences along the covariance's axes."""
    values, axes = np.linalg.eigh(covariance)
    second = [(f(y + eps * a) - 2.0 * f(y) + f(y - eps * a)) / eps**2 for a in axes.T]
    return 0.5 * np.tensordot(values, second, axes=1)
