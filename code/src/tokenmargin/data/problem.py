"""A token problem: labelled sequences read by a fixed linear decoder; scores, optimal tokens, constraints."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from ..errors import NearTieWarning, TiedTokensError
from ..types import Array
from .constraints import Constraints
from .sequences import Sequences, finite, listed, numbers, require

NEAR = 1e-12  # a best score that leads by less than this share of the scores' size is a near tie
LARGEST = float(np.finfo(float).max)
UNDERFLOW = (
    float(np.finfo(float).smallest_subnormal) / NEAR
)  # a lead below this share of v may be that of lost products


@dataclass(frozen=True, eq=False, init=False, repr=False)
class TokenProblem(Sequences):
    """Sequences read by a fixed linear decoder: the training data of W.

    Parameters
    ----------
    tokens, labels, queries, mask, query_mask, values, names
        See `Sequences`.
    decoder : array, shape (d,), or (v,) where values are given
        u.

    Raises
    ------
    InvalidProblemError
        Where `Sequences` does, if the decoder does not fit, or if a score is beyond the largest float.
    TiedTokensError
        If a sequence's best score is shared by several tokens.

    Warns
    -----
    NearTieWarning
        If a best score leads by less than 1e-12 of the scores' size, or by so little that products near the smallest float
        may have decided: rounding may have chosen the optimal token.

    Notes
    -----
    Scores gamma_it = y_i u' x_it (u' v_it with values v); optimal token opt_i = argmax_t gamma_it (setting and notation).

    Examples
    --------
    >>> import numpy as np
    >>> import tokenmargin as tm
    >>> problem = tm.TokenProblem(np.eye(4).reshape(2, 2, 4), [1, -1], decoder=[1.0, 0.0, 0.0, -2.0])
    >>> problem.optimal.tolist(), problem.optimal_scores.tolist()
    ([0, 1], [1.0, 2.0])
    """

    decoder: Array

    def __init__(
        self,
        tokens: ArrayLike,
        labels: ArrayLike,
        decoder: ArrayLike,
        queries: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        query_mask: ArrayLike | None = None,
        values: ArrayLike | None = None,
        names: ArrayLike | None = None,
    ):
        super().__init__(tokens, labels, queries, mask, query_mask, values, names)
        self._read_by(decoder)

    @classmethod
    def of(cls, sequences: Sequences, decoder: ArrayLike) -> TokenProblem:
        """The problem of sequences and a decoder; the arrays are shared, not validated again."""
        problem = cls.__new__(cls)
        kept = ("tokens", "labels", "queries", "mask", "query_mask", "values", "names")
        problem._keep(**{name: getattr(sequences, name) for name in kept})
        problem._read_by(decoder)
        return problem

    def _read_by(self, decoder: ArrayLike) -> None:
        v = self.values.shape[2]
        u = finite("decoder", numbers("decoder", decoder, (1,), f"({v},)"), "give finite numbers")
        require(u.shape == (v,), f"decoder has shape {u.shape}; it reads vectors of dimension {v}: give ({v},).")
        self._keep(decoder=u)
        finite(
            "the array of scores y_i u'v_it", np.where(self.mask, self.scores, 0.0), "divide the decoder by its size"
        )
        self._check_ties()

    @cached_property
    def scores(self) -> Array:
        """gamma_it = y_i u' v_it (v_it = x_it by default), shape (n, T); -inf where the mask is False."""
        with np.errstate(over="ignore", invalid="ignore"):  # beyond the largest float: refused when the decoder is read
            read = self.values @ self.decoder
        return np.where(self.mask, self.labels[:, None] * read, -np.inf)

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
        require(
            selection.shape == (self.n,) and np.issubdtype(selection.dtype, np.integer),
            f"selection has shape {selection.shape} and type {selection.dtype}: give one integer token index for each of {self.n} sequences.",
        )
        rows = np.arange(self.n)
        inside = (selection >= 0) & (selection < self.T)
        require(
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
        return TokenProblem.of(self, decoder)

    def subset(self, sequences: ArrayLike) -> TokenProblem:
        """The problem of some of the sequences, given by index or bool array."""
        chosen = np.asarray(sequences)
        values = None if self.values is self.tokens else self.values[chosen]
        names = None if self.names is None else self.names[chosen]
        parts = (self.queries[chosen], self.mask[chosen], self.query_mask[chosen], values, names)
        return TokenProblem(self.tokens[chosen], self.labels[chosen], self.decoder, *parts)

    def self_attention(self) -> TokenProblem:
        """The same sequences with every token as a query (Q = T): the full T x T attention map."""
        return TokenProblem(
            self.tokens, self.labels, self.decoder, self.tokens, self.mask, self.mask, self.values, self.names
        )

    def _check_ties(self) -> None:
        """Refuse tied best scores, copies of the optimal token first: rounding may tell their scores apart."""
        self._refuse_copies()
        with np.errstate(over="ignore"):
            gap = self.optimal_scores - self.second_scores
            size = np.where(self.mask, np.abs(self.values) @ np.abs(self.decoder), 0.0).max(axis=1)
        tied = np.flatnonzero(~(gap > 0.0))
        if tied.size:
            lost = (size == 0.0) & ((self.values != 0.0) @ (self.decoder != 0.0)).any(axis=1)
            why = "all its scores y_i u'v_it underflow to zero. Give a decoder of larger norm, or one"
            if not lost[tied].any():
                why = "two tokens share the best score y_i u'v_it. Give a decoder"
            raise TiedTokensError(
                f"the optimal token is not unique in sequence(s) {listed(tied)}: {why} that tells them apart, or drop these "
                "sequences.",
                tuple(int(i) for i in tied),
            )
        rounded = np.maximum(NEAR * np.minimum(size, LARGEST), UNDERFLOW * self.values.shape[2])
        near = np.flatnonzero(gap <= rounded)
        if near.size:
            warnings.warn(
                f"the best score of sequence(s) {listed(near)} leads by less than {NEAR:g} of the scores' size: rounding may "
                "have chosen the optimal token.",
                NearTieWarning,
                stacklevel=4,
            )

    def _refuse_copies(self) -> None:
        copies = self._copies()
        if copies:
            pairs = "; ".join(f"tokens {min(t, s)} and {max(t, s)} of sequence {i}" for i, t, s in copies[:5])
            zero = not all(self.tokens[i, t].any() for i, t, _ in copies)
            raise TiedTokensError(
                f"{pairs}{'; …' if len(copies) > 5 else ''} are equal, and score best: keep one of each, or mask one."
                + (" Zero tokens: are they padding? Give a mask." if zero else ""),
                tuple(i for i, _, _ in copies),
            )

    def _copies(self) -> list[tuple[int, int, int]]:
        """(i, opt_i, s) for the first copy s, in token and value, of the optimal token of each sequence that has one."""
        rows = np.arange(self.n)
        same = (self.tokens == self.tokens[rows, self.optimal][:, None]).all(axis=2) & self.mask
        same &= (self.values == self.values[rows, self.optimal][:, None]).all(axis=2)
        same[rows, self.optimal] = False
        return [(int(i), int(self.optimal[i]), int(same[i].argmax())) for i in np.flatnonzero(same.any(axis=1))]
