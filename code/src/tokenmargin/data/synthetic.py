"""Makers of token problems. Each takes a seed and uses one generator of its own."""

from __future__ import annotations

from typing import Literal

import numpy as np

from .problem import TokenProblem

Scores = Literal["equal", "gaussian"]


def orthogonal(
    n: int, T: int, d: int, *, seed: int, scores: Scores = "equal", Q: int = 1, scale: float = 1.0
) -> TokenProblem:
    """Mutually orthogonal tokens of norm `scale`; condition (A) holds exactly up to rounding.

    Parameters
    ----------
    n, T, d : int
        Sequences, tokens, dimension, with n T <= d.
    seed : int
        Seed of this problem's own generator.
    scores : {"equal", "gaussian"}
        "equal": 1 for a random optimal token, 0 for the others: condition (S). "gaussian": i.i.d. N(0, 1).
    Q : int
        1: the query is the first token. T: every token is a query.

    Raises
    ------
    ValueError
        If d is too small for orthogonal tokens.

    Examples
    --------
    >>> import tokenmargin as tm
    >>> tm.conditions(tm.orthogonal(3, 2, 8, seed=1)).acute
    True
    """
    if n * T > d:
        raise ValueError(f"d = {d} is too small for n T = {n * T} orthogonal tokens: choose d >= {n * T}.")
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((d, n * T)))[0].T
    return _with_scores(scale * basis.reshape(n, T, d), rng, scores, Q)


def gaussian(n: int, T: int, d: int, *, seed: int, scores: Scores = "equal", Q: int = 1) -> TokenProblem:
    """Tokens N(0, I/d), of norm near 1 and nearly orthogonal for large d; arguments as in `orthogonal`.

    Examples
    --------
    >>> import tokenmargin as tm
    >>> tm.gaussian(5, 4, 100, seed=0)
    TokenProblem(n=5, T=4, d=100, Q=1)
    """
    rng = np.random.default_rng(seed)
    return _with_scores(rng.standard_normal((n, T, d)) / np.sqrt(d), rng, scores, Q)


def taught(n: int, T: int, d: int, *, seed: int) -> TokenProblem:
    """Gaussian tokens N(0, I/d) whose optimal token is the one that a hidden Gaussian W attends to most: separable always.

    The scores are 1 for that token and 0 for the others: condition (S). The query is a vector of its own, N(0, I/d).
    """
    rng = np.random.default_rng(seed)
    tokens = rng.standard_normal((n, T, d)) / np.sqrt(d)
    queries = rng.standard_normal((n, d)) / np.sqrt(d)
    hidden = rng.standard_normal((d, d))
    best = np.einsum("itd,de,ie->it", tokens, hidden, queries, optimize=True).argmax(axis=1)
    labels = rng.choice([-1.0, 1.0], size=n)
    scores = (np.arange(T) == best[:, None]).astype(float)
    return TokenProblem(tokens, labels, np.ones(1), queries, values=(labels[:, None] * scores)[:, :, None])


def signal_plus_noise(
    n: int, T: int, d: int, *, seed: int, signal: float = 1.0, noise: float = 1.0, Q: int = 1
) -> TokenProblem:
    """One signal token y_i * signal * e_1 (plus noise) in each sequence, the others pure noise of norm near `noise`.

    The noise is N(0, noise^2/d) in the coordinates 2..d, orthogonal to the signal. The decoder is e_1/signal, so
    that the signal token scores 1 and the others 0: condition (S). Signal position and labels are random.
    """
    rng = np.random.default_rng(seed)
    tokens = noise * rng.standard_normal((n, T, d)) / np.sqrt(d)
    tokens[:, :, 0] = 0.0
    labels = rng.choice([-1.0, 1.0], size=n)
    tokens[np.arange(n), rng.integers(T, size=n), 0] = signal * labels
    decoder = np.zeros(d)
    decoder[0] = 1.0 / signal
    return TokenProblem(tokens, labels, decoder, tokens if Q == T else tokens[:, :1])


def _with_scores(tokens: np.ndarray, rng: np.random.Generator, scores: Scores, Q: int) -> TokenProblem:
    """Random labels and prescribed scores: 1 for a random optimal token and 0 else, or i.i.d. N(0, 1).

    The scores enter as one-dimensional values, so that equal scores are equal to the last bit; where n T <= d and
    the tokens are independent, a decoder in R^d that reads the tokens themselves has the same scores.
    """
    n, T, _ = tokens.shape
    if scores == "equal":
        gamma = (np.arange(T) == np.asarray(rng.integers(T, size=n))[:, None]).astype(float)
    elif scores == "gaussian":
        gamma = rng.standard_normal((n, T))
    else:
        raise ValueError(f"scores is {scores!r}; it must be 'equal' or 'gaussian'.")
    if Q not in (1, T):
        raise ValueError(f"Q is {Q}; it must be 1 (the first token queries) or T = {T} (every token queries).")
    labels = rng.choice([-1.0, 1.0], size=n)
    queries = tokens if Q == T else tokens[:, :1]
    return TokenProblem(tokens, labels, np.ones(1), queries, values=(labels[:, None] * gamma)[:, :, None])
