"""Norms and Gram matrices of the constraints that do not depend on the data's units."""

from __future__ import annotations

import numpy as np

from ..data.constraints import Constraints
from ..errors import FloatRangeError
from ..types import Array


def normalized(vectors: Array) -> tuple[Array, Array]:
    """Rows divided by their Euclidean norms, and the norms; of rows of any size, also where their squares over- or underflow.

    A row of zeros stays one.

    Raises
    ------
    FloatRangeError
        If an entry is not finite.
    """
    if not np.isfinite(vectors).all():
        raise FloatRangeError("a difference of tokens is beyond the largest float: divide the tokens by their scale.")
    largest = np.abs(vectors).max(axis=1)
    _, exponent = np.frexp(largest)
    scaled = np.ldexp(vectors, -exponent[:, None])  # by a power of two: exact
    size = np.linalg.norm(scaled, axis=1)
    with np.errstate(over="ignore"):
        norms = np.ldexp(size, exponent)
    return scaled / np.where(size > 0.0, size, 1.0)[:, None], norms


def unit_factors(c: Constraints, on: Array | slice = slice(None)) -> tuple[Array, Array, Array]:
    """Constraints V_k = nu_k a_k b_k' with unit vectors a, b: a and b, shapes (A, d), and nu = ||V_k||_F, shape (A,).

    Raises
    ------
    FloatRangeError
        If a norm is beyond the range of floats.
    """
    a, size_a = normalized(c.difference[on])
    b, size_b = normalized(c.query_vector[on])
    with np.errstate(over="ignore"):
        norms = size_a * size_b
    lost = ~np.isfinite(norms) | ((norms < np.finfo(float).tiny) & (size_a > 0.0) & (size_b > 0.0))
    if lost.any():
        raise FloatRangeError(
            f"the norm of constraint {int(np.flatnonzero(lost)[0])} is outside the range of floats: divide tokens and queries by "
            "their scale."
        )
    return a, b, norms


def unit_gram(c: Constraints, on: Array | slice = slice(None)) -> tuple[Array, Array]:
    """Cosines <V_k, V_l>/(||V_k|| ||V_l||), shape (A, A), and norms ||V_k||_F, shape (A,), of the chosen constraints."""
    a, b, norms = unit_factors(c, on)
    return (a @ a.T) * (b @ b.T), norms


def root_of_form(form: Array | float, scale: Array | float, count: int) -> Array:
    """sqrt(form) of quadratic forms that are >= 0 up to the rounding of a sum of count^2 terms of absolute sum `scale`.

    Raises
    ------
    FloatRangeError
        If a form is not a number, not finite, or negative beyond rounding.
    """
    form, scale = np.asarray(form, dtype=float), np.asarray(scale, dtype=float)
    rounding = 4.0 * count * np.finfo(float).eps * scale
    if not (np.isfinite(form) & (form >= -rounding)).all():
        raise FloatRangeError("a squared norm is not a number, or negative beyond rounding: rescale the tokens.")
    return np.sqrt(np.where(form > 0.0, form, 0.0))


def gram_norm(gram: Array, x: Array) -> Array:
    """||sum_k x_k V_k||_F = sqrt(x' G x) of each row of x, shape x.shape[:-1]."""
    form = ((x @ gram) * x).sum(axis=-1)
    return root_of_form(form, ((np.abs(x) @ np.abs(gram)) * np.abs(x)).sum(axis=-1), len(gram))
