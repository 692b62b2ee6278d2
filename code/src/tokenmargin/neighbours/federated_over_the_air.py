"""Federated learning over the air: gradients that arrive faded and under heavy-tailed interference, and four servers.

Source: Wang, Chen, Pappas, Yang, Quek, Poor, Adaptive Federated Learning Over the Air (IEEE TSP 73, 2025), arXiv
2403.06528, read in its abstract. The server receives D = (1/N) sum_n h_n grad f_n(w) + xi, with Rayleigh fading h of mean one and
symmetric alpha-stable xi. The laws are this book's; the last section, the same channel on attention, is this book's too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linprog
from scipy.special import expit
from scipy.stats import levy_stable

from ..data.problem import TokenProblem
from ..types import Array

Rule = Literal["plain", "normalised", "adagrad", "adam"]
CHUNK = 250  # steps whose interference is drawn at once


@dataclass(frozen=True, eq=False)
class Server:
    """What the server does with the aggregate D_t: w_{t+1} = w_t - eta_t D_t/scale_t, eta_t = eta (t+1)^-decay.

    Parameters
    ----------
    rule : {"plain", "normalised", "adagrad", "adam"}
        The scale: 1; ||D_t|| over the last axis; v_t^(1/alpha) + eps with v_t = v_{t-1} + |D_t|^alpha, or with
        v_t = beta2 v_{t-1} + (1 - beta2)|D_t|^alpha, entry by entry, from v = 0.
    eta : float
    alpha : float or array
        The exponent, in [1, 2]; it broadcasts with D.
    decay, beta2, eps : float

    Raises
    ------
    ValueError
        If the rule is unknown, or a number is outside its range.
    """

    rule: Rule
    eta: float
    alpha: ArrayLike = 2.0
    decay: float = 0.0
    beta2: float = 0.99
    eps: float = 0.0

    def __post_init__(self) -> None:
        if self.rule not in ("plain", "normalised", "adagrad", "adam"):
            raise ValueError(f"rule is {self.rule!r}; it must be 'plain', 'normalised', 'adagrad' or 'adam'.")
        if not (np.isfinite(self.eta) and self.eta > 0.0 and 0.0 < self.beta2 < 1.0 and self.eps >= 0.0):
            raise ValueError(
                f"eta is {self.eta}, beta2 {self.beta2}, eps {self.eps}; they need eta > 0, 0 < beta2 < 1, eps >= 0."
            )
        _require_tail(self.alpha, least=1.0)

    def step(self, t: int, D: Array, v: Array) -> tuple[Array, Array]:
        """The vector w_t - w_{t+1}, and v_t, from D_t and v_{t-1}; an entry whose scale is zero rests."""
        size = self.eta * (t + 1.0) ** -self.decay
        if self.rule == "plain":
            return size * D, v
        if self.rule == "normalised":
            scale = np.linalg.norm(D, axis=-1, keepdims=True)
        else:
            power = np.abs(D) ** self.alpha
            v = v + power if self.rule == "adagrad" else self.beta2 * v + (1.0 - self.beta2) * power
            scale = v ** (1.0 / np.asarray(self.alpha)) + self.eps
        return size * np.divide(D, scale, out=np.zeros(D.shape), where=scale != 0.0), v


# --- The channel ------------------------------------------------------------------------------------------------------


def interference(alphas: ArrayLike, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Symmetric alpha-stable noise of scale one, E exp(i s xi) = exp(-|s|^alpha); shape `shape` + (A,).

    The columns, one for each tail index, are made of the same uniform and exponential numbers: comparisons are paired.

    Raises
    ------
    ValueError
        If a tail index is not in (1, 2].
    """
    alphas = np.atleast_1d(np.asarray(alphas, dtype=float))
    _require_tail(alphas, least=np.nextafter(1.0, 2.0))
    key = int(rng.integers(2**63))
    return np.stack([levy_stable.rvs(a, 0.0, size=shape, random_state=np.random.default_rng(key)) for a in alphas], -1)


