"""The reduced motion of the residual on its own: random maps, and whether their orbits come to rest.

In the numbers u_k = <V_k, R - R_inf> of the active constraints one step of constant length h is

    u <- u + h C (w - p)/|(rho, D)|,   w_k = p_k e^{-u_k}/sum_l p_l e^{-u_l},   D^2 = (w - p)' C (w - p),

with C the Gram matrix of the V_k across W_mm, C p = 0. Any weights p and any positive semidefinite C of rank N - 1 with C p = 0
belong to some constraints, so that maps can be drawn without data.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..compilation import compiled
from ..types import Array


@dataclass(frozen=True, eq=False)
class ReducedMap:
    """One reduced map.

    Attributes
    ----------
    weights : array, shape (N,)
        p_k = rho^2 lambda_k, positive with sum one.
    gram : array, shape (N, N)
        C = <Pi V_k, Pi V_l>, with C p = 0 and rank N - 1.
    margin : float
        rho.
    """

    weights: Array
    gram: Array
    margin: float

    @property
    def threshold(self) -> float:
        """h* = 2 rho/Lambda, Lambda the largest eigenvalue of the covariance of the V_k under p (edge theorem)."""
        root = np.sqrt(self.weights)
        return 2.0 * self.margin / float(np.linalg.eigvalsh(root[:, None] * self.gram * root)[-1])

    def steps_to_rest(self, h: float, start: ArrayLike, most: int, tolerance: float = 1e-9) -> int:
        """Steps from u = `start`, with sum_k p_k u_k = 0, until D is below `tolerance` times sqrt(Lambda); -1 if `most` do not do.

        D is the length of the force across W_mm, in units of the largest spread of the constraints: zero at rest alone.
        """
        scale = 2.0 * self.margin / self.threshold
        u = np.array(start, dtype=float)
        return int(
            _rest(self.weights, np.ascontiguousarray(self.gram), self.margin, h, u, most, tolerance * np.sqrt(scale))
        )


def random_map(rng: np.random.Generator, N: int, flattest: float = 0.02) -> ReducedMap:
    """A map with Dirichlet weights, curvatures spread in log scale over [flattest, 1] of the largest, and a random margin."""
    p = rng.dirichlet(np.full(N, rng.choice([0.2, 0.5, 1.0, 3.0])))
    p = np.maximum(p, 1e-5)
    p /= p.sum()
    root = np.sqrt(p)
    modes = flattest ** rng.uniform(size=N - 1)
    modes[0] = 1.0
    basis = rng.standard_normal((N, N - 1))
    basis = np.linalg.qr(basis - np.outer(root, root @ basis))[0]
    return ReducedMap(p, (basis * modes) @ basis.T / np.outer(root, root), float(10.0 ** rng.uniform(-2.0, 2.0)))


def orthogonal_map(rng: np.random.Generator, N: int) -> ReducedMap:
    """The map of N mutually orthogonal constraints with Dirichlet weights p_k = rho^2/||V_k||^2 and a random margin."""
    p = np.maximum(rng.dirichlet(np.full(N, rng.choice([0.2, 0.5, 1.0, 3.0]))), 1e-5)
    p /= p.sum()
    margin = float(10.0 ** rng.uniform(-2.0, 2.0))
    return ReducedMap(p, margin**2 * (np.diag(1.0 / p) - 1.0), margin)


def random_point(rng: np.random.Generator, reduced: ReducedMap) -> Array:
    """u, shape (N,), at which the weights w are Dirichlet(0.3): often far from p."""
    w = rng.dirichlet(np.full(len(reduced.weights), 0.3))
    u = -np.log(np.maximum(w, 1e-12) / reduced.weights)
    return u - reduced.weights @ u


@compiled
def _rest(p, C, rho, h, u, most, tolerance):
    for t in range(most + 1):
        w = p * np.exp(u.min() - u)
        d = w / w.sum() - p
        pull = C @ d
        square = d @ pull
        if square < tolerance * tolerance:
            return t
        u += h / np.sqrt(rho * rho + square) * pull
    return -1
