"""Attention trained in W or in (K, Q), W = K Q', and the SVM, Frobenius or nuclear, that each goes to.

Source: Tarzanagh, Li, Thrampoulidis, Oymak, Transformers as Support Vector Machines (2023), arXiv 2308.16898.
Arrays carry a leading axis of R independent runs, which are trained together.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.special import expit, log_softmax

from ..data.constraints import Constraints
from ..errors import InfeasibleSVMError, SolverError
from ..margin.certificate import worst
from ..margin.token_svm import is_separable, solve_constraints
from ..types import Array

Norm = Literal["fro", "nuc"]
DUAL_ORDER: dict[str, Any] = {"fro": "fro", "nuc": 2}


@dataclass(frozen=True, eq=False)
class NormSVM:
    """W (d, d), its norm, the duals lambda (N,), and the residuals of optimality: primal, dual, and relative gap."""

    W: Array
    norm: float
    duals: Array
    residuals: tuple[float, float, float]

    @property
    def margin(self) -> float:
        """1/||W||."""
        return 1.0 / self.norm

    def certificate(self) -> float:
        """The worst of the residuals of optimality; NaN when one of them is."""
        return worst(*self.residuals)


def solve_norm_svm(V: Array, norm: Norm, equal: Array | None = None, tolerance: float = 1e-6) -> NormSVM:
    """argmin ||W|| subject to <V_k, W> >= 1 and <E_j, W> = 0, with a certificate.

    Parameters
    ----------
    V : array, shape (N, d, d)
    norm : {"fro", "nuc"}
        Frobenius or nuclear norm.
    equal : array, shape (M, d, d), optional
        The E_j: differences of tokens that are selected together.
    tolerance : float
        Largest certificate accepted: the worst of primal violation, dual violation and relative duality gap.
        The dual is max sum lambda subject to lambda >= 0 and ||sum lambda_k V_k + sum nu_j E_j||_dual <= 1;
        the dual of the nuclear norm is the operator norm.

    Raises
    ------
    InfeasibleSVMError
        If no W satisfies the constraints.
    SolverError
        If the certificate exceeds `tolerance`.
    """
    if norm == "fro" and equal is None:
        return _frobenius(V, tolerance)
    left, right = _basis(V, equal, 1), _basis(V, equal, 2)  # a part of W across these serves no constraint
    core, duals, multipliers = _solve_small(left.T @ V @ right, norm, None if equal is None else left.T @ equal @ right)
    W, combined = left @ core @ right.T, np.tensordot(duals, V, 1)
    if equal is not None:  # cvxpy's Lagrangian adds nu (E w), so the sign is the opposite of lambda's
        combined = combined - np.tensordot(multipliers, equal, 1)
    value = float(np.linalg.norm(W, norm))
    primal = 1.0 - np.tensordot(V, W, 2).min()
    dual = worst(float(np.linalg.norm(combined, DUAL_ORDER[norm])) - 1.0, -duals.min())
    svm = NormSVM(W, value, duals, (primal, dual, abs(value - duals.sum()) / value))
    if not svm.certificate() <= tolerance:
        raise SolverError(
            f"the {norm} SVM's certificate is {svm.certificate():.1e} > {tolerance:.1e}: rescale the tokens."
        )
    return svm


def _frobenius(V: Array, tolerance: float) -> NormSVM:
    """The token SVM of the entries: its duals are ||W|| times those of argmin ||W||, whose sum is ||W||."""
    svm = solve_constraints(Constraints.of_vectors(V.reshape(len(V), -1)), tolerance=tolerance)
    residuals = (svm.primal_residual(), svm.dual_residual(), svm.gap())
    return NormSVM(svm.W.reshape(V.shape[1:]), svm.norm, svm.duals / svm.norm, residuals)


def _basis(V: Array, equal: Array | None, axis: int) -> Array:
    """Orthonormal columns that span the columns (axis 1) or rows (axis 2) of all V_k and E_j, shape (d, rank)."""
    matrices = V if equal is None else np.concatenate([V, equal])
    vectors = np.moveaxis(matrices, axis, 0).reshape(V.shape[axis], -1)
    U, sizes, _ = np.linalg.svd(vectors, full_matrices=False)
    return U[:, sizes > sizes[0] * max(vectors.shape) * np.finfo(float).eps]


def _solve_small(V: Array, norm: Norm, equal: Array | None) -> tuple[Array, Array, Array]:
    """W, the duals of <V_k, W> >= 1, and those of <E_j, W> = 0, by Clarabel."""
    import cvxpy as cp

    W = cp.Variable(V.shape[1:])
    flat = cp.reshape(W, (W.size,), order="C")
    bounds = [V.reshape(len(V), -1) @ flat >= 1]
    if equal is not None and len(equal):
        bounds.append(equal.reshape(len(equal), -1) @ flat == 0)
    program = cp.Problem(cp.Minimize(cp.normNuc(W) if norm == "nuc" else cp.norm(W, "fro")), bounds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "may be inaccurate": the certificate decides
        program.solve(solver=cp.CLARABEL, tol_gap_abs=1e-9, tol_gap_rel=1e-9, tol_feas=1e-9)
    if program.status.startswith("infeasible"):
        weights = np.asarray(bounds[0].dual_value) if bounds[0].dual_value is not None else np.full(len(V), np.nan)
        raise InfeasibleSVMError(
            "no W separates the selected tokens: use a larger d or another selection.", weights, 0.0, ()
        )
    if W.value is None:
        raise SolverError(f"the {norm} SVM stopped with status {program.status!r}: rescale the tokens.")
    multipliers = np.asarray(bounds[1].dual_value) if len(bounds) > 1 else np.zeros(0)
    return W.value, np.asarray(bounds[0].dual_value), multipliers


def token_constraints(X: Array, z: Array, selection: Array) -> Constraints:
    """The constraints of the selected tokens, one query a sequence; X (n, T, d), z (n, d), selection (n,)."""
    i, t = np.nonzero(np.arange(X.shape[1]) != np.asarray(selection)[:, None])
    return Constraints(i, np.zeros_like(i), t, np.asarray(selection), X, z[:, None])


def selection_constraints(X: Array, z: Array, selection: Array) -> Array:
    """V_it = (x_i,selected - x_it) z_i' for t != selected, shape (n(T-1), d, d); X (n, T, d), z (n, d)."""
    c = token_constraints(X, z, selection)
    return np.einsum("kd,ke->kde", c.difference, c.query_vector)


