"""A vision transformer trained end to end on MNIST by the package's own step rules, and what each of its heads selects."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ..data.mnist import mnist_split
from ..data.problem import TokenProblem
from ..errors import UnboundedStepError
from ..model.vision_transformer import VisionTransformer, compiled, cross_entropy
from ..training.descent import descend
from ..training.moments import Adam
from ..training.rules import Step
from ..training.trajectory import record_times
from ..types import Array

SIDE = 7  # of a patch, in pixels: sixteen patches an image
READ = 100  # images that are read at once


class ImageSet(NamedTuple):
    """Training and held-out images as patches, shapes (n, 16, 49) and (m, 16, 49), float32, with their digits."""

    images: Array
    digits: Array
    held_out: Array
    held_out_digits: Array


def image_set(n: int, m: int, *, seed: int) -> ImageSet:
    """n images of MNIST for training and m others, drawn at random; see `data.mnist.mnist_split`."""
    pixels, digits, rest, rest_digits = mnist_split(n, seed=seed)
    return ImageSet(patches(pixels), digits, patches(rest[:m]), rest_digits[:m])


def patches(pixels: Array) -> Array:
    """Images of shape (n, 28, 28), cut into sixteen patches, row by row; shape (n, 16, 49), float32."""
    k = pixels.shape[-1] // SIDE
    cut = pixels.reshape(-1, k, SIDE, k, SIDE).swapaxes(2, 3)
    return cut.reshape(-1, k * k, SIDE * SIDE).astype(np.float32)


@dataclass(frozen=True, eq=False)
class ImageRun:
    """A training run of a vision transformer; K records.

    Attributes
    ----------
    rule : Step or Adam
    times : int array, shape (K,)
    w : array, shape (K, size)
        The parameters at the records.
    losses : array, shape (steps + 1,)
        Of the images whose gradient each iteration takes: all, or a batch.
    images_a_step : int
        How many these are.
    """

    rule: Step | Adam
    times: Array
    w: Array
    losses: Array
    images_a_step: int

    @property
    def evaluations(self) -> Array:
        """Gradients of single images that have been taken by each record, shape (K,): what a run costs."""
        return self.times * self.images_a_step

    def late_loss(self) -> float:
        """Mean of `losses` over the last tenth of the run: what a step-size is chosen by."""
        return float(self.losses[-max(1, len(self.losses) // 10) :].mean())


def train_images(
    model: VisionTransformer,
    data: ImageSet,
    rule: Step | Adam,
    steps: int,
    *,
    seed: int,
    batch: int,
    whole: bool = False,
    record: ArrayLike | None = None,
) -> ImageRun:
    """Train a vision transformer from `model.initial(seed)` by a rule of `training.rules` or by Adam.

    Parameters
    ----------
    steps : int
    seed : int
        Of the start and of the batches.
    batch : int
        Images of a batch, drawn anew without replacement at each step.
    whole : bool
        Whether a step takes the gradient of all images, summed up batch by batch; `batch` must divide their number.
    record : int array, optional
        Iterations to record; default log-spaced.

    Raises
    ------
    ValueError
        If the batch is larger than the number of images, or does not divide it where all are taken.
    UnboundedStepError
        If the loss does not stay finite.
    """
    n = len(data.digits)
    if not 1 <= batch <= n or (whole and n % batch):
        raise ValueError(
            f"batch is {batch}, images {n}: choose one that is not larger, and divides it where all are taken."
        )
    value_and_gradient, _ = compiled(model)
    order = np.random.default_rng([seed, n])

    def oracle(w: Array, t: int) -> tuple[float, Array]:
        parts = np.arange(n).reshape(-1, batch) if whole else np.sort(order.permutation(n)[:batch])[None]
        found = [value_and_gradient(w, data.images[part], data.digits[part]) for part in parts]
        values, gradients = zip(*found, strict=True)
        return math.fsum(values) / len(found), np.mean(gradients, axis=0)

    times = record_times(steps, record)
    wanted, rows, losses = set(times.tolist()), [], []
    for iterate in descend(oracle, model.initial(seed), rule, steps):
        losses.append(iterate.value)
        if iterate.t in wanted:
            rows.append(iterate.w)
    return ImageRun(rule, times, np.array(rows), np.array(losses), n if whole else batch)


def attempts(
    model: VisionTransformer,
    data: ImageSet,
    rules: Iterable[Step | Adam],
    steps: int,
    *,
    seed: int,
    batch: int,
    whole: bool,
) -> list[ImageRun | None]:
    """A run of each rule, the same one with several step-sizes say; None where a run leaves the floats."""

    def attempt(rule: Step | Adam) -> ImageRun | None:
        try:
            return train_images(model, data, rule, steps, seed=seed, batch=batch, whole=whole, record=[steps])
        except UnboundedStepError:
            return None

    return [attempt(rule) for rule in rules]


def steps_to(run: ImageRun, level: float, window: int = 1) -> float:
    """First iteration at which the mean of the last `window` losses is at most `level`; infinite where none is."""
    means = np.convolve(run.losses, np.full(window, 1.0 / window), mode="valid")
    below = np.flatnonzero(means <= level)
    return float(below[0] + window - 1) if below.size else math.inf


class Curves(NamedTuple):
    """What a run makes of a set of images at each of its K records.

    Attributes
    ----------
    loss, error : arrays, shape (K,)
        Mean cross-entropy and share of wrong digits.
    off : array, shape (K, blocks, heads)
        1 - max_t s_t of the CLS token, mean over the images: 0 where each image's attention has settled on one token.
    """

    loss: Array
    error: Array
    off: Array


def curves(model: VisionTransformer, run: ImageRun, images: Array, digits: Array) -> Curves:
    """Loss, error and sparsity at the records."""
    rows = [_curve(model, w, images, digits) for w in run.w]
    return Curves(*(np.array(column) for column in zip(*rows, strict=True)))


def _curve(model: VisionTransformer, w: Array, images: Array, digits: Array) -> tuple[float, float, Array]:
    logits, attention = [], []
    for first in range(0, len(images), READ):
        found = compiled(model)[1](w, images[first : first + READ])
        logits.append(found.logits)
        attention.append(cls_attention(found.attention))
    answer, s = np.concatenate(logits).astype(float), np.concatenate(attention).astype(float)
    off = 1.0 - s.max(axis=-1).mean(axis=0)
    return float(cross_entropy(answer, digits)), float((answer.argmax(axis=1) != digits).mean()), off


def cls_attention(attention: Sequence[Array]) -> Array:
    """The CLS token's row of every attention map, shape (n, blocks, heads, 1 + patches)."""
    return np.stack([s[:, :, 0] for s in attention], axis=1)


