"""Smoothness measured only between the points that an optimiser visits, and the bounds that it gives.

Source: Mishkin, Khaled, Wang, Defazio, Gower, Directional Smoothness and Gradient Methods (NeurIPS
2024), arXiv 2403.04081. Notation: f convex, g = grad f, D0 = ||x_0 - x*|| for a comparator x*, and gaps
delta_k = f(x_k) - f(x*).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

Array = np.ndarray
Value = Callable[[Array], float]
Gradient = Callable[[Array], Array]
Measure = Literal["point", "optimal"]


def point_smoothness(x: Array, y: Array, gradient: Gradient) -> float:
    """M(x, y) = 2 ||g(y) - g(x)||/||y - x||, the point-wise directional smoothness."""
    return float(2.0 * np.linalg.norm(gradient(y) - gradient(x)) / np.linalg.norm(y - x))


def optimal_smoothness(x: Array, y: Array, value: Value, gradient: Gradient) -> float:
    """H(x, y) = 2 |f(y) - f(x) - <g(x), y - x>|/||y - x||^2, the least quadratic constant."""
    return float(2.0 * abs(value(y) - value(x) - gradient(x) @ (y - x)) / ((y - x) @ (y - x)))


def path_smoothness(x: Array, y: Array, gradient: Gradient, points: int = 101) -> float:
    """A(x, y) = max over s in (0, 1] of <g(x + s(y - x)) - g(x), y - x>/(s ||y - x||^2), on a grid of s."""
    step, start = y - x, gradient(x)
    slopes = [(gradient(x + s * step) - start) @ step / s for s in np.linspace(0.0, 1.0, points)[1:]]
    return float(max(slopes) / (step @ step))


def adapted_step(x: Array, value: Value, gradient: Gradient, measure: Measure, start: float = 1.0) -> float:
    """The step-size eta > 0 that solves eta M(x, x - eta g) = 1, for M point-wise or optimal.

    Point-wise: 2 ||g(x - eta g) - g|| = ||g||. Optimal: f(x - eta g) = f(x) - eta ||g||^2/2. Both are
    zero-crossings of a continuous function, negative near 0: bracketed by doubling, found by Brent's method.

    Raises
    ------
    ValueError
        If the gradient is zero or no crossing is found below 2^200 `start`.
    """
    g, f = gradient(x), value(x)
    square = g @ g
    if square == 0.0:
        raise ValueError("the gradient is zero: x is stationary and needs no step.")

    def excess(eta: float) -> float:
        if measure == "point":
            return float(2.0 * np.linalg.norm(gradient(x - eta * g) - g) / np.sqrt(square) - 1.0)
        return float(1.0 - (f - value(x - eta * g)) / (0.5 * eta * square))

    low, high = start, start
    for _ in range(200):
        if excess(high) >= 0.0:
            break
        high *= 2.0
    else:
        raise ValueError("no adapted step found: f has no curvature along its gradient.")
    for _ in range(200):
        if excess(low) < 0.0:
            break
        low /= 2.0
    return float(brentq(excess, low, high, xtol=1e-14 * high, rtol=1e-12)) if low < high else low


def descend(x: Array, gradient: Gradient, steps: int, step: Callable[[Array, Array], float]) -> Array:
    """x_{k+1} = x_k - eta_k g(x_k) with eta_k = step(x_k, g_k); the iterates, shape (steps + 1, d)."""
    path = [x]
    for _ in range(steps):
        g = gradient(path[-1])
        path.append(path[-1] - step(path[-1], g) * g)
    return np.array(path)


def adapted_bound(distance: float, etas: Array) -> Array:
    """f(x_k) - f* <= D0^2/(2 sum_{i<k} eta_i) for adapted steps eta_i = 1/M_i, k = 1..K."""
    return distance**2 / (2.0 * np.cumsum(etas))


def polyak_bound(distance: float, smoothness: Array, gamma: float) -> Array:
    """Gap of the 1/H-weighted average under eta = gamma (f - f*)/||g||^2: c D0^2/(2 sum 1/H_i).

    c = gamma/((2 - gamma)(gamma - 1)): eta_i >= 2(gamma - 1)/(gamma H_i), because the gap stays non-negative,
    and sum (2 - gamma) eta_i delta_i <= D0^2.

    Raises
    ------
    ValueError
        If gamma is not inside (1, 2), where the argument gives nothing.
    """
    if not 1.0 < gamma < 2.0:
        raise ValueError(f"gamma is {gamma}; the bound needs 1 < gamma < 2.")
    return gamma / ((2.0 - gamma) * (gamma - 1.0)) * distance**2 / (2.0 * np.cumsum(1.0 / smoothness))


def normalized_bound(distance: float, first_gap: float, smoothness: Array) -> float:
    """min_k delta_k <= delta_0/K + D0^2 mean(H)/(2K) for K normalised steps of length D0/sqrt(K)."""
    K = len(smoothness)
    return float(first_gap / K + distance**2 * np.mean(smoothness) / (2.0 * K))


def logistic_problem(A: Array, y: Array) -> tuple[Value, Gradient, float]:
    """Value, gradient and L = lambda_max(A'A)/(4n) of f(x) = mean log(1 + exp(-y_i a_i'x)); A (n, d)."""
    signed = A * y[:, None]

    def value(x: Array) -> float:
        return float(np.logaddexp(0.0, -signed @ x).mean())

    def gradient(x: Array) -> Array:
        return -signed.T @ expit(-signed @ x) / len(y)

    return value, gradient, float(np.linalg.eigvalsh(A.T @ A)[-1] / (4.0 * len(y)))


def adapted_normalized_length(measure: Measure) -> float:
    """r = rho h of the adapted step on a tail f = e^(-rho c): 2(1 - e^-r) = 1, or 1 - e^-r = r/2."""
    if measure == "point":
        return float(np.log(2.0))
    return float(brentq(lambda r: 1.0 - np.exp(-r) - 0.5 * r, 1.0, 2.0, xtol=1e-15))
