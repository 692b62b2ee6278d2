"""Implicit gradient descent on two-layer physics-informed networks, and on attention, where no step is too long for it.

Source: Xu, Du, Kong, Shan, Li, Huang, Convergence of Implicit Gradient Descent for Training Two-Layer Physics-Informed
Neural Networks, arXiv 2407.02827. Theirs is the step theta+ = theta - eta grad L(theta+); the network, the problem, the
way to solve for theta+ and the laws are this book's. Notation: L = |r|^2/2 with the residuals r of the differential
equation and of its boundary values, J their Jacobian, G = J J' the Gram matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import wrightomega

from ..data.problem import TokenProblem
from ..errors import SolverError
from ..margin.token_svm import TokenSVM
from ..measures.geometry import gram_norm
from ..model.weights import log_gradient_weights
from ..types import Array

SMALL = 1e-6  # share of |r||J| that counts as a gradient where grad L itself vanishes


@dataclass(frozen=True, eq=False)
class Poisson:
    """-u'' = f at the points x (n,) of (0, 1), u(0) = u(1) = 0, for u(x) = m^-1/2 sum_j a_j tanh(w_j x + b_j).

    The signs a (..., m) are fixed; theta (..., 2, m) holds w and b; leading axes are independent networks. Residuals
    r (..., n + 2): (-u'' - f)/sqrt(n) at the points, u/sqrt(2) at the ends, so that |r|^2 is the sum of two means.
    """

    x: Array
    f: Array
    a: Array

    def derivatives(self, theta: Array, order: int) -> list[Array]:
        """[r, J, K][: order + 1]: r (..., n + 2), J (..., n + 2, 2, m), and the second derivatives K (..., n + 2, 3, m) by
        (w, w), (w, b) and (b, b); none couples two neurons.
        """
        n, z = len(self.x), np.append(self.x, [0.0, 1.0])[:, None]
        w, b = theta[..., :1, :], theta[..., 1:, :]
        d = tanh_derivatives(z * w + b)
        factor = np.append(np.full(n, -1.0 / np.sqrt(n)), np.full(2, np.sqrt(0.5)))[:, None]
        factor = factor * self.a[..., None, :] / np.sqrt(theta.shape[-1])

        def join(interior: Array, boundary: Array) -> Array:
            return factor * np.concatenate([interior[..., :n, :], boundary[..., n:, :]], axis=-2)

        r = join(w**2 * d[2], d[0]).sum(axis=-1)
        r[..., :n] -= self.f / np.sqrt(n)
        found = [r]
        if order >= 1:
            u = w**2 * d[3]
            found.append(np.stack([join(z * u + 2.0 * w * d[2], z * d[1]), join(u, d[1])], axis=-2))
        if order >= 2:
            v, c = w**2 * d[4], 2.0 * w * d[3]
            ww = join(z**2 * v + 2.0 * z * c + 2.0 * d[2], z**2 * d[2])
            found.append(np.stack([ww, join(z * v + c, z * d[2]), join(v, d[2])], axis=-2))
        return found


def tanh_derivatives(s: Array) -> tuple[Array, Array, Array, Array, Array]:
    """tanh(s) and its first four derivatives."""
    t = np.tanh(s)
    d1 = 1.0 - t * t
    d2 = -2.0 * t * d1
    d3 = -2.0 * (d1 * d1 + t * d2)
    return t, d1, d2, d3, -2.0 * (3.0 * d1 * d2 + t * d3)


def two_scales(n: int, m: int, amplitude: float, rng: np.random.Generator) -> tuple[Poisson, Array]:
    """f = amplitude (sin(pi x) + sin(4 pi x)) at n midpoints, random signs a (m,), and a start theta (2, m) from N(0, 1)."""
    x = (np.arange(n) + 0.5) / n
    f = amplitude * (np.sin(np.pi * x) + np.sin(4.0 * np.pi * x))
    return Poisson(x, f, rng.choice([-1.0, 1.0], m)), rng.standard_normal((2, m))


def loss_value(r: Array) -> Array:
    """L = |r|^2/2 over the last axis."""
    return 0.5 * (r**2).sum(axis=-1)


def gram(J: Array) -> Array:
    """G = J J', shape (..., n + 2, n + 2), for J of shape (..., n + 2, 2, m)."""
    flat = J.reshape(*J.shape[:-2], -1)
    return flat @ flat.swapaxes(-1, -2)


def mixed_gram(problem: Poisson, theta: Array, new: Array, nodes: int = 40) -> Array:
    """M J(new)', M the mean of J over the segment from theta to new (Gauss-Legendre): r = (1 + eta M J(new)') r(new)."""
    at, weight = np.polynomial.legendre.leggauss(nodes)
    on_segment = [problem.derivatives(theta + 0.5 * (1.0 + s) * (new - theta), 1)[1] for s in at]
    M, J = np.tensordot(0.5 * weight, on_segment, 1), problem.derivatives(new, 1)[1]
    return M.reshape(len(M), -1) @ J.reshape(len(J), -1).T


