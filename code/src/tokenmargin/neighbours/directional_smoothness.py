"""Smoothness measured only between the points that an optimiser visits, and the bounds that it gives.

Source: Mishkin, Khaled, Wang, Defazio, Gower, Directional Smoothness and Gradient Methods (NeurIPS
2024), arXiv 2403.04081. Notation: f convex, g = grad f, D0 = ||x_0 - x*|| for a comparator x*, and gaps
delta_k = f(x_k) - f(x*). The last section is this book's: the same measures on attention.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Literal

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from ..data.problem import TokenProblem
from ..model.weights import gradient_weights, score_gaps
from ..types import Array

Value = Callable[[Array], float]
Gradient = Callable[[Array], Array]
Measure = Literal["point", "path", "optimal"]
# Fractions of a step at which the path-wise measure is evaluated: dense near 0, where it often is largest.
FRACTIONS = np.concatenate([[1e-5, 1e-3, 0.01, 0.03], np.linspace(0.05, 1.0, 20)])


def point_smoothness(x: Array, y: Array, gradient: Gradient) -> float:
    """D(x, y) = 2 ||g(y) - g(x)||/||y - x||, the point-wise directional smoothness."""
    return float(2.0 * np.linalg.norm(gradient(y) - gradient(x)) / np.linalg.norm(y - x))


def path_smoothness(x: Array, y: Array, gradient: Gradient, fractions: Array = FRACTIONS) -> float:
    """A(x, y) = sup over s in (0, 1] of <g(x + s(y - x)) - g(x), y - x>/(s ||y - x||^2), on a grid of s."""
    step, start = y - x, gradient(x)
    return float(max((gradient(x + s * step) - start) @ step / s for s in fractions) / (step @ step))


def optimal_smoothness(x: Array, y: Array, value: Value, gradient: Gradient) -> float:
    """H(x, y) = 2 |f(y) - f(x) - <g(x), y - x>|/||y - x||^2, the least quadratic constant."""
    return float(2.0 * abs(value(y) - value(x) - gradient(x) @ (y - x)) / ((y - x) @ (y - x)))


def smoothness(x: Array, y: Array, value: Value, gradient: Gradient, measure: Measure) -> float:
    """One of the three measures between x and y."""
    if measure == "optimal":
        return optimal_smoothness(x, y, value, gradient)
    return {"point": point_smoothness, "path": path_smoothness}[measure](x, y, gradient)


def order_constant(r: float) -> float:
    """c(r) = r/(2(1 - e^-r)): A <= c(r) D on logistic regression when a step moves no margin by more than r."""
    return float(-r / (2.0 * np.expm1(-r)))


def adapted_step(x: Array, value: Value, gradient: Gradient, measure: Measure, start: float = 1.0) -> float:
    """The step-size eta > 0 that solves eta M(x, x - eta g) = 1, for M point-wise, path-wise or optimal.

    eta M is continuous and zero at eta = 0: the crossing is bracketed by doubling and found by Brent's method.

    Raises
    ------
    ValueError
        If the gradient is zero or no crossing is found below 2^200 `start`.
    """
    g = gradient(x)
    if not g.any():
        raise ValueError("the gradient is zero: x is stationary and needs no step.")

    def excess(eta: float) -> float:
        return eta * smoothness(x, x - eta * g, value, gradient, measure) - 1.0

    return _crossing(excess, start)


def _crossing(excess: Callable[[float], float], start: float) -> float:
    """The zero of `excess`, negative near 0, bracketed from `start`."""
    high = start
    for _ in range(200):
        if excess(high) >= 0.0:
            break
        high *= 2.0
    else:
        raise ValueError("no adapted step found: f has no curvature along its gradient.")
    low = high
    while excess(low) >= 0.0:
        low /= 2.0
    return float(brentq(excess, low, high, xtol=1e-14 * high, rtol=1e-12))


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
    and sum (2 - gamma) eta_i delta_i <= D0^2. c is least, 3 + 2 sqrt 2, at gamma = sqrt 2.

    Raises
    ------
    ValueError
        If gamma is not inside (1, 2), where the argument gives nothing.
    """
    if not 1.0 < gamma < 2.0:
        raise ValueError(f"gamma is {gamma}; the bound needs 1 < gamma < 2.")
    return gamma / ((2.0 - gamma) * (gamma - 1.0)) * distance**2 / (2.0 * np.cumsum(1.0 / smoothness))


def normalized_bound(distance: float, first_gap: float, smoothness: Array) -> float:
    """min_{k<K} delta_k <= delta_0/K + D0^2 mean(H)/(2K) for K normalised steps of length D0/sqrt(K)."""
    K = len(smoothness)
    return float(first_gap / K + distance**2 * np.mean(smoothness) / (2.0 * K))


