"""Stochastic extragradient on bilinear games: floors, averages and restarts by exact second moments; the token SVM as a game.

Source: Li, Yu, Loizou, Gidel, Ma, Le Roux, Jordan, On the Convergence of Stochastic Extragradient for Bilinear Games using
Restarted Iteration Averaging (AISTATS 2022), arXiv 2107.00464. The laws are derived on the page. The game is
min_x max_y x'B y; each sample shows it as x'B_k y + <g_k, .>, with step eta. The samples B_k of `Game` share their singular
vectors, so that in those the pair (x_j, y_j) is one complex number z_j = x_j + i y_j.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ..data.problem import TokenProblem
from ..errors import AssumptionError
from ..measures.geometry import gram_norm
from ..training.kernels import layout_of, scaled_weights
from ..types import Array

Operator = Callable[[Array], Array]


def sample_operator(B: Array, g: Array) -> Operator:
    """F(x, y) = (B y, -B'x) + g of one sample; B (d, d), g and the argument (2d,), x before y."""
    d = len(B)
    return lambda z: np.concatenate([B @ z[d:], -B.T @ z[:d]]) + g


def extragradient_step(F_half: Operator, F: Operator, z: Array, eta: float) -> Array:
    """z - eta F(z - eta F_half(z)); same-sample where both are one sample, as the paper has it."""
    return z - eta * F(z - eta * F_half(z))


@dataclass(frozen=True, eq=False)
class Game:
    """Samples B_k = diag(b + spread e_k) with e_k standard normal, and g_k complex normal with E|g_kj|^2 = sigma^2.

    Attributes
    ----------
    b : array, shape (d,)
        Singular values of the mean game.
    spread, sigma : float
        Standard deviation of the singular values and of the noise at the equilibrium, which is z = 0.
    """

    b: Array
    spread: float = 0.0
    sigma: float = 0.0

    @property
    def second(self) -> Array:
        """E b_k^2, shape (d,)."""
        return self.b**2 + self.spread**2

    @property
    def fourth(self) -> Array:
        """E b_k^4, shape (d,)."""
        return self.b**4 + 6.0 * self.b**2 * self.spread**2 + 3.0 * self.spread**4

    def drift(self, eta: float) -> Array:
        """E z_(k+1) = drift z_k: 1 + i eta b - eta^2 E b^2, shape (d,)."""
        return 1.0 + 1j * eta * self.b - eta**2 * self.second

    def growth(self, eta: float) -> Array:
        """E|z_(k+1)|^2 = growth |z_k|^2 + kick: 1 - eta^2 E b^2 + eta^4 E b^4, shape (d,)."""
        return 1.0 - eta**2 * self.second + eta**4 * self.fourth

    def independent_growth(self, eta: float) -> Array:
        """The same, where the two half steps see independent samples: 1 + eta^2 (E b^2 - 2 (E b)^2) + eta^4 (E b^2)^2."""
        return 1.0 + eta**2 * (self.second - 2.0 * self.b**2) + eta**4 * self.second**2

    def kick(self, eta: float) -> Array:
        """eta^2 (1 + eta^2 E b^2) sigma^2, shape (d,)."""
        return eta**2 * (1.0 + eta**2 * self.second) * self.sigma**2

    def floor(self, eta: float) -> Array:
        """lim E|z_k|^2 = sigma^2 (1 + eta^2 E b^2)/(E b^2 - eta^2 E b^4), shape (d,).

        Raises
        ------
        AssumptionError
            If a growth is not below one: then there is no limit.
        """
        growth = self.growth(eta)
        if not (growth < 1.0).all():
            raise AssumptionError(
                f"the second moment grows by {growth.max():.4g} a step with eta = {eta:.3g}: choose eta^2 < E b^2/E b^4 = "
                f"{(self.second / self.fourth).min():.3g}."
            )
        square = eta**2  # not kick/(1 - growth), which cancels for short steps
        return self.sigma**2 * (1.0 + square * self.second) / (self.second - square * self.fourth)

    def average_constant(self, eta: float) -> Array:
        """lim K E|mean of K iterates|^2, shape (d,): the floor times Re (1 + drift)/(1 - drift); sigma^2/b^2 without spread."""
        drift = self.drift(eta)
        return self.floor(eta) * ((1.0 + drift) / (1.0 - drift)).real


def iterates(
    game: Game, z: Array, eta: float, steps: int, rng: np.random.Generator, independent: bool = False
) -> Iterator[Array]:
    """z_0, ..., z_steps of stochastic extragradient from z = z_0, shape (runs, d), complex.

    Each step draws e, then g, and with `independent` e and g anew for the second half step.
    """
    for k in range(steps + 1):
        yield z
        if k == steps:
            return
        b, g = _sample(game, z.shape, rng)
        half = z - eta * (g - 1j * b * z)
        if independent:
            b, g = _sample(game, z.shape, rng)
        z = z - eta * (g - 1j * b * half)


def _sample(game: Game, shape: tuple[int, ...], rng: np.random.Generator) -> tuple[Array, Array]:
    b = game.b + game.spread * rng.standard_normal(shape) if game.spread else np.broadcast_to(game.b, shape)
    if not game.sigma:
        return b, np.zeros(shape)
    parts = rng.standard_normal((2, *shape))
    return b, game.sigma / np.sqrt(2.0) * (parts[0] + 1j * parts[1])


def averages(path: Iterable[Array]) -> Iterator[Array]:
    """The means of the first 1, 2, 3, ... iterates."""
    total: Array | float = 0.0
    for k, z in enumerate(path, start=1):
        total = total + z
        yield total / k


def restarted(game: Game, z: Array, eta: float, lengths: Iterable[int], rng: np.random.Generator) -> list[Array]:
    """Starts of the epochs: z, then for each length K the mean of the K iterates z_0..z_(K-1), from which the next starts."""
    starts = [z]
    for K in lengths:
        *_, mean = averages(iterates(game, starts[-1], eta, K - 1, rng))
        starts.append(mean)
    return starts


def average_law(game: Game, eta: float, steps: int) -> tuple[Array, Array]:
    """Gain and noise with E|mean of K iterates|^2 = gain |z_0|^2 + noise, for K = 1..steps; shapes (steps, d), exact.

    From S_(K+1) = S_K + A_K + 2 Re C_K with A_k = E|z_k|^2, S_K = E|sum_(j<K) z_j|^2, C_K = E conj(sum_(j<K) z_j) z_K,
    C_(K+1) = drift (C_K + A_K).
    """
    drift, growth = game.drift(eta), game.growth(eta)
    kick = np.stack([np.zeros(len(game.b)), game.kick(eta)])
    A = np.stack([np.ones(len(game.b)), np.zeros(len(game.b))])
    S, cross, law = np.zeros_like(A), np.zeros_like(A, dtype=complex), []
    for K in range(1, steps + 1):
        S = S + A + 2.0 * cross.real
        law.append(S / K**2)
        cross, A = drift * (cross + A), growth * A + kick
    gain, noise = np.array(law).swapaxes(0, 1)
    return gain, noise


def restart_law(game: Game, eta: float, lengths: list[int], square: Array) -> Array:
    """E|start of each epoch|^2 with `restarted`, from E|z_0|^2 = square (d,); shape (len(lengths) + 1, d), exact."""
    gain, noise = average_law(game, eta, max(lengths))
    squares = [square]
    for K in lengths:
        squares.append(gain[K - 1] * squares[-1] + noise[K - 1])
    return np.array(squares)


def best_restart(game: Game, eta: float, longest: int) -> tuple[int, float]:
    """The epoch length whose restarts shrink E|z|^2 fastest without noise, and by which rate -log(gain)/K a step; worst coordinate."""
    gain, _ = average_law(game, eta, longest)
    rate = -np.log(gain.max(axis=1)) / np.arange(1, longest + 1)
    K = int(rate.argmax()) + 1
    return K, float(rate[K - 1])


# --- The token SVM as a bilinear game ---------------------------------------------------------------------------------


def play(problem: TokenProblem, h: float, rounds: int) -> tuple[Array, Array, Array]:
    """Normalized GD on attention from W = 0, seen as play of the game min_p max_(||W|| <= 1) sum_k p_k <V_k, W>.

    Returns
    -------
    p : array, shape (rounds, N)
        Weights of the constraints in -grad L, which sum to one under the entry condition: the play of the first player.
    weight : array, shape (rounds,)
        1/||sum_k p_k V_k||: what a normalized step multiplies p by.
    C : array, shape (N,)
        Coefficients of W after the last round, h sum_t weight_t p_t.
    """
    gram, layout = problem.constraints.gram, layout_of(problem, "logistic")
    p, weight, C = np.empty((rounds, len(gram))), np.empty(rounds), np.zeros(len(gram))
    for t in range(rounds):
        scaled_weights(gram @ C, layout, p[t])
        p[t] /= p[t].sum()
        weight[t] = 1.0 / gram_norm(gram, p[t])
        C = C + h * weight[t] * p[t]
    return p, weight, C


def running_mean(p: Array, weight: Array) -> Array:
    """sum_(s<=t) weight_s p_s/sum_(s<=t) weight_s, shape of p."""
    return np.cumsum(weight[:, None] * p, axis=0) / np.cumsum(weight)[:, None]
