"""No rule is faster than its path is long: lower bounds of the residual."""

from __future__ import annotations

import numpy as np

from ..data.problem import TokenProblem
from ..margin.token_svm import TokenSVM
from ..model.losses import Loss
from ..model.weights import log_limit_weights
from .one_clock import largest_constraint
from .residual import require_all_support, require_unique_duals


def imbalance(problem: TokenProblem, svm: TokenSVM, loss: Loss = "logistic") -> float:
    """KL(rho^2 lambda || q/sum q) >= 0: how far the weights at infinity are from those that W_mm needs (lower-bound theorem).

    It is log Psi(0) - log Psi(R_inf), zero exactly where e_inf is.

    Raises
    ------
    AssumptionError
        If some constraint is not a support vector, or they are linearly dependent.
    """
    require_all_support(svm)
    require_unique_duals(svm)
    share = svm.duals / svm.duals.sum()
    log_q = log_limit_weights(problem, loss)
    divergence = share @ (np.log(share) - log_q + np.logaddexp.reduce(log_q))
    return max(float(divergence), 0.0)


def least_residual(problem: TokenProblem, svm: TokenSVM, loss: Loss = "logistic") -> float:
    """imbalance/(2 B): e_t comes back to this for every rule with bounded steps and an infinite path; e_inf is at least twice it."""
    return imbalance(problem, svm, loss) / (2.0 * largest_constraint(problem))
