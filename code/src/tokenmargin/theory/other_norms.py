"""The token SVM in other norms of matrices: where steepest descent in that norm must point."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..data.constraints import Constraints
from ..data.problem import TokenProblem
from ..errors import SolverError
from ..margin.token_svm import is_separable, solve_token_svm
from ..training.steepest import Norm, dual_norm, matrix_norm, require_norm
from ..training.trajectory import Trajectory
from ..types import Array


@dataclass(frozen=True, eq=False)
class NormMargin:
    """A solution of min ||W|| subject to <V_k, W> >= 1, with its proof: weights w >= 0 of sum one.

    For every W, min_k <V_k, W>/||W|| <= ||sum_k w_k V_k||_*, so the margin lies between `margin` and `upper`.

    Attributes
    ----------
    constraints : Constraints
    norm : p >= 1, inf, or "spectral"
    W : array, shape (d, d)
        For p = 1, inf and "spectral" one of possibly many solutions.
    weights : array, shape (N,)
    """

    constraints: Constraints
    norm: Norm
    W: Array
    weights: Array

    @property
    def margin(self) -> float:
        """min_k <V_k, W>/||W||, which W attains."""
        return float(self.constraints.margins(self.W).min() / matrix_norm(self.W, self.norm))

    @property
    def upper(self) -> float:
        """||sum_k w_k V_k||_*, which no W exceeds."""
        return dual_norm(self.constraints.combine(self.weights), self.norm)

    def certificate(self) -> float:
        """1 - margin/upper, the largest possible relative error of the margin."""
        return 1.0 - self.margin / self.upper


def norm_margin(problem: TokenProblem, norm: Norm, *, tolerance: float = 1e-6) -> NormMargin:
    """The token SVM in a norm, by a convex program in the entries of W (Clarabel), certified by its duals; for d up to about 20.

    Raises
    ------
    InfeasibleSVMError
        If no W separates the optimal tokens.
    SolverError
        If the program stops, or its certificate exceeds `tolerance`.
    """
    import cvxpy as cp

    require_norm(norm)
    c = problem.constraints
    if not is_separable(c):
        solve_token_svm(problem)  # raises with the certificate
    unit = c.units
    rows = np.einsum("kd,ke->kde", unit.difference, unit.query_vector).reshape(len(c), -1)
    W = cp.Variable((problem.d, problem.d))
    entries = cp.vec(W, order="C")
    bound = rows @ entries >= unit.relative_bounds
    size = cp.sigma_max(W) if norm == "spectral" else cp.pnorm(entries, "inf" if norm == np.inf else norm, approx=False)  # type: ignore[arg-type]
    program = cp.Problem(cp.Minimize(size), [bound])
    try:
        program.solve(solver=cp.CLARABEL)
    except cp.SolverError as error:
        raise SolverError(f"the token SVM in the norm {norm} could not be solved: {error}") from error
    if W.value is None:
        raise SolverError(
            f"the token SVM in the norm {norm} stopped with status {program.status!r}: rescale the tokens."
        )
    weights = np.maximum(bound.dual_value, 0.0) / c.norms
    found = NormMargin(c, norm, W.value / c.margins(W.value).min(), weights / weights.sum())
    if not found.certificate() <= tolerance:
        raise SolverError(
            f"the token SVM in the norm {norm} has a certificate of {found.certificate():.1e}: rescale the tokens."
        )
    return found


def norm_margins(trajectory: Trajectory, norm: Norm) -> Array:
    """min_k <V_k, W_t>/||W_t|| at each record, shape (K,); nan where W_t = 0."""
    size = np.array([matrix_norm(trajectory.W(k), norm) for k in range(len(trajectory))])
    least = trajectory.margins.min(axis=1)
    return np.divide(least, size, out=np.full(len(size), np.nan), where=size > 0.0)
