"""The limit of the residual, its modes, and where a constant step loses stability.

Everything is computed from the constraints scaled to norm one, so that no answer depends on the unit of tokens or queries,
and from the logarithms of the weights, so that none depends on the size of the scores.
"""

from __future__ import annotations

import numpy as np

from ..data.problem import TokenProblem
from ..errors import AssumptionError
from ..margin.token_svm import TokenSVM
from ..measures.geometry import gram_norm, unit_gram
from ..model.losses import Loss
from ..model.weights import exponential, log_limit_weights, require_finite
from ..types import Array

DEPENDENT = 1e-10  # eigenvalues of the unit constraints' Gram matrix below this share of the largest count as zero
ORTHOGONAL = 1e-12  # cosines below this count as zero
SHARE = (
    0.9598740261773917  # min over x > 0 of x/(2 sqrt(x + x coth x) - 2): r_1/2 of the theorem on orthogonal constraints
)


def active_gram(svm: TokenSVM) -> tuple[Array, Array, Array]:
    """Support vectors: cosines (A, A), norms ||V_k|| (A,) and duals (A,); the others' Gram matrix is never formed."""
    return *unit_gram(svm.constraints, svm.support), svm.duals[svm.support]


def log_alpha(problem: TokenProblem, svm: TokenSVM, loss: Loss = "logistic") -> float:
    """log(alpha) = rho^2 sum_k lambda_k log(q_k/lambda_k) over the support vectors (sharp-constant theorem)."""
    return float(_shares(svm) @ _log_ratios(problem, svm, loss))


def alpha(problem: TokenProblem, svm: TokenSVM, loss: Loss = "logistic") -> float:
    """alpha = exp(rho^2 sum_k lambda_k log(q_k/lambda_k)) over the support vectors, the scale of the sharp-constant theorem.

    Raises
    ------
    FloatRangeError
        If alpha is no normal float (scores beyond about 700): `log_alpha` has its logarithm.
    """
    return float(exponential("alpha", log_alpha(problem, svm, loss), "use `log_alpha`"))


def _log_ratios(problem: TokenProblem, svm: TokenSVM, loss: Loss) -> Array:
    """log(q_k/lambda_k) of the support vectors, shape (A,)."""
    on = svm.support
    return log_limit_weights(problem, loss)[on] - np.log(svm.duals[on])


def _shares(svm: TokenSVM) -> Array:
    """rho^2 lambda_k of the support vectors, shape (A,); they add up to one."""
    return svm.duals[svm.support] / (svm.duals @ svm.margins)


def residual_limit(problem: TokenProblem, svm: TokenSVM, loss: Loss = "logistic") -> Array:
    """Coefficients r, shape (N,), of R_inf = sum_k r_k V_k over the support vectors, zero elsewhere.

    R_inf solves <V_k, R> = log(q_k/lambda_k) - log(alpha) for every support vector k (sharp-constant theorem): the limit of
    the residual where all constraints are support vectors, else of its part in their span.

    Raises
    ------
    AssumptionError
        If a constraint of margin one has no weight in W_mm, or the support vectors are linearly dependent.
    FloatRangeError
        If a number on the way is not finite.
    """
    r = np.zeros(len(svm.duals))
    y, norms = _limit_in_units(problem, svm, loss)
    with np.errstate(over="ignore"):
        r[svm.support] = y / norms
    return require_finite("a coefficient of R_inf", r, "divide tokens and queries by their scale")


def _limit_in_units(problem: TokenProblem, svm: TokenSVM, loss: Loss) -> tuple[Array, Array]:
    """y with R_inf = sum_k y_k V_k/||V_k||, and ||V_k||, shapes (A,)."""
    require_unique_duals(svm)
    gram, norms, _ = active_gram(svm)
    ratios = _log_ratios(problem, svm, loss)
    with np.errstate(over="ignore", invalid="ignore"):
        b = (ratios - _shares(svm) @ ratios) / norms
    return np.linalg.solve(gram, require_finite("<V_k, R_inf>", b, "divide the decoder by its norm")), norms


