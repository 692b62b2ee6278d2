"""A small vision transformer: patches and a CLS token, blocks of multi-head self-attention and an MLP, a linear head.

Written once, for arrays of numpy and of jax alike: each function asks its input for the namespace it belongs to.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

from ..types import Array

LEAST_VARIANCE = 1e-5  # added to the variance in layer norm, as is usual


class Reading(NamedTuple):
    """What a transformer makes of n images.

    Attributes
    ----------
    logits : array, shape (n, classes)
    tokens : tuple of arrays, shape (n, 1 + patches, width)
        Of each block: what its attention reads, the normed tokens, CLS first.
    attention : tuple of arrays, shape (n, heads, queries, 1 + patches)
        Of each block; every token asks, and in the last block CLS alone, for nothing else is read from it.
    """

    logits: Array
    tokens: tuple[Array, ...]
    attention: tuple[Array, ...]


@dataclass(frozen=True)
class VisionTransformer:
    """The architecture of Dosovitskiy et al. (2021), small: pre-norm blocks, GELU, learned positions, a CLS token.

    x_0 = (cls, patches P) + positions;  x <- x + MHSA(norm x);  x <- x + MLP(norm x);  logits = norm(x_cls) H + b.
    Head h of a block weighs the tokens by softmax_t(x_t' W^h z), with x and z normed tokens, z the one that asks, and
    W^h = K_h Q_h'/sqrt(e), e = width/heads: the key-query matrix of this book, factored. Keys, queries and values have no bias.

    Parameters
    ----------
    patches, pixels : int
        Of an image, and of a patch.
    width, heads, hidden, blocks, classes : int
        Dimension of a token, heads of a block, hidden units of its MLP, blocks, and classes.

    Raises
    ------
    ValueError
        If the heads do not divide the width.
    """

    patches: int = 16
    pixels: int = 49
    width: int = 16
    heads: int = 2
    hidden: int = 32
    blocks: int = 2
    classes: int = 10

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width is {self.width}, heads is {self.heads}: choose heads that divide the width.")

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The parameters in the order in which the vector w holds them."""
        d, B, H = self.width, self.blocks, self.heads
        e = d // H
        attention = dict.fromkeys(("query", "key", "value"), (B, H, d, e)) | {"out": (B, H, e, d)}
        mlp = {"up": (B, d, self.hidden), "up_bias": (B, self.hidden), "down": (B, self.hidden, d), "down_bias": (B, d)}
        ends = {"patch": (self.pixels, d), "cls": (1, d), "position": (1 + self.patches, d)}
        norms = {"gain": (2 * B + 1, d), "shift": (2 * B + 1, d)}
        return ends | attention | mlp | norms | {"head": (d, self.classes), "head_bias": (self.classes,)}

    @cached_property
    def size(self) -> int:
        """Number of parameters."""
        return sum(map(math.prod, self.shapes.values()))

    def parameters(self, w: Array) -> dict[str, Array]:
        """The parameters by name, views of the vector w of shape (size,)."""
        found, start = {}, 0
        for name, shape in self.shapes.items():
            found[name] = w[start : start + math.prod(shape)].reshape(shape)
            start += math.prod(shape)
        return found

    def initial(self, seed: int) -> Array:
        """A random w: matrices normal with variance 1/inputs, cls and positions with variance 1/width, norms one, head and biases zero."""
        rng = np.random.default_rng(seed)
        w = np.zeros(self.size)
        for name, array in self.parameters(w).items():
            if name == "gain":
                array[:] = 1.0
            elif name in ("cls", "position"):
                array[:] = rng.standard_normal(array.shape) / math.sqrt(self.width)
            elif name != "shift" and not name.startswith("head") and not name.endswith("bias"):
                inputs = self.width if name == "out" else array.shape[-2]
                array[:] = rng.standard_normal(array.shape) / math.sqrt(inputs)
        return w

    def read(self, w: Array, images: Array) -> Reading:
        """Logits, tokens and attention of images of shape (n, patches, pixels)."""
        xp = images.__array_namespace__()
        p = self.parameters(w)
        cls = xp.broadcast_to(p["cls"], (len(images), 1, self.width))
        x = xp.concatenate([cls, images @ p["patch"]], axis=1) + p["position"]
        tokens, attention = [], []
        for b in range(self.blocks):
            asking = 1 if b == self.blocks - 1 else 1 + self.patches
            y = layer_norm(x, p["gain"][2 * b], p["shift"][2 * b])
            s = softmax(self._scores(p, b, y, y[:, :asking]))
            heads = s @ xp.einsum("ntd,hde->nhte", y, p["value"][b])
            x = x[:, :asking] + xp.einsum("nhqe,hed->nqd", heads, p["out"][b])
            z = layer_norm(x, p["gain"][2 * b + 1], p["shift"][2 * b + 1])
            x = x + gelu(z @ p["up"][b] + p["up_bias"][b]) @ p["down"][b] + p["down_bias"][b]
            tokens.append(y)
            attention.append(s)
        logits = layer_norm(x[:, 0], p["gain"][-1], p["shift"][-1]) @ p["head"] + p["head_bias"]
        return Reading(logits, tuple(tokens), tuple(attention))

    def _scores(self, p: dict[str, Array], b: int, keys: Array, queries: Array) -> Array:
        """x_t' W^h z_q of block b, shape (n, heads, queries, tokens)."""
        xp = keys.__array_namespace__()
        k = xp.einsum("ntd,hde->nhte", keys, p["key"][b])
        q = xp.einsum("nqd,hde->nhqe", queries, p["query"][b])
        return q @ xp.swapaxes(k, 2, 3) / math.sqrt(self.width // self.heads)

    def key_query(self, w: Array) -> Array:
        """W^h = K_h Q_h'/sqrt(e) of every block and head, shape (blocks, heads, width, width)."""
        p = self.parameters(w)
        return p["key"] @ np.swapaxes(p["query"], -1, -2) / math.sqrt(self.width // self.heads)

    def loss(self, w: Array, images: Array, labels: Array) -> Array:
        """Mean cross-entropy; labels 0, 1, … of shape (n,). Its infimum is zero where no two equal images disagree."""
        return cross_entropy(self.read(w, images).logits, labels)


def layer_norm(x: Array, gain: Array, shift: Array) -> Array:
    """(x - mean)/sqrt(variance + 1e-5) gain + shift, over the last axis."""
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / ((centred * centred).mean(axis=-1, keepdims=True) + LEAST_VARIANCE) ** 0.5 * gain + shift


def softmax(scores: Array) -> Array:
    """Over the last axis."""
    xp = scores.__array_namespace__()
    e = xp.exp(scores - scores.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def gelu(x: Array) -> Array:
    """x/2 (1 + tanh(sqrt(2/pi)(x + 0.044715 x^3))), the usual form of x times the normal distribution function."""
    xp = x.__array_namespace__()
    return 0.5 * x * (1.0 + xp.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)))


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Mean of log sum_c e^{logits_c} - logits_label."""
    xp = logits.__array_namespace__()
    above = logits - logits.max(axis=1, keepdims=True)
    right = xp.take_along_axis(above, labels[:, None], axis=1)[:, 0]
    return (xp.log(xp.exp(above).sum(axis=1)) - right).mean()


@lru_cache
def compiled(model: VisionTransformer) -> tuple[Callable[..., tuple[float, Array]], Callable[[Array, Array], Reading]]:
    """(value and gradient of the loss, `read`), compiled by jax for one core, in float32 unless jax has x64 enabled.

    The first takes (w, images, labels) and returns a float and a float64 vector; the second takes (w, images).
    """
    import jax

    options = {"xla_cpu_multi_thread_eigen": False}
    both = jax.jit(jax.value_and_grad(model.loss), compiler_options=options)
    read = jax.jit(model.read, compiler_options=options)

    def value_and_gradient(w: Array, images: Array, labels: Array) -> tuple[float, Array]:
        value, gradient = both(w, images, labels)
        return float(value), np.asarray(gradient, dtype=np.float64)

    return value_and_gradient, lambda w, images: jax.device_get(read(w, images))
