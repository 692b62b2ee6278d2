"""The token SVM: W_mm = argmin ||W||_F subject to <V_k, W> >= 1, its duals, and a certificate of the solution."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import nnls

from ..data.constraints import Constraints
from ..data.problem import TokenProblem
from ..errors import InfeasibleSVMError, SolverError
from ..types import Array
from .least_distance import nonnegative_qp, square_root

FEASIBILITY = 1e-7  # a convex combination of the V_k shorter than this times max ||V_k|| is taken for zero


FEW = 300  # up to this many constraints the whole Gram matrix is used


BLOCK = 500  # violated constraints that enter the working set in one round


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
        """max_k (-lambda_k)_+ / sum |lambda|: stationarity W = sum lambda_k V_k holds by construction."""
        return float(max(0.0, -self.duals.min()) / np.abs(self.duals).sum())

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
    method: Literal["auto", "gram", "working-set", "cvxpy"] = "auto",
    tolerance: float = 1e-9,
) -> TokenSVM:
    """Solve the token SVM of a token selection.

    Parameters
    ----------
    problem : TokenProblem
    selection : int array, shape (n,), optional
        The tokens to separate from the others; default the optimal tokens.
    method : {"auto", "gram", "working-set", "cvxpy"}
        "gram": least-distance programming by non-negative least squares on the whole N x N Gram matrix.
        "working-set": the same problem by constraint generation; only the Gram matrix of the working set is formed, all
        other margins are matrix-free, N d^2 a round. "cvxpy": an independent primal solve in a d x d variable, for
        checking. "auto": "gram" for few constraints, "working-set" for many.
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
    Sources: Lawson & Hanson, Solving Least Squares Problems (1974), chapter 23 (least-distance programming); Kim & Park,
    Fast nonnegative matrix factorization, SIAM J. Sci. Comput. 33 (2011) (block principal pivoting).
    """
    constraints = problem.constraints if selection is None else problem.constraints_of(selection)
    few = len(constraints) <= FEW
    solvers = {"gram": _duals_by_ldp, "working-set": _duals_by_working_set, "cvxpy": _duals_by_cvxpy}
    if method not in ("auto", *solvers):
        raise ValueError(f"method is {method!r}; it must be one of 'auto', {', '.join(map(repr, solvers))}.")
    if method == "auto":
        method = "gram" if few else "working-set"
    duals = solvers[method](constraints)
    svm = TokenSVM(constraints, duals, constraints.margins(constraints.combine(duals)))
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
    root = square_root(gram)
    system = np.vstack([root, np.ones(len(constraints))])
    target = np.zeros(len(system))
    target[-1] = 1.0
    x, _ = nnls(system, target, maxiter=max(100, 30 * len(constraints)))
    residual = 1.0 - x.sum()
    weights = x / x.sum()
    distance = float(np.sqrt(max(0.0, weights @ gram @ weights)))  # of the convex hull of the V_k from 0 = rho/scale
    if distance < FEASIBILITY:
        raise _infeasible(constraints, weights, distance)
    return nonnegative_qp(gram, x / residual) / scale**2


def _duals_by_working_set(constraints: Constraints) -> Array:
    """Duals by constraint generation, in two passes over min (1/2) x'(Gram + shift 11')x - 1'x, x >= 0.

    With shift 1 this is least-distance programming, bounded whether or not the token SVM is feasible: it decides, and
    gives the Farkas weights or a start. With shift 0 it is the token SVM's dual, solved to full precision.
    """
    scale = constraints.norms.max()
    if scale == 0.0:
        raise _infeasible(constraints, np.ones(len(constraints)), 0.0)
    N = len(constraints)
    first = np.zeros(N, dtype=bool)
    first[np.linspace(0, N - 1, min(N, BLOCK)).astype(int)] = True
    x = _generate(constraints, scale, np.zeros(N), first, shift=1.0)
    weights = x / x.sum()
    distance = float(np.linalg.norm(constraints.combine(weights))) / scale
    if distance < FEASIBILITY:
        raise _infeasible(constraints, weights, distance)
    start = x * (1.0 + distance**2) / distance**2  # = x/(1 - sum x) at the solution
    return _generate(constraints, scale, start, start > 0.0, shift=0.0) / scale**2


def _generate(
    constraints: Constraints, scale: float, x: Array, working: Array, *, shift: float, rounds: int = 500
) -> Array:
    """Solve on the working set; let the most violated constraints in, the inactive ones out; until none is violated.

    Each round lowers the objective and the sets are finitely many, so the rounds end.
    """
    for _ in range(rounds):
        index = np.flatnonzero(working)
        difference, query = constraints.difference[index], constraints.query_vector[index]
        gram = (difference @ difference.T) * (query @ query.T) / scale**2 + shift
        x = x.copy()
        x[index] = nonnegative_qp(gram, x[index])
        slope = constraints.margins(constraints.combine(x)) / scale**2 + shift * x.sum() - 1.0
        tolerance = 1e-10 if shift == 0.0 else FEASIBILITY**2 * 1e-2 + 1e-12
        violated = np.flatnonzero((slope < -tolerance) & ~working)
        if violated.size == 0:
            return x
        worst = violated[np.argsort(slope[violated])[:BLOCK]]
        working = x > 0.0
        working[worst] = True
    raise SolverError(f"constraint generation did not end in {rounds} rounds: rescale the tokens.")


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


def is_separable(problem: TokenProblem, selection: Array | None = None) -> bool:
    """Whether some W separates the selected (default: optimal) tokens of all sequences from the others."""
    try:
        solve_token_svm(problem, selection, tolerance=np.inf)
    except InfeasibleSVMError:
        return False
    return True