@dataclass(frozen=True, eq=False)
class ImplicitStep:
    """theta+, its r and J, the calls of the network that it took, and the error that `implicit_step` explains."""

    theta: Array
    r: Array
    J: Array
    calls: int
    error: float


def implicit_step(
    problem: Poisson, theta: Array, eta: float, tolerance: float = 1e-7, iterations: int = 500
) -> ImplicitStep:
    """theta+ = theta - eta grad L(theta+): the stationary point of Q = L + |. - theta|^2/(2 eta) that descent from theta finds.

    Newton's method with the exact Hessian, 1/eta + J'J + sum_i r_i grad^2 r_i: a block of two by two for each neuron plus a
    matrix of rank n + 2, inverted by Woodbury's identity. Blocks are made positive; steps are halved until Q falls.

    Raises
    ------
    ValueError
        If eta is not a positive finite number.
    SolverError
        If after the iterations |grad Q| is above `tolerance` times |grad L| + 1e-6 |r||J|: this is no implicit step.
    """
    if not 0.0 < eta < np.inf:
        raise ValueError(f"eta is {eta}; it must be a positive finite number.")
    move, calls, error = np.zeros_like(theta), 1, np.inf
    r, J, K = problem.derivatives(theta, 2)
    value = float(loss_value(r))
    for _ in range(iterations):
        force = np.tensordot(r, J, 1)
        slope, size = force + move / eta, np.linalg.norm(force) + SMALL * np.linalg.norm(r) * np.linalg.norm(J)
        error = float(np.linalg.norm(slope) / size) if size > 0.0 else 0.0
        if error <= tolerance:
            return ImplicitStep(theta + move, r, J, calls, error)
        change = _newton(J, np.tensordot(r, K, 1), slope, eta)
        fall, share = -float((slope * change).sum()), 1.0
        while True:
            trial = move + share * change
            new = float(loss_value(problem.derivatives(theta + trial, 0)[0]) + (trial**2).sum() / (2.0 * eta))
            calls += 1
            if new <= value - 1e-4 * share * fall or share * fall <= 1e-9 * value:  # below it rounding hides the fall
                break
            share *= 0.5
        move, value = trial, new
        r, J, K = problem.derivatives(theta + move, 2)
    raise SolverError(
        f"the implicit step with eta = {eta:.3g} has error {error:.1e} after {iterations} iterations, above {tolerance:.1e}: "
        "take a shorter step, or allow more iterations."
    )


def _newton(J: Array, D: Array, slope: Array, eta: float) -> Array:
    """-(B + J'J)^-1 slope, B the blocks 1/eta + ((D_0, D_1), (D_1, D_2)), their negative eigenvalues reflected."""
    A, B, C = D[0] + 1.0 / eta, D[1], D[2] + 1.0 / eta
    low = (A + C) / 2.0 - np.hypot((A - C) / 2.0, B)
    shift = np.where(low < 0.1 / eta, 0.1 / eta + np.maximum(-2.0 * low, 0.0), 0.0)
    A, C = A + shift, C + shift

    def solve(v: Array) -> Array:
        first, second = v[..., 0, :], v[..., 1, :]
        return np.stack([C * first - B * second, A * second - B * first], axis=-2) / (A * C - B * B)

    flat, wide, g = J.reshape(len(J), -1), solve(J), solve(slope)
    small = np.eye(len(J)) + flat @ wide.reshape(len(J), -1).T
    return np.tensordot(np.linalg.solve(small, flat @ g.ravel()), wide, 1) - g


@dataclass(frozen=True, eq=False)
class Descent:
    """Records of implicit descent, one a step and the start: loss (K,), eigenvalues of G (K, n + 2) ascending, calls of the
    network so far (K,); the largest error of a step; the Gram matrices of start and end; theta and r (n + 2,) of the end.
    """

    loss: Array
    eigenvalues: Array
    calls: Array
    error: float
    grams: tuple[Array, Array]
    theta: Array
    r: Array


def implicit_descent(problem: Poisson, theta: Array, eta: float, steps: int, stop: float = 1e-11) -> Descent:
    """Implicit gradient descent, until the loss is below `stop` times that of the start."""
    r, J = problem.derivatives(theta, 1)
    first, error = gram(J), 0.0
    rows = [(float(loss_value(r)), np.linalg.eigvalsh(first), 1)]
    for _ in range(steps):
        step = implicit_step(problem, theta, eta)
        theta, error = step.theta, max(error, step.error)
        rows.append((float(loss_value(step.r)), np.linalg.eigvalsh(gram(step.J)), rows[-1][2] + step.calls))
        if rows[-1][0] < stop * rows[0][0]:
            break
    r, J = problem.derivatives(theta, 1)
    loss, eigenvalues, calls = (np.array(column) for column in zip(*rows, strict=True))
    return Descent(loss, eigenvalues, calls, error, (first, gram(J)), theta, r)


