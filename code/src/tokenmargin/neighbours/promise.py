"""Sketched preconditioners for stochastic gradients, and what a fixed preconditioner does to attention.

Source: Frangella, Rathore, Zhao, Udell, PROMISE: Preconditioned Stochastic Optimization Methods by Incorporating Scalable
Curvature Estimates (JMLR 25, 2024), arXiv 2309.02014; the settings are those of the official code. Notation:
F(w) = (1/n) sum_i l(a_i'w, b_i) + (mu/2)||w||^2 with Hessian H; P = sketch + rho I. The laws are this book's, and so is
the last section.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from ..data.problem import TokenProblem
from ..errors import AssumptionError, FloatRangeError
from ..types import Array

Kind = Literal["ridge", "logistic"]
DIVERGED = 1e3  # a run whose loss is above this many times the loss at zero has diverged


@dataclass(frozen=True, eq=False)
class Regression:
    """F(w) = (1/n) sum_i l(a_i'w, b_i) + (mu/2)||w||^2, l(z, b) = (z - b)^2/2 or log(1 + e^(-bz)).

    Attributes
    ----------
    A : array, shape (n, p)
        One row a sample.
    b : array, shape (n,)
        Responses; for "logistic" labels -1 and +1.
    mu : float
        Weight of the ridge, > 0.
    kind : {"ridge", "logistic"}

    Raises
    ------
    ValueError
        If the arrays do not fit or are not finite, mu is not positive, or a label is not -1 or +1.
    """

    A: Array
    b: Array
    mu: float
    kind: Kind = "ridge"

    def __post_init__(self) -> None:
        if self.kind not in ("ridge", "logistic"):
            raise ValueError(f"kind is {self.kind!r}; it must be 'ridge' or 'logistic'.")
        if self.A.ndim != 2 or self.b.shape != self.A.shape[:1] or not self.A.size:
            raise ValueError(f"A has shape {self.A.shape} and b {self.b.shape}; give (n, p) and (n,).")
        if not (np.isfinite(self.A).all() and np.isfinite(self.b).all()):
            raise ValueError("A or b has an entry that is not finite: drop or fill it.")
        if not (np.isfinite(self.mu) and self.mu > 0.0):
            raise ValueError(f"mu is {self.mu}; it must be positive and finite.")
        if self.kind == "logistic" and not (np.abs(self.b) == 1.0).all():
            raise ValueError("a label is neither -1 nor +1: code the classes so.")

    @property
    def n(self) -> int:
        return len(self.A)

    @property
    def p(self) -> int:
        return self.A.shape[1]

    def slopes(self, w: Array, rows: Array | slice = slice(None)) -> Array:
        """dl/dz at z = a_i'w of the given rows."""
        return _slopes(self.kind, self.A[rows] @ w, self.b[rows])

    def curvatures(self, w: Array, rows: Array | slice = slice(None)) -> Array:
        """d^2l/dz^2 at z = a_i'w of the given rows."""
        z = self.A[rows] @ w
        return np.ones(len(z)) if self.kind == "ridge" else expit(z) * expit(-z)

    def loss(self, w: Array) -> float:
        """F(w)."""
        z = self.A @ w
        parts = (z - self.b) ** 2 / 2.0 if self.kind == "ridge" else np.logaddexp(0.0, -self.b * z)
        return float(parts.mean() + self.mu / 2.0 * w @ w)

    def gradient(self, w: Array, rows: Array | slice = slice(None)) -> Array:
        """Gradient of the mean over the given rows, plus mu w."""
        slopes = self.slopes(w, rows)
        return self.A[rows].T @ slopes / len(slopes) + self.mu * w

    def root(self, w: Array, rows: Array | slice = slice(None)) -> Array:
        """S with S'S the mean Hessian of the given rows, without the ridge."""
        curvatures = self.curvatures(w, rows)
        return np.sqrt(curvatures / len(curvatures))[:, None] * self.A[rows]

    def hessian(self, w: Array, rows: Array | slice = slice(None)) -> Array:
        """Mean Hessian of the given rows, plus mu I."""
        S = self.root(w, rows)
        return S.T @ S + self.mu * np.eye(self.p)


def _slopes(kind: Kind, z: Array, b: Array) -> Array:
    return z - b if kind == "ridge" else -b * expit(-b * z)


def minimizer(model: Regression) -> Array:
    """argmin F: a linear system for ridge; for logistic a trust-region method, then Newton steps to rounding."""
    w = np.zeros(model.p)
    if model.kind == "logistic":
        w = minimize(model.loss, w, jac=model.gradient, hess=model.hessian, method="trust-exact").x
    for _ in range(1 if model.kind == "ridge" else 4):
        w = w - np.linalg.solve(model.hessian(w), model.gradient(w))
    return w


@dataclass(frozen=True, eq=False)
class Preconditioner:
    """P = U diag(values) U' + rho I with orthonormal columns U (p, r), values (r,) >= 0."""

    U: Array
    values: Array
    rho: float

    def power(self, s: float) -> Array:
        """P^s, shape (p, p)."""
        low = self.rho**s
        return low * np.eye(len(self.U)) + (self.U * ((self.values + self.rho) ** s - low)) @ self.U.T

    def eigenvalues(self, H: Array) -> Array:
        """Eigenvalues of P^-1/2 H P^-1/2, increasing."""
        root = self.power(-0.5)
        return np.linalg.eigvalsh(root @ H @ root)


def nystrom(S: Array, rank: int, rho: float, rng: np.random.Generator) -> Preconditioner:
    """P from the Nystrom sketch M O (O'M O)^+ O'M of M = S'S, O orthonormal and random, of the given rank.

    With an orthonormal basis B of the range of S O the sketch is (B'S)'(B'S): the same matrix without an inverse.

    Parameters
    ----------
    S : array, shape (h, p)
    rank : int
        0 to p; 0 gives P = rho I.
    rho : float
        > 0, in the unit of M.

    Raises
    ------
    ValueError
        If rank or rho is out of range.
    """
    p = S.shape[1]
    if not 0 <= rank <= p:
        raise ValueError(f"rank is {rank}; a sketch of a {p} x {p} matrix has rank 0 to {p}.")
    if not (np.isfinite(rho) and rho > 0.0):
        raise ValueError(f"rho is {rho}; it must be positive and finite, or P is not invertible.")
    O = np.linalg.qr(rng.standard_normal((p, rank)))[0]
    basis = np.linalg.qr(S @ O)[0]
    _, sizes, right = np.linalg.svd(basis.T @ S, full_matrices=False)
    return Preconditioner(right.T, sizes**2, rho)


def default_step(model: Regression, w: Array, P: Preconditioner, sample: Array) -> float:
    """eta = max(1/(2(mu n + l)), 1/(3 l)), l the largest eigenvalue of P^-1/2 H_sample P^-1/2; from the official code."""
    top = float(P.eigenvalues(model.hessian(w, sample))[-1])
    return max(1.0 / (2.0 * (model.mu * model.n + top)), 1.0 / (3.0 * top))


@dataclass(frozen=True, eq=False)
class Run:
    """One run: the iterate w (epochs + 1, p) at each snapshot, the eta and P^-1 of each epoch, steps an epoch."""

    w: Array
    etas: list[float]
    inverses: list[Array]
    steps: int


def sketchy_svrg(
    model: Regression,
    epochs: int,
    rng: np.random.Generator,
    *,
    rank: int = 10,
    rho: float = 1e-3,
    batch: int = 256,
    hold: bool | None = None,
) -> Run:
    """SketchySVRG from w = 0: w <- w - eta P^-1 (g_B(w) - g_B(w~) + grad F(w~)), w~ the iterate at the epoch's start.

    Parameters
    ----------
    rank, rho, batch
        Of the sketch and of the gradients; the defaults are those of the official code.
    hold : bool, optional
        Whether P and eta are made once; else anew at every epoch. Default, as in the code: once for ridge.

    Notes
    -----
    As in the official code P is sketched from sqrt(n) samples and eta measured on as many others; an epoch is a random
    order of all samples, cut into batches.
    """
    hold = model.kind == "ridge" if hold is None else hold
    size = int(np.sqrt(model.n))

    def make(w: Array) -> tuple[float, Array]:
        first, second = (rng.choice(model.n, size, replace=False) for _ in range(2))
        P = nystrom(model.root(w, first), rank, rho, rng)
        return default_step(model, w, P, second), P.power(-1.0)

    return _svrg(model, epochs, rng, batch, make, hold)


def svrg(model: Regression, epochs: int, rng: np.random.Generator, *, eta: float, batch: int = 256) -> Run:
    """SVRG with step-size eta: the same iteration with P = I. After a divergence w is infinite."""
    identity = np.eye(model.p)
    return _svrg(model, epochs, rng, batch, lambda w: (eta, identity), True)


def _svrg(
    model: Regression,
    epochs: int,
    rng: np.random.Generator,
    batch: int,
    make: Callable[[Array], tuple[float, Array]],
    hold: bool,
) -> Run:
    if not batch >= 1:
        raise ValueError(f"batch is {batch}; it must be at least 1.")
    w, limit = np.zeros(model.p), DIVERGED * model.loss(np.zeros(model.p))
    kept, etas, inverses = [w], [], []
    for k in range(epochs):
        if k == 0 or not hold:
            eta, inverse = make(w)
        etas.append(eta)
        inverses.append(inverse)
        with np.errstate(over="ignore", invalid="ignore"):
            w = _epoch(model, w, eta, inverse, rng.permutation(model.n), batch)
            if not model.loss(w) <= limit:
                kept += [np.full(model.p, np.inf)] * (epochs - k)
                break
        kept.append(w)
    return Run(np.array(kept), etas, inverses, -(-model.n // batch))


def _epoch(model: Regression, w: Array, eta: float, inverse: Array, order: Array, batch: int) -> Array:
    full, snapshot, A, b = model.gradient(w), w, model.A[order], model.b[order]
    slopes = _slopes(model.kind, A @ w, b)
    for rows in (slice(first, first + batch) for first in range(0, model.n, batch)):
        new = _slopes(model.kind, A[rows] @ w, b[rows])
        change = A[rows].T @ (new - slopes[rows]) / len(new) + model.mu * (w - snapshot)
        w = w - eta * (inverse @ (change + full))
    return w


def gaps(model: Regression, run: Run, best: Array) -> Array:
    """F(w) - F* at each snapshot of the run, shape (epochs + 1,); infinite after a divergence.

    For ridge the quadratic form (w - w*)'H(w - w*)/2, which does not cancel.
    """
    good = np.isfinite(run.w).all(axis=1)
    values = np.full(len(run.w), np.inf)
    if model.kind == "ridge":
        values[good] = quadratic_gap(model.hessian(best), run.w[good] - best)
    else:
        low = model.loss(best)
        values[good] = [model.loss(w) - low for w in run.w[good]]
    return values


def quadratic_gap(H: Array, e: Array) -> Array:
    """e'He/2 of each row of e."""
    return np.einsum("...i,ij,...j->...", e, H, e) / 2.0


def mean_path(H: Array, e: Array, etas: Sequence[float], inverses: Sequence[Array], steps: int) -> Array:
    """Mean error at each snapshot, e_(k+1) = (I - eta_k P_k^-1 H)^steps e_k, shape (epochs + 1, p).

    Exact for ridge with independent batches, given P and eta (prop-promise-path).
    """
    kept = [e]
    for eta, inverse in zip(etas, inverses, strict=True):
        kept.append(np.linalg.matrix_power(np.eye(len(e)) - eta * inverse @ H, steps) @ kept[-1])
    return np.array(kept)


def late_rate(H: Array, inverse: Array, eta: float, steps: int) -> float:
    """Decay of log(F - F*) an epoch in the end, -2 steps log max|1 - eta lambda|, lambda over P^-1/2 H P^-1/2.

    Raises
    ------
    AssumptionError
        If the largest |1 - eta lambda| is not below one: the mean path does not converge.
    """
    left = np.linalg.cholesky(inverse)
    slowest = np.abs(1.0 - eta * np.linalg.eigvalsh(left.T @ H @ left)).max()
    if not slowest < 1.0:
        raise AssumptionError(f"the largest |1 - eta lambda| is {slowest:.3g}: shorten the step below 2/lambda_max.")
    return float(-2.0 * steps * np.log(slowest))


def sketched_condition(spectrum: Array, rank: int, rho: float) -> float:
    """Condition number of P^-1/2 H P^-1/2 when P = (the top `rank` eigenpairs of H) + rho I (prop-promise-condition).

    Parameters
    ----------
    spectrum : array, shape (p,)
        Eigenvalues of H, > 0, decreasing.

    Raises
    ------
    FloatRangeError
        If an eigenvalue is not positive.
    """
    if not (spectrum > 0.0).all():
        raise FloatRangeError("an eigenvalue of H is not positive, so H has no condition number: raise the ridge mu.")
    ratios = spectrum / rho
    ratios[:rank] = spectrum[:rank] / (spectrum[:rank] + rho)
    return float(ratios.max() / ratios.min())


# --- On attention -----------------------------------------------------------------------------------------------------


def token_preconditioner(problem: TokenProblem, rank: int, rho: float, rng: np.random.Generator) -> Preconditioner:
    """P from a sketch of the tokens' Gram matrix (1/(nT)) sum_it x_it x_it', shape (d, d)."""
    x = problem.tokens[problem.mask]
    return nystrom(x / np.sqrt(len(x)), rank, rho, rng)


def preconditioned(problem: TokenProblem, P: Preconditioner) -> TokenProblem:
    """The problem with tokens P^-1/2 x and the same scores: training U on it is training W = P^-1/2 U along P^-1 grad L.

    Exactly (prop-promise-attention); its token SVM is the one of the given problem in the norm <W, PW>^(1/2).
    """
    scores = np.where(problem.mask, problem.scores, 0.0)
    values = (problem.labels[:, None] * scores)[:, :, None]
    parts = (problem.queries, problem.mask, problem.query_mask, values)
    return TokenProblem(problem.tokens @ P.power(-0.5), problem.labels, np.ones(1), *parts)
