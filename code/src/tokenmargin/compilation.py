"""Compiled functions, kept between processes where there is a place to keep them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(function: Callable[..., Any]) -> Any:
    """`numba.njit` with a cache beside the source or in the user's cache folder; without one where neither can be written.

    Parameters
    ----------
    function : callable
        In the subset of Python that numba compiles.

    Returns
    -------
    callable
        Compiled at its first call, in each process anew when nothing can be kept.
    """
    try:
        return njit(cache=True)(function)
    except RuntimeError as error:  # numba's word for a read-only package and an unwritable home
        if "no locator" not in str(error):
            raise
        return njit(function)
