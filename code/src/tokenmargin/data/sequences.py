"""Labelled sequences of tokens with their queries: what is given before any decoder reads it. Validated here, once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InvalidProblemError
from ..types import Array

SHAPES = {"tokens": "(n, T, d)", "labels": "(n,)", "queries": "(n, d) or (n, Q, d)", "values": "(n, T, v)"}


@dataclass(frozen=True, eq=False, init=False, repr=False)
class Sequences:
    """n labelled sequences of up to T tokens in R^d, each with Q queries.

    Parameters
    ----------
    tokens : array, shape (n, T, d)
        x_it.
    labels : array, shape (n,)
        y_i, each -1 or +1.
    queries : array, shape (n, d) or (n, Q, d), optional
        z_iq. Default: the first (existing) token of each sequence (Q = 1). Pass the tokens themselves for full
        self-attention (Q = T): the outputs of a sequence's queries are averaged.
    mask : array of bool or of 0 and 1, shape (n, T), optional
        True where a token exists; sequences of different lengths are padded, with any values. Default: all exist.
    query_mask : the same, shape (n, Q), optional
        True where a query exists. Default: all, or ``mask`` when the queries are the tokens.
    values : array, shape (n, T, v), optional
        What a decoder reads, default the tokens themselves (the paper's model; then v = d). One-dimensional
        values with decoder (1,) prescribe the scores exactly, whatever the tokens' geometry.
    names : array of text, shape (n,) or (n, T), optional
        Names of the sequences, or of every token.
    called : mapping, optional
        Other names under which messages speak of the arrays, such as ``{"tokens": "X"}``.

    Raises
    ------
    InvalidProblemError
        On wrong shapes or types, NaN or infinity, labels other than -1 and +1, or fewer than two tokens in a sequence.

    Notes
    -----
    The arrays are kept as read-only copies, zero where a mask is False. Source: setting and notation.

    Examples
    --------
    >>> import numpy as np
    >>> import tokenmargin as tm
    >>> tm.Sequences(np.eye(6).reshape(2, 3, 6), [1, -1])
    Sequences(n=2, T=3, d=6, Q=1)
    """

    tokens: Array
    labels: Array
    queries: Array
    mask: Array
    query_mask: Array
    values: Array
    names: Array | None

    def __init__(
        self,
        tokens: ArrayLike,
        labels: ArrayLike,
        queries: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        query_mask: ArrayLike | None = None,
        values: ArrayLike | None = None,
        names: ArrayLike | None = None,
        *,
        called: Mapping[str, str] | None = None,
    ):
        called = called or {}
        tokens_name = called.get("tokens", "tokens")
        x = numbers(tokens_name, tokens, (3,), SHAPES["tokens"])
        n, T, d = x.shape
        require(n >= 1 and d >= 1, f"{tokens_name} has shape {x.shape}: give at least one sequence and one coordinate.")
        require(
            T >= 2,
            f"{tokens_name} has T = {T}: attention chooses among at least two tokens: add tokens to each sequence.",
        )
        there = _bool_mask(called.get("mask", "mask"), mask, (n, T), "token")
        short = np.flatnonzero(there.sum(axis=1) < 2)
        require(
            short.size == 0,
            f"mask leaves fewer than two tokens in sequence(s) {listed(short)}: drop them or unmask tokens.",
        )
        x = _existing(tokens_name, x, there)
        z = _queries(called.get("queries", "queries"), queries, tokens, x, there)
        if query_mask is None and queries is not None and are_the_tokens(z, x, there):
            query_mask = there
        asked = _bool_mask("query_mask", query_mask, z.shape[:2], "query")
        empty = np.flatnonzero(asked.sum(axis=1) < 1)
        require(
            empty.size == 0,
            f"query_mask leaves no query in sequence(s) {listed(empty)}: drop them or unmask a query.",
        )
        fields = {
            "tokens": x,
            "labels": _labels(called.get("labels", "labels"), labels, n),
            "queries": _existing(called.get("queries", "queries"), z, asked),
            "mask": there,
            "query_mask": asked,
            "values": x if values is None or values is tokens else _values(values, there),
            "names": None if names is None else _text(names, (n, T)),
        }
        self._keep(**fields)

    def _keep(self, **fields: Array | None) -> None:
        """Hold arrays that are known to be right, read-only."""
        for name, value in fields.items():
            if value is not None:
                value.setflags(write=False)
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(n={self.n}, T={self.T}, d={self.d}, Q={self.Q})"

    @property
    def n(self) -> int:
        """Number of sequences."""
        return int(self.tokens.shape[0])

    @property
    def T(self) -> int:
        """Number of tokens of the longest sequence."""
        return int(self.tokens.shape[1])

    @property
    def d(self) -> int:
        """Dimension of a token."""
        return int(self.tokens.shape[2])

    @property
    def Q(self) -> int:
        """Number of queries of a sequence."""
        return int(self.queries.shape[1])

    def name(self, sequence: int, token: int) -> str:
        """How a token is called in tables: by its name, or its index."""
        if self.names is None:
            return f"{sequence}: token {token}"
        if self.names.ndim == 1:
            return f"{self.names[sequence]}: token {token}"
        return f"{sequence}: {self.names[sequence, token]}"

    def mean_query(self) -> Sequences:
        """The same sequences with one query each, the mean of their existing ones."""
        share = self.query_mask / self.query_mask.sum(axis=1, keepdims=True)
        mean = np.einsum("iq,iqd->id", share, self.queries)
        return Sequences(self.tokens, self.labels, mean, self.mask, None, self.values, self.names)


def require(condition: bool, message: str) -> None:
    """Raise `InvalidProblemError` with the message unless the condition holds."""
    if not condition:
        raise InvalidProblemError(message)


def listed(indices: Array, most: int = 10) -> str:
    """Indices as a reader reads them, the first ten."""
    shown = ", ".join(str(int(i)) for i in indices[:most])
    return shown if len(indices) <= most else f"{shown}, … ({len(indices)} in all)"


def numbers(name: str, value: ArrayLike, axes: tuple[int, ...], shape: str) -> Array:
    """`value` as a float array with one of these numbers of axes, or an error that names it.

    Text, dates, objects and complex numbers are refused, not converted. What a longer float holds beyond float64 is infinite.
    """
    array = _plain(name, value, f"real numbers of shape {shape}")
    if array.dtype.kind not in "fiub":
        raise InvalidProblemError(f"{name} has type {array.dtype}; give real numbers, such as float64.")
    if array.ndim not in axes:
        raise InvalidProblemError(f"{name} has {array.ndim} axes, shape {array.shape}; reshape it to {shape}.")
    if array.dtype == float:
        return array.copy(order="K")
    with np.errstate(over="ignore"):
        return array.astype(float)


def _plain(name: str, value: ArrayLike, of: str) -> Array:
    """`value` as an array, or an error that names it: rows of different lengths, and masked arrays, whose mask would be lost."""
    masked = isinstance(value, np.ma.MaskedArray)
    require(not masked, f"{name} is a masked array: give its data, with zeros, and say in `mask` which tokens exist.")
    try:
        return np.asarray(value)
    except (TypeError, ValueError) as error:
        raise InvalidProblemError(f"{name} is not an array of {of}: {error}.") from None


def finite(name: str, array: Array, advice: str = "clean or mask the data") -> Array:
    """The array, once it holds neither NaN nor infinity."""
    held = np.isfinite(array)
    if not held.all():
        bad = np.argwhere(~held)
        where = tuple(int(j) for j in bad[0])
        raise InvalidProblemError(
            f"{name} holds {len(bad)} NaN or infinite value(s), the first at index {where}: {advice}."
        )
    return array


def are_the_tokens(queries: Array, tokens: Array, mask: Array) -> bool:
    """Whether queries of shape (n, Q, d) are the sequences' own tokens, whatever stands in the padding."""
    return queries.shape == tokens.shape and np.array_equal(queries[mask], tokens[mask])


def _existing(name: str, array: Array, mask: Array) -> Array:
    """A copy with zeros where the mask is False, whatever stood there; the rest must be finite."""
    advice = "clean them, or add a mask that is False at missing tokens"
    return finite(name, np.where(mask[:, :, None], array, 0.0), advice)


def _queries(name: str, queries: ArrayLike | None, tokens: ArrayLike, x: Array, mask: Array) -> Array:
    """Queries of shape (n, Q, d); default the first existing token."""
    n, _, d = x.shape
    if queries is None:
        first = x[np.arange(n), np.argmax(mask, axis=1)][:, None, :]
        return first
    if queries is tokens:
        return x
    z = numbers(name, queries, (2, 3), SHAPES["queries"])
    z = z[:, None, :] if z.ndim == 2 else z
    require(
        z.shape[0] == n and z.shape[2] == d and z.shape[1] >= 1,
        f"{name} has shape {np.shape(queries)}; give ({n}, {d}) or ({n}, Q, {d}) to go with the tokens.",
    )
    return z


def _values(values: ArrayLike, mask: Array) -> Array:
    v = numbers("values", values, (3,), SHAPES["values"])
    n, T = mask.shape
    require(v.shape[:2] == (n, T), f"values has shape {v.shape}; give ({n}, {T}, v) to go with the tokens.")
    return _existing("values", v, mask)


def _labels(name: str, labels: ArrayLike, n: int) -> Array:
    array = _plain(name, labels, "-1 and +1")
    if array.dtype.kind not in "fiub":
        raise InvalidProblemError(f"{name} has type {array.dtype}; give -1 and +1.")
    y = finite(name, numbers(name, array, (1,), SHAPES["labels"]), "give each sequence the label -1 or +1")
    require(y.shape == (n,), f"{name} has shape {y.shape}; give one label for each of the {n} sequences, shape ({n},).")
    wrong = np.flatnonzero(np.abs(y) != 1.0)
    if wrong.size:
        held = ", ".join(f"{v:g}" for v in np.unique(y[wrong])[:5])
        raise InvalidProblemError(
            f"{name} must be -1 or +1; sequence(s) {listed(wrong)} have {held}: map your two classes to -1 and +1."
        )
    return y


def _bool_mask(name: str, value: ArrayLike | None, shape: tuple[int, ...], of: str) -> Array:
    """A bool array; numbers are taken where all are 0 or 1."""
    if value is None:
        return np.ones(shape, dtype=bool)
    array = _plain(name, value, f"bool of shape {shape}")
    require(array.shape == shape, f"{name} has shape {array.shape}; give {shape}, True where a {of} exists.")
    plain = array.dtype == bool or (array.dtype.kind in "fiu" and bool(np.isin(array, (0, 1)).all()))
    require(plain, f"{name} has type {array.dtype} or values other than 0 and 1; give bool, True where a {of} exists.")
    return array.astype(bool)


def _text(names: ArrayLike, shape: tuple[int, int]) -> Array:
    array = _plain("names", names, f"text of shape {shape}")
    require(array.shape in (shape, shape[:1]), f"names has shape {array.shape}; give ({shape[0]},) or {shape}.")
    return array.astype(str)
