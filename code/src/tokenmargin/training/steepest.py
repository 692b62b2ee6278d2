"""Normalised steps in other geometries: momentum on the normalised gradient, and steepest descent in a norm of matrices.

Rules for `training.moments.train_with_moments`: their steps are not along the gradient. All see the gradient e^c G only through
its direction, so none underflows.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import Literal

import numpy as np

from ..types import Array
from .moments import require_share
from .rules import require_positive

Norm = float | Literal["spectral"]  # p in [1, inf] of the entries, or the largest singular value


def require_norm(norm: Norm) -> None:
    """Refuse what is neither p >= 1 nor "spectral"."""
    if norm != "spectral" and not (isinstance(norm, int | float) and norm >= 1.0):
        raise ValueError(f"norm is {norm!r}; give p >= 1 (of the entries, inf included) or 'spectral'.")


def matrix_norm(W: Array, norm: Norm) -> float:
    """(sum_ab |W_ab|^p)^(1/p), or the largest singular value."""
    require_norm(norm)
    if norm == "spectral":
        return float(np.linalg.norm(W, 2))
    size = float(np.abs(W).max())
    return size * float(np.linalg.norm(np.ravel(W / size), norm)) if size > 0.0 else 0.0


def dual_norm(G: Array, norm: Norm) -> float:
    """max <G, D> over ||D|| <= 1: the q-norm, 1/p + 1/q = 1, or the sum of the singular values."""
    require_norm(norm)
    if norm == "spectral":
        return float(np.linalg.svd(G, compute_uv=False).sum())
    return matrix_norm(G, np.inf if norm == 1.0 else 1.0 if norm == np.inf else norm / (norm - 1.0))


def steepest_direction(G: Array, norm: Norm) -> Array:
    """A D with ||D|| = 1 and <G, D> = ||G||_*, shape of G; zero where G is.

    p-norm: sign(G) |G|^(q-1)/||G||_q^(q-1), which is the sign for p = inf and the largest entry alone for p = 1; spectral: U V'
    of the singular value decomposition G = U diag(s) V', over the s above rounding.
    """
    require_norm(norm)
    size = np.abs(G).max()
    if not size > 0.0:
        return np.zeros_like(G)
    if norm == "spectral":
        U, s, V = np.linalg.svd(G / size)
        kept = s > len(G) * np.finfo(float).eps * s[0]
        return U[:, kept] @ V[kept]
    if norm == 1.0:
        largest = np.zeros_like(G)
        largest.flat[np.argmax(np.abs(G))] = 1.0
        return largest * np.sign(G)
    if norm == np.inf:
        return np.sign(G)
    q = norm / (norm - 1.0)
    with np.errstate(under="ignore"):
        powers = (np.abs(G) / size) ** (q - 1.0)
        return np.sign(G) * powers / matrix_norm(G / size, q) ** (q - 1.0)


@dataclass(frozen=True)
class SteepestDescent:
    """W_{t+1} = W_t + eta (t+1)^-decay D_t, D_t the steepest direction of -grad L(W_t) in a norm.

    norm = 2 is normalised gradient descent, inf sign descent, 1 coordinate descent, "spectral" descent along U V' of the gradient.
    """

    eta: float
    norm: Norm = 2.0
    decay: float = 0.0

    def __post_init__(self) -> None:
        require_positive("eta", self.eta)
        require_norm(self.norm)
        if not 0.0 <= self.decay <= 1.0:
            raise ValueError(f"decay is {self.decay}; it must lie in [0, 1], or the path length stays finite.")

    def moves(self, *shape: int):
        """A function (G, c) -> W_{t+1} - W_t that counts its calls; e^c G = -grad L(W_t), G of this shape, (d, d) for W."""
        steps = count(1)

        def move(G: Array, c: float) -> Array:
            return self.eta * next(steps) ** -self.decay * steepest_direction(G, self.norm)

        return move


@dataclass(frozen=True)
class NormalizedHeavyBall:
    """W_{t+1} = W_t + v_t, v_t = beta v_{t-1} - eta grad L/||grad L||, v_{-1} = 0: heavy ball on the normalised gradient.

    In a constant direction the velocity tends to eta/(1 - beta). With beta = 0 it is normalised gradient descent.
    """

    eta: float
    beta: float = 0.9

    def __post_init__(self) -> None:
        require_positive("eta", self.eta)
        require_share("beta", self.beta)

    def moves(self, *shape: int):
        """A function (G, c) -> W_{t+1} - W_t that remembers its calls; e^c G = -grad L(W_t), G of this shape, (d, d) for W."""
        v = np.zeros(shape)

        def move(G: Array, c: float) -> Array:
            nonlocal v
            v = self.beta * v + self.eta * steepest_direction(G, 2.0)
            return v

        return move
