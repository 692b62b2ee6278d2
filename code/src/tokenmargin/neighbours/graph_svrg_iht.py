"""Variance-reduced iterative hard thresholding on a path graph, and attention whose matrix is a band.

Source: Fox, Hernandez, Tong, Stochastic Variance-Reduced Iterative Hard Thresholding in Graph Sparsity Optimization
(2024), arXiv 2407.16968; what their official code adds is named where it is used. Notation: F(x) = ||Ax - y||^2 with
A (n, p), cut into m = n/b blocks of b rows; the connected sets of s nodes of a path graph are its windows, so that
head and tail projections are exact. Arrays carry a leading axis of R independent runs. The laws are this book's, and so
is the last section.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..data.problem import TokenProblem
from ..model.attention import gradient
from ..types import Array

Method = Literal["svrg", "sto"]
Scale = Literal["means", "sums"]
LOST = 1e6  # a run this many times as large as the data is diverging, and is kept there


def best_window(energy: Array, s: int) -> Array:
    """First index of the window of s entries with the largest sum; energy (..., p), result (...).

    Raises
    ------
    ValueError
        If s is not within 1..p.
    """
    if not 1 <= s <= energy.shape[-1]:
        raise ValueError(f"s is {s}; a window of {energy.shape[-1]} entries has 1 to {energy.shape[-1]}.")
    total = np.concatenate([np.zeros((*energy.shape[:-1], 1)), np.cumsum(energy, axis=-1)], axis=-1)
    return np.asarray((total[..., s:] - total[..., :-s]).argmax(axis=-1))


def in_window(first: Array, s: int, p: int) -> Array:
    """Mask (..., p) of the windows of s entries that begin at `first` (...)."""
    index = np.arange(p)
    return (index >= first[..., None]) & (index < first[..., None] + s)


def project(x: Array, s: int) -> Array:
    """The nearest vector whose support is one window of s entries: head and tail projection at once, exactly."""
    return np.where(in_window(best_window(x**2, s), s, x.shape[-1]), x, 0.0)


def threshold(x: Array, s: int) -> Array:
    """The nearest vector with s nonzero entries, anywhere: the null without a graph."""
    kept = np.argpartition(-np.abs(x), s - 1, axis=-1)[..., :s]
    out = np.zeros_like(x)
    np.put_along_axis(out, kept, np.take_along_axis(x, kept, -1), -1)
    return out


@dataclass(frozen=True)
class Rule:
    """A stochastic step x <- tail(x - eta head(v)).

    Attributes
    ----------
    s : int
        Size of the support that the tail projection keeps.
    eta : float
        Step-size, for the gradient of F(x) = ||Ax - y||^2.
    block : int
        Rows of a block; it must divide n.
    method : {"svrg", "sto"}
        v = g_B(x) - g_B(x~) + grad F(x~), x~ the iterate at the epoch's start; or v = g_B(x).
    scale : {"means", "sums"}
        g_B is m times the gradient of the block's sum of squares, so that its mean is grad F; or that sum's alone, as in
        the official code.
    head : int, optional
        Window that the head projection keeps of v; default all of it.
    graph : bool
        Whether the tail keeps a window, or any s entries.
    plain_first : bool
        Whether the first epoch has no variance reduction, as in the official code.
    """

    s: int
    eta: float
    block: int = 8
    method: Method = "svrg"
    scale: Scale = "means"
    head: int | None = None
    graph: bool = True
    plain_first: bool = False

    def __post_init__(self) -> None:
        if self.method not in ("svrg", "sto") or self.scale not in ("means", "sums"):
            raise ValueError(
                f"method {self.method!r} or scale {self.scale!r} is unknown: 'svrg', 'sto'; 'means', 'sums'."
            )
        if not (np.isfinite(self.eta) and self.eta > 0.0):
            raise ValueError(f"eta is {self.eta}; it must be positive and finite.")

    def blocks(self, n: int) -> int:
        """m = n/block.

        Raises
        ------
        ValueError
            If the blocks do not fill n rows.
        """
        if self.block < 1 or n % self.block:
            raise ValueError(f"{n} rows do not make whole blocks of {self.block}: drop rows or change the block.")
        return n // self.block


def descend(A: Array, y: Array, rule: Rule, epochs: int, rng: np.random.Generator, x: Array | None = None) -> Array:
    """Iterates after each epoch of m steps, shape (epochs + 1, R, p), from x (R, p), default zero.

    Parameters
    ----------
    A : array, shape (R, n, p)
    y : array, shape (R, n)
    """
    R, n, p = A.shape
    m = rule.blocks(n)
    parts, goals, runs = A.reshape(R, m, rule.block, p), y.reshape(R, m, rule.block), np.arange(R)
    x = np.zeros((R, p)) if x is None else x
    factor, largest = (m if rule.scale == "means" else 1.0), LOST * np.abs(y).max()
    kept = [x]
    for k in range(epochs):
        plain = rule.method == "sto" or (rule.plain_first and k == 0)
        snapshot, full = x, _gradient(A, x, y)
        for _ in range(m):
            i = rng.integers(m, size=R)
            a = parts[runs, i]
            v = factor * _gradient(a, x, goals[runs, i]) if plain else factor * _gradient(a, x - snapshot) + full
            if rule.head is not None:
                v = project(v, rule.head)
            x = x - rule.eta * v
            x = np.clip(project(x, rule.s) if rule.graph else threshold(x, rule.s), -largest, largest)
        kept.append(x)
    return np.array(kept)


def _gradient(A: Array, x: Array, y: Array | None = None) -> Array:
    """2A'(Ax - y) of each run; y is zero where it is None."""
    z = np.matmul(A, x[..., None])
    return 2.0 * np.matmul((z if y is None else z - y[..., None]).swapaxes(-1, -2), A)[..., 0, :]


