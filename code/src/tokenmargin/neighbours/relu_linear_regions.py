"""Shallow univariate ReLU networks trained on classification: linear regions, and the largest margin of any width.

Source: Safran, Vardi, Lee, On the Effective Number of Linear Regions in Shallow Univariate ReLU Networks (NeurIPS
2022), arXiv 2205.09072. A network is f(x) = sum_j a_j (w_j x + b_j)_+, its parameters theta an array of rows
(a_j, w_j, b_j), shape (m, 3); R independent runs have a leading axis. Inputs lie in [-1, 1] and are sorted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog, nnls

from ..errors import SolverError
from ..types import Array

Record = tuple[int, Array, Array]
OUTSIDE = 2.0  # stands for every kink beyond the inputs: no input tells such kinks apart
STRICT = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}


def labelled_points(runs: int, n: int, changes: int, gap: float, seed: int) -> tuple[Array, Array]:
    """Sorted inputs x, uniform on [-1, 1] off a window of half-width `gap` round each sign change, and labels y (R, n).

    The signs change at -1 + 2i/(changes + 1), i = 1..changes, and begin with +1.
    """
    rng, thresholds = np.random.default_rng(seed), -1.0 + 2.0 * np.arange(1, changes + 1) / (changes + 1)
    x = np.sort(rng.uniform(-1.0, 1.0 - 2.0 * gap * changes, (runs, n)), axis=1)
    for t in thresholds:
        x = x + np.where(x > t - gap, 2.0 * gap, 0.0)
    return x, (-1.0) ** (x[..., None] > thresholds).sum(axis=-1)


def balanced_start(runs: int, m: int, scale: float, seed: int) -> Array:
    """theta (R, m, 3): (w_j, b_j) ~ N(0, scale^2 I/(2m)), a_j = +-||(w_j, b_j)||; E ||theta||^2 = 2 scale^2 at any m."""
    rng = np.random.default_rng(seed)
    inner = scale * rng.standard_normal((runs, m, 2)) / np.sqrt(2.0 * m)
    outer = np.linalg.norm(inner, axis=2) * rng.choice([-1.0, 1.0], (runs, m))
    return np.concatenate([outer[..., None], inner], axis=2)


def kinks(theta: Array) -> Array:
    """-b_j/w_j, clipped to the interval [-2, 2]; where w_j = 0 the end that leaves the neuron on, or off, everywhere."""
    w, b = theta[..., 1], theta[..., 2]
    far = np.copysign(OUTSIDE, b)
    with np.errstate(over="ignore"):
        return np.clip(np.divide(-b, w, out=far, where=w != 0.0), -OUTSIDE, OUTSIDE)


def margins_and_slopes(x: Array, y: Array, theta: Array) -> tuple[Array, Array]:
    """Margins y_i f(x_i), shape (R, n), and -grad_theta log sum_i exp(-y_i f(x_i)), shape (R, m, 3).

    A neuron is active on all inputs on one side of its kink, so sums over active pairs are cumulative sums: the cost is
    m log n + n, not m n, and the result is exact at any margin.
    """
    (R, n), (a, w, b) = x.shape, np.moveaxis(theta, -1, 0)
    runs, right = np.arange(R)[:, None], w > 0.0
    shift = 3.0 * OUTSIDE * runs
    left_of_kink = np.searchsorted((x + shift).ravel(), (kinks(theta) + shift).ravel()).reshape(a.shape) - n * runs
    slot, sign = (left_of_kink + (n + 1) * runs).ravel(), np.where(right, 1.0, -1.0)

    def affine(c: Array) -> Array:
        """Sum of c over the neurons active at each input."""
        change = np.bincount(slot, (sign * c).ravel(), R * (n + 1)).reshape(R, n + 1)[:, :n]
        return np.where(right, 0.0, c).sum(axis=1, keepdims=True) + np.cumsum(change, axis=1)

    def active(g: Array) -> Array:
        """Sum of g over the inputs on which each neuron is active."""
        total = np.concatenate([np.zeros((R, 1)), np.cumsum(g, axis=1)], axis=1)
        passed = np.take_along_axis(total, left_of_kink, axis=1)
        return np.where(right, total[:, -1:] - passed, passed)

    margins = y * (affine(a * w) * x + affine(a * b))
    p = np.exp(margins.min(axis=1, keepdims=True) - margins)
    force = y * p / p.sum(axis=1, keepdims=True)
    gx, g1 = active(force * x), active(force)
    return margins, np.stack([w * gx + b * g1, a * gx, a * g1], axis=-1)


def train(x: Array, y: Array, theta: Array, c: float, times: Array, N0: float = 10.0) -> list[Record]:
    """theta <- theta - eta grad log L, eta = c/(N0 + ||theta||^2), L the sum of exponential losses: Euler steps of gradient flow.

    On log L the flow has the same path as on L, at another speed. Returns (t, theta, margins) at the increasing `times`.

    Raises
    ------
    ValueError
        If the inputs are not sorted in [-1, 1], or a label is not -1 or +1.
    """
    if not ((np.abs(x) <= 1.0).all() and (np.diff(x, axis=1) >= 0.0).all() and (np.abs(y) == 1.0).all()):
        raise ValueError(
            "x must be sorted along its last axis and lie in [-1, 1], and y be -1 or +1: rescale and sort."
        )
    kept, wanted = [], set(np.asarray(times).tolist())
    for t in range(int(times[-1]) + 1):
        margins, slope = margins_and_slopes(x, y, theta)
        if t in wanted:
            kept.append((t, theta, margins))
        theta = theta + c * slope / (N0 + (theta**2).sum(axis=(1, 2), keepdims=True))
    return kept


def log_loss(margins: Array) -> Array:
    """log sum_i exp(-m_i) over the last axis, exact at any margin."""
    least = margins.min(axis=-1)
    return np.log(np.exp(least[..., None] - margins).sum(axis=-1)) - least


def breakpoints(theta: Array, merge: float = 0.005, drop: float = 1e-3) -> tuple[Array, Array]:
    """Where f (m, 3) changes its slope inside (-1, 1), and by how much.

    Kinks nearer than `merge` to their left neighbour count as one; changes below `drop` times the largest are left out.
    """
    t, change = kinks(theta), theta[:, 0] * np.abs(theta[:, 1])
    inside = np.flatnonzero((np.abs(t) < 1.0) & (change != 0.0))
    order = inside[np.argsort(t[inside])]
    t, change = t[order], change[order]
    group = np.cumsum(np.diff(t, prepend=-np.inf) >= merge) - 1
    size = np.abs(change)
    where = np.bincount(group, size * t) / np.bincount(group, size)
    total = np.bincount(group, change)
    kept = np.abs(total) > drop * np.abs(total).max(initial=0.0)
    return where[kept], total[kept]


def regions(theta: Array, merge: float = 0.005, drop: float = 1e-3) -> int:
    """Number of linear regions of f on [-1, 1], as counted by `breakpoints`."""
    return 1 + len(breakpoints(theta, merge, drop)[0])


@dataclass(frozen=True, eq=False)
class LargestMargin:
    """A smallest network with all margins at least one: theta (m, 3), half its squared norm, and the certificate.

    duals (n,) are the multipliers of the inputs; rounds counts how often inputs had to be added to those next to a sign
    change; certificate is the relative duality gap plus the largest violation.
    """

    theta: Array
    cost: float
    duals: Array
    rounds: int
    certificate: float


def largest_margin(x: Array, y: Array, tolerance: float = 1e-7) -> LargestMargin:
    """min ||theta||^2/2 subject to y_i f(x_i) >= 1 over networks of every width; x, y of shape (n,), x sorted.

    As ||theta||^2/2 >= sum |a_j| ||(w_j, b_j)||, with equality when balanced, this is the linear program min sum |c_u|
    over unit vectors u = (w, b), f = sum c_u (u'(x, 1))_+. Its dual is max sum lambda subject to lambda >= 0 and
    |h(u)| <= 1, h(u) = sum lambda_i y_i (u'(x_i, 1))_+. See `_cutting_planes`.

    Raises
    ------
    ValueError
        If the labels do not change sign.
    SolverError
        If the certificate exceeds `tolerance`.
    """
    if (y == y[0]).all():
        raise ValueError("the labels y never change sign: give inputs of both classes.")
    at = np.flatnonzero(y[1:] != y[:-1])
    working, rounds, P = np.isin(np.arange(len(x)), [at, at + 1]), 0, np.stack([x, np.ones_like(x)], axis=1)
    while True:
        U, c, duals, cost, bound = _cutting_planes(P[working], y[working], tolerance)
        violation = 1.0 - y * (np.maximum(P @ U.T, 0.0) @ c)
        new = (violation > tolerance / 10.0) & ~working
        if not new.any():
            break
        working, rounds = working | new, rounds + 1
    certificate = float(max(1.0 - bound / cost, 0.0) + violation.max())
    if not certificate <= tolerance:
        raise SolverError(
            f"the network's certificate is {certificate:.1e} > {tolerance:.1e}: separate the inputs more."
        )
    full, size = np.zeros(len(x)), np.sqrt(np.abs(c))[:, None]
    full[working] = duals
    return LargestMargin(np.hstack([np.sign(c)[:, None] * size, size * U])[c != 0.0], cost, full, rounds, certificate)


def _cutting_planes(P: Array, y: Array, tolerance: float) -> tuple[Array, Array, Array, float, float]:
    """Solve the linear program on directions u, adding those with |h(u)| > 1, until there are none.

    Between the directions orthogonal to inputs h is linear, h(u) = u'G with G = sum of lambda_i y_i (x_i, 1) over the
    active inputs, a first or last part of all; so |h| is largest at one of the former or along one of these G: exact.
    Dividing lambda by that maximum makes it dual feasible, which gives the lower bound.
    """
    flat = P[:, ::-1] * [1.0, -1.0]
    U = np.vstack([flat, [[0.0, 1.0]]])
    U = np.vstack([U, -U]) / np.linalg.norm(np.vstack([U, U]), axis=1, keepdims=True)
    for _ in range(100):
        F = y[:, None] * np.maximum(P @ U.T, 0.0)
        cost = np.ones(2 * len(U))
        found = linprog(cost, A_ub=np.hstack([-F, F]), b_ub=-np.ones(len(y)), method="highs-ds", options=STRICT)
        if found.status != 0:
            raise SolverError(f"the linear program of the largest margin stopped: {found.message}")
        duals = -found.ineqlin.marginals
        first = np.cumsum((duals * y)[:, None] * P, axis=0)
        G = np.vstack([first, first[-1] - first])
        G = G[np.linalg.norm(G, axis=1) > 1e-12 * duals.sum()]
        G = np.vstack([G, -G]) / np.linalg.norm(np.vstack([G, G]), axis=1, keepdims=True)
        h = np.abs((duals * y) @ np.maximum(P @ np.vstack([U, G]).T, 0.0))
        if h.max() <= 1.0 + tolerance / 10.0:
            break
        U = np.vstack([U, G[h[len(U) :] > 1.0 + tolerance / 10.0]])
    c = found.x[: len(found.x) // 2] - found.x[len(found.x) // 2 :]
    return U[: len(c)], c, duals, float(found.fun), float(duals.sum() / h.max())


def kkt_residual(x: Array, y: Array, theta: Array, near: float = 0.01) -> float:
    """How far the direction of theta (m, 3) is from the conditions of Karush, Kuhn and Tucker of the largest margin.

    The least norm, over lambda >= 0, of the vector of theta/||theta|| - sum lambda_i g_i and the slack
    2 sum lambda_i (m_i - min m)/||theta||, with m_i = y_i f(x_i) and g_i in its subdifferential at theta: neurons whose
    kink is nearer than `near` to x_i may take either side, all of them the same. At a solution 2 sum lambda_i m_i =
    ||theta||, so both parts are relative; zero means that the conditions hold, up to `near`.

    Raises
    ------
    ValueError
        If an input is misclassified: the conditions do not apply.
    """
    pre, close = np.outer(x, theta[:, 1]) + theta[:, 2], np.abs(x[:, None] - kinks(theta)) < near
    margins, norm = y * (np.maximum(pre, 0.0) @ theta[:, 0]), np.linalg.norm(theta)
    if not margins.min() > 0.0:
        raise ValueError("an input is misclassified: train longer before asking for the conditions.")
    slack = (2.0 / norm) * (margins - margins.min())[:, None]
    rows = []
    for on in ((pre > 0.0) | close, (pre > 0.0) & ~close):
        g = np.hstack([on * pre, on * theta[:, 0] * x[:, None], on * theta[:, 0]])
        rows.append(np.hstack([y[:, None] * g, slack]))
    system = np.vstack(rows).T
    return float(nnls(system, np.append(theta.T.ravel() / norm, 0.0), maxiter=100 * system.shape[1])[1])
