"""Relaxed approximate proximal point and lookahead: one complex multiplier a method, and both on attention.

Source: Pethick, Xie, Cevher, Stable Nonconvex-Nonconcave Training via Linear Interpolation (NeurIPS 2023), arXiv
2310.13459. F is rho-comonotone if <F u - F v, u - v> >= rho ||F u - F v||^2; L is its Lipschitz constant, gamma the step,
lambda the interpolation, tau the number of inner steps. The laws are derived on the page. In them F z = c z on the plane,
c complex, s = gamma c, and F is in the class of (gamma, rho, L) if |s| <= g = gamma L and Re 1/s >= rho/gamma.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.polynomial import Polynomial
from scipy.linalg import block_diag
from scipy.optimize import brentq, minimize_scalar

from ..data.problem import TokenProblem
from ..errors import AssumptionError
from ..measures.geometry import gram_norm
from ..training.kernels import layout_of, scaled_weights
from ..types import Array

Operator = Callable[[Array], Array]


@dataclass(frozen=True)
class Method:
    """z <- (1 - lambda) z + lambda w, where w has taken tau inner steps from z.

    Attributes
    ----------
    tau : int
        Inner steps, at least 1.
    anchored : bool
        True: w <- z - gamma F(w), which is RAPP. False: w <- w - gamma F(w), which is lookahead over gradient descent
        ascent (GDA). With lambda = 1, GDA is Method(1, False) and the extragradient method (EG) is Method(2, True).

    Raises
    ------
    ValueError
        If tau is below 1.
    """

    tau: int
    anchored: bool

    def __post_init__(self) -> None:
        if not self.tau >= 1:
            raise ValueError(f"tau is {self.tau}; a method takes at least one inner step.")

    def inner(self, F: Operator, z: Array, gamma: float) -> Array:
        """w after the inner steps; tau calls of F."""
        w = z
        for _ in range(self.tau):
            w = (z if self.anchored else w) - gamma * F(w)
        return w

    def step(self, F: Operator, z: Array, gamma: float, lam: float) -> Array:
        """The next z."""
        return (1.0 - lam) * z + lam * self.inner(F, z, gamma)

    def displacement(self, s: Any) -> Any:
        """delta(s) with w = (1 - delta) z where F z = c z, s = gamma c: s (1 - (-s)^tau)/(1 + s), or 1 - (1 - s)^tau."""
        if self.anchored:
            return -s * np.polyval(-np.ones(self.tau), -s)  # also at s = -1
        return 1.0 - (1.0 - s) ** self.tau

    def multiplier(self, s: Array, lam: float) -> Array:
        """m = 1 - lambda delta(s): one step multiplies z by it."""
        return 1.0 - lam * self.displacement(s)


def extragradient_plus(F: Operator, z: Array, gamma: float, lam: float) -> Array:
    """z - lambda gamma F(z - gamma F(z)): EG+, in the form in which it is usually written."""
    return z - lam * gamma * F(z - gamma * F(z))


# --- Which comonotone problems a method solves ------------------------------------------------------------------------


def class_boundary(g: float, r: float, points: int = 250) -> Array:
    """Boundary of the class |s| <= g, Re 1/s >= -r/g, in the upper half plane: the arc |s| = g, then the curve to zero.

    r = -rho L, in [0, 1); shape (2 points,).
    """
    cosine = np.concatenate([np.linspace(1.0, -r, points), -r * np.linspace(1.0, 1e-3, points)])
    size = np.concatenate([np.full(points, g), g * np.linspace(1.0, 1e-3, points)])
    return size * (cosine + 1j * np.sqrt(1.0 - cosine**2))


def longest_relaxation(method: Method, g: float, r: float) -> float:
    """The sup of the lambda for which all multipliers of the class are below one in modulus: min 2 Re(1/delta).

    Not positive, or negative infinity, where there is none.
    """
    delta = method.displacement(class_boundary(g, r))
    if not delta.real.min() > 0.0:
        return -np.inf
    return float(2.0 * (1.0 / delta).real.min())


def comonotone_limit(method: Method, g: float, lam: float = 0.0, tolerance: float = 1e-6) -> float:
    """The sup of r = -rho L that the method solves with gamma = g/L and an interpolation above `lam`; 0 if none.

    lam = 0 asks for any interpolation, lam = 1 for none.
    """
    low, high = 0.0, 1.0
    while high - low > tolerance:
        r = (low + high) / 2.0
        low, high = (r, high) if longest_relaxation(method, g, r) > lam else (low, r)
    return low if low > 0.0 and longest_relaxation(method, g, 0.0) > lam else 0.0


def best_step(method: Method, g_max: float, lam: float = 0.0) -> tuple[float, float]:
    """(g, limit) of the step gamma = g/L, g < g_max, that solves the most: a grid, then a bounded search about its best."""
    grid = np.linspace(0.05, 1.0, 20) * g_max
    peak = int(np.argmax([comonotone_limit(method, g, lam, 1e-2) for g in grid]))
    ends = grid[max(peak - 1, 0)], grid[min(peak + 1, len(grid) - 1)]
    found = minimize_scalar(lambda g: -comonotone_limit(method, g, lam), bounds=ends, method="bounded")
    limit, g = max((comonotone_limit(method, g, lam), g) for g in (found.x, g_max * (1.0 - 1e-7)))
    return float(g), float(limit)


# --- Games ------------------------------------------------------------------------------------------------------------


def normal_game(rng: np.random.Generator, size: Array, rho: float) -> tuple[Array, Array, Array]:
    """A normal A with eigenvalues |c_j| = size_j and Re 1/c_j = rho, in a random basis.

    Returns
    -------
    A : array, shape (2n, 2n)
    c : complex array, shape (n,)
    Q : array, shape (2n, 2n)
        Orthogonal; in the coordinates y = Q'z, A multiplies y_(2j) + i y_(2j+1) by c_j.
    """
    a = rho * size**2
    b = np.sqrt(size**2 - a**2)
    Q = np.linalg.qr(rng.standard_normal((2 * len(size), 2 * len(size))))[0]
    blocks = block_diag(*([[x, y], [-y, x]] for x, y in zip(a, b, strict=True)))
    return Q @ blocks @ Q.T, a - 1j * b, Q


def dense_game(rng: np.random.Generator, n: int, rho: float) -> Array:
    """A with A^-1 = rho I + t (S + K), S >= 0 of half rank, K skew, and t such that L = ||A|| = 1; not normal; shape (2n, 2n).

    A is rho-comonotone, and not more: <A z, z> = rho ||A z||^2 + t <S A z, A z>. |rho| < 1.
    """
    G, H = rng.standard_normal((2 * n, n)), rng.standard_normal((2 * n, 2 * n))
    M = (G @ G.T + H - H.T) / (2 * n)

    def least(t: float) -> float:
        return float(np.linalg.norm(rho * np.eye(2 * n) + t * M, -2)) - 1.0

    high = 1.0
    while least(high) <= 0.0:
        high *= 2.0
    return np.linalg.inv(rho * np.eye(2 * n) + brentq(least, 0.0, high, xtol=1e-13) * M)


# --- The last iterate of the relaxed proximal point -------------------------------------------------------------------


def strength(lam: float, v: float) -> float:
    """D = lambda (2 (1 + v) - lambda), v = rho/gamma: one step multiplies |z|^2 by 1 - D |1 - j|^2, j that of the resolvent.

    Raises
    ------
    AssumptionError
        If D is not positive: then every step grows.
    """
    D = lam * (2.0 * (1.0 + v) - lam)
    if not D > 0.0:
        raise AssumptionError(
            f"lambda = {lam:.3g} is not between 0 and 2(1 + rho/gamma) = {2 * (1 + v):.3g}: the relaxed proximal point "
            "grows; choose a smaller lambda, or gamma > -rho."
        )
    return D


def worst_residual(k: Array, lam: float, v: float) -> Array:
    """max over the class of ||z_k - J z_k||^2/||z_0||^2 after k steps: (k/(k+1))^k/(D (k+1)), about 1/(e D k)."""
    return (k / (k + 1.0)) ** k / (strength(lam, v) * (k + 1.0))


# --- On attention -----------------------------------------------------------------------------------------------------


def attention_field(problem: TokenProblem) -> Operator:
    """F = grad L/||grad L|| in coefficients: C (N,) -> -p/||sum_k p_k V_k||, where W = sum_k C_k V_k and -grad L = sum_k p_k V_k.

    A method applied to it with gamma = h is lookahead, or RAPP, over normalized steps of length h; exact at any ||W||.
    """
    gram, layout = problem.constraints.gram, layout_of(problem, "logistic")

    def F(C: Array) -> Array:
        p = np.empty(len(C))
        scaled_weights(gram @ C, layout, p)
        return -p / gram_norm(gram, p)

    return F


def real_edge(method: Method, lam: float) -> float:
    """The least y > 0 at which the multiplier of a real mode leaves (-1, 1): a root of delta(y) or of lambda delta(y) = 2."""
    if method.anchored:
        delta = Polynomial([0.0, *-((-1.0) ** np.arange(1, method.tau + 1))])
    else:
        delta = 1.0 - Polynomial([1.0, -1.0]) ** method.tau
    roots = np.concatenate([delta.roots(), (lam * delta - 2.0).roots()])
    real = roots[np.abs(roots.imag) < 1e-7].real
    return float(real[real > 1e-7].min())