# --- The experiment on logistic regression ----------------------------------------------------------------------------


def logistic_problem(A: Array, y: Array) -> tuple[Value, Gradient, float]:
    """Value, gradient and L = lambda_max(A'A)/(4n) of f(x) = mean log(1 + exp(-y_i a_i'x)); A (n, d)."""
    signed = A * y[:, None]

    def value(x: Array) -> float:
        return float(np.logaddexp(0.0, -signed @ x).mean())

    def gradient(x: Array) -> Array:
        return -signed.T @ expit(-signed @ x) / len(y)

    return value, gradient, float(np.linalg.eigvalsh(A.T @ A)[-1] / (4.0 * len(y)))


def logistic_minimiser(A: Array, y: Array, rounds: int = 100) -> Array:
    """The minimiser of the logistic loss by damped Newton steps; it exists where no x separates the labels."""
    value, gradient, _ = logistic_problem(A, y)
    x, signed = np.zeros(A.shape[1]), A * y[:, None]
    for _ in range(rounds):
        m = signed @ x
        step = np.linalg.solve((signed.T * (expit(m) * expit(-m))) @ signed / len(y), gradient(x))
        t = 1.0
        while value(x - t * step) > value(x) and t > 1e-10:
            t /= 2.0
        x = x - t * step
    return x


@dataclass(frozen=True, eq=False)
class Comparison:
    """Paths of the rules from zero on one function, and what their bounds are made of.

    Attributes
    ----------
    value, gradient : callables
    L : float
        The global smoothness constant.
    low : float
        f*, with `distance` = D0 = ||x*||, the start being zero.
    paths : dict of arrays, shape (K + 1, d)
        Keys "1/L", "adapted D", "adapted H", "Polyak", "NGD".
    gamma : float
        Polyak's relaxation.
    """

    value: Value
    gradient: Gradient
    L: float
    low: float
    distance: float
    paths: dict[str, Array]
    gamma: float

    def kept(self, rule: str, floor: float) -> Array:
        """The iterates before the gap first falls to `floor`, where rounding sets in."""
        gaps = np.array([self.value(x) for x in self.paths[rule]]) - self.low
        return self.paths[rule][: np.argmax(gaps <= floor) if (gaps <= floor).any() else len(gaps)]

    def smoothness(self, rule: str, measure: Measure = "optimal", floor: float = 1e-13) -> Array:
        """The measure between consecutive iterates, as long as the gap is above `floor`."""
        pairs = pairwise(self.kept(rule, floor))
        return np.array([smoothness(x, y, self.value, self.gradient, measure) for x, y in pairs])

    def gap(self, rule: str) -> Array:
        """What the rule's bound bounds: delta_k, the gap of Polyak's average, or NGD's best among the first k."""
        path = self.paths[rule]
        if rule == "Polyak":
            H = self.smoothness(rule)
            path = np.vstack([path[:1], np.cumsum(path[: len(H)] / H[:, None], axis=0) / np.cumsum(1 / H)[:, None]])
        values = np.array([self.value(x) for x in path]) - self.low
        return np.minimum.accumulate(values)[:-1] if rule == "NGD" else values[1:]

    def bound(self, rule: str) -> Array:
        """The bound evaluated on the rule's own path, k = 1..K; NGD's at K only, shape (1,)."""
        if rule == "NGD":
            first = self.value(self.paths[rule][0]) - self.low
            return np.array([normalized_bound(self.distance, first, self.smoothness(rule))])
        if rule == "Polyak":
            return polyak_bound(self.distance, self.smoothness(rule), self.gamma)
        if rule == "1/L":
            return adapted_bound(self.distance, np.full(len(self.paths[rule]) - 1, 1.0 / self.L))
        sizes = [np.linalg.norm(y - x) / np.linalg.norm(self.gradient(x)) for x, y in pairwise(self.paths[rule])]
        return adapted_bound(self.distance, np.array(sizes))


def compare(A: Array, y: Array, steps: int, gamma: float) -> Comparison:
    """Run GD with 1/L, steps adapted to D and to H, Polyak and normalized GD on logistic regression, from zero."""
    value, gradient, L = logistic_problem(A, y)
    best = logistic_minimiser(A, y)
    low, distance = value(best), float(np.linalg.norm(best))
    rules = {
        "1/L": lambda x, g: 1.0 / L,
        "adapted D": lambda x, g: adapted_step(x, value, gradient, "point"),
        "adapted H": lambda x, g: adapted_step(x, value, gradient, "optimal"),
        "Polyak": lambda x, g: gamma * max(value(x) - low, 0.0) / max(g @ g, 1e-300),
        "NGD": lambda x, g: distance / np.sqrt(steps) / np.linalg.norm(g),
    }
    paths = {name: descend(np.zeros(A.shape[1]), gradient, steps, rule) for name, rule in rules.items()}
    return Comparison(value, gradient, L, low, distance, paths, gamma)


