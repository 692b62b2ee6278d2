"""UCI digits (scikit-learn's bundled copy, 8 x 8 pixels) as sequences: patches are tokens."""

from __future__ import annotations

import numpy as np

from ..types import Array
from .problem import TokenProblem
from .sequences import Sequences

PATCHES = {4: 4, 16: 2}  # tokens of an image -> side of a patch


SCALE = 16.0  # the brightest pixel


def digit_images(classes: tuple[int, int], n: int, *, seed: int) -> tuple[Array, Array, Array, Array]:
    """Images and labels of two digits, split at random into n for training and the rest.

    Parameters
    ----------
    classes : tuple of two ints
        The digits; the first has label -1, the second +1.
    n : int
        Images for training.
    seed : int
        Seed of the shuffle.

    Returns
    -------
    images, labels, held_out_images, held_out_labels : arrays
        Shapes (n, 8, 8), (n,), (m, 8, 8), (m,); pixels in [0, 1].

    Raises
    ------
    ValueError
        If the classes are not two different digits, or there are not n + 1 such images.
    """
    from sklearn.datasets import load_digits

    first, second = classes
    if first == second or not {first, second} <= set(range(10)):
        raise ValueError(f"classes is {classes}; give two different digits from 0 to 9.")
    data = load_digits()
    index = np.flatnonzero((data.target == first) | (data.target == second))
    if not 2 <= n < len(index):
        raise ValueError(f"n is {n}; choose 2 to {len(index) - 1} of the {len(index)} images of {first} and {second}.")
    index = np.random.default_rng(seed).permutation(index)
    images, labels = data.images[index] / SCALE, np.where(data.target[index] == second, 1.0, -1.0)
    return images[:n], labels[:n], images[n:], labels[n:]


def patch_tokens(images: Array, patches: int) -> tuple[Array, Array]:
    """Tokens and queries of images: a token is a patch's pixels and the one-hot code of its place.

    Parameters
    ----------
    images : array, shape (n, 8, 8)
    patches : {4, 16}
        Four 4 x 4 or sixteen 2 x 2 patches; a token has 16 + 4 or 4 + 16 entries, so d = 20 either way.

    Returns
    -------
    tokens : array, shape (n, T, 20)
    queries : array, shape (n, 20)

    Raises
    ------
    ValueError
        If patches is neither 4 nor 16.

    Notes
    -----
    The query is the mean of the image's tokens, extended by a constant 1. The mean is 1/T at each place code, so the
    constant is folded into these entries, c with T c^2 = 1/T + 1: all inner products z_i . z_j, hence everything that
    training sees, are those of the extended vectors, and the query keeps the tokens' dimension.
    """
    if patches not in PATCHES:
        raise ValueError(f"patches is {patches}; it must be 4 (of 4 x 4 pixels) or 16 (of 2 x 2).")
    side = PATCHES[patches]
    blocks = images.reshape(len(images), 8 // side, side, 8 // side, side).swapaxes(2, 3)
    pixels = blocks.reshape(len(images), patches, side**2)
    place = np.broadcast_to(np.eye(patches), (len(images), patches, patches))
    constant = np.full((len(images), patches), np.sqrt((1.0 / patches + 1.0) / patches))
    return np.concatenate([pixels, place], axis=2), np.concatenate([pixels.mean(axis=1), constant], axis=1)


def digits(classes: tuple[int, int] = (0, 1), n: int = 40, patches: int = 4, *, seed: int) -> Sequences:
    """n images of two of the UCI digits as sequences of patches; see `digit_images` and `patch_tokens`."""
    images, labels, _, _ = digit_images(classes, n, seed=seed)
    tokens, queries = patch_tokens(images, patches)
    return Sequences(tokens, labels, queries)


def held_out(problem: TokenProblem, classes: tuple[int, int], *, seed: int) -> TokenProblem:
    """The images that `digits` left out, with the same decoder: for accuracies of prediction and of token choice."""
    _, _, images, labels = digit_images(classes, problem.n, seed=seed)
    tokens, queries = patch_tokens(images, problem.T)
    return TokenProblem(tokens, labels, problem.decoder, queries)


def pictures(problem: Sequences) -> Array:
    """The images of digits, put together again from their tokens; shape (n, 8, 8), pixels in [0, 1]."""
    side = PATCHES[problem.T]
    blocks = problem.tokens[:, :, : side**2].reshape(-1, 8 // side, 8 // side, side, side)
    return blocks.swapaxes(2, 3).reshape(-1, 8, 8)


def on_pixels(values: Array) -> Array:
    """Values of the patches of an image, shape (..., T), as a picture: each pixel has its patch's; shape (..., 8, 8)."""
    side = PATCHES[values.shape[-1]]
    return values.reshape(*values.shape[:-1], 8 // side, 8 // side).repeat(side, axis=-2).repeat(side, axis=-1)
