"""Where the residual comes to rest, also where the active constraints are linearly dependent and the duals are not unique."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp, softmax

from ..errors import AssumptionError
from ..margin.token_svm import TokenSVM
from ..measures.geometry import unit_gram
from ..types import Array
from .residual import DEPENDENT

STEPS = 200  # of Newton's method; a strictly convex function of moderate weights needs ten
AT_REST = 1e-11  # length of sum_k p_k V_k off W_mm, over the largest ||V_k||, that counts as zero
POSITIVE = 1e-9  # least weight p_k at rest; below it no dual is taken to be positive there


@dataclass(frozen=True, eq=False)
class RestPoint:
    """R_inf, the minimiser of Psi(R) = sum_k q_k e^{-<V_k, R>} over the active constraints' span across W_mm (sharp-constant theorem).

    Attributes
    ----------
    coefficients : array, shape (A,)
        R_inf = sum_k coefficients_k V_k.
    size : float
        ||R_inf||_F.
    shares : array, shape (A,)
        p_k = rho^2 lambda_k of the one dual lambda with lambda_k proportional to q_k e^{-<V_k, R_inf>}.
    log_alpha : float
        log Psi(R_inf) + 2 log rho.
    stiffness : float
        rho sqrt(omega_1), omega_1 the least curvature with these duals; zero where no direction is left.
    inverse : array, shape (A, A)
        Pseudo-inverse of the Gram matrix <V_k, V_l>.
    """

    coefficients: Array
    size: float
    shares: Array
    log_alpha: float
    stiffness: float
    inverse: Array


def rest_point(svm: TokenSVM, active: Array, log_q: Array) -> RestPoint:
    """R_inf of the active constraints, a mask of shape (N,) with A entries true, and log q_k of these, shape (A,).

    Raises
    ------
    AssumptionError
        If no dual of W_mm is positive on all of them: Psi then has no minimiser.

    Examples
    --------
    >>> import numpy as np
    >>> from tokenmargin.data.constraints import Constraints
    >>> from tokenmargin.margin.token_svm import solve_constraints
    >>> svm = solve_constraints(Constraints.of_vectors([[1.0, 0.0], [1.0, 1.0], [1.0, -1.0]]))
    >>> rest = rest_point(svm, svm.margins < 1.1, np.zeros(3))
    >>> np.round(rest.shares, 12).tolist()
    [0.333333333333, 0.333333333333, 0.333333333333]
    """
    unit, norms = unit_gram(svm.constraints, active)
    values, vectors = np.linalg.eigh(unit)
    kept = values > DEPENDENT * values[-1]
    values, E = values[kept], vectors[:, kept] * np.sqrt(values[kept])  # unit = E E'
    axis = E.T @ (norms * svm.duals[active])
    plane = np.linalg.svd(axis[None])[2][1:].T
    across = (norms[:, None] * E) @ plane
    guess = np.maximum(svm.duals[active] * svm.margin**2, 1e-3 / len(norms))  # exact where they are the duals
    z = _minimise(
        across, log_q, np.linalg.lstsq(np.column_stack([across, np.ones(len(norms))]), log_q - np.log(guess))[0][:-1]
    )
    shares = softmax(log_q - across @ z)
    lost = np.linalg.norm(shares @ across) / norms.max()
    if not (lost <= AT_REST and shares.min() > POSITIVE):
        raise AssumptionError(
            "no dual of W_mm is positive on every constraint of margin one (strict complementarity), which generic data have: perturb "
            "the tokens."
        )
    curvature = np.linalg.eigvalsh(across.T @ (shares[:, None] * across))
    y = (E / values) @ (plane @ z) / norms
    inverse = (vectors[:, kept] / values) @ vectors[:, kept].T / norms[:, None] / norms
    log_alpha = float(logsumexp(log_q - across @ z) + 2.0 * np.log(svm.margin))
    stiffness = float(np.sqrt(max(curvature[0], 0.0))) if len(curvature) else 0.0
    return RestPoint(y, float(np.linalg.norm(z)), shares, log_alpha, stiffness, inverse)


def _minimise(across: Array, log_q: Array, z: Array) -> Array:
    """The minimiser of log sum_k q_k e^{-<across_k, z>} by Newton's method with halved steps, from z."""
    for _ in range(STEPS if len(z) else 0):
        p = softmax(log_q - across @ z)
        mean = p @ across
        moved = across - mean
        step = np.linalg.lstsq(moved.T @ (p[:, None] * moved), mean, rcond=None)[0]
        size, now, decrement = 1.0, logsumexp(log_q - across @ z), float(mean @ step)
        while size > 1e-12 and logsumexp(
            log_q - across @ (z + size * step)
        ) > now - 0.1 * size * decrement + 1e-15 * abs(now):
            size *= 0.5
        z = z + size * step
        if decrement <= 1e-30 or size * np.linalg.norm(step) <= 1e-15 * np.linalg.norm(z):
            break
    return z
