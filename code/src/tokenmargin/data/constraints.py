"""The constraints of a token selection: V_k = (x_selected - x_t) z', products with them, their Gram matrix, their units."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from ..errors import FloatRangeError
from ..types import Array

BLOCK = 256  # rows of the constraints' Gram matrix that are formed at once


class RankOne:
    """Matrices V_k = difference_k query_vector_k', k = 1..N, none of which is ever formed."""

    if TYPE_CHECKING:  # fields of one kind of constraints, made when asked for by the other

        @property
        def difference(self) -> Array: ...
        @property
        def query_vector(self) -> Array: ...

    def __len__(self) -> int:
        return len(self.query_vector)

    @cached_property
    def gram(self) -> Array:
        """Gram matrix <V_k, V_l>_F, shape (N, N): (difference_k . difference_l)(z_k . z_l).

        Raises
        ------
        FloatRangeError
            If a product is beyond the largest float.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            gram = self.difference @ self.difference.T
            for first in range(0, len(self), BLOCK):  # by blocks of rows: a second N x N array is never held
                rows = slice(first, first + BLOCK)
                gram[rows] *= self.query_vector[rows] @ self.query_vector.T
        if not (np.isfinite(gram.max()) and np.isfinite(gram.min())):
            raise FloatRangeError(
                "a product <V_k, V_l> is beyond the largest float: divide tokens and queries by their size."
            )
        return gram

    def margins(self, W: ArrayLike) -> Array:
        """mu_k(W) = <V_k, W>, shape (N,), for a matrix W of shape (d, d)."""
        return np.einsum("kd,kd->k", self.difference @ np.asarray(W, dtype=float), self.query_vector)

    def combine(self, coefficients: ArrayLike) -> Array:
        """The matrix sum_k coefficients_k V_k, shape (d, d)."""
        return (self.difference * np.asarray(coefficients, dtype=float)[:, None]).T @ self.query_vector


@dataclass(frozen=True, eq=False)
class Units(RankOne):
    """U_k = V_k/||V_k||_F as products of unit vectors, and the norms ||V_k||_F = mantissa_k 2^exponent_k, at any scale.

    Attributes
    ----------
    difference, query_vector : float arrays, shape (N, d)
        Rows of norm one, or zero where V_k is zero.
    mantissa, exponent : float and int arrays, shape (N,)
    """

    difference: Array
    query_vector: Array
    mantissa: Array
    exponent: Array

    @cached_property
    def log_norms(self) -> Array:
        """log ||V_k||_F, shape (N,); -inf where V_k is zero."""
        with np.errstate(divide="ignore"):
            return np.log(self.mantissa) + self.exponent * np.log(2.0)

    @cached_property
    def relative_bounds(self) -> Array:
        """b_k = min_l ||V_l||/||V_k||, shape (N,): <V_k, W> >= 1 says <U_k, W min_l ||V_l||> >= b_k. No V_k may be zero."""
        least = int(np.argmin(self.log_norms))
        with np.errstate(under="ignore"):
            return np.ldexp(self.mantissa[least] / self.mantissa, self.exponent[least] - self.exponent)


def _lengths(rows: Array) -> Array:
    """Norms of rows, at any scale: unscaled where their squares can be held."""
    lengths = np.linalg.norm(rows, axis=1)
    lost = ~((lengths > 1e-140) & (lengths < 1e140))
    lengths[lost] = unit_rows(rows[lost])[1]
    return lengths


def unit_rows(rows: Array) -> tuple[Array, Array]:
    """Rows of norm one and the norms, by the largest entry first: squares neither over- nor underflow."""
    largest = np.abs(rows).max(axis=1)
    with np.errstate(invalid="ignore"):  # an infinite row becomes NaN, which every later check refuses
        scaled = rows / np.where(largest > 0.0, largest, 1.0)[:, None]
    lengths = np.linalg.norm(scaled, axis=1)
    return scaled / np.where(largest > 0.0, lengths, 1.0)[:, None], largest * lengths


@dataclass(frozen=True, eq=False)
class Constraints(RankOne):
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
        return len(self.sequence)  # no vector is formed for it

    @classmethod
    def of_vectors(cls, vectors: ArrayLike) -> Constraints:
        """The constraints <s_k, w> >= 1 of vectors s_k, shape (N, d): sequences of s_k and the zero token, the query 1."""
        s = np.asarray(vectors, dtype=float)
        k, zero = np.arange(len(s)), np.zeros(len(s), dtype=int)
        return cls(k, zero, zero + 1, zero, np.stack([s, np.zeros_like(s)], axis=1), np.ones((len(s), 1, 1)))

    @cached_property
    def difference(self) -> Array:
        """x_{i,selected} - x_{it} of each constraint, shape (N, d); made when first asked for."""
        difference = self.tokens[self.sequence, self.selection[self.sequence]]
        with np.errstate(over="ignore"):  # beyond floating point: infinite, and refused where it is used
            difference -= self.tokens[self.sequence, self.token]
        return difference

    @cached_property
    def query_vector(self) -> Array:
        """z_{iq} of each constraint, shape (N, d); made when first asked for."""
        return self.queries[self.sequence, self.query]

    @cached_property
    def norms(self) -> Array:
        """||V_k||_F, shape (N,)."""
        with np.errstate(over="ignore", under="ignore"):
            return _lengths(self.difference) * _lengths(self.query_vector)

    @cached_property
    def units(self) -> Units:
        """V_k/||V_k||_F and the norms, shape (N,), free of over- and underflow."""
        (left, a), (right, b) = unit_rows(self.difference), unit_rows(self.query_vector)
        (a, e), (b, f) = np.frexp(a), np.frexp(b)
        return Units(left, right, a * b, e.astype(int) + f.astype(int))
