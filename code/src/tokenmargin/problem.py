"""Training data of the attention layer: tokens, queries, labels, decoder; scores and constraints."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from .errors import InvalidProblemError, TiedTokensError

Array = np.ndarray
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


@dataclass(frozen=True, eq=False)
class TokenProblem:
    """n labelled sequences of T tokens in R^d, each read through Q queries by a fixed linear decoder.

    Parameters
    ----------
    tokens : array, shape (n, T, d)
        x_it.
    labels : array, shape (n,)
        y_i, each -1 or +1.
    decoder : array, shape (d,)
        u.
    queries : array, shape (n, d) or (n, Q, d), optional
        z_iq. Default: the first (existing) token of each sequence (Q = 1). Pass the tokens themselves for full
        self-attention (Q = T): the outputs of a sequence's queries are averaged.
    mask : bool array, shape (n, T), optional
        True where a token exists; sequences of different lengths are padded, with any values. Default: all exist.
    query_mask : bool array, shape (n, Q), optional
        True where a query exists. Default: all, or ``mask`` when the queries are the tokens.
    values : array, shape (n, T, v), optional
        What the decoder reads, default the tokens themselves (the paper's model; then v = d). One-dimensional
        values with decoder (1,) prescribe the scores exactly, whatever the tokens' geometry.

    Raises
    ------
    InvalidProblemError
        On wrong shapes, NaN or infinity, labels other than -1 and +1, or fewer than two tokens in a sequence.
    TiedTokensError
        If a sequence's best score is shared by several tokens.

    Notes
    -----
    Scores gamma_it = y_i u' x_it (u' v_it with values v); optimal token opt_i = argmax_t gamma_it (theory: setting and notation).
    """

    tokens: Array
    labels: Array
    decoder: Array
    queries: Array | None = None
    mask: Array | None = None
    query_mask: Array | None = None
    values: Array | None = None

    def __post_init__(self) -> None:
        tokens = _numbers("tokens", self.tokens, 3, "(n, T, d)")
        n, T, d = tokens.shape
        _require(n >= 1 and d >= 1, f"tokens has shape {tokens.shape}: it needs at least one sequence and d >= 1.")
        _require(
            T >= 2,
            f"tokens has T = {T} token per sequence: attention chooses among at least two; add tokens.",
        )
        mask = _bool_mask("mask", self.mask, (n, T))
        short = np.flatnonzero(mask.sum(axis=1) < 2)
        _require(
            short.size == 0,
            f"mask leaves fewer than two tokens in sequence(s) {_names(short)}: drop them or unmask tokens.",
        )
        tokens = _existing("tokens", tokens, mask)
        labels = _finite("labels", self.labels, 1, "(n,)")
        _require(
            labels.shape == (n,),
            f"labels has shape {labels.shape}; tokens has n = {n} sequences: give one label each.",
        )
        _require_labels(labels)
        decoder = _finite("decoder", self.decoder, 1, "(d,)")
        values = tokens
        if self.values is not None and self.values is not self.tokens:
            values = _numbers("values", self.values, 3, "(n, T, v)")
            _require(
                values.shape[:2] == (n, T),
                f"values has shape {values.shape}; expected ({n}, {T}, v) to go with the tokens.",
            )
            values = _existing("values", values, mask)
        v = values.shape[2]
        _require(
            decoder.shape == (v,),
            f"decoder has shape {decoder.shape}; it reads vectors of dimension {v}: give shape ({v},).",
        )
        queries = first_tokens(tokens, mask) if self.queries is None else np.asarray(self.queries, dtype=float)
        if queries.ndim == 2:
            queries = queries[:, None, :]
        queries = _numbers("queries", queries, 3, "(n, d) or (n, Q, d)")
        _require(
            queries.shape[0] == n and queries.shape[2] == d and queries.shape[1] >= 1,
            f"queries has shape {queries.shape}; expected ({n}, {d}) or ({n}, Q, {d}) to go with tokens {tokens.shape}.",
        )
        query_mask = self.query_mask
        if query_mask is None and self.queries is not None and are_the_tokens(queries, tokens, mask):
            query_mask = mask
        query_mask = _bool_mask("query_mask", query_mask, queries.shape[:2])
        empty = np.flatnonzero(query_mask.sum(axis=1) < 1)
        _require(
            empty.size == 0,
            f"query_mask leaves no query in sequence(s) {_names(empty)}: drop them or unmask a query.",
        )
        queries = _existing("queries", queries, query_mask)
        for name, value in (
            ("tokens", tokens),
            ("labels", labels.copy()),
            ("decoder", decoder.copy()),
            ("queries", queries),
            ("mask", mask.copy()),
            ("query_mask", query_mask.copy()),
            ("values", values),
        ):
            value.setflags(write=False)
            object.__setattr__(self, name, value)
        self._check_ties()

    @property
    def n(self) -> int:
        """Number of sequences."""
        return self.tokens.shape[0]

    @property
    def T(self) -> int:
        """Number of tokens of the longest sequence."""
        return self.tokens.shape[1]

    @property
    def d(self) -> int:
        """Dimension of a token."""
        return self.tokens.shape[2]

    @property
    def Q(self) -> int:
        """Number of queries of a sequence."""
        return self.queries.shape[1]

    @cached_property
    def scores(self) -> Array:
        """gamma_it = y_i u' v_it (v_it = x_it by default), shape (n, T); -inf where the mask is False."""
        return np.where(self.mask, self.labels[:, None] * (self.values @ self.decoder), -np.inf)

    @cached_property
    def optimal(self) -> Array:
        """opt_i = argmax_t gamma_it, shape (n,)."""
        return np.argmax(self.scores, axis=1)

    @cached_property
    def optimal_scores(self) -> Array:
        """gamma_{i,opt}, shape (n,)."""
        return self.scores[np.arange(self.n), self.optimal]

    @cached_property
    def second_scores(self) -> Array:
        """The runner-up score max_{t != opt} gamma_it, shape (n,)."""
        return np.partition(self.scores, -2, axis=1)[:, -2]

    @cached_property
    def constraints(self) -> Constraints:
        """The constraints of the optimal tokens; see `constraints_of`."""
        return self.constraints_of(self.optimal)

    def constraints_of(self, selection: ArrayLike) -> Constraints:
        """The constraints V_iqt, t != selection_i, of a token selection of shape (n,).

        Raises
        ------
        InvalidProblemError
            If the selection is not one existing token for each sequence.
        """
        selection = np.asarray(selection)
        _require(
            selection.shape == (self.n,) and np.issubdtype(selection.dtype, np.integer),
            f"selection has shape {selection.shape} and type {selection.dtype}: give one integer token index for each of {self.n} sequences.",
        )
        rows = np.arange(self.n)
        inside = (selection >= 0) & (selection < self.T)
        _require(
            bool(inside.all()) and bool(self.mask[rows, selection].all()),
            f"selection names a token that does not exist; every index must lie in 0..{self.T - 1} and be unmasked.",
        )
        others = self.mask & (np.arange(self.T) != selection[:, None])
        i, q, t = np.nonzero(self.query_mask[:, :, None] & others[:, None, :])
        return Constraints(i, q, t, selection.copy(), self.tokens, self.queries)

    @cached_property
    def feature_gram(self) -> Array:
        """<Phi_iqt, Phi_jrs> with Phi_iqt = x_it z_iq', shape (nQT, nQT), ordered by (i, q, t)."""
        x = np.repeat(self.tokens[:, None], self.Q, axis=1).reshape(-1, self.d)
        z = np.repeat(self.queries[:, :, None], self.T, axis=2).reshape(-1, self.d)
        return (x @ x.T) * (z @ z.T)

    def with_decoder(self, decoder: ArrayLike) -> TokenProblem:
        """The same sequences read by another decoder."""
        return replace(self, decoder=decoder)

    def subset(self, sequences: ArrayLike) -> TokenProblem:
        """The problem of some of the sequences, given by index or bool array."""
        per_sequence = ("tokens", "labels", "queries", "mask", "query_mask", "values")
        return replace(self, **{name: getattr(self, name)[np.asarray(sequences)] for name in per_sequence})

    def self_attention(self) -> TokenProblem:
        """The same sequences with every token as a query (Q = T): the full T x T attention map."""
        return replace(self, queries=self.tokens, query_mask=self.mask)

    def _check_ties(self) -> None:
        gap = self.optimal_scores - self.second_scores
        tied = np.flatnonzero(gap <= 0.0)
        if tied.size:
            raise TiedTokensError(
                f"the optimal token is not unique in sequence(s) {_names(tied)}: two tokens share the best score "
                "y_i u'v_it. Perturb the decoder or drop these sequences.",
                tuple(int(i) for i in tied),
            )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InvalidProblemError(message)