# --- Attention (this book's) ------------------------------------------------------------------------------------------


def limit_ratio(r: float, measure: Measure) -> float:
    """M/(rho ||g||) for a step of length h = r/rho on a tail f = e^(-rho c): 2(1 - e^-r)/r, 1, 2(e^-r - 1 + r)/r^2."""
    return float({"point": -2.0 * np.expm1(-r) / r, "path": 1.0, "optimal": 2.0 * (np.expm1(-r) + r) / r**2}[measure])


def adapted_normalized_length(measure: Measure) -> float:
    """r = rho h of the adapted step on that tail: 2(1 - e^-r) = 1, r = 1, or 1 - e^-r = r/2."""
    return float(brentq(lambda r: r * limit_ratio(r, measure) - 1.0, 0.5, 2.0, xtol=1e-15))


def scaled_weights(problem: TokenProblem, mu: Array, shift: float) -> Array:
    """p e^shift at the margins mu, shape (N,): -grad L = sum_k p_k V_k, in units of e^-shift."""
    return gradient_weights(problem, mu)[1] * np.exp(shift - mu)


def scaled_gap(problem: TokenProblem, mu: Array, shift: float) -> float:
    """(L - L*) e^shift for the logistic loss and one query a sequence, without cancellation or underflow."""
    mu = mu.reshape(problem.n, -1)
    gaps = score_gaps(problem).reshape(problem.n, -1)
    short = (np.exp(shift - mu) * gaps).sum(axis=1) / (1.0 + np.exp(-mu).sum(axis=1))  # (gamma_opt - m) e^shift
    slope = expit(-problem.optimal_scores)
    if shift > 600.0:  # l(gamma - x) - l(gamma) = slope x to all digits
        return float(np.mean(slope * short))
    return float(np.mean(np.log1p(slope * np.expm1(np.exp(-shift) * short))) * np.exp(shift))


def relative_smoothness(problem: TokenProblem, mu: Array, h: float, measure: Measure) -> float:
    """M(W, W + hG)/||grad L(W)||, G = -grad L/||grad L||, from the margins mu at W; one query a sequence.

    A step of length h moves the margins by h <V_k, G>, so that all is a ratio of weights e^-(mu - min mu), exact at
    any ||W||. eta = h/||grad L|| is adapted where h times this is one.

    Raises
    ------
    ValueError
        If the problem has several queries a sequence.
    """
    if problem.Q != 1:
        raise ValueError(f"the problem has {problem.Q} queries a sequence; this measure is written for one.")
    gram, shift = problem.constraints.gram, mu.min()
    p = scaled_weights(problem, mu, shift)
    norm = np.sqrt(p @ gram @ p)
    move = gram @ p / norm  # <V_k, G>
    if measure == "optimal":
        fall = scaled_gap(problem, mu + h * move, shift) - scaled_gap(problem, mu, shift)
        return float(2.0 * abs(fall / norm + h) / h**2)
    if measure == "path":
        return float(
            max((p - scaled_weights(problem, mu + s * h * move, shift)) @ move / s for s in FRACTIONS) / h / norm
        )
    change = scaled_weights(problem, mu + h * move, shift) - p
    return float(2.0 * np.sqrt(change @ gram @ change) / (h * norm))


def _excess(problem: TokenProblem, mu: Array, measure: Measure, h: float) -> float:
    """h M(W, W + hG)/||grad L|| - 1, zero for an adapted step."""
    return h * relative_smoothness(problem, mu, h, measure) - 1.0


def adapted_lengths(problem: TokenProblem, measure: Measure, count: int) -> Array:
    """Lengths h of `count` steps that solve h M/||grad L|| = 1 on attention, from W = 0; shape (count,)."""
    mu, lengths = np.zeros(len(problem.constraints)), []
    for _ in range(count):
        h = _crossing(partial(_excess, problem, mu, measure), 1.0)
        p = scaled_weights(problem, mu, mu.min())
        mu = mu + h * problem.constraints.gram @ p / np.sqrt(p @ problem.constraints.gram @ p)
        lengths.append(h)
    return np.array(lengths)
