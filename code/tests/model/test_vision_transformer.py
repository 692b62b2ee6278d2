"""The vision transformer: a plain loop, gradients against finite differences, invariances, the parts' limits."""

import math

import jax
import numpy as np
import pytest
from scipy.stats import norm as normal
from tokenmargin.model.vision_transformer import (
    VisionTransformer,
    compiled,
    cross_entropy,
    gelu,
    layer_norm,
    softmax,
)

SMALL = VisionTransformer(patches=4, pixels=3, width=4, heads=2, hidden=5, blocks=2, classes=3)


@pytest.fixture
def w():
    """Random parameters, none of them zero."""
    return 0.7 * np.random.default_rng(0).standard_normal(SMALL.size)


@pytest.fixture
def images():
    return np.random.default_rng(1).random((6, SMALL.patches, SMALL.pixels))


def plain(model, w, image):
    """Logits of one image: every token asks in every block, head by head."""
    p, e = model.parameters(w), model.width // model.heads
    x = np.vstack([p["cls"], image @ p["patch"]]) + p["position"]
    for b in range(model.blocks):
        y = layer_norm(x, p["gain"][2 * b], p["shift"][2 * b])
        for h in range(model.heads):
            keys, queries, values = (y @ p[name][b, h] for name in ("key", "query", "value"))
            x = x + softmax(queries @ keys.T / math.sqrt(e)) @ values @ p["out"][b, h]
        y = layer_norm(x, p["gain"][2 * b + 1], p["shift"][2 * b + 1])
        x = x + gelu(y @ p["up"][b] + p["up_bias"][b]) @ p["down"][b] + p["down_bias"][b]
    return layer_norm(x[0], p["gain"][-1], p["shift"][-1]) @ p["head"] + p["head_bias"]


def test_the_plain_loop(w, images):
    np.testing.assert_allclose(SMALL.read(w, images).logits, [plain(SMALL, w, image) for image in images], rtol=1e-10)


def test_gradients_against_finite_differences(w, images):
    digits = np.array([0, 1, 2, 0, 1, 2])
    with jax.enable_x64(True):
        value, gradient = compiled(SMALL)[0](w, images, digits)
    assert value == pytest.approx(float(SMALL.loss(w, images, digits)), rel=1e-12)
    h = 1e-5
    steps = h * np.eye(SMALL.size)
    slopes = [(SMALL.loss(w + s, images, digits) - SMALL.loss(w - s, images, digits)) / (2.0 * h) for s in steps]
    np.testing.assert_allclose(gradient, slopes, atol=1e-8 * np.linalg.norm(gradient) / h**0.5)
    assert np.abs(gradient).min() > 0.0  # every parameter is read


def test_attention_is_that_of_the_key_query_matrices(w, images):
    reading = SMALL.read(w, images)
    for b in range(SMALL.blocks):
        s = reading.attention[b]
        np.testing.assert_allclose(s.sum(axis=-1), 1.0, rtol=1e-12)
        assert s.min() > 0.0
        for h in range(SMALL.heads):
            x = reading.tokens[b]
            scores = x[:, : s.shape[2]] @ SMALL.key_query(w)[b, h].T @ np.swapaxes(x, 1, 2)  # x_t' W z_q
            np.testing.assert_allclose(s[:, h], softmax(scores), rtol=1e-9)
    assert [s.shape[2] for s in reading.attention] == [5, 1]


def test_without_positions_the_order_of_the_patches_is_not_seen(w, images):
    order = np.array([2, 0, 3, 1])
    before, moved = SMALL.read(w, images), SMALL.read(w, images[:, order])
    assert np.abs(moved.logits - before.logits).max() > 1e-3
    SMALL.parameters(w)["position"][:] = 0.0
    before, moved = SMALL.read(w, images), SMALL.read(w, images[:, order])
    np.testing.assert_allclose(moved.logits, before.logits, rtol=1e-10)
    tokens = np.concatenate([[0], 1 + order])
    np.testing.assert_allclose(moved.attention[1], before.attention[1][..., tokens], rtol=1e-9)
    np.testing.assert_allclose(moved.attention[0], before.attention[0][:, :, tokens][..., tokens], rtol=1e-9)


def test_layer_norm_sees_neither_shift_nor_scale():
    x = np.random.default_rng(0).standard_normal((5, 40))
    y = layer_norm(x, 1.0, 0.0)
    np.testing.assert_allclose(y.mean(axis=1), 0.0, atol=1e-14)
    np.testing.assert_allclose(y.var(axis=1), x.var(axis=1) / (x.var(axis=1) + 1e-5), rtol=1e-12)
    np.testing.assert_allclose(layer_norm(100.0 * x + 3.0, 2.0, 1.0), 2.0 * y + 1.0, atol=1e-4)


def test_the_other_parts():
    x = np.linspace(-6.0, 6.0, 101)
    np.testing.assert_allclose(gelu(x), x * normal.cdf(x), atol=5e-4)
    np.testing.assert_allclose(softmax(x + 1e3), np.exp(x) / np.exp(x).sum(), rtol=1e-10)
    logits = np.array([[0.0, math.log(3.0)], [1e4, 0.0]])
    assert cross_entropy(logits, np.array([1, 0])) == pytest.approx(0.5 * math.log(4.0 / 3.0), rel=1e-12)
    assert cross_entropy(logits, np.array([0, 1])) == pytest.approx(0.5 * (math.log(4.0) + 1e4), rel=1e-12)


def test_the_start_says_nothing_yet(images):
    start = SMALL.initial(3)
    assert SMALL.loss(start, images, np.zeros(6, dtype=int)) == pytest.approx(math.log(3.0), rel=1e-12)
    np.testing.assert_array_equal(start, SMALL.initial(3))
    assert np.abs(start - SMALL.initial(4)).max() > 0.1


def test_parameters_are_views_that_fill_the_vector(w):
    assert sum(array.size for array in SMALL.parameters(w).values()) == SMALL.size == len(w)
    SMALL.parameters(w)["head_bias"][:] = 7.0
    assert (w[-3:] == 7.0).all()


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="width is 6, heads is 4: choose heads that divide"):
        VisionTransformer(width=6, heads=4)
