"""The constraints of a token selection: V_k = (x_selected - x_t) z', products with them, their Gram matrix."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from ..types import Array

BLOCK = 256  # rows of the constraints' Gram matrix that are formed at once


@dataclass(frozen=True, eq=False)
class Constraints:
    """The constraints <V_k, W> >= 1 of a token selection, k = 1..N, ordered by (sequence, query, token).

    V_k = (x_{i,selected} - x_{it}) z_{iq}'  is a d x d matrix; none is ever formed.

    Attributes
    ----------
    sequence, query, token : int arrays, shape (N,)
        The indices i, q, t of constraint k.
    selection : int array, shape (n,)
        The selected token of each sequence.
    tokens, queries : float arrays, shapes (n, T, d) and (n, Q, d)
        The problem's own arrays, not copies.
    """

    sequence: Array
    query: Array
    token: Array
    selection: Array
    tokens: Array
    queries: Array

    def __len__(self) -> int:
        return len(self.sequence)

    @cached_property
    def difference(self) -> Array:
        """x_{i,selected} - x_{it} of each constraint, shape (N, d); made when first asked for."""
        difference = self.tokens[self.sequence, self.selection[self.sequence]]
        difference -= self.tokens[self.sequence, self.token]
        return difference

    @cached_property
    def query_vector(self) -> Array:
        """z_{iq} of each constraint, shape (N, d); made when first asked for."""
        return self.queries[self.sequence, self.query]

    @cached_property
    def gram(self) -> Array:
        """Gram matrix <V_k, V_l>_F, shape (N, N): (difference_k . difference_l)(z_k . z_l)."""
        gram = self.difference @ self.difference.T
        for first in range(0, len(self), BLOCK):  # by blocks of rows: a second N x N array is never held
            rows = slice(first, first + BLOCK)
            gram[rows] *= self.query_vector[rows] @ self.query_vector.T
        return gram

    @cached_property
    def norms(self) -> Array:
        """||V_k||_F, shape (N,)."""
        return np.linalg.norm(self.difference, axis=1) * np.linalg.norm(self.query_vector, axis=1)

    def margins(self, W: ArrayLike) -> Array:
        """mu_k(W) = <V_k, W>, shape (N,), for a matrix W of shape (d, d)."""
        return np.einsum("kd,kd->k", self.difference @ np.asarray(W, dtype=float), self.query_vector)

    def combine(self, coefficients: ArrayLike) -> Array:
        """The matrix sum_k coefficients_k V_k, shape (d, d)."""
        return (self.difference * np.asarray(coefficients, dtype=float)[:, None]).T @ self.query_vector