def fading(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Rayleigh gains of mean one: positive, different for each client and step."""
    return rng.rayleigh(np.sqrt(2.0 / np.pi), shape)


def _require_tail(alpha: ArrayLike, least: float) -> None:
    a = np.asarray(alpha, dtype=float)
    if not ((a >= least) & (a <= 2.0)).all():
        raise ValueError(f"a tail index is {a}; it must be {'in [1, 2]' if least == 1.0 else 'above 1 and at most 2'}.")


# --- Laws -------------------------------------------------------------------------------------------------------------


def median_size(alpha: float) -> float:
    """Median of |S|, S symmetric alpha-stable of scale one."""
    return float(levy_stable.ppf(0.75, alpha, 0.0))


def walk_scale(T: ArrayLike, alpha: float) -> Array:
    """Scale of a sum of T interferences of scale one, T^(1/alpha)."""
    return np.asarray(T, dtype=float) ** (1.0 / alpha)


def harmonic(T: int) -> Array:
    """H_t = 1 + 1/2 + ... + 1/t for t = 1..T."""
    return np.cumsum(1.0 / np.arange(1.0, T + 1.0))


def floor_scale(eta: ArrayLike, alpha: float, curvature: float = 1.0) -> Array:
    """Scale at which the plain server rests on w^2 curvature/2 in interference of scale one, without fading.

    eta/(1 - |1 - eta curvature|^alpha)^(1/alpha), near eta^(1 - 1/alpha)/(alpha curvature)^(1/alpha) at small eta.

    Raises
    ------
    ValueError
        Unless 0 < eta curvature < 2: it does not rest.
    """
    eta = np.asarray(eta, dtype=float)
    if not ((eta * curvature > 0.0) & (eta * curvature < 2.0)).all():
        raise ValueError(f"eta times curvature is {eta * curvature}; the server rests only between 0 and 2.")
    return eta * (1.0 - np.abs(1.0 - eta * curvature) ** alpha) ** (-1.0 / alpha)


# --- Runs -------------------------------------------------------------------------------------------------------------


def steps_taken(server: Server, D: Array) -> Array:
    """The steps w_t - w_{t+1} on given aggregates D, shape (T, ...); the same shape."""
    taken, v = np.empty(D.shape), np.zeros(D.shape[1:])
    for t in range(len(D)):
        taken[t], v = server.step(t, D[t], v)
    return taken


def descend_quadratic(server: Server, xi: Array, start: float = 1.0) -> Array:
    """w_t on F(w) = w^2/2, entry by entry, with D_t = w_t + xi_t and no fading; shape (T + 1, ...)."""
    w = np.full((len(xi) + 1, *xi.shape[1:]), start)
    v = np.zeros(xi.shape[1:])
    for t in range(len(xi)):
        step, v = server.step(t, w[t] + xi[t], v)
        w[t + 1] = w[t] - step
    return w


def federations(runs: int, clients: int, samples: int, d: int, rng: np.random.Generator) -> Array:
    """Signed features y x of `runs` federations, shape (runs, clients, samples, d), labels by a logistic teacher N(0, I/4).

    The features of each client are N(c, I) about a centre c ~ N(0, I/4) of its own.
    """
    X = rng.standard_normal((runs, clients, samples, d)) + 0.5 * rng.standard_normal((runs, clients, 1, d))
    chance = expit(X @ (0.5 * rng.standard_normal((runs, 1, d, 1))))
    return X * np.where(rng.random(chance.shape) < chance, 1.0, -1.0)


def is_separable(S: Array) -> bool:
    """Whether some w has S w >= 1 for all rows of signed features, so that the logistic loss has no minimum."""
    rows = S.reshape(-1, S.shape[-1])
    return bool(linprog(np.zeros(rows.shape[1]), -rows, -np.ones(len(rows)), bounds=(None, None)).status == 0)


def train_federations(
    S: Array, servers: Sequence[Server], alphas: ArrayLike, scale: float, T: int, rng: np.random.Generator
) -> Array:
    """Squared gradients ||grad F(w_t)||^2 of logistic regression from w = 0; shape (T, runs, servers, A).

    Parameters
    ----------
    S : array, shape (runs, clients, samples, d)
        Signed features; F is the mean of log(1 + e^(-S w)).
    servers : sequence of Server
        All see the same fading and interference; their exponents must broadcast with `alphas`.
    alphas : array, shape (A,)
        Tail indices of the interference, of scale `scale`.
    """
    runs, N, m, d = S.shape
    rows, A, K = S.reshape(runs, N * m, d), np.size(alphas), len(servers)
    columns = np.ascontiguousarray(rows.transpose(0, 2, 1)) / (N * m)
    w, v, found = np.zeros((runs, d, K, A)), np.zeros((K, runs, d, A)), np.empty((T, runs, K, A))
    for t in range(T):
        if t % CHUNK == 0:
            xi = scale * interference(alphas, (min(CHUNK, T - t), runs, d), rng)
            h = np.repeat(fading((CHUNK, runs, N), rng), m, axis=2)[..., None]
        pull = -expit(-(rows @ w.reshape(runs, d, K * A)))
        found[t] = ((columns @ pull) ** 2).sum(axis=1).reshape(runs, K, A)
        D = (columns @ (pull * h[t % CHUNK])).reshape(runs, d, K, A)
        for k, server in enumerate(servers):
            step, v[k] = server.step(t, D[:, :, k] + xi[t % CHUNK], v[k])
            w[:, :, k] -= step
    return found


def slopes_of(averages: Array, window: tuple[int, int], points: int = 30) -> Array:
    """Least-squares slope of log of averages (T, ...) against log t over the window of steps; shape (...)."""
    times = np.unique(np.geomspace(*window, points).astype(int))
    y = np.log(averages[times - 1]).reshape(len(times), -1)
    return np.polyfit(np.log(times), y, 1)[0].reshape(averages.shape[1:])


# --- On attention -----------------------------------------------------------------------------------------------------


def constraint_rows(problem: TokenProblem) -> Array:
    """The constraints as rows vec V_k, shape (n, T - 1, d^2), of a problem with scores 1 and 0, one query, no padding.

    Raises
    ------
    ValueError
        If the problem is another.
    """
    c = problem.constraints
    gaps = np.sort(problem.scores, axis=1)
    if problem.Q != 1 or not problem.mask.all() or (gaps[:, -1] != 1.0).any() or (gaps[:, :-1] != 0.0).any():
        raise ValueError("each sequence must have one query, no padding, one token of score 1 and the others 0.")
    return np.einsum("kd,ke->kde", c.difference, c.query_vector).reshape(problem.n, problem.T - 1, -1)


def force_weights(margins: Array) -> Array:
    """p_k = (1/n) (-l'(m_i)) s_k m_i, m_i = s_opt, of margins (..., n, T - 1): -grad L = sum_k p_k V_k, logistic loss."""
    low = np.minimum(margins.min(axis=-1, keepdims=True), 0.0)
    e, top = np.exp(low - margins), np.exp(low)
    total = top + e.sum(axis=-1, keepdims=True)
    m = top / total
    return m * expit(-m) * e / total / margins.shape[-2]


def train_attention(
    problems: Sequence[TokenProblem],
    servers: Sequence[Server],
    alphas: ArrayLike,
    scales: ArrayLike,
    times: ArrayLike,
    rng: np.random.Generator,
    faded: bool = True,
) -> Array:
    """W from zero, one client a sequence, at the increasing `times`; shape (times, problems, servers, A, d^2).

    Parameters
    ----------
    problems : sequence of TokenProblem
        Of one shape, as `constraint_rows` asks.
    servers : sequence of Server
        All see the same fading and interference; their exponents must broadcast with (A, 1).
    alphas, scales : arrays, shape (A,)
        Tail index and scale of the interference of each column; scale zero is none.
    faded : bool
        Whether the gradient of each sequence is multiplied by its fading.
    """
    V = np.array([constraint_rows(problem) for problem in problems])
    P, n, k, dd = V.shape
    V, scales, A = V.reshape(P, 1, n * k, dd), np.asarray(scales, dtype=float)[:, None], np.size(alphas)
    W, kept, wanted = np.zeros((P, len(servers), A, dd)), [], np.asarray(times).tolist()
    v = np.zeros_like(W)
    for t in range(wanted[-1] + 1):
        if t in wanted:
            kept.append(W.copy())
        if t % CHUNK == 0:
            silent = not scales.any()
            shape = (1 if silent else min(CHUNK, wanted[-1] + 1 - t), P, dd)
            xi = np.zeros((CHUNK, P, A, dd)) if silent else np.moveaxis(interference(alphas, shape, rng), -1, 2)
            h = fading((CHUNK, P, n), rng) if faded else np.ones((CHUNK, P, n))
        p = force_weights((W @ V.swapaxes(-1, -2)).reshape(P, len(servers), A, n, k))
        D = -(p * h[t % CHUNK][:, None, None, :, None]).reshape(*W.shape[:3], n * k) @ V
        for j, server in enumerate(servers):
            step, v[:, j] = server.step(t, D[:, j] + scales * xi[t % CHUNK], v[:, j])
            W[:, j] -= step
    return np.array(kept)
