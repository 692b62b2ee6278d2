"""Two-layer linear networks under gradient flow: what the start decides, and the same for attention's W = K Q'.

Source: Min, Tarmoun, Vidal, Mallada, On the Explicit Role of Initialization on the Convergence and Implicit Bias of
Overparametrized Linear Networks (ICML 2021), arXiv 2105.06351. The network is X -> X U V' with U (D, h), V (m, h); the
loss f = ||X U V' - Y||_F^2/2. With X = P S Phi_1' (thin SVD, r singular values) and U_1 = Phi_1'U, U_2 = Phi_2'U the flow
leaves U_2 where it is, and with E = P'Y - S U_1 V' it is U_1' = S E V, V' = E'S U_1, f - min f = ||E||^2/2.
Arrays U1 (..., r, h) and V (..., m, h) may carry leading axes of independent runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.integrate import solve_ivp

from ..data.problem import TokenProblem
from ..model.attention import gradient
from ..types import Array


@dataclass(frozen=True, eq=False)
class Regression:
    """Data in the coordinates of X's singular vectors: S (r,), P'Y (r, m), Phi_1 (D, r) and Phi_2 (D, D - r)."""

    S: Array
    target: Array
    row: Array
    null: Array

    @property
    def solution(self) -> Array:
        """S^-1 P'Y = Phi_1'X^+Y, what U_1 V' has to become; shape (r, m)."""
        return self.target / self.S[:, None]


def regression(X: Array, Y: Array) -> Regression:
    """Singular coordinates of the least-squares problem with inputs X (n, D) and outputs Y (n, m).

    Raises
    ------
    ValueError
        If X and Y are not finite matrices with equally many rows, or X is zero.
    """
    if X.ndim != 2 or Y.ndim != 2 or len(X) != len(Y) or not (np.isfinite(X).all() and np.isfinite(Y).all()):
        raise ValueError(f"X {X.shape} and Y {Y.shape} must be finite matrices with one row a sample in both.")
    P, S, Phi = np.linalg.svd(X)
    r = np.linalg.matrix_rank(X)
    if r == 0:
        raise ValueError("X is zero: there is nothing to learn from it.")
    return Regression(S[:r], P[:, :r].T @ Y, Phi[:r].T, Phi[r:].T)


def transposed(A: Array) -> Array:
    """The transpose over the last two axes."""
    return A.swapaxes(-1, -2)


def residual(data: Regression, U1: Array, V: Array) -> Array:
    """E = P'Y - S U_1 V', shape (..., r, m)."""
    return data.target - data.S[:, None] * (U1 @ transposed(V))


def excess_loss(data: Regression, U1: Array, V: Array) -> Array:
    """f - min f = ||E||_F^2/2."""
    return (residual(data, U1, V) ** 2).sum(axis=(-2, -1)) / 2.0


def imbalance(U1: Array, V: Array) -> Array:
    """Lambda = U_1'U_1 - V'V, shape (..., h, h), conserved by the flow."""
    return transposed(U1) @ U1 - transposed(V) @ V


def imbalance_level(U1: Array, V: Array) -> Array:
    """c = [lambda_r(Lambda)]_+ + [lambda_m(-Lambda)]_+, eigenvalues in falling order (Theorem 1).

    Raises
    ------
    ValueError
        If the network is narrower than r or m, where these eigenvalues do not exist.
    """
    r, m = U1.shape[-2], V.shape[-2]
    if U1.shape[-1] < max(r, m):
        raise ValueError(f"the width {U1.shape[-1]} is below r = {r} or m = {m}: widen the network.")
    values = np.linalg.eigvalsh(imbalance(U1, V))
    return np.maximum(values[..., -r], 0.0) + np.maximum(-values[..., m - 1], 0.0)


def rate_bound(data: Regression, U1: Array, V: Array) -> Array:
    """2 lambda_r(X'X) c: f - min f falls at least as fast as e^-(this t) (Theorem 1)."""
    return 2.0 * data.S[-1] ** 2 * imbalance_level(U1, V)