def e_inf(problem: TokenProblem, svm: TokenSVM, loss: Loss = "logistic") -> float:
    """e_inf = ||R_inf||_F, the limit of direction error times ||W_t|| for every step rule (sharp-constant theorem).

    Raises
    ------
    AssumptionError
        If some constraint is not a support vector: then the limit depends on the path, and `e_active` is its known part.
        Also where `residual_limit` refuses.

    Examples
    --------
    >>> import tokenmargin as tm
    >>> problem = tm.gaussian(5, 4, 100, seed=0)
    >>> round(tm.e_inf(problem, tm.solve_token_svm(problem)), 5)
    1.93069
    """
    require_all_support(svm)
    return e_active(problem, svm, loss)


def e_active(problem: TokenProblem, svm: TokenSVM, loss: Loss = "logistic") -> float:
    """Limit of the norm of the residual's part in the span of the support vectors, e_inf where all are (sharp-constant theorem)."""
    y, _ = _limit_in_units(problem, svm, loss)
    size = np.abs(y).max()
    return float(size * gram_norm(active_gram(svm)[0], y / size)) if size > 0.0 else 0.0


def curvatures(svm: TokenSVM) -> Array:
    """Nonzero eigenvalues of H = Pi (sum_k lambda_k V_k V_k') Pi, ascending; Pi the projection off W_mm (edge theorem).

    They have no unit and rule the residual near its limit: a step of length h contracts the j-th mode by 1 - h rho
    curvature_j. There is one fewer than support vectors: none for a single one, which leaves no direction for a residual.

    Raises
    ------
    AssumptionError
        If a constraint of margin one has no weight in W_mm, or the support vectors are linearly dependent: the duals that H
        is made of are then not unique.
    """
    require_unique_duals(svm)
    gram, norms, duals = active_gram(svm)
    root = np.sqrt(duals) * norms
    operator = root[:, None] * gram * root
    w = np.sqrt(_shares(svm))
    v = operator @ w  # = w, the eigenvector of W_mm with eigenvalue one, up to rounding
    return np.linalg.eigvalsh(operator - np.outer(v, v) / (w @ v))[1:]


def transverse_operator(svm: TokenSVM) -> Array:
    """H in coefficients, shape (N, N): if R = sum_k r_k V_k then H R = sum_k (T r)_k V_k (edge theorem).

    T = (I - lambda (G lambda)'/(lambda' G lambda)) diag(lambda) G, with G the Gram matrix. Near its limit the residual of a
    constant effective step h moves by R_{t+1} - R_inf = (I - h rho H)(R_t - R_inf).

    Raises
    ------
    AssumptionError
        Where `curvatures` refuses.
    """
    require_unique_duals(svm)
    cosines, norms = unit_gram(svm.constraints)
    moved = (svm.duals * norms)[:, None] * cosines * norms
    v = norms * (cosines @ (norms * svm.duals))
    return moved - np.outer(svm.duals / (svm.duals @ v), v @ moved)


def contraction(svm: TokenSVM, h: float) -> float:
    """max_j |1 - h rho curvature_j|: factor by which a constant effective step h shrinks the residual's distance to its limit."""
    return float(np.abs(1.0 - h * svm.margin * require_modes(svm)).max())


def proved_step(svm: TokenSVM) -> float:
    """8 rho/D^2, D = max ||V_k - V_l||_F over the support vectors: shorter steps are proved to settle (sharp-constant theorem).

    Never above the edge h*, the longest step that can; infinite for a single constraint, which has no residual.

    Raises
    ------
    AssumptionError
        If a constraint of margin one has no weight in W_mm, or the support vectors are linearly dependent: then they need not
        be all the constraints of some dual, and D would miss the others.
    """
    require_unique_duals(svm)
    gram, norms, _ = active_gram(svm)
    if len(norms) == 1:
        return np.inf
    unit = norms / norms.max()
    square = (unit[:, None] - unit) ** 2 + 2.0 * unit[:, None] * unit * (1.0 - gram)
    return float(8.0 * svm.margin / norms.max() / square.max() / norms.max())