def signals(
    R: int, n: int, p: int, s: int, noise: float, rng: np.random.Generator, *, connected: bool = True
) -> tuple[Array, Array, Array]:
    """A with entries N(0, 1/n), y = Ax + noise of length near `noise`, and x with s entries -1 or +1.

    In one window, or anywhere where not `connected`; shapes (R, n, p), (R, n), (R, p).
    """
    A = rng.standard_normal((R, n, p)) / np.sqrt(n)
    anywhere = rng.permuted(np.tile(np.arange(p) < s, (R, 1)), axis=1)
    support = in_window(rng.integers(p - s + 1, size=R), s, p) if connected else anywhere
    x = np.where(support, rng.choice([-1.0, 1.0], size=(R, p)), 0.0)
    y = np.matmul(A, x[..., None])[..., 0] + noise * rng.standard_normal((R, n)) / np.sqrt(n)
    return A, y, x


def least_squares(A: Array, y: Array, support: Array) -> Array:
    """argmin ||Ax - y||^2 over x with the given support, of one problem: A (n, p), y (n,), support (p,)."""
    x = np.zeros(A.shape[1])
    x[support] = np.linalg.lstsq(A[:, support], y)[0]
    return x


def mean_square(A: Array, y: Array, x: Array, rule: Rule, epochs: int) -> Array:
    """E||x_k - x_LS||^2 after each epoch, exactly, as long as every tail keeps the columns of A (prop-graph-moment).

    Parameters
    ----------
    A : array, shape (n, s)
        The columns of the support.
    y : array, shape (n,)
    x : array, shape (s,)
        The start.
    rule : Rule
        Without a head and without a plain first epoch.

    Raises
    ------
    ValueError
        If the rule has a head or a plain first epoch, for which this is no theorem.
    """
    if rule.head is not None or rule.plain_first:
        raise ValueError("the law is for rules without a head and without a plain first epoch: drop them.")
    m, s = rule.blocks(len(A)), A.shape[1]
    best = np.linalg.lstsq(A, y)[0]
    a, eta = A.reshape(m, rule.block, s), rule.eta
    H = 2.0 * A.T @ A
    Hb = 2.0 * (m if rule.scale == "means" else 1.0) * a.swapaxes(1, 2) @ a
    forces = Hb @ best - 2.0 * (m if rule.scale == "means" else 1.0) * np.einsum("kbs,kb->ks", a, y.reshape(m, -1))
    step = np.tile(np.eye(2 * s + 1), (m, 1, 1))  # acts on (e, e at the snapshot, 1)
    step[:, :s, :s] -= eta * Hb
    if rule.method == "svrg":
        step[:, :s, s : 2 * s] = eta * (Hb - H)
    else:
        step[:, :s, -1] = -eta * forces
    right = step.swapaxes(1, 2).reshape(-1, 2 * s + 1) / m  # so that the sum over blocks is one product
    e = x - best
    z = np.concatenate([e, e, [1.0]])
    Z, kept = np.outer(z, z), [float(e @ e)]
    again = np.eye(2 * s + 1)
    again[s : 2 * s] = np.eye(2 * s + 1)[:s]  # the snapshot is the iterate
    for _ in range(epochs):
        Z = again @ Z @ again.T
        for _ in range(m):
            Z = (step @ Z).swapaxes(0, 1).reshape(2 * s + 1, -1) @ right
        kept.append(float(np.trace(Z[:s, :s])))
    return np.array(kept)


