"""The token SVM: W_mm = argmin ||W||_F subject to <V_k, W> >= 1, its duals, and a certificate of the solution."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import lstsq
from scipy.optimize import nnls

from .errors import InfeasibleSVMError, SolverError
from .problem import Constraints, TokenProblem

Array = np.ndarray
FEASIBILITY = 1e-7  # a convex combination of the V_k shorter than this times max ||V_k|| is taken for zero


@dataclass(frozen=True, eq=False)
class TokenSVM:
    """Solution of the token SVM, W_mm = sum_k lambda_k V_k with lambda >= 0.

    Attributes
    ----------
    constraints : Constraints
        The N constraints of the token selection.
    duals : array, shape (N,)
        lambda. Their sum is ||W_mm||_F^2 = 1/rho^2.
    margins : array, shape (N,)
        <V_k, W_mm>, >= 1 with equality on the support vectors.
    """

    constraints: Constraints
    duals: Array
    margins: Array

    @cached_property
    def W(self) -> Array:
        """W_mm as a matrix, shape (d, d)."""
        return self.constraints.combine(self.duals)

    @property
    def norm(self) -> float:
        """||W_mm||_F."""
        return float(np.sqrt(self.duals @ self.margins))

    @property
    def margin(self) -> float:
        """rho = 1/||W_mm||_F."""
        return 1.0 / self.norm

    @property
    def support(self) -> Array:
        """Mask of the constraints with positive dual, shape (N,)."""
        return self.duals > 1e-9 * self.duals.max()

    def primal_residual(self) -> float:
        """max_k (1 - <V_k, W_mm>)_+ : how far the worst constraint is violated."""
        return float(max(0.0, 1.0 - self.margins.min()))

    def dual_residual(self) -> float:
        """max_k (-lambda_k)_+ / sum lambda: stationarity W = sum lambda_k V_k holds by construction."""
        return float(max(0.0, -self.duals.min()) / self.duals.sum())

    def gap(self) -> float:
        """|(1/2)||W||^2 - (sum lambda - (1/2)||W||^2)| / ||W||^2 = |1 - sum lambda/||W||^2|, the relative duality gap."""
        return float(abs(1.0 - self.duals.sum() / self.norm**2))

    def certificate(self) -> float:
        """The largest of the three residuals; zero exactly at the solution."""
        return max(self.primal_residual(), self.dual_residual(), self.gap())


def solve_token_svm(
    problem: TokenProblem,
    selection: ArrayLike | None = None,
    *,
    method: Literal["auto", "gram", "cvxpy"] = "auto",
    tolerance: float = 1e-9,
) -> TokenSVM:
    """Solve the token SVM of a token selection.

    Parameters
    ----------
    problem : TokenProblem
    selection : int array, shape (n,), optional
        The tokens to separate from the others; default the optimal tokens.
    method : {"auto", "gram", "cvxpy"}
        "gram": active set on the constraint Gram matrix (least-distance programming by non-negative least
        squares). "cvxpy": an independent primal solve in a d x d variable, for checking.
    tolerance : float
        Largest certificate accepted.

    Returns
    -------
    TokenSVM

    Raises
    ------
    InfeasibleSVMError
        If no W separates the tokens; carries Farkas weights and names the sequences involved.
    SolverError
        If the certificate exceeds `tolerance`.

    Notes
    -----
    Source: Lawson & Hanson, Solving Least Squares Problems (1974), chapter 23 (LDP).
    """
    constraints = problem.constraints if selection is None else problem.constraints_of(selection)
    solvers = {"auto": _duals_by_ldp, "gram": _duals_by_ldp, "cvxpy": _duals_by_cvxpy}
    if method not in solvers:
        raise ValueError(f"method is {method!r}; it must be one of {', '.join(map(repr, solvers))}.")
    duals = solvers[method](constraints)
    svm = TokenSVM(constraints, duals, constraints.gram @ duals)
    if svm.certificate() > tolerance:
        raise SolverError(
            f"the token SVM's certificate is {svm.certificate():.1e}, above the tolerance {tolerance:.1e} (primal "
            f"{svm.primal_residual():.1e}, dual {svm.dual_residual():.1e}, gap {svm.gap():.1e}): the constraints are "
            "nearly dependent. Rescale the tokens, or accept a larger tolerance knowingly."
        )
    return svm


def _duals_by_ldp(constraints: Constraints) -> Array:
    """Duals by least-distance programming: min ||[R; 1'] x - e_last||, x >= 0, where R'R = Gram.

    The residual r gives W = -r_head/r_last; a zero residual is a convex combination of the V_k that vanishes.
    """
    scale = constraints.norms.max()
    if scale == 0.0:
        raise _infeasible(constraints, np.ones(len(constraints)), 0.0)
    gram = constraints.gram / scale**2
    root = _square_root(gram)
    system = np.vstack([root, np.ones(len(constraints))])
    target = np.zeros(len(system))
    target[-1] = 1.0
    x, _ = nnls(system, target, maxiter=max(100, 30 * len(constraints)))
    residual = 1.0 - x.sum()
    weights = x / x.sum()
    distance = float(np.sqrt(max(0.0, weights @ gram @ weights)))  # of the convex hull of the V_k from 0 = rho/scale
    if distance < FEASIBILITY:
        raise _infeasible(constraints, weights, distance)
    return _polish(gram, x / residual) / scale**2


def _square_root(gram: Array) -> Array:
    """R with R'R = gram, rows along the eigenvectors with eigenvalues above rounding."""
    values, vectors = np.linalg.eigh(gram)
    keep = values > len(gram) * np.finfo(float).eps * values[-1]
    return np.sqrt(values[keep])[:, None] * vectors[:, keep].T


def _polish(gram: Array, duals: Array, rounds: int = 20) -> Array:
    """Solve Gram_AA lambda_A = 1 on the active set A to full precision, dropping and adding constraints as needed."""
    best, best_error = duals, _kkt_error(gram, duals)
    active = duals > 1e-10 * duals.max()
    for _ in range(rounds):
        refined = np.zeros_like(duals)
        refined[active] = lstsq(gram[np.ix_(active, active)], np.ones(active.sum()))[0]
        error = _kkt_error(gram, np.maximum(refined, 0.0))
        if error < best_error:
            best, best_error = np.maximum(refined, 0.0), error
        violated = gram @ refined < 1.0 - 1e-10
        if refined.min() >= 0.0 and not violated.any():
            break
        active = (refined > 0.0) | violated
    return best


def _kkt_error(gram: Array, duals: Array) -> float:
    margins = gram @ duals
    return max(1.0 - margins.min(), abs(1.0 - duals.sum() / (duals @ margins)))


def _infeasible(constraints: Constraints, weights: Array, distance: float) -> InfeasibleSVMError:
    weights = weights / weights.sum()
    sequences = tuple(int(i) for i in np.unique(constraints.sequence[weights > 1e-6]))
    shown = ", ".join(map(str, sequences[:10])) + (", …" if len(sequences) > 10 else "")
    return InfeasibleSVMError(
        f"no matrix W separates the selected tokens: a convex combination of the constraints of sequence(s) {shown} "
        f"vanishes (relative norm {distance:.1e}). Use a larger d, fewer sequences, or another selection.",
        weights,
        distance,
        sequences,
    )


def _duals_by_cvxpy(constraints: Constraints) -> Array:
    """min ||W||_F^2/2 subject to <V_k, W> >= 1 in a d x d variable, by Clarabel; the duals of the constraints."""
    import cvxpy as cp

    d = constraints.difference.shape[1]
    V = np.einsum("kd,ke->kde", constraints.difference, constraints.query_vector).reshape(-1, d * d)
    w = cp.Variable(d * d)
    bound = V @ w >= 1
    program = cp.Problem(cp.Minimize(cp.sum_squares(w) / 2), [bound])
    try:
        program.solve(solver=cp.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
    except cp.SolverError as error:
        raise SolverError(f"cvxpy could not solve the token SVM: {error}") from error
    if program.status in (cp.INFEASIBLE, cp.INFEASIBLE_INACCURATE):
        weights = np.maximum(bound.dual_value, 0.0)
        weights = weights / weights.sum()
        distance = np.linalg.norm(weights @ V) / constraints.norms.max()
        raise _infeasible(constraints, weights, float(distance))
    if program.status not in (cp.OPTIMAL, cp.OPTIMAL_INACCURATE):
        raise SolverError(f"cvxpy stopped with status {program.status!r}: rescale the tokens or use method='gram'.")
    return np.maximum(bound.dual_value, 0.0)
