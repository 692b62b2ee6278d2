"""No rule is faster than its path is long: a lower bound of the residual, and so of direction error times path length."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ..data.problem import TokenProblem
from ..margin.token_svm import TokenSVM
from ..measures.geometry import gram_norm
from ..model.losses import Loss
from ..model.weights import log_limit_weights
from ..types import Array
from .residual import active_gram, require_all_support, require_unique_duals, residual_limit


def least_residual(
    problem: TokenProblem, svm: TokenSVM, loss: Loss = "logistic", *, witness: ArrayLike | None = None
) -> float:
    """r(v): e_inf is at least this, and e_t comes back to it for ever under every rule whose path is infinite (lower-bound theorem).

    With b_k = <V_k, v>, Q+ and Q- the sums of q_k |b_k| over b_k > 0 and b_k < 0, V+ and V- the means of the V_k with these weights,
    and D- = max ||V_k - V_l|| over b_k, b_l < 0, r(v) is the positive root of

    D-^2 r^2/8 + ||V+ - V-|| r = log(Q+/Q-), or zero where Q+ <= Q-.

    Parameters
    ----------
    witness : array, shape (N,), optional
        Coefficients of a matrix v = sum_k witness_k V_k orthogonal to W_mm, of any length; by default those of R_inf.

    Raises
    ------
    ValueError
        If v is not orthogonal to W_mm.
    AssumptionError
        If some constraint is not a support vector, or they are linearly dependent.

    Examples
    --------
    >>> import tokenmargin as tm
    >>> from tokenmargin.theory.lower_bound import least_residual
    >>> problem = tm.gaussian(5, 4, 100, seed=0)
    >>> svm = tm.solve_token_svm(problem)
    >>> bool(0.5 < least_residual(problem, svm) / tm.e_inf(problem, svm) <= 1.0)
    True
    """
    require_all_support(svm)
    require_unique_duals(svm)
    cosines, norms, duals = active_gram(svm)
    if len(norms) == 1:
        return 0.0
    v = (residual_limit(problem, svm, loss) if witness is None else np.asarray(witness, dtype=float)) * norms
    b = norms * (cosines @ v)
    along = (duals @ b) / duals.sum()
    if witness is not None and not abs(along) <= 1e-9 * np.abs(b).max():
        raise ValueError("the witness v must be orthogonal to W_mm: subtract its component along W_mm.")
    b = b - along  # zero up to rounding
    log_q = log_limit_weights(problem, loss)
    weights = np.exp(log_q - log_q.max()) * np.abs(b)
    plus, minus = weights * (b > 0.0), weights * (b < 0.0)
    if not plus.sum() > minus.sum() > 0.0:
        return 0.0
    gain = float(np.log(plus.sum() / minus.sum()))
    apart = float(gram_norm(cosines, (plus / plus.sum() - minus / minus.sum()) * norms))
    bend = _diameter(cosines, norms, b < 0.0) ** 2 / 8.0
    return 2.0 * gain / (apart + float(np.sqrt(apart**2 + 4.0 * bend * gain)))


def _diameter(cosines: Array, norms: Array, chosen: Array) -> float:
    """max ||V_k - V_l|| over the chosen constraints."""
    size = norms[chosen] / norms.max()
    square = (size[:, None] - size) ** 2 + 2.0 * size[:, None] * size * (1.0 - cosines[np.ix_(chosen, chosen)])
    return float(norms.max() * np.sqrt(max(square.max(), 0.0)))