def frozen_head(model: VisionTransformer, w: Array, images: Array, block: int, head: int) -> tuple[TokenProblem, Array]:
    """What one head chooses among, its tokens frozen, as a token problem; and its W^h, shape (width, width).

    Tokens and CLS queries are those that enter the block's attention. A token's score is its own attention logit x_t' W^h z, so
    that the optimal token of an image is the one that the head attends to most, and `solve_token_svm` gives the W_mm of what
    the head selects. It always has a solution: W^h itself separates the selected tokens.
    """
    tokens = model.read(w, images.astype(float)).tokens[block]
    W = model.key_query(w)[block, head]
    scores = tokens @ W @ tokens[:, 0, :, None]
    return TokenProblem(tokens, np.ones(len(tokens)), [1.0], tokens[:, 0], values=scores), W


def alignment(problem: TokenProblem, W: Array, W_mm: Array) -> float:
    """cos(W P, W_mm), P the projector onto the span of the queries: the rest of W is never read."""
    queries = problem.queries[:, 0]
    directions = np.linalg.svd(queries, full_matrices=False)
    kept = directions[2][directions[1] > 1e-6 * directions[1][0]]
    seen = W @ kept.T @ kept
    return float((seen * W_mm).sum() / (np.linalg.norm(seen) * np.linalg.norm(W_mm)))
