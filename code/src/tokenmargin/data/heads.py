"""Several attention heads, each with a matrix of its own, as one problem with more queries.

J heads W^1, ..., W^J read the same tokens and the mean of their outputs is the output, m_i = (1/J) sum_j m_i(W^j). With the
block row W = [W^1 ... W^J] and the queries z_iq e_j' (z_iq in the j-th of J blocks) the logit of head j is x_it' W^j z_iq =
x_it' W z_ijq: a head is a query that no other head's query meets. All that trains or measures a `TokenProblem` takes it.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ..types import Array
from .problem import TokenProblem
from .sequences import numbers, require

Output = Literal["mean", "sum"]


def multi_head(problem: TokenProblem, heads: int, output: Output = "mean") -> TokenProblem:
    """The problem of training J heads at once: its queries are (j, q) in the order j Q + q, its dimension is J d.

    Parameters
    ----------
    problem : TokenProblem
    heads : int
        J >= 1; one head is the problem itself.
    output : {"mean", "sum"}
        Of the heads' outputs. Their sum is their mean read by J times the decoder, and the scores become J gamma_it.

    Returns
    -------
    TokenProblem
        Its W, of shape (J d, J d), holds [W^1 ... W^J] in its first d rows and zeros below: `join_heads`, `split_heads`.

    Raises
    ------
    InvalidProblemError
        If the number of heads is no integer >= 1.
    ValueError
        If the output is neither "mean" nor "sum".

    Examples
    --------
    >>> import tokenmargin as tm
    >>> from tokenmargin.data.heads import multi_head, split_heads
    >>> problem = tm.gaussian(5, 4, 100, seed=0)
    >>> run = tm.train(multi_head(problem, 3), tm.NormalizedGD(0.1), 500)
    >>> split_heads(run.W(), 3).shape
    (3, 100, 100)
    """
    if output not in ("mean", "sum"):
        raise ValueError(f"output is {output!r}; it must be 'mean' or 'sum'.")
    _require_heads(heads)
    n, T, d = problem.tokens.shape
    tokens = np.zeros((n, T, heads * d))
    tokens[:, :, :d] = problem.tokens
    queries = np.einsum("jk,iqd->ijqkd", np.eye(heads), problem.queries).reshape(n, heads * problem.Q, heads * d)
    decoder = problem.decoder * (heads if output == "sum" else 1)
    asked = np.tile(problem.query_mask, heads)
    return TokenProblem(tokens, problem.labels, decoder, queries, problem.mask, asked, problem.values, problem.names)


def join_heads(matrices: ArrayLike) -> Array:
    """The W of `multi_head`, shape (J d, J d), of the heads' matrices W^j, shape (J, d, d).

    Raises
    ------
    InvalidProblemError
        If the array does not hold one square matrix a head.
    """
    each = numbers("matrices", matrices, (3,), "(J, d, d)")
    heads, d = each.shape[:2]
    require(heads >= 1 and each.shape[2] == d, f"matrices has shape {each.shape}; give one (d, d) matrix a head.")
    W = np.zeros((heads * d, heads * d))
    W[:d] = each.transpose(1, 0, 2).reshape(d, heads * d)
    return W


def split_heads(W: ArrayLike, heads: int) -> Array:
    """The heads' matrices W^j, shape (J, d, d), of the W of `multi_head`, shape (J d, J d).

    Raises
    ------
    InvalidProblemError
        If W is no square matrix of J blocks, or holds something below its first d rows.
    """
    _require_heads(heads)
    matrix = numbers("W", W, (2,), "(J d, J d)")
    d = len(matrix) // heads
    require(
        matrix.shape == (heads * d, heads * d) and d >= 1 and not matrix[d:].any(),
        f"W has shape {matrix.shape}; give the W of `multi_head` with {heads} heads: square, in {heads} blocks, zero below the "
        "first.",
    )
    return matrix[:d].reshape(d, heads, d).transpose(1, 0, 2)


def _require_heads(heads: int) -> None:
    whole = isinstance(heads, int | np.integer) and not isinstance(heads, bool)
    require(whole and heads >= 1, f"heads is {heads!r}; give the number of heads, an integer >= 1.")
