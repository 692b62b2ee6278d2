"""UCI digits as token problems."""

import numpy as np
import pytest
from tokenmargin.data.digits import digit_images, held_out, on_pixels, patch_tokens, pictures
from tokenmargin.margin.token_svm import solve_token_svm
from tokenmargin.measures.selection import accuracies
from tokenmargin.training.decoder import digit_problem


def test_a_token_is_its_patch_and_its_place():
    image = np.arange(64.0).reshape(1, 8, 8)
    for patches, side in ((4, 4), (16, 2)):
        tokens, _ = patch_tokens(image, patches)
        assert tokens.shape == (1, patches, 20)
        np.testing.assert_array_equal(tokens[0, 1, : side**2], image[0, :side, side : 2 * side].ravel())
        np.testing.assert_array_equal(tokens[0, :, side**2 :], np.eye(patches))


@pytest.mark.parametrize("patches", [4, 16])
def test_query_has_the_inner_products_of_the_mean_extended_by_one(patches):
    images, _, _, _ = digit_images((3, 8), 12, seed=1)
    tokens, queries = patch_tokens(images, patches)
    extended = np.concatenate([tokens.mean(axis=1), np.ones((12, 1))], axis=1)
    np.testing.assert_allclose(queries @ queries.T, extended @ extended.T, rtol=1e-13)


def test_split_is_disjoint_complete_and_labelled():
    images, labels, rest, rest_labels = digit_images((0, 1), 40, seed=0)
    assert len(images) == 40
    assert len(images) + len(rest) == 360
    assert set(labels) == set(rest_labels) == {-1.0, 1.0}
    assert (np.concatenate([labels, rest_labels]) == 1.0).sum() == 182
    assert images.min() == 0.0
    assert images.max() == 1.0


def test_the_decoder_reads_the_training_images_and_stays_for_the_held_out_ones():
    problem = digit_problem((0, 1), 20, 4, seed=0, joint_steps=50)
    assert (problem.n, problem.T, problem.d, problem.Q) == (20, 4, 20, 1)
    assert (problem.optimal_scores > 0.0).all()
    rest = held_out(problem, (0, 1), seed=0)
    assert rest.n == 340
    np.testing.assert_array_equal(rest.decoder, problem.decoder)


@pytest.mark.parametrize("patches", [4, 16])
def test_pictures_are_the_images_again(patches):
    problem = digit_problem((3, 8), 12, patches, seed=1, joint_steps=20)
    images, _, _, _ = digit_images((3, 8), 12, seed=1)
    np.testing.assert_array_equal(pictures(problem), images)
    ones = on_pixels(np.eye(patches)[3])
    side = {4: 4, 16: 2}[patches]
    assert ones.sum() == side**2
    np.testing.assert_array_equal(on_pixels(problem.tokens[:, :, 0])[:, ::side, ::side], images[:, ::side, ::side])


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
        (lambda: digit_images((1, 1), 10, seed=0), "two different digits"),
        (lambda: digit_images((0, 1), 400, seed=0), "choose 2 to 359 of the 360 images of 0 and 1"),
        (lambda: patch_tokens(np.zeros((1, 8, 8)), 9), "it must be 4"),
    ],
)
def test_errors_say_what_to_choose(call, text):
    with pytest.raises(ValueError, match=text):
        call()
