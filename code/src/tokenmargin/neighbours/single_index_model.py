"""Early-stopped gradient descent on squared factors, in the single-index model.

Source: Fan, Yang, Yu, Understanding Implicit Regularization in Over-Parameterized Single Index Model (JASA 2023),
arXiv 2007.08322. Notation: y = f(<x, b>) + noise with x ~ N(0, I_p) and b sparse, of length one; the score of this
law is x itself, so M = (1/n) sum_i y_i x_i; the estimate is beta = w o w - v o v. The laws are this book's. The last
section is this book's too: the same parameterisation on attention.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.stats import chi

from ..data.problem import TokenProblem
from ..model.attention import gradient, infimum, loss_value
from ..types import Array

Noise = Callable[[np.random.Generator, int], Array]


def score_moments(
    b: Array,
    p: int,
    n: int,
    runs: int,
    rng: np.random.Generator,
    link: Callable[[Array], Array],
    noise: Noise,
    transform: Callable[[Array], Array] = np.asarray,
) -> tuple[Array, Array]:
    """M = (1/n) sum_i g(y_i) x_i of `runs` data sets, and the scale sqrt(mean g(y)^2/n) of its noise.

    Only the covariates on the support are drawn. The others are independent of y, so that their entries of M are
    exactly N(0, mean g(y)^2/n) and independent, given y: they are drawn from that law.

    Parameters
    ----------
    b : array, shape (s,)
        The signal on its support, which is the first s of the p coordinates; of length one.
    link, noise : callables
        y = link(<x, b>) + noise(rng, n).
    transform : callable
        g, such as a truncation.

    Returns
    -------
    M : array, shape (runs, p)
    scale : array, shape (runs,)
    """
    M, scale = np.empty((runs, p)), np.empty(runs)
    for r in range(runs):
        x = rng.standard_normal((n, len(b)))
        y = transform(link(x @ b) + noise(rng, n))
        scale[r] = np.sqrt(np.mean(y**2) / n)
        M[r] = np.concatenate([x.T @ y / n, scale[r] * rng.standard_normal(p - len(b))])
    return M, scale


def descend(M: Array, alpha: float, eta: float, times: Array) -> Array:
    """beta at the increasing `times`: w <- w(1 - 2 eta r), v <- v(1 + 2 eta r), r = beta - M, from w = v = alpha.

    Gradient descent with step eta/2 on ||beta||^2 - 2<M, beta>; shape (len(times), *M.shape).

    Raises
    ------
    ValueError
        If 4 eta max|M| >= 1: below that no step overshoots.
    """
    top = 4.0 * eta * np.abs(M).max()
    if not top < 1.0:
        raise ValueError(f"4 eta max|M| is {top:.3g}; it must be below 1: shorten the step or scale M.")
    w, v, kept, t = np.full(M.shape, alpha), np.full(M.shape, alpha), [], 0
    for stop in times:
        for _ in range(t, stop):
            move = w * w
            move -= v * v
            move -= M
            move *= 2.0 * eta
            w -= w * move
            v += v * move
        t = max(t, stop)
        kept.append(w * w - v * v)
    return np.array(kept)


def flow(M: Array, alpha: float, s: Array | float) -> Array:
    """beta(s) under w' = -2(beta - M)w, v' = 2(beta - M)v from w = v = alpha > 0, exactly (w^2 solves a logistic equation)."""
    m = np.abs(M)
    root = np.hypot(m, 2.0 * alpha**2)
    top = (m + root) / (2.0 * alpha**2)  # the limit of w^2/alpha^2; the other zero of its equation is -1/top
    left = np.exp(-4.0 * root * s) * (top - 1.0) / (1.0 + 1.0 / top)
    ratio = (top - left / top) / (1.0 + left)
    return np.sign(M) * alpha**2 * (ratio - 1.0 / ratio)


def clock(m: Array, eta: float) -> Array:
    """Time of the flow that one step makes, log(1 + 2 eta m)/(2m), as long as the entry of strength m is small."""
    return np.log1p(2.0 * eta * m) / (2.0 * m)


def growth_time(m: Array | float, size: Array | float, alpha: float, eta: float) -> Array:
    """Steps for alpha^2 (1 + 2 eta m)^(2t) = size: log(size/alpha^2)/(2 log(1 + 2 eta m)).

    With size = m: when an entry of strength m reaches m/2. So the step at which descent is hard thresholding at
    level m.
    """
    return np.log(size / alpha**2) / (2.0 * np.log1p(2.0 * eta * np.asarray(m)))


def stopped(M: Array, level: Array, alpha: float, eta: float) -> Array:
    """beta of each data set at the step of its own that makes descent hard thresholding at its level.

    M (R, p) and level (R,) are divided by max|M| of their row before, so that no unit matters.
    """
    top = np.abs(M).max(axis=1)
    stops = np.rint(growth_time(level / top, level / top, alpha, eta)).astype(int)
    times, row = np.unique(stops, return_inverse=True)
    beta = np.empty_like(M)
    for few in np.array_split(np.argsort(stops), max(1, len(M) // 10)):  # rows that stop soon do not wait for the last
        path = descend((M / top[:, None])[few], alpha, eta, times[: row[few].max() + 1])
        beta[few] = path[row[few], np.arange(len(few))]
    return top[:, None] * beta


def hard(M: Array, level: Array) -> Array:
    """M where |M| exceeds the level, zero elsewhere."""
    return np.where(np.abs(M) > level, M, 0.0)


def soft(M: Array, level: Array) -> Array:
    """sign(M) (|M| - level)_+: the minimiser of ||beta - M||^2 + 2 level ||beta||_1, the Lasso of this model."""
    return np.sign(M) * np.maximum(np.abs(M) - level, 0.0)


def universal_level(scale: Array, p: int, factor: float = 1.1) -> Array:
    """factor sqrt(2 log p) times the scale of the noise: known without the signal."""
    return factor * np.sqrt(2.0 * np.log(p)) * scale


def direction_error(beta: Array, b: Array) -> Array:
    """|| beta/||beta|| - b ||, b on the first coordinates.

    Raises
    ------
    ValueError
        If an estimate is zero or not finite: it has no direction.
    """
    length = np.linalg.norm(beta, axis=-1, keepdims=True)
    if not ((length > 0.0) & np.isfinite(length)).all():
        raise ValueError("an estimate is zero or not finite and has no direction: lower the level or shorten the step.")
    target = np.pad(b, (0, beta.shape[-1] - len(b)))
    return np.linalg.norm(beta / length - target, axis=-1)


def median_error(k: int, scale: Array | float, strength: float) -> Array:
    """Median direction error of M on k coordinates that hold the support: 2 sin(arctan(chi_(k-1) scale/strength)/2).

    scale^2 = E g(y)^2/n and strength = E g(y)<x, b>; the part of M across b is Gaussian, exactly.
    """
    return 2.0 * np.sin(np.arctan2(chi.median(k - 1) * scale, strength) / 2.0)


# --- On attention -----------------------------------------------------------------------------------------------------


def train_squares(
    problem: TokenProblem, alpha: float, eta: float, steps: int, size: float
) -> tuple[Array, Array, Array]:
    """W = u o u - v o v by u <- u(1 - 2 eta G), v <- v(1 + 2 eta G), G = grad L(W), from u = v = alpha.

    Returns
    -------
    entry : int array, shape (d, d)
        First step at which |W_ij| >= size; -1 where it never is.
    gap, number : arrays, shape (steps + 1,)
        (L - L*)/(L(0) - L*) and the effective number of entries of each iterate.
    """
    u, v = np.full((2, problem.d, problem.d), alpha)
    entry, path, gap = np.full(u.shape, -1), [], relative_gap(problem)
    for t in range(steps + 1):
        W = u * u - v * v
        entry[(entry < 0) & (np.abs(W) >= size)] = t
        path.append((gap(W), effective_number(W)))
        G = 2.0 * eta * gradient(problem, W)
        u, v = u - u * G, v + v * G
    return entry, *np.array(path).T


def train_matrix(problem: TokenProblem, eta: float, steps: int) -> tuple[Array, Array]:
    """Relative loss gap and effective number of entries along W <- W - eta grad L(W) from the first step, W_0 = 0."""
    W, path, gap = np.zeros((problem.d, problem.d)), [], relative_gap(problem)
    for _ in range(steps):
        W = W - eta * gradient(problem, W)
        path.append((gap(W), effective_number(W)))
    gaps, numbers = np.array(path).T
    return gaps, numbers


def relative_gap(problem: TokenProblem) -> Callable[[Array], float]:
    """The function W -> (L(W) - L*)/(L(0) - L*)."""
    low = infimum(problem)
    height = loss_value(problem, np.zeros((problem.d, problem.d))) - low
    return lambda W: (loss_value(problem, W) - low) / height


def effective_number(W: Array) -> float:
    """(sum |W_ij|)^2/sum W_ij^2: k for k entries of one size; d^2 for zero, taken as the limit of equal entries."""
    square = float((W**2).sum())
    return float(np.abs(W).sum() ** 2 / square) if square > 0.0 else float(W.size)
