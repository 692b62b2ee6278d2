"""Images of digits as sequences: an image is cut into square patches, and patches are tokens."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..errors import ImageChoiceError
from ..types import Array
from .problem import TokenProblem
from .sequences import Sequences

Query = Literal["mean", "cls", "tokens"]


@dataclass(frozen=True, eq=False)
class DigitImages:
    """A set of images of the ten digits.

    Parameters
    ----------
    name : str
        What messages call the set.
    pixels : array, shape (N, size, size)
        Grey values in [0, 1].
    digits : int array, shape (N,)
        The digit on each image.
    """

    name: str
    pixels: Array
    digits: Array

    def split(self, n: int, *, seed: int) -> tuple[Array, Array, Array, Array]:
        """All ten digits, split at random into n images for training and the rest, each digit as evenly as n allows.

        Parameters
        ----------
        n : int
            Images for training, at least one of each digit. The counts of two digits of equally many images differ by at
            most one, for any n.
        seed : int
            Seed of the shuffle. For one seed a larger n adds images to those of a smaller n.

        Returns
        -------
        pixels, digits, held_out_pixels, held_out_digits : arrays
            Shapes (n, size, size), (n,), (m, size, size), (m,).

        Raises
        ------
        ImageChoiceError
            If there are not n images, or n is below ten.
        """
        n = self._number(n, 10, len(self.digits), "images")
        shuffled = np.random.default_rng(seed).permutation(len(self.digits))
        turn = np.empty(len(self.digits), dtype=int)  # the how-manieth of its digit an image is
        for digit in range(10):
            of_digit = np.flatnonzero(self.digits[shuffled] == digit)
            turn[of_digit] = np.arange(len(of_digit))
        order = shuffled[np.argsort(turn, kind="stable")]
        train, rest = order[:n], order[n:]
        return self.pixels[train], self.digits[train], self.pixels[rest], self.digits[rest]

    def pair(self, classes: tuple[int, int], n: int, *, seed: int) -> tuple[Array, Array, Array, Array]:
        """Images and labels of two digits, split at random into n for training and the rest, which may be none.

        Parameters
        ----------
        classes : tuple of two ints
            The digits; the first has label -1, the second +1.
        n : int
            Images for training, at least two.
        seed : int
            Seed of the shuffle. For one seed a larger n adds images to those of a smaller n.

        Returns
        -------
        pixels, labels, held_out_pixels, held_out_labels : arrays
            Shapes (n, size, size), (n,), (m, size, size), (m,).

        Raises
        ------
        ImageChoiceError
            If the classes are not two different digits, or there are not n such images.
        """
        first, second = _two_digits(classes)
        index = np.flatnonzero((self.digits == first) | (self.digits == second))
        n = self._number(n, 2, len(index), f"images of {first} and {second}")
        index = np.random.default_rng(seed).permutation(index)
        pixels, labels = self.pixels[index], np.where(self.digits[index] == second, 1.0, -1.0)
        return pixels[:n], labels[:n], pixels[n:], labels[n:]

    def sequences(
        self, classes: tuple[int, int], n: int, patches: int, query: Query = "mean", *, seed: int
    ) -> Sequences:
        """The training images of `pair` as sequences of patches, see `patch_tokens`."""
        pixels, labels, _, _ = self.pair(classes, n, seed=seed)
        return _read(pixels, labels, patches, query)

    def held_out(
        self, problem: TokenProblem, classes: tuple[int, int], query: Query = "mean", *, seed: int
    ) -> TokenProblem:
        """The images that `sequences` left out, with the problem's decoder: for accuracies of prediction and of token choice.

        Raises
        ------
        ImageChoiceError
            If none is left.
        """
        _, _, pixels, labels = self.pair(classes, problem.n, seed=seed)
        if len(labels) == 0:
            raise ImageChoiceError(
                f"the problem has all {problem.n} images of {classes[0]} and {classes[1]} of {self.name}, and none is "
                "held out: train on fewer."
            )
        rest = _read(pixels, labels, problem.T, query)
        return TokenProblem(rest.tokens, labels, problem.decoder, rest.queries)

    def _number(self, n: int, least: int, most: int, what: str) -> int:
        """n as an int between the two, or an error that says so."""
        try:
            number = operator.index(n)
        except TypeError:
            number = -1
        if not least <= number <= most:
            raise ImageChoiceError(f"n is {n!r}; choose {least} to {most}, of the {most} {what} of {self.name}.")
        return number


def patch_tokens(images: Array, patches: int, query: Query = "mean") -> tuple[Array, Array]:
    """Tokens and queries of images: a token is a patch's pixels and the one-hot code of its place.

    Parameters
    ----------
    images : array, shape (n, size, size)
    patches : int
        T = g^2, g at least 2 and a divisor of the size: 4 or 16 patches of 8 x 8 pixels (d = 20 either way), 16 or 49 of
        28 x 28 (d = 65 either way).
    query : {"mean", "cls", "tokens"}
        "mean": the mean of the image's tokens, extended by a constant 1. "cls": one unit vector, the same for all images, as
        the class token of a vision transformer is before its first block; it asks and is not itself among the tokens.
        "tokens": every token asks, full self-attention.

    Returns
    -------
    tokens : array, shape (n, T, d)
        d = (size/g)^2 + T.
    queries : array, shape (n, d), or the tokens themselves

    Raises
    ------
    ImageChoiceError
        If the images cannot be cut so, or there is no such query.

    Notes
    -----
    The mean is 1/T at each place code, so the constant is folded into these entries, c with T c^2 = 1/T + 1: all inner
    products z_i . z_j, hence everything that training sees, are those of the extended vectors, and the query keeps the
    tokens' dimension. With "cls" training sees W only through its product with the one query: which unit vector that is
    does not matter.
    """
    size = images.shape[-1]
    grid = _grid(size, patches)
    side, n = size // grid, len(images)
    pixels = images.reshape(n, grid, side, grid, side).swapaxes(2, 3).reshape(n, patches, side**2)
    place = np.broadcast_to(np.eye(patches), (n, patches, patches))
    tokens = np.concatenate([pixels, place], axis=2)
    if query == "tokens":
        return tokens, tokens
    if query == "cls":
        asks = np.concatenate([np.zeros(side**2), np.full(patches, patches**-0.5)])
        return tokens, np.tile(asks, (n, 1))
    if query != "mean":
        raise ImageChoiceError(f"query is {query!r}; it must be 'mean', 'cls' or 'tokens'.")
    constant = np.full((n, patches), np.sqrt((1.0 / patches + 1.0) / patches))
    return tokens, np.concatenate([pixels.mean(axis=1), constant], axis=1)


def pictures(problem: Sequences) -> Array:
    """The images of a problem, put together again from their tokens; shape (n, size, size), pixels in [0, 1]."""
    grid, side = math.isqrt(problem.T), math.isqrt(problem.d - problem.T)
    blocks = problem.tokens[:, :, : side**2].reshape(-1, grid, grid, side, side)
    return blocks.swapaxes(2, 3).reshape(-1, grid * side, grid * side)


def on_pixels(values: Array, size: int) -> Array:
    """Values of the patches of an image, shape (..., T), as a picture: each pixel has its patch's; shape (..., size, size)."""
    grid = _grid(size, values.shape[-1])
    side = size // grid
    return values.reshape(*values.shape[:-1], grid, grid).repeat(side, axis=-2).repeat(side, axis=-1)


def _read(pixels: Array, labels: Array, patches: int, query: Query) -> Sequences:
    tokens, queries = patch_tokens(pixels, patches, query)
    return Sequences(tokens, labels, queries)


def _two_digits(classes: tuple[int, int]) -> tuple[int, int]:
    try:
        first, second = (operator.index(digit) for digit in classes)
    except (TypeError, ValueError):
        first = second = 0
    if first == second or not {first, second} <= set(range(10)):
        raise ImageChoiceError(f"classes is {classes!r}; give two different digits from 0 to 9, such as (0, 1).")
    return first, second


def _grid(size: int, patches: int) -> int:
    """Patches along an edge of the image."""
    grids = [grid for grid in range(2, size + 1) if size % grid == 0]
    for grid in grids:
        if grid**2 == patches:
            return grid
    choices = ", ".join(f"{grid**2} (of {size // grid} x {size // grid} pixels)" for grid in grids)
    raise ImageChoiceError(f"patches is {patches!r}; for images of {size} x {size} it must be one of {choices}.")