def mean_factors(eigenvalues: Array, eta: float, m: int, scale: Scale = "means") -> Array:
    """Factor of the mean error an epoch, along eigenvectors of H = 2A'A with the given eigenvalues (prop-graph-scale).

    (1 - eta lambda)^m for means, 1 - m(1 - (1 - eta lambda/m)^m) for sums.
    """
    if scale == "means":
        return np.asarray((1.0 - eta * eigenvalues) ** m)
    return np.asarray(1.0 - m * (1.0 - (1.0 - eta * eigenvalues / m) ** m))


def sums_edge(largest: float, m: int) -> float:
    """The step-size at which the mean error of sums stops converging: m(1 - (1 - 2/m)^(1/m))/lambda_max, for m >= 2."""
    if m < 2:
        raise ValueError(f"m is {m}; with one block sums and means are the same: take two or more.")
    return float(m * (1.0 - (1.0 - 2.0 / m) ** (1.0 / m)) / largest)


def head_window(A: Array, y: Array, x: Array, head: int) -> Array:
    """Mask of the window that the head keeps of grad F at x, of one problem: A (n, p), y (n,), x (p,)."""
    return in_window(best_window(_gradient(A, x, y) ** 2, head), head, len(x))


# --- On attention -----------------------------------------------------------------------------------------------------


def diagonals(d: int, first: int, width: int) -> Array:
    """Mask (d, d) of the diagonals j - i = first, ..., first + width - 1."""
    offset = np.arange(d) - np.arange(d)[:, None]
    return (offset >= first) & (offset < first + width)


def restricted(problem: TokenProblem, mask: Array) -> TokenProblem:
    """Attention with W zero off the mask (d, d), as a token problem in the entries of W on it.

    Its tokens are (x_it z_i')[mask] and its query the first unit vector: the first column of its matrix holds those
    entries, the others stay at zero. Training and token SVM of this problem are the restricted ones, exactly.

    Raises
    ------
    ValueError
        If the mask does not fit or is empty, or a sequence has several queries.
    """
    if mask.shape != (problem.d, problem.d) or not mask.any():
        raise ValueError(f"the mask has shape {mask.shape}; give one of shape {(problem.d,) * 2} with an entry.")
    if problem.Q != 1:
        raise ValueError(f"each sequence has {problem.Q} queries; the entries' problem is for one.")
    tokens = np.einsum("itd,ie->itde", problem.tokens, problem.queries[:, 0])[:, :, mask]
    query = np.zeros((problem.n, tokens.shape[2]))
    query[:, 0] = 1.0
    scores = np.where(problem.mask, problem.scores, 0.0)
    values = (problem.labels[:, None] * scores)[:, :, None]
    return TokenProblem(tokens, problem.labels, np.ones(1), query, problem.mask, values=values)


def entries(column: Array, mask: Array) -> Array:
    """W (d, d) with the first column of a matrix of the restricted problem on the mask."""
    W = np.zeros(mask.shape)
    W[mask] = column[:, 0]
    return W


def band_descent(problem: TokenProblem, width: int, h: float, steps: int) -> tuple[Array, int]:
    """Normalized steps on W, each followed by the tail projection onto the best `width` neighbouring diagonals.

    Diagonals are the nodes of a path graph. Returns W (d, d) and the first diagonal that is kept, -(d-1) to d - width.
    """
    d = problem.d
    offset = np.arange(d) - np.arange(d)[:, None] + d - 1
    W, first = np.zeros((d, d)), 0
    for _ in range(steps):
        G = gradient(problem, W)
        W = W - h * G / np.linalg.norm(G)
        first = int(best_window(np.bincount(offset.ravel(), (W**2).ravel()), width))
        W = np.where((offset >= first) & (offset < first + width), W, 0.0)
    return W, first - d + 1