def kernel_rate(data: Regression, U1: Array, V: Array) -> float:
    """2 lambda_min of E -> S^2 E VV' + S U_1U_1'S E: the late rate of the loss where (U1, V) is the limit (this book's)."""
    left = data.S[:, None] * (U1 @ U1.T) * data.S
    kernel = np.kron(np.diag(data.S**2), V @ V.T) + np.kron(left, np.eye(len(V)))
    return float(2.0 * np.linalg.eigvalsh(kernel)[0])


def compressed(U1: Array, V: Array) -> tuple[Array, Array, Array]:
    """(U1 B, V B, B), B (h, k) an orthonormal basis of all rows, k = min(h, r + m): the flow never leaves their span."""
    B, R = np.linalg.qr(np.concatenate([U1, V]).T)
    rows = R.T
    return rows[: len(U1)], rows[len(U1) :], B


@dataclass(frozen=True, eq=False)
class Path:
    """Records of the flow: times (K,), U1 (K, ..., r, h), V (K, ..., m, h) and log(f - min f) (K, ...)."""

    times: Array
    U1: Array
    V: Array
    log_excess: Array

    def rate(self, start: float) -> Array:
        """-d log(f - min f)/dt, the mean from the first record at or after `start` to the last."""
        k = np.searchsorted(self.times, start)
        return (self.log_excess[k] - self.log_excess[-1]) / (self.times[-1] - self.times[k])


def flow(data: Regression, U1: Array, V: Array, times: Array) -> Path:
    """The gradient flow from (U1, V) at time 0, recorded at the increasing `times`.

    Besides the factors the state holds log ||E|| and E/||E||, E' = -(S^2 E VV' + S U_1U_1'S E): exact at any depth.

    Raises
    ------
    ValueError
        If a start fits the data exactly, so that there is no residual to follow.
    ArithmeticError
        If the integrator stops.
    """
    E = residual(data, U1, V)
    size = np.linalg.norm(E, axis=(-2, -1), keepdims=True)
    if not (size > 0.0).all():
        raise ValueError("a start fits the data exactly: the flow stands still, choose another start.")
    parts = [U1, V, E / size, np.log(size)]
    cuts, S = np.cumsum([part.size for part in parts])[:-1], data.S[:, None]

    def unpacked(state: Array) -> list[Array]:
        return [x.reshape(part.shape) for x, part in zip(np.split(state, cuts), parts, strict=True)]

    def velocity(_: float, state: Array) -> Array:
        U, W, e, level = unpacked(state)
        force = S * e
        decay = S * (force @ W @ transposed(W) + U @ (transposed(U) @ force))
        rate = (e * decay).sum(axis=(-2, -1), keepdims=True) / (e * e).sum(axis=(-2, -1), keepdims=True)
        scale = np.exp(level)
        moves = [scale * (force @ W), scale * (transposed(force) @ U), rate * e - decay, -rate]
        return np.concatenate([move.ravel() for move in moves])

    start = np.concatenate([part.ravel() for part in parts])
    path = solve_ivp(velocity, (0.0, times[-1]), start, "DOP853", t_eval=times, rtol=1e-9, atol=1e-12)
    if not path.success:
        raise ArithmeticError(f"the flow stopped after {len(path.t)} of {len(times)} records: {path.message}")
    U, W, _, level = (np.array(rows) for rows in zip(*map(unpacked, path.y.T), strict=True))
    return Path(path.t, U, W, 2.0 * level[..., 0, 0] - np.log(2.0))


def wide_distance(data: Regression, widths: Array, alpha: float, time: float) -> Array:
    """sqrt(D - r) h^-alpha ||V_inf||: the distance ||U V' - X^+Y||_F from wide starts N(0, h^-2 alpha) (this book's).

    The flow of (U_1, V) knows nothing of U_2 = N(0, h^-2 alpha), so E||U_2 V_inf'||^2 = (D - r) h^-2alpha ||V_inf||^2; and
    in the wide limit it starts at U_1U_1' = h^(1 - 2 alpha) I, VV' = h^(1 - 2 alpha) I, U_1V' = 0.
    """
    r, m = data.target.shape
    scale = np.asarray(widths, dtype=float)[:, None, None] ** (0.5 - alpha)
    V = flow(data, scale * np.eye(r, r + m), scale * np.eye(m, r + m, r), np.array([time])).V[-1]
    return np.sqrt(data.null.shape[1]) * np.asarray(widths) ** -alpha * np.linalg.norm(V, axis=(-2, -1))


