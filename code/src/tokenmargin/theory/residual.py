"""The limit of the residual, its modes, and where a constant step loses stability."""

from __future__ import annotations

import numpy as np

from ..data.problem import TokenProblem
from ..errors import AssumptionError
from ..margin.token_svm import TokenSVM
from ..model.losses import Loss
from ..model.weights import limit_weights
from ..types import Array


def active_gram(svm: TokenSVM) -> tuple[Array, Array]:
    """Gram matrix and duals of the support vectors, shapes (A, A) and (A,); the others' Gram matrix is never formed."""
    difference, query = svm.constraints.difference[svm.support], svm.constraints.query_vector[svm.support]
    return (difference @ difference.T) * (query @ query.T), svm.duals[svm.support]


def alpha(problem: TokenProblem, svm: TokenSVM, loss: Loss = "logistic") -> float:
    """alpha = exp(rho^2 sum_k lambda_k log(q_k/lambda_k)) over the support vectors, the scale of the sharp-constant theorem."""
    q, duals = limit_weights(problem, loss)[svm.support], svm.duals[svm.support]
    return float(np.exp(svm.margin**2 * duals @ np.log(q / duals)))


def residual_limit(problem: TokenProblem, svm: TokenSVM, loss: Loss = "logistic") -> Array:
    """Coefficients r, shape (N,), of R_inf = sum_k r_k V_k over the support vectors, zero elsewhere.

    R_inf solves <V_k, R> = log(q_k/lambda_k) - log(alpha) for every support vector k (sharp-constant theorem): the limit of
    the residual where all constraints are support vectors, else of its part in their span.

    Raises
    ------
    AssumptionError
        If a constraint of margin one has no weight in W_mm, or the support vectors are linearly dependent.
    """
    require_strict_complementarity(svm)
    on, (gram, duals) = svm.support, active_gram(svm)
    if np.linalg.cond(gram) > 1e12:
        raise AssumptionError(
            f"the sharp-constant theorem needs linearly independent constraints; their Gram matrix has condition {np.linalg.cond(gram):.1e}."
        )
    b = np.log(limit_weights(problem, loss)[on] / duals) - np.log(alpha(problem, svm, loss))
    r = np.zeros(len(svm.duals))
    r[on] = np.linalg.solve(gram, b)
    return r


def e_inf(problem: TokenProblem, svm: TokenSVM, loss: Loss = "logistic") -> float:
    """e_inf = ||R_inf||_F, the limit of direction error times ||W_t|| for every step rule (sharp-constant theorem).

    Raises
    ------
    AssumptionError
        If some constraint is not a support vector: then the limit depends on the path, and `e_active` is its known part.
    """
    require_all_support(svm)
    return e_active(problem, svm, loss)


def e_active(problem: TokenProblem, svm: TokenSVM, loss: Loss = "logistic") -> float:
    """Limit of the norm of the residual's part in the span of the support vectors, e_inf where all are (sharp-constant theorem)."""
    r = residual_limit(problem, svm, loss)[svm.support]
    return float(np.sqrt(max(0.0, r @ active_gram(svm)[0] @ r)))


def curvatures(svm: TokenSVM) -> Array:
    """Nonzero eigenvalues of H = Pi (sum_k lambda_k V_k V_k') Pi, ascending; Pi the projection off W_mm (edge theorem).

    They rule the residual near its limit: a step of length h contracts the j-th mode by 1 - h rho curvature_j. Empty for a
    single constraint, which leaves no direction for a residual.
    """
    gram, lam = active_gram(svm)
    v = gram @ lam
    root = np.sqrt(lam)
    values = np.linalg.eigvalsh(root[:, None] * (gram - np.outer(v, v) / (lam @ v)) * root)
    return values[values > 1e-10]


def transverse_operator(svm: TokenSVM) -> Array:
    """H in coefficients, shape (N, N): if R = sum_k r_k V_k then H R = sum_k (T r)_k V_k (edge theorem).

    T = (I - lambda (G lambda)'/(lambda' G lambda)) diag(lambda) G, with G the Gram matrix. Near its limit the residual of a
    constant effective step h moves by R_{t+1} - R_inf = (I - h rho H)(R_t - R_inf).
    """
    gram, lam = svm.constraints.gram, svm.duals
    v = gram @ lam
    moved = lam[:, None] * gram
    return moved - np.outer(lam, v @ moved) / (lam @ v)


def contraction(svm: TokenSVM, h: float) -> float:
    """max_j |1 - h rho curvature_j|: factor by which a constant effective step h shrinks the residual's distance to its limit."""
    return float(np.abs(1.0 - h * svm.margin * require_modes(svm)).max())


def proved_step(svm: TokenSVM) -> float:
    """8 rho/D^2, D = max ||V_k - V_l||_F over the support vectors: shorter steps are proved to settle (sharp-constant theorem).

    Never above the edge h*, the longest step that can; infinite for a single constraint.
    """
    gram, _ = active_gram(svm)
    square = np.diag(gram)[:, None] + np.diag(gram) - 2.0 * gram
    return float(8.0 * svm.margin / square.max()) if square.max() > 0.0 else np.inf


def lambda_max(svm: TokenSVM) -> float:
    """Largest eigenvalue of H (edge theorem)."""
    return float(require_modes(svm)[-1])


def stability_threshold(svm: TokenSVM) -> float:
    """h* = 2 ||W_mm|| / lambda_max(H): constant effective steps below it are stable (edge theorem)."""
    return 2.0 * svm.norm / lambda_max(svm)


def polyak_threshold(svm: TokenSVM) -> float:
    """theta* = 2 / lambda_max(H): Polyak's relaxation below it is stable (edge theorem)."""
    return 2.0 / lambda_max(svm)


def require_modes(svm: TokenSVM) -> Array:
    modes = curvatures(svm)
    if not len(modes):
        raise AssumptionError(
            "with a single direction of motion the residual cannot oscillate: no finite threshold exists."
        )
    return modes


def require_all_support(svm: TokenSVM) -> None:
    missing = int((~svm.support).sum())
    if missing:
        raise AssumptionError(
            f"{missing} of {len(svm.duals)} constraints are not support vectors; the sharp constants need all of them "
            "(over-parameterised data: larger d)."
        )


def require_strict_complementarity(svm: TokenSVM, slack: float = 1e-7) -> None:
    idle = int((~svm.support & (svm.margins < 1.0 + slack)).sum())
    if idle:
        raise AssumptionError(
            f"{idle} constraint(s) have margin one but no weight in W_mm; the theorem needs strict complementarity, which "
            "generic data have: perturb the tokens."
        )
