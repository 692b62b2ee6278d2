"""No rule is faster than its path is long: a lower bound of the residual, and so of direction error times path length."""

from __future__ import annotations

import numpy as np

from ..data.problem import TokenProblem
from ..margin.token_svm import TokenSVM
from ..measures.geometry import gram_norm
from ..model.losses import Loss
from ..model.weights import log_limit_weights
from .residual import active_gram, require_all_support, require_unique_duals


def force_at_zero(problem: TokenProblem, svm: TokenSVM, loss: Loss = "logistic") -> float:
    """f = ||sum_k (q_k/sum q - rho^2 lambda_k) V_k||: the force off W_mm at residual zero, zero exactly where e_inf is.

    Raises
    ------
    AssumptionError
        If some constraint is not a support vector, or they are linearly dependent.
    """
    require_all_support(svm)
    require_unique_duals(svm)
    cosines, norms, duals = active_gram(svm)
    log_q = log_limit_weights(problem, loss)
    share = np.exp(log_q - np.logaddexp.reduce(log_q))
    size = norms.max()
    return float(size * gram_norm(cosines, (share - duals / duals.sum()) * (norms / size)))


def least_residual(problem: TokenProblem, svm: TokenSVM, loss: Loss = "logistic") -> float:
    """4 f/D^2, D = max ||V_k - V_l||: e_inf is at least this, and e_t comes back to it for every rule with bounded steps.

    Zero for a single constraint, which has no residual (lower-bound theorem).

    Examples
    --------
    >>> import tokenmargin as tm
    >>> from tokenmargin.theory.lower_bound import least_residual
    >>> problem = tm.gaussian(5, 4, 100, seed=0)
    >>> svm = tm.solve_token_svm(problem)
    >>> bool(0.0 < least_residual(problem, svm) < tm.e_inf(problem, svm))
    True
    """
    force = force_at_zero(problem, svm, loss)
    cosines, norms, _ = active_gram(svm)
    unit = norms / norms.max()
    square = (unit[:, None] - unit) ** 2 + 2.0 * unit[:, None] * unit * (1.0 - cosines)
    return 4.0 * force / norms.max() / float(square.max()) / norms.max() if len(norms) > 1 else 0.0