def orthogonal_step(svm: TokenSVM) -> float:
    """r_1 ||W_mm||, r_1 = 1.9197...: constant steps up to it are proved to settle if the support vectors are mutually orthogonal.

    In units of the edge h* it is `SHARE`, however many constraints there are (theorem on orthogonal constraints; `proved_step`,
    which holds for any angles, is 2/N of the edge for N of equal length).

    Raises
    ------
    AssumptionError
        If two support vectors are not orthogonal, or a constraint of margin one has no weight in W_mm.
    """
    require_unique_duals(svm)
    gram, _, _ = active_gram(svm)
    worst = float(np.abs(gram - np.diag(np.diag(gram))).max())
    if worst > ORTHOGONAL:
        raise AssumptionError(
            f"the largest cosine between two support vectors is {worst:.2g}: this step is proved for orthogonal ones only. Use "
            "`proved_step`."
        )
    return 2.0 * SHARE * svm.norm


def lambda_max(svm: TokenSVM) -> float:
    """Largest eigenvalue of H (edge theorem)."""
    return float(require_modes(svm)[-1])


def stability_threshold(svm: TokenSVM) -> float:
    """h* = 2 ||W_mm|| / lambda_max(H): constant effective steps below it are stable (edge theorem).

    Raises
    ------
    AssumptionError
        Where `curvatures` refuses, or if a single support vector leaves no direction to oscillate in.

    Examples
    --------
    >>> import tokenmargin as tm
    >>> problem = tm.gaussian(5, 4, 100, seed=0)
    >>> round(tm.stability_threshold(tm.solve_token_svm(problem)), 5)
    4.11171
    """
    return 2.0 * svm.norm / lambda_max(svm)


def polyak_threshold(svm: TokenSVM) -> float:
    """theta* = 2 / lambda_max(H): Polyak's relaxation below it is stable (edge theorem); refuses as `stability_threshold`."""
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


def require_unique_duals(svm: TokenSVM) -> None:
    """Strict complementarity and linearly independent support vectors: then lambda is unique, and what is made of it."""
    require_strict_complementarity(svm)
    gram, _, _ = active_gram(svm)
    values, vectors = np.linalg.eigh(gram)
    if not values[0] > DEPENDENT * values[-1]:
        heavy = np.abs(vectors[:, 0]) > 0.1 * np.abs(vectors[:, 0]).max()
        sequences = np.unique(svm.constraints.sequence[svm.support][heavy])
        shown = ", ".join(map(str, sequences[:10])) + (", …" if len(sequences) > 10 else "")
        raise AssumptionError(
            f"the support vectors of sequence(s) {shown} are linearly dependent (scaled to norm one, the eigenvalues of their Gram "
            f"matrix go from {values[0]:.1e} to {values[-1]:.1e}): the duals are not unique, and the theorem needs linearly "
            "independent ones. "
            + (_copy_of(svm, int(np.flatnonzero(svm.support)[heavy][0])) or "Use fewer sequences or a larger d.")
        )


def require_strict_complementarity(svm: TokenSVM, slack: float = 1e-7, active: Array | None = None) -> None:
    idle = np.flatnonzero(~(svm.support if active is None else active) & ~(svm.margins > 1.0 + slack))
    if len(idle):
        copy = _copy_of(svm, int(idle[0]))
        raise AssumptionError(
            f"{len(idle)} constraint(s) have margin one but no weight in W_mm, the first of sequence "
            f"{svm.constraints.sequence[idle[0]]}; the theorem needs strict complementarity, which generic data have: "
            + (copy or "perturb the tokens.")
        )


def _copy_of(svm: TokenSVM, k: int) -> str:
    """The advice where the token of constraint k has an equal in its sequence; empty where it has none."""
    c = svm.constraints
    i, t = int(c.sequence[k]), int(c.token[k])
    others = c.token[(c.sequence == i) & (c.query == c.query[k]) & (c.token != t)]
    equal = [int(s) for s in others if (c.tokens[i, s] == c.tokens[i, t]).all()]
    return (
        f"tokens {min(t, equal[0])} and {max(t, equal[0])} of sequence {i} are equal: keep one, or mask one."
        if equal
        else ""
    )