def scalar_rate(sigma: float, goal: float, c: float) -> float:
    """2 sigma sqrt(c^2 + 4 goal^2): the late rate of the loss for r = m = 1, known at the start (this book's).

    |U_1|^2 - |V|^2 and |U_1|^2 |V|^2 - theta^2 are conserved, so |U_1|^2 + |V|^2 = sqrt(c^2 + 4 theta^2).
    """
    return float(2.0 * sigma * np.hypot(c, 2.0 * goal))


def scalar_curve(sigma: float, goal: float, c: float, theta: float, times: Array) -> Array:
    """theta_t = U_1V' for r = m = 1, in closed form: with q = 2 theta + s, s = sqrt(c^2 + 4 theta^2) (this book's).

    q' = -(sigma/2)(q - q_+)(q - q_-), q_+- = 2 goal +- sqrt(c^2 + 4 goal^2), sigma = S^2; theta = (q - c^2/q)/4.
    For goal < 0 the same with -theta and -goal.

    Raises
    ------
    ValueError
        If c = 0 and theta is zero or of the wrong sign, where the closed form does not apply: theta_t goes to 0.
    """
    if goal < 0.0:
        return -scalar_curve(sigma, -goal, c, -theta, times)
    s = np.hypot(c, 2.0 * theta)
    q = s + 2.0 * theta if theta > 0.0 or s == 0.0 else c**2 / (s - 2.0 * theta)
    if not q > 0.0:
        raise ValueError(f"c = {c} and theta = {theta}, not of the goal's sign: theta_t goes to the saddle at 0.")
    root = scalar_rate(1.0, goal, c) / 2.0
    high = 2.0 * goal + root
    low = -(c**2) / high
    ratio = (q - high) / (q - low) * np.exp(-sigma * root * np.asarray(times))
    q = (high - low * ratio) / (1.0 - ratio)
    return (q - c**2 / q) / 4.0


# --- Attention with W = K Q' (this book's) ----------------------------------------------------------------------------


def factor_velocity(problem: TokenProblem, K: Array, Q: Array) -> tuple[Array, Array]:
    """(-G Q, -G'K), G = grad L(K Q'): minus the gradient in the factors K (d, m) and Q (d, m)."""
    G = gradient(problem, K @ Q.T)
    return -G @ Q, -G.T @ K


def factor_descent(problem: TokenProblem, K: Array, Q: Array, eta: float, steps: int) -> tuple[Array, Array]:
    """Gradient descent in (K, Q) with the step-size eta; the factors after `steps`."""
    for _ in range(steps):
        dK, dQ = factor_velocity(problem, K, Q)
        K, Q = K + eta * dK, Q + eta * dQ
    return K, Q


def drift_coefficient(problem: TokenProblem, K: Array, Q: Array, time: float) -> Array:
    """C = integral over the flow of Q'G'GQ - K'GG'K: the imbalance K'K - Q'Q drifts by eta C + O(eta^2) up to `time`.

    A step changes it by exactly eta^2 (Q'G'GQ - K'GG'K): the terms of order eta cancel.
    """
    shape = K.shape

    def velocity(_: float, state: Array) -> Array:
        k, q = state[: 2 * K.size].reshape(2, *shape)
        dk, dq = factor_velocity(problem, k, q)
        return np.concatenate([dk.ravel(), dq.ravel(), (dk.T @ dk - dq.T @ dq).ravel()])

    start = np.concatenate([K.ravel(), Q.ravel(), np.zeros(shape[1] ** 2)])
    path = solve_ivp(velocity, (0.0, time), start, "DOP853", rtol=1e-9, atol=1e-12)
    return path.y[2 * K.size :, -1].reshape(shape[1], shape[1])