def selected_svms(X: Array, z: Array, alpha: Array, norm: Norm) -> list[NormSVM | None]:
    """The SVM of the tokens alpha (R, n) of each of the R problems; None where they cannot be separated."""
    problems = list(zip(X, z, alpha, strict=True))
    return [
        solve_norm_svm(selection_constraints(*p), norm) if is_separable(token_constraints(*p)) else None
        for p in problems
    ]


def mixture_parts(X: Array, z: Array, p: Array) -> tuple[Array, Array]:
    """W_mm and W_fin when the first m tokens of each sequence share the attention p (m,); X (n, T, d), z (n, d).

    W_mm is the Frobenius SVM with equal logits inside the shared tokens and margins over the rest; W_fin is the
    smallest matrix with the logit differences log(p_0/p_j) inside, so that a softmax over the m tokens gives p.
    """
    m, d = len(p), X.shape[2]
    differences = np.einsum("ntd,ne->ntde", X[:, :1] - X, z)
    V, E = differences[:, m:].reshape(-1, d, d), differences[:, 1:m].reshape(-1, d, d)
    logits = np.tile(np.log(p[0] / p[1:]), len(X))
    finite = np.linalg.lstsq(E.reshape(len(E), -1), logits)[0].reshape(d, d)
    return solve_norm_svm(V, "fro", E).W, finite


def scaled_forces(logits: Array, scores: Array) -> Array:
    """e^-c f_it, f = -dL/da of the logistic loss, one shared c a run; shape (R, n, T), exact at any ||W||."""
    log_s = log_softmax(logits, axis=2)
    m = (np.exp(log_s) * scores).sum(axis=2, keepdims=True)
    top = log_s.argmax(axis=2, keepdims=True)
    np.put_along_axis(log_s, top, -np.inf, axis=2)
    c = log_s.max(axis=(1, 2), keepdims=True)
    f = expit(-m) * np.exp(log_s - c) * (scores - m)
    np.put_along_axis(f, top, -f.sum(axis=2, keepdims=True), axis=2)
    return f


def descent(X: Array, z: Array, scores: Array, W: Array) -> Array:
    """-grad L(W) up to a positive factor a run, shape (R, d, d); X (R, n, T, d), z (R, n, d), W (R, d, d)."""
    keyed = np.matmul(X, np.matmul(z, W.transpose(0, 2, 1))[..., None])[..., 0]
    mixed = np.matmul(scaled_forces(keyed, scores)[:, :, None, :], X)[:, :, 0]
    return np.matmul(mixed.transpose(0, 2, 1), z)


def train_w(X: Array, z: Array, scores: Array, W: Array, eta: float, times: Array) -> Array:
    """Normalized GD on W from W (R, d, d); the iterates at the increasing `times`, shape (K, R, d, d)."""
    kept, wanted = [], set(np.asarray(times).tolist())
    for t in range(int(times[-1]) + 1):
        if t in wanted:
            kept.append(W)
        G = descent(X, z, scores, W)
        W = W + eta * G / _norms(G)
    return np.array(kept)


def train_kq(X: Array, z: Array, scores: Array, K: Array, Q: Array, eta: float, times: Array) -> tuple[Array, Array]:
    """Normalized GD on (K, Q), each (R, d, m), jointly normalised; W = K Q' and ||K'K - Q'Q|| at `times`."""
    kept, imbalance, wanted = [], [], set(np.asarray(times).tolist())
    for t in range(int(times[-1]) + 1):
        W = K @ Q.transpose(0, 2, 1)
        if t in wanted:
            kept.append(W)
            imbalance.append(_norms(K.transpose(0, 2, 1) @ K - Q.transpose(0, 2, 1) @ Q)[:, 0, 0])
        G = descent(X, z, scores, W)
        GK, GQ = G @ Q, G.transpose(0, 2, 1) @ K
        size = np.hypot(_norms(GK), _norms(GQ))
        K, Q = K + eta * GK / size, Q + eta * GQ / size
    return np.array(kept), np.array(imbalance)