def explicit_descent(problem: Poisson, theta: Array, eta: Array | float, steps: int) -> Array:
    """Losses (steps + 1, ...) of theta <- theta - eta grad L(theta), networks and their eta (...) side by side."""
    eta, losses = np.asarray(eta, dtype=float)[..., None, None], []
    theta = np.broadcast_to(theta, np.broadcast_shapes(theta.shape, eta.shape))
    for _ in range(steps + 1):
        r, J = problem.derivatives(theta, 1)
        losses.append(loss_value(r))
        theta = theta - eta * np.einsum("...i,...ikm->...km", r, J)
    return np.array(losses)


# --- On attention -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ImplicitTraining:
    """Records of training on attention, from W_0 = 0: coefficients of W_t = sum_k C_k V_k (K + 1, N), log |grad L(W_t)|
    (K + 1,), log eta_t (K,) and h_t = |W_{t+1} - W_t| (K,).
    """

    coefficients: Array
    log_gradient: Array
    log_eta: Array
    h: Array


def lambert_step(log_eta: Array, log_gradient: Array, margin: float) -> Array:
    """h with rho h e^(rho h) = eta rho |grad L|, rho the margin: h = LambertW(eta rho |grad L|)/rho, from logarithms."""
    return wrightomega(log_eta + np.log(margin) + log_gradient) / margin


def train_implicitly(
    problem: TokenProblem, log_eta: Callable[[float], float], steps: int, tolerance: float = 1e-11
) -> ImplicitTraining:
    """W_{t+1} = W_t - eta_t grad L(W_{t+1}) from zero, eta_t = exp(log_eta(log |grad L(W_t)|)).

    W_{t+1} - W_t = sum_k e^b_k V_k where b_k = log eta + log p_k(W_{t+1}): Newton's method on b with the p_k = q_k e^-mu_k
    of constant q_k, from the solution for constraints that do not meet, e^b_k |V_k|^2 = LambertW(eta p_k |V_k|^2).

    Raises
    ------
    SolverError
        If a weight p_k is not positive, or b is not found to within `tolerance`.
    """
    G = problem.constraints.gram
    C, kept, log_etas, moves = np.zeros(len(G)), [], [], []
    for t in range(steps + 1):
        log_p = _log_weights(problem, G @ C)
        log_size = float(log_p.max() + np.log(gram_norm(G, np.exp(log_p - log_p.max()))))
        kept.append((C, log_size))
        if t == steps:
            break
        log_etas.append(log_eta(log_size))
        move = np.exp(_implicit_weights(problem, G, C, log_p, log_etas[-1], tolerance))
        C = C + move
        moves.append(gram_norm(G, move))
    coefficients, log_gradient = (np.array(column) for column in zip(*kept, strict=True))
    return ImplicitTraining(coefficients, log_gradient, np.array(log_etas), np.array(moves))


def _log_weights(problem: TokenProblem, mu: Array) -> Array:
    sign, log_p, _ = log_gradient_weights(problem, mu)
    if not (sign > 0.0).all():
        raise SolverError("a weight p_k is not positive: the entry condition fails here. Use equal scores.")
    return log_p


def _implicit_weights(
    problem: TokenProblem, G: Array, C: Array, log_p: Array, log_eta: float, tolerance: float
) -> Array:
    """b with b_k = log eta + log p_k(C + e^b)."""
    squares = np.log(np.diag(G))
    b = np.log(wrightomega(log_eta + log_p + squares)) - squares
    for _ in range(200):
        off = b - log_eta - _log_weights(problem, G @ (C + np.exp(b)))
        if np.abs(off).max() <= tolerance * (1.0 + np.abs(b).max()):
            return b
        b = b - np.linalg.solve(np.eye(len(b)) + G * np.exp(b), off)
    raise SolverError(
        f"the implicit step is not found: its weights are off by {np.abs(off).max():.1e}. Shorten the step."
    )


def direction_errors(svm: TokenSVM, coefficients: Array) -> Array:
    """|W/|W| - W_mm/|W_mm|| of W = sum_k C_k V_k, C (K, N) nonzero; shape (K,)."""
    G = svm.constraints.gram
    return gram_norm(G, coefficients / gram_norm(G, coefficients)[:, None] - svm.duals / svm.norm)


def residual_coefficients(svm: TokenSVM, coefficients: Array) -> Array:
    """Coefficients of W's part across W_mm, for W = sum_k C_k V_k, C (K, N); shape (K, N)."""
    along = coefficients @ svm.margins / (svm.duals @ svm.margins)
    return coefficients - along[:, None] * svm.duals
