"""Gradient descent with any constant step on separable logistic regression: the edge of stability and after.

Source: Wu, Braverman, Lee, Implicit Bias of Gradient Descent for Logistic Regression at the Edge of Stability
(NeurIPS 2023), arXiv 2305.11788. Data enter as signed features S, rows y_i x_i, shape (n, d), no intercept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from ..data.constraints import Constraints
from ..errors import InfeasibleSVMError
from ..margin.certificate import dual_residual, gap, primal_residual, worst
from ..margin.token_svm import solve_constraints
from ..types import Array

Loss = Literal["logistic", "exponential"]


@dataclass(frozen=True, eq=False)
class MaxMargin:
    """w_mm = argmin ||w|| with S w >= 1: w (d,), its duals (n,), the margin gamma = 1/||w||, and the margins S w (n,)."""

    w: Array
    duals: Array
    gamma: float
    margins: Array

    @property
    def margin(self) -> float:
        """gamma."""
        return self.gamma

    def certificate(self) -> float:
        """The worst of primal, dual and gap residual; zero exactly at the solution, NaN if one of them is."""
        return worst(primal_residual(self.margins), dual_residual(self.duals), gap(self.duals, self.margins))


@dataclass(frozen=True, eq=False)
class Run:
    """Records of gradient descent: times (K,), iterates w (K, d), losses (K,), and if it stayed finite."""

    times: Array
    w: Array
    loss: Array
    finite: bool


def max_margin(S: Array) -> MaxMargin:
    """Hard-margin SVM without intercept: the token SVM's solver on vectors.

    Raises
    ------
    ValueError
        If the data are not linearly separable.
    """
    try:
        svm = solve_constraints(Constraints.of_vectors(S))
    except InfeasibleSVMError:
        raise ValueError("the data are not linearly separable: no w has y_i x_i'w > 0 for all i.") from None
    return MaxMargin(svm.W[:, 0], svm.duals, svm.margin, svm.margins)


def loss_value(w: Array, S: Array, loss: Loss) -> float:
    """Mean of log(1 + e^-m_i) or of e^-m_i, m = S w."""
    return float(np.logaddexp(0.0, -S @ w).mean() if loss == "logistic" else np.exp(-S @ w).mean())


def gradient(w: Array, S: Array, loss: Loss) -> Array:
    """Gradient of the mean loss, shape (d,)."""
    return -S.T @ (expit(-S @ w) if loss == "logistic" else np.exp(-S @ w)) / len(S)


def sharpness(w: Array, S: Array) -> float:
    """Largest eigenvalue of the Hessian of the logistic loss, (1/n) S' diag(s(1 - s)) S with s = expit(m)."""
    s = expit(S @ w)
    root = np.sqrt(s * expit(-S @ w) / len(S))[:, None] * S
    return float(np.linalg.norm(root, 2) ** 2)


def gradient_descent(S: Array, eta: float, times: Array, loss: Loss = "logistic", limit: float = 1e100) -> Run:
    """w_{t+1} = w_t - eta grad L(w_t) from zero; records at the increasing `times`.

    An exponential loss with a term above `limit` ends the run with `finite = False`, before any overflow.
    """
    wanted, w = set(np.asarray(times).tolist()), np.zeros(S.shape[1])
    kept: list[tuple[int, Array, float]] = []
    for t in range(int(times[-1]) + 1):
        if loss == "exponential" and (S @ w).min() < -np.log(limit):
            return _run(kept, False)
        if t in wanted:
            kept.append((t, w, loss_value(w, S, loss)))
        w = w - eta * gradient(w, S, loss)
    return _run(kept, True)


def _run(kept: list[tuple[int, Array, float]], finite: bool) -> Run:
    t, w, loss = zip(*kept, strict=True)
    return Run(np.array(t), np.array(w), np.array(loss), finite)


def split(w: Array, svm: MaxMargin) -> tuple[Array, Array]:
    """Component of w (..., d) along w_mm/||w_mm||, shape (...), and the rest, shape (..., d)."""
    axis = svm.gamma * svm.w
    along = w @ axis
    return along, w - along[..., None] * axis


def potential(v: Array, S: Array, svm: MaxMargin) -> float:
    """G(v) = sum over support vectors of exp(-v's_i), for v orthogonal to w_mm."""
    return float(np.exp(-S[svm.duals > 0.0] @ v).sum())


def potential_minimiser(S: Array, svm: MaxMargin) -> Array:
    """argmin G over the span of the support vectors, orthogonal to w_mm; shape (d,). By Newton's method.

    At the minimum exp(-v's_i) is proportional to the dual of s_i when the support vectors are independent.
    """
    support = S[svm.duals > 0.0]
    flat = support - np.outer(support @ svm.w, svm.w) * svm.gamma**2
    _, sizes, axes = np.linalg.svd(flat, full_matrices=False)
    B = axes[sizes > 1e-10 * max(1.0, sizes[0])]
    if len(B) == 0:
        return np.zeros(S.shape[1])
    F = support @ B.T

    def hessian(a: Array) -> Array:
        return (F * np.exp(-F @ a)[:, None]).T @ F

    found = minimize(
        lambda a: np.exp(-F @ a).sum(),
        np.zeros(len(B)),
        jac=lambda a: -F.T @ np.exp(-F @ a),
        hess=hessian,
        method="trust-exact",
        options={"gtol": 1e-10},
    )
    return B.T @ found.x


def residual_modes(S: Array, svm: MaxMargin) -> tuple[Array, Array]:
    """Eigenvalues kappa (k,), increasing, and eigenvectors (d, k) of H = Pi sum lambda_i s_i s_i' Pi off its kernel (this book's).

    Pi is the projection off w_mm. Near v* a step of normalised length h multiplies the orthogonal error by
    I - (h/||w_mm||) H. Gradient descent has h_t -> ||w_mm||/t, so that mode kappa decays as t^-kappa.
    """
    flat = S - np.outer(S @ svm.w, svm.w) * svm.gamma**2
    kappa, modes = np.linalg.eigh((flat * svm.duals[:, None]).T @ flat)
    kept = kappa > 1e-10 * kappa[-1]
    return kappa[kept], modes[:, kept]


def normalised_threshold(S: Array, svm: MaxMargin) -> float:
    """h* = 2 ||w_mm||/lambda_max(H), H as in `residual_modes` (this book's)."""
    return float(2.0 / (svm.gamma * residual_modes(S, svm)[0][-1]))


def two_points(gamma: float = 0.1, b: float = 0.75) -> Array:
    """Signed features (gamma, 1) and (gamma, -b), shape (2, 2); max-margin direction: the first axis."""
    return np.array([[gamma, 1.0], [gamma, -b]])


def normalised_descent(S: Array, h: float, times: Array) -> Array:
    """w_{t+1} = w_t - h grad L/||grad L|| on the exponential loss from zero; w at `times`, shape (K, d).

    Only ratios of exp(-m_i) enter, so that the run stays exact at any margin.
    """
    wanted, kept, w = set(np.asarray(times).tolist()), [], np.zeros(S.shape[1])
    for t in range(int(times[-1]) + 1):
        if t in wanted:
            kept.append(w)
        margins = S @ w
        force = S.T @ np.exp(margins.min() - margins)
        w = w + h * force / np.linalg.norm(force)
    return np.array(kept)