def _names(indices: Array, most: int = 10) -> str:
    shown = ", ".join(str(int(i)) for i in indices[:most])
    return shown if len(indices) <= most else f"{shown}, … ({len(indices)} in all)"


def first_tokens(tokens: Array, mask: Array) -> Array:
    """The first existing token of each sequence, shape (n, d): the default queries."""
    return tokens[np.arange(len(tokens)), np.argmax(mask, axis=1)]


def are_the_tokens(queries: Array, tokens: Array, mask: Array) -> bool:
    """Whether queries of shape (n, Q, d) are the sequences' own tokens, whatever stands in the padding."""
    return queries.shape == tokens.shape and np.array_equal(queries[mask], tokens[mask])


def _numbers(name: str, value: ArrayLike, ndim: int, shape: str) -> Array:
    """`value` as a float array of `ndim` axes, or an error that names it."""
    try:
        array = np.asarray(value, dtype=float)
    except (TypeError, ValueError) as error:
        raise InvalidProblemError(f"{name} is not an array of real numbers of shape {shape}: {error}.") from None
    _require(array.ndim == ndim, f"{name} has {array.ndim} axes, shape {array.shape}; expected shape {shape}.")
    return array


def _finite(name: str, value: ArrayLike, ndim: int, shape: str) -> Array:
    """`value` as a float array of `ndim` axes without NaN or infinity, or an error that names it."""
    return _require_finite(name, _numbers(name, value, ndim, shape))


def _existing(name: str, array: Array, mask: Array) -> Array:
    """A copy with zeros where the mask is False, whatever stood there; the rest must be finite."""
    return _require_finite(name, np.where(mask[:, :, None], array, 0.0))


def _require_finite(name: str, array: Array) -> Array:
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        where = tuple(int(j) for j in bad[0])
        raise InvalidProblemError(
            f"{name} holds {len(bad)} NaN or infinite value(s), the first at index {where}: clean or mask the data."
        )
    return array


def _require_labels(labels: Array) -> None:
    wrong = np.flatnonzero(np.abs(labels) != 1.0)
    if wrong.size:
        raise InvalidProblemError(
            f"labels must be -1 or +1; sequence(s) {_names(wrong)} have {', '.join(str(v) for v in np.unique(labels[wrong])[:5])}: "
            "map your two classes to -1 and +1."
        )


def _bool_mask(name: str, value: ArrayLike | None, shape: tuple[int, ...]) -> Array:
    if value is None:
        return np.ones(shape, dtype=bool)
    array = np.asarray(value)
    _require(array.dtype == bool, f"{name} has type {array.dtype}; expected bool, True where an entry exists.")
    _require(array.shape == shape, f"{name} has shape {array.shape}; expected {shape}.")
    return array
