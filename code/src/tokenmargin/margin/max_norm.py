"""The token SVM of the max norm, to which Adam is drawn: a linear program and its certificate."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linprog

from ..data.constraints import Constraints
from ..data.problem import TokenProblem
from ..errors import SolverError
from ..types import Array
from .token_svm import refuse_zero, solve_constraints


@dataclass(frozen=True, eq=False)
class MaxNormSVM:
    """W of largest margin min_k <V_k, W> among all with max_ij |W_ij| <= 1, and the weights that prove it.

    Attributes
    ----------
    constraints : Constraints
    W : array, shape (d, d)
        max_ij |W_ij| = 1. The maximiser need not be unique; the margin is.
    weights : array, shape (N,)
        >= 0 with sum 1: every W in the box has min_k <V_k, W> <= sum_k weights_k <V_k, W> <= ||sum_k weights_k V_k||_1.
    """

    constraints: Constraints
    W: Array
    weights: Array

    @cached_property
    def margin(self) -> float:
        """min_k <V_k, W>: a lower bound of the best margin."""
        return float(self.constraints.margins(self.W).min())

    @cached_property
    def bound(self) -> float:
        """||sum_k weights_k V_k||_1, sum of absolute entries: an upper bound of the best margin."""
        return float(np.abs(self.constraints.combine(self.weights)).sum())

    def certificate(self) -> float:
        """(bound - margin)/bound, plus what W exceeds the box by; zero exactly at a solution."""
        return (self.bound - self.margin) / self.bound + float(np.maximum(0.0, np.abs(self.W).max() - 1.0))


def solve_max_norm_svm(
    problem: TokenProblem, selection: ArrayLike | None = None, *, tolerance: float = 1e-7
) -> MaxNormSVM:
    """The token SVM of the max norm: maximise min_k <V_k, W> subject to max_ij |W_ij| <= 1, a linear program (HiGHS).

    Scaled to margin one, its solution is argmin max_ij |W_ij| subject to <V_k, W> >= 1 for all k.

    Parameters
    ----------
    problem : TokenProblem
    selection : int array, shape (n,), optional
        The tokens to separate from the others; default the optimal tokens.
    tolerance : float
        Largest certificate accepted.

    Raises
    ------
    InfeasibleSVMError
        If no W has positive margin (`margin.token_svm.solve_token_svm` gives the Farkas weights).
    SolverError
        If the certificate exceeds `tolerance`.
    """
    c, d = problem.constraints if selection is None else problem.constraints_of(selection), problem.d
    refuse_zero(c)
    bounds_k = c.units.relative_bounds
    V = np.einsum("kd,ke->kde", c.units.difference, c.units.query_vector).reshape(len(c), d * d)
    rows = np.column_stack([-V, bounds_k])  # gamma b_k - <V_k/||V_k||, W> <= 0
    goal = np.zeros(d * d + 1)
    goal[-1] = -1.0
    bounds = [(-1.0, 1.0)] * (d * d) + [(None, None)]
    found = linprog(goal, A_ub=rows, b_ub=np.zeros(len(c)), bounds=bounds, method="highs")
    if found.status != 0:
        raise SolverError(f"the linear program of the max-norm SVM was not solved: {found.message}")
    weights = np.maximum(0.0, -found.ineqlin.marginals) * bounds_k
    svm = MaxNormSVM(c, found.x[:-1].reshape(d, d), weights / weights.sum())
    if not found.x[-1] > tolerance:
        solve_constraints(c)  # the same question: raises with exact Farkas weights
        raise SolverError("the max-norm margin is below the tolerance of the linear program: rescale the tokens.")
    if not svm.certificate() <= tolerance:
        raise SolverError(f"the max-norm SVM's certificate is {svm.certificate():.1e}, above {tolerance:.1e}.")
    return svm
