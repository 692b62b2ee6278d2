"""Optimistic stochastic gradient and optimistic AdaGrad on a game with noise; AdaGrad on attention and its own SVM.

Source: Liu, Mroueh, Ross, Zhang, Cui, Das, Yang, Towards Better Understanding of Adaptive Gradient Algorithms in Generative
Adversarial Nets (ICLR 2020), arXiv 1912.11940. The game min_x max_y sum_j c x_j^2/2 + b_j x_j y_j - c y_j^2/2 and the laws
are this book's. A pair j has the point (x_j, y_j) and F_j = M_j (x_j, y_j), M_j = ((c, b_j), (-b_j, c)).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..data.constraints import Constraints
from ..data.problem import TokenProblem
from ..errors import LostStepError
from ..margin.token_svm import TokenSVM, solve_constraints
from ..model.weights import gradient_weights
from ..types import Array

Steps = Callable[[int, Array], Array | float]  # (k, sum of squares of the gradients g_1 .. g_k) -> step lengths at k


@dataclass(frozen=True, eq=False)
class Game:
    """Pairs with couplings b (p,), damping c, and standard deviation tau (p,) of the noise in each gradient entry."""

    b: Array
    c: float
    tau: Array

    @property
    def M(self) -> Array:
        """M_j, shape (p, 2, 2)."""
        one = np.ones_like(self.b)
        return np.array([[self.c * one, self.b], [-self.b, self.c * one]]).transpose(2, 0, 1)


def constant(eta: float) -> Steps:
    """OSG: the same step at every k."""
    return lambda k, squares: eta


def decreasing(eta: float) -> Steps:
    """OSG with eta/sqrt(k)."""
    return lambda k, squares: eta / np.sqrt(max(k, 1))


def adagrad(eta: float, delta: float) -> Steps:
    """OAdagrad: eta/(delta + s_i) with s_i = |g_1:k,i|, entry by entry: eta H_k^-1."""
    return lambda k, squares: eta / (delta + np.sqrt(squares))


@dataclass(frozen=True, eq=False)
class Play:
    """|F(z_k)|^2 and sum_i |g_1:k,i|, shapes (steps, runs), k = 1, 2, ..."""

    square: Array
    growth: Array


def play(game: Game, rule: Steps, steps: int, runs: int, rng: np.random.Generator) -> Play:
    """z_k = x_(k-1) - eta H_(k-1)^-1 g_(k-1), x_k = x_(k-1) - eta H_k^-1 g_k, g_k = F(z_k) + noise: one call of F a step.

    From x_0 = (1, ..., 1) and g_0 = 0.

    Raises
    ------
    LostStepError
        If an entry of F is no longer below 1e100: the steps are too long for the game.
    """
    M, tau, kept = game.M, game.tau[:, None], []
    x, g, squares, h = *np.zeros((3, runs, len(tau), 2)), np.zeros(1)
    x += 1.0
    for k in range(1, steps + 1):
        F = np.einsum("jab,rjb->rja", M, x - h * g)
        if not np.abs(F).max() < 1e100:
            raise LostStepError(f"the play diverges: at step {k} F is {np.abs(F).max():.1e}. Shorten the steps.")
        g = F + tau * rng.standard_normal(F.shape)
        squares = squares + g**2
        h = np.asarray(rule(k, squares))
        x = x - h * g
        kept.append(((F**2).sum(axis=(1, 2)), np.sqrt(squares).sum(axis=(1, 2))))
    square, growth = (np.array(column) for column in zip(*kept, strict=True))
    return Play(square, growth)


def expected(game: Game, rule: Steps, steps: int) -> tuple[Array, Array]:
    """E|F(z_k)|^2 of each pair and the sum over its entries of sqrt(sum_{j<=k} E g_j^2), shapes (steps, p), from `play`'s start.

    By recursion of second moments; exact for steps that do not depend on the gradients. For `adagrad` the sum of squares is
    replaced by its expectation.
    """
    M, noise = game.M, game.tau[:, None, None] ** 2 * np.eye(2)
    p = len(game.b)
    xx, xg, gg = np.ones((p, 2, 2)), np.zeros((p, 2, 2)), np.zeros((p, 2, 2))
    squares, h, out = np.zeros((p, 2)), np.zeros((p, 2)), []
    for k in range(1, steps + 1):
        row = h[:, None, :]
        xz = xx - xg * row  # E x z', z = x - h g
        zz = xz - row.swapaxes(1, 2) * (xg.swapaxes(1, 2) - gg * row)
        zz = 0.5 * (zz + zz.swapaxes(1, 2))  # the skew part is rounding, and would grow
        signal = M @ zz @ M.swapaxes(1, 2)
        gg, xg = signal + noise, xz @ M.swapaxes(1, 2)
        squares = squares + np.diagonal(gg, axis1=1, axis2=2)
        h = np.broadcast_to(np.asarray(rule(k, squares), dtype=float), (p, 2))
        row = h[:, None, :]
        cross = xg * row
        xx = xx - cross - cross.swapaxes(1, 2) + row.swapaxes(1, 2) * gg * row
        xg = xg - row.swapaxes(1, 2) * gg
        out.append((np.trace(signal, axis1=1, axis2=2), np.sqrt(squares).sum(axis=1)))
    square, growth = (np.array(column) for column in zip(*out, strict=True))
    return square, growth


def osg_factor(eta: float, c: float, b: Array | float) -> Array:
    """Largest |t| with t^2 - (1 - 2s)t - s = 0, s = eta(c - ib): factor of a pair's error in a step of OSG without noise.

    At c = 0 it is below one iff eta b < 1/sqrt(3).
    """
    s = eta * (c - 1j * np.asarray(b))
    root = np.sqrt((1.0 - 2.0 * s) ** 2 + 4.0 * s)
    return np.maximum(np.abs(1.0 - 2.0 * s + root), np.abs(1.0 - 2.0 * s - root)) / 2.0


def slope(y: Array, first: int) -> float:
    """Slope of log y_k in log k, least squares over k = first, ..., len(y)."""
    k = np.arange(first, len(y) + 1)
    return float(np.polyfit(np.log(k), np.log(y[first - 1 :]), 1)[0])


def running_mean(y: Array) -> Array:
    """(1/K) sum_{k <= K} y_k along the first axis."""
    return np.cumsum(y, axis=0) / np.arange(1, len(y) + 1).reshape(-1, *[1] * (y.ndim - 1))


# --- On attention -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class AdaGradRun:
    """Records (K): W and the sums of squared gradients v, shapes (K, d, d), and the weights p of the gradient, (K, N)."""

    W: Array
    v: Array
    weights: Array


def train_adagrad(problem: TokenProblem, eta: float, delta: float, times: Array) -> AdaGradRun:
    """v <- v + G^2, W <- W - eta G/(delta + sqrt(v)), G = grad L(W), entry by entry, from zero; records at `times`."""
    c, wanted, kept = problem.constraints, set(np.asarray(times).tolist()), []
    W, v = np.zeros((problem.d, problem.d)), np.zeros((problem.d, problem.d))
    for t in range(int(times[-1]) + 1):
        p = gradient_weights(problem, c.margins(W))[0]
        if t in wanted:
            kept.append((W, v, p))
        G = c.combine(p)
        v = v + G**2
        W = W + eta * G / (delta + np.sqrt(v))
    return AdaGradRun(*(np.array(column) for column in zip(*kept, strict=True)))


def own_svm(problem: TokenProblem, v: Array, delta: float) -> tuple[Array, TokenSVM]:
    """argmin sum_ij P_ij W_ij^2 subject to <V_k, W> >= 1, P = delta + sqrt(v), and its solution in P^(1/2) o W.

    The token SVM of the constraints V_k/P^(1/2).
    """
    root, c = np.sqrt(delta + np.sqrt(v)), problem.constraints
    V = np.einsum("kd,ke->kde", c.difference, c.query_vector) / root
    svm = solve_constraints(Constraints.of_vectors(V.reshape(len(V), -1)))
    return svm.W.reshape(root.shape) / root, svm


def misalignment(W: Array, target: Array) -> float:
    """1 - cos of the angle between two matrices, without cancellation."""
    return float(((W / np.linalg.norm(W) - target / np.linalg.norm(target)) ** 2).sum() / 2.0)


def share_distance(p: Array, q: Array) -> float:
    """Total variation distance of weights p and q >= 0, each divided by its sum."""
    return float(np.abs(p / p.sum() - q / q.sum()).sum() / 2.0)