def train_mixture(X: Array, z: Array, target: Array, eta: float, times: Array) -> Array:
    """GD from W = 0 on (1/2n) sum_i ||X_i's_i - X_i'target_i||^2, a head whose optimum may mix tokens.

    target (R, n, T) holds coefficients. Where they are positive of sum one on a set O_i and negative off it,
    orthonormal tokens give s_i -> target_i on O_i. Returns W at `times`, shape (K, R, d, d).
    """
    W, kept, wanted = np.zeros((len(X), X.shape[3], X.shape[3])), [], set(np.asarray(times).tolist())
    gram = X @ X.transpose(0, 1, 3, 2)
    for t in range(int(times[-1]) + 1):
        if t in wanted:
            kept.append(W)
        s = np.exp(log_softmax(np.matmul(X, np.matmul(z, W.transpose(0, 2, 1))[..., None])[..., 0], axis=2))
        reward = -np.matmul(gram, (s - target)[..., None])[..., 0]
        f = s * (reward - (s * reward).sum(axis=2, keepdims=True)) / X.shape[1]
        W = W + eta * np.matmul(np.matmul(f[:, :, None, :], X)[:, :, 0].transpose(0, 2, 1), z)
    return np.array(kept)


def alignment(W: Array, target: Array) -> Array:
    """<W, target>_F/(||W|| ||target||) over the last two axes."""
    return (W * target).sum(axis=(-2, -1)) / (_norms(W) * _norms(target))[..., 0, 0]


def direction_error(W: Array, target: Array) -> Array:
    """|| W/||W|| - target/||target|| ||_F over the last two axes."""
    return _norms(W / _norms(W) - target / _norms(target))[..., 0, 0]


def numerical_rank(W: Array, threshold: float = 1e-4) -> int:
    """Number of singular values above `threshold` times the largest."""
    values = np.linalg.svd(W, compute_uv=False)
    return int((values > threshold * values[0]).sum())


def _norms(W: Array) -> Array:
    return np.linalg.norm(W, axis=(-2, -1), keepdims=True)


def dual_matrix(V: Array, svm: NormSVM) -> Array:
    """Lambda = sum lambda_k V_k, of dual norm one: for the nuclear norm its largest singular value is one."""
    return np.tensordot(svm.duals, V, 1)


def rank_exponents(W: Array, V: Array, svm: NormSVM) -> tuple[Array, Array]:
    """Measured and predicted exponents of the singular values that vanish in (K, Q) training (this book's).

    For each j above the rank of the nuclear SVM, up to the rank of Lambda: the slope of log(sigma_j(W)/sigma_1(W))
    against log sigma_1(W) from the first to the last of the iterates W (K, d, d), and sigma_j(Lambda) - 1.
    """
    dual = np.linalg.svd(dual_matrix(V, svm), compute_uv=False)
    beyond = slice(numerical_rank(svm.W), int((dual > 1e-6).sum()))
    first, last = np.linalg.svd(W[[0, -1]], compute_uv=False)
    slopes = np.log((last / last[0])[beyond] / (first / first[0])[beyond]) / np.log(last[0] / first[0])
    return slopes, dual[beyond] - 1.0


def relative_margin(W: Array, V: Array, svm: NormSVM, norm: Norm) -> Array:
    """(min_k <V_k, W>/||W||) over its largest possible value 1/||W_svm||: at most 1; W (..., d, d)."""
    margins = np.einsum("kde,...de->...k", V, W).min(axis=-1)
    return margins * svm.norm / np.linalg.norm(W, norm, axis=(-2, -1))


def random_tokens(runs: int, n: int, T: int, d: int, seed: int) -> tuple[Array, Array, Array]:
    """Unit tokens X (R, n, T, d) and queries z (R, n, d), and the scores y_i v'x_it (R, n, T) of random heads v."""
    rng = np.random.default_rng(seed)
    X, z = rng.standard_normal((runs, n, T, d)), rng.standard_normal((runs, n, d))
    X /= np.linalg.norm(X, axis=-1, keepdims=True)
    z /= np.linalg.norm(z, axis=-1, keepdims=True)
    v, y = rng.standard_normal((runs, d)), rng.choice([-1.0, 1.0], (runs, n))
    return X, z, y[:, :, None] * np.einsum("rntd,rd->rnt", X, v)


def selected(X: Array, z: Array, W: Array) -> Array:
    """The most attended token of each sequence, shape (R, n)."""
    return np.matmul(X, np.matmul(z, W.transpose(0, 2, 1))[..., None])[..., 0].argmax(axis=2)
