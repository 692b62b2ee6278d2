"""UCI digits (scikit-learn's bundled copy, 8 x 8 pixels) as sequences: patches are tokens."""

from __future__ import annotations

from functools import cache

import numpy as np

from .images import DigitImages, Query
from .problem import TokenProblem
from .sequences import Sequences

SCALE = 16.0  # the brightest pixel


@cache
def digit_images() -> DigitImages:
    """The 1 797 images of the UCI digits, pixels in [0, 1]; read once in a process."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return DigitImages("the UCI digits", np.asarray(data.images) / SCALE, np.asarray(data.target))


def digits(
    classes: tuple[int, int] = (0, 1), n: int = 40, patches: int = 4, query: Query = "mean", *, seed: int
) -> Sequences:
    """n images of two of the UCI digits as sequences of patches.

    Parameters
    ----------
    classes, n, seed
        See `DigitImages.pair`.
    patches, query
        See `patch_tokens`.

    Raises
    ------
    ImageChoiceError
        If there are no such images, patches or query.

    Examples
    --------
    >>> from tokenmargin.data.digits import digits
    >>> digits((3, 8), 20, 16, seed=0)
    Sequences(n=20, T=16, d=20, Q=1)
    """
    return digit_images().sequences(classes, n, patches, query, seed=seed)


def held_out(problem: TokenProblem, classes: tuple[int, int], query: Query = "mean", *, seed: int) -> TokenProblem:
    """The images that `digits` left out; see `DigitImages.held_out`."""
    return digit_images().held_out(problem, classes, query, seed=seed)
