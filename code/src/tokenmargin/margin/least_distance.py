"""Least-distance programming on Gram matrices: the common ground of the margin problems."""

from __future__ import annotations

import numpy as np
from scipy.linalg import cho_factor, cho_solve, cholesky, solve_triangular
from scipy.optimize import nnls

from ..types import Array

PROXIMAL = 1e-9  # weight of the proximal term, relative to the Gram matrix's largest diagonal entry


def hull_weights(root: Array, bounds: Array) -> Array:
    """argmin ||root x||^2 + (1 - b'x)^2 over x >= 0, by non-negative least squares (least-distance programming).

    With r = 1 - b'x the solution of min ||w|| s.t. root'w >= b is w = root x/r; r = 0 where there is none, and then root x = 0.
    """
    target = np.append(np.zeros(len(root)), 1.0)
    return nnls(np.vstack([root, bounds]), target, maxiter=max(100, 30 * len(bounds)))[0]


def square_root(gram: Array) -> Array:
    """R with R'R = gram, rows along the eigenvectors with eigenvalues above rounding."""
    values, vectors = np.linalg.eigh(gram)
    keep = values > len(gram) * np.finfo(float).eps * values[-1]
    return np.sqrt(values[keep])[:, None] * vectors[:, keep].T


def nonnegative_qp(gram: Array, bounds: Array, start: Array, rounds: int = 50, tolerance: float = 1e-13) -> Array:
    """argmin (1/2) x'Gx - b'x over x >= 0, from a start: proximal point steps, each a block principal pivoting.

    The proximal term makes each step's matrix positive definite whatever the rank of G; once the free set stays the same a
    step is one of iterative refinement.
    """
    epsilon = PROXIMAL * max(gram.diagonal().max(), np.finfo(float).tiny)
    regular = gram + epsilon * np.eye(len(gram))
    x, free = start, start > 1e-10 * start.max()
    best, best_error = start, np.inf
    stale = 0
    for _ in range(rounds):
        x, free = _pivot(regular, bounds + epsilon * x, free)
        error = _kkt_error(gram, bounds, x)
        best, best_error, stale = (x, error, 0) if error < 0.5 * best_error else (best, best_error, stale + 1)
        if best_error <= tolerance or stale == 4:
            break
    return best


def _kkt_error(gram: Array, bounds: Array, x: Array) -> float:
    """Largest violation of Gx >= b relative to b, and of complementarity b'x = x'Gx, relative."""
    product = gram @ x
    with np.errstate(divide="ignore", invalid="ignore"):  # x'Gx of nearly opposite rows rounds to zero: no solution
        return max((1.0 - product / bounds).max(), abs(1.0 - bounds @ x / (x @ product))) if x.any() else 1.0


def _pivot(matrix: Array, target: Array, free: Array, tries: int = 60) -> tuple[Array, Array]:
    """argmin (1/2) x'Hx - b'x over x >= 0 for a positive definite H: exchange all infeasible indices at once.

    Where the exchanges do not settle, the same problem as non-negative least squares with the Cholesky factor.
    """
    tolerance = 1e-13
    fewest, patience = len(target) + 1, 5
    for _ in range(tries):
        x = np.zeros(len(target))
        x[free] = _solve(matrix[np.ix_(free, free)], target[free])
        slope = matrix[:, free] @ x[free] - target
        wrong = np.where(free, x < 0.0, slope < -tolerance)
        count = int(wrong.sum())
        if count == 0:
            return x, free
        patience = 5 if count < fewest else patience - 1
        fewest = min(fewest, count)
        if patience == 0:
            break
        free = free ^ wrong
    factor = cholesky(matrix, lower=True)
    x, _ = nnls(factor.T, solve_triangular(factor, target, lower=True), maxiter=max(100, 30 * len(target)))
    return x, x > 0.0


def _solve(matrix: Array, target: Array) -> Array:
    return cho_solve(cho_factor(matrix, check_finite=False), target, check_finite=False) if len(target) else target
