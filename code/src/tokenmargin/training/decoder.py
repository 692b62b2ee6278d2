"""A decoder for sequences that come without one: trained jointly with W from zero, then fixed."""

from __future__ import annotations

import numpy as np

from ..data.digits import digits
from ..data.images import Query
from ..data.mnist import mnist
from ..data.problem import TokenProblem
from ..data.sequences import Sequences
from ..errors import TiedTokensError
from ..model.losses import Loss
from ..types import Array
from .joint import train_joint


def trained_decoder(
    sequences: Sequences, steps: int = 2000, *, eta0: float = 0.5, decay: float = 2 / 3, loss: Loss = "exponential"
) -> Array:
    """u after a joint run of W and u by normalised steps from zero (deterministic), shape (d,).

    Where sequences have several queries the joint run reads their mean. Arguments as in `train_joint`.
    """
    single = sequences if sequences.Q == 1 else sequences.mean_query()
    return train_joint(single, steps, eta0=eta0, decay=decay, loss=loss, record=[steps]).u()


def with_trained_decoder(sequences: Sequences, steps: int = 2000) -> TokenProblem:
    """The token problem of sequences read by their `trained_decoder`.

    Raises
    ------
    TiedTokensError
        If two tokens of a sequence score alike under it.
    """
    return _read(sequences, trained_decoder(sequences, steps))


def digit_problem(
    classes: tuple[int, int] = (0, 1), n: int = 40, patches: int = 4, *, seed: int, joint_steps: int = 200
) -> TokenProblem:
    """Two of the UCI digits (`data.digits.digits`), read by a decoder from a short joint run (`image_problem`)."""
    return image_problem(digits(classes, n, patches, seed=seed), joint_steps)


def mnist_problem(
    classes: tuple[int, int] = (0, 1),
    n: int = 40,
    patches: int = 16,
    query: Query = "mean",
    *,
    seed: int,
    readers: int = 40,
    joint_steps: int = 200,
) -> TokenProblem:
    """Two of the digits of MNIST (`data.mnist.mnist`), read by a decoder from a short joint run on the first few of them.

    Parameters
    ----------
    classes, n, patches, query, seed
        See `data.mnist.mnist`.
    readers : int
        The decoder is that of `image_problem` on the first `readers` of the images with the query "mean": its cost does not
        grow with n, and an image has the same optimal token for every larger n and every query, so that constraints are
        only ever added and the margin never rises with n.
    joint_steps : int
        See `image_problem`.

    Raises
    ------
    ImageChoiceError
        If there are no such images, patches or query.
    TiedTokensError
        If two tokens of an image score alike under the decoder.

    Examples
    --------
    >>> from tokenmargin.training.decoder import mnist_problem
    >>> mnist_problem((3, 8), 1000, seed=0)
    TokenProblem(n=1000, T=16, d=65, Q=1)
    """
    few = image_problem(mnist(classes, min(n, readers), patches, seed=seed), joint_steps)
    return _read(mnist(classes, n, patches, query, seed=seed), few.decoder)


def image_problem(sequences: Sequences, joint_steps: int = 200) -> TokenProblem:
    """The token problem of images, read by a decoder from a short joint run that is then fixed.

    Parameters
    ----------
    sequences : Sequences
        See `data.digits.digits`, `data.mnist.mnist`.
    joint_steps : int
        Steps of `train_joint` (constant length 0.1, logistic loss) from zero; the decoder is its u, scaled to norm one: that
        leaves the optimal tokens as they are and keeps the scores, hence the weights of the sequences, of order one.

    Raises
    ------
    TiedTokensError
        If two tokens of an image score alike under it.
    """
    u = trained_decoder(sequences, joint_steps, eta0=0.1, decay=0.0, loss="logistic")
    return _read(sequences, u / np.linalg.norm(u))


def problem_of(sequences: Sequences, decoder: Array | None, *, steps: int = 2000) -> TokenProblem:
    """The token problem of what `read_npz` returns; without a decoder, one is trained."""
    return with_trained_decoder(sequences, steps) if decoder is None else TokenProblem.of(sequences, decoder)


def _read(sequences: Sequences, decoder: Array) -> TokenProblem:
    """The problem; where best scores tie, in words for those who gave no decoder."""
    try:
        return TokenProblem.of(sequences, decoder)
    except TiedTokensError as error:
        what = str(error).partition(" Give a decoder")[0]
        raise TiedTokensError(
            f"{what} The decoder was trained on these sequences: drop them, or train it longer.", error.sequences
        ) from None
