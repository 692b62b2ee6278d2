"""Training on images: patches, batches, the rules themselves, and the token problem of a frozen head."""

import numpy as np
import pytest
from tokenmargin.errors import UnboundedStepError
from tokenmargin.margin.token_svm import solve_token_svm
from tokenmargin.model.vision_transformer import VisionTransformer
from tokenmargin.studies import vision_transformer as study
from tokenmargin.training.moments import Adam
from tokenmargin.training.rules import GradientDescent, NormalizedGD, Polyak

SMALL = VisionTransformer(width=4, heads=2, hidden=4)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    images, held_out = rng.random((2, 12, 16, 49)).astype(np.float32)
    return study.ImageSet(images, np.arange(12) % 10, held_out, np.arange(12) % 10)


@pytest.fixture
def bowl(monkeypatch):
    """In place of the transformer's gradient that of a bowl, |w - c|^2/2 with c the mean pixel of the images."""

    def value_and_gradient(w, images, digits):
        residual = w - float(images.mean(dtype=float))
        return 0.5 * float(residual @ residual), residual

    monkeypatch.setattr(study, "compiled", lambda model: (value_and_gradient, model.read))


def test_patches_are_read_row_by_row():
    pixels = np.random.default_rng(0).random((3, 28, 28))
    cut = study.patches(pixels)
    assert cut.shape == (3, 16, 49)
    assert cut.dtype == np.float32
    for t in range(16):
        y, x = divmod(t, 4)
        block = pixels[:, 7 * y : 7 * y + 7, 7 * x : 7 * x + 7].reshape(3, 49)
        np.testing.assert_array_equal(cut[:, t], block.astype(np.float32))


def test_a_set_of_images_has_all_digits_and_nothing_twice():
    data = study.image_set(60, 40, seed=0)
    assert data.images.shape == (60, 16, 49)
    assert data.held_out.shape == (40, 16, 49)
    assert set(data.digits) == set(range(10))
    both = np.concatenate([data.images, data.held_out]).reshape(100, -1)
    assert len(np.unique(both, axis=0)) == 100


@pytest.mark.parametrize(
    "rule", [GradientDescent(0.3), NormalizedGD(0.1, 0.5), Polyak(0.5, cap=1.0), Adam(0.1)], ids=repr
)
def test_a_step_is_what_the_rule_itself_says(bowl, data, rule):
    run = study.train_images(SMALL, data, rule, 1, seed=2, batch=4, whole=True, record=[0, 1])
    start = SMALL.initial(2)
    g = start - float(data.images.mean(dtype=float))
    norm = np.linalg.norm(g)
    if isinstance(rule, Adam):
        expected = rule.moves(SMALL.size)(-g, 0.0)
    else:
        expected = -rule.effective_step(0, np.log(norm), np.log(0.5 * norm**2)) * g / norm
    np.testing.assert_allclose(run.w[1] - run.w[0], expected, rtol=1e-6, atol=1e-12)
    np.testing.assert_array_equal(run.w[0], start)


def test_the_gradient_of_all_images_does_not_see_the_batches(bowl, data):
    runs = [study.train_images(SMALL, data, GradientDescent(0.3), 4, seed=0, batch=b, whole=True) for b in (12, 3)]
    np.testing.assert_allclose(runs[0].w, runs[1].w, rtol=1e-6)
    np.testing.assert_array_equal(runs[0].evaluations, 12 * runs[0].times)


def test_batches_are_drawn_anew_and_the_same_with_the_same_seed(bowl, data):
    first, again, other = (
        study.train_images(SMALL, data, GradientDescent(0.3), 6, seed=seed, batch=3) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.losses, again.losses)
    assert np.abs(first.losses - other.losses).max() > 0.0
    assert first.evaluations[-1] == 18


def test_a_run_that_leaves_the_floats_is_no_attempt(monkeypatch, data):
    broken = {"calls": 0}

    def value_and_gradient(w, images, digits):
        broken["calls"] += 1
        return (1.0 if broken["calls"] < 3 else np.nan), np.ones_like(w)

    monkeypatch.setattr(study, "compiled", lambda model: (value_and_gradient, model.read))
    assert study.attempts(SMALL, data, [GradientDescent(1.0)], 5, seed=0, batch=3, whole=False) == [None]
    with pytest.raises(UnboundedStepError):
        study.train_images(SMALL, data, GradientDescent(1.0), 5, seed=0, batch=3)


@pytest.mark.parametrize(("batch", "whole"), [(13, False), (0, False), (5, True)])
def test_batches_that_do_not_fit_are_refused(bowl, data, batch, whole):
    with pytest.raises(ValueError, match=f"batch is {batch}, images 12"):
        study.train_images(SMALL, data, GradientDescent(1.0), 1, seed=0, batch=batch, whole=whole)


def test_curves_of_the_start(bowl, data):
    run = study.train_images(SMALL, data, GradientDescent(1e-9), 1, seed=0, batch=3)
    found = study.curves(SMALL, run, data.images, data.digits)
    np.testing.assert_allclose(found.loss, np.log(10.0), rtol=1e-6)
    assert found.error[0] == pytest.approx(np.mean(data.digits != 0))  # equal logits: the first digit is the answer
    attention = study.cls_attention(SMALL.read(run.w[0], data.images).attention)
    np.testing.assert_allclose(found.off[0], 1.0 - attention.max(axis=-1).mean(axis=0), rtol=1e-6)


@pytest.mark.parametrize("block", [0, 1])
def test_a_frozen_head_is_a_token_problem_whose_matrix_separates(data, block):
    w = np.random.default_rng(0).standard_normal(SMALL.size)
    problem, W = study.frozen_head(SMALL, w, data.images, block, 1)
    attention = study.cls_attention(SMALL.read(w, data.images.astype(float)).attention)
    np.testing.assert_array_equal(problem.optimal, attention[:, block, 1].argmax(axis=1))
    assert problem.constraints.margins(W).min() > 0.0
    svm = solve_token_svm(problem, tolerance=1e-6)
    aligned = study.alignment(problem, W, svm.W)
    assert 0.0 < aligned < 1.0
    assert study.alignment(problem, svm.W, svm.W) == pytest.approx(1.0, rel=1e-6)
    assert svm.norm <= np.linalg.norm(W) / problem.constraints.margins(W).min() * (1.0 + 1e-6)


def test_alignment_does_not_see_what_no_query_reads(data):
    w = np.random.default_rng(1).standard_normal(SMALL.size)
    problem, W = study.frozen_head(SMALL, w, data.images, 0, 0)
    z = problem.queries[0, 0]
    np.testing.assert_allclose(problem.queries[:, 0], np.tile(z, (12, 1)))  # before the first block CLS knows no image
    silent = np.random.default_rng(2).standard_normal((4, 4))
    silent -= np.outer(silent @ z, z) / (z @ z)
    target = np.outer(np.ones(4), z)
    assert study.alignment(problem, W + silent, target) == pytest.approx(study.alignment(problem, W, target), rel=1e-9)


def test_the_step_at_which_a_level_is_reached():
    losses = np.array([4.0, 1.0, 3.0, 2.0, 1.0, 0.0])
    run = study.ImageRun(GradientDescent(1.0), np.array([0, 5]), np.zeros((2, 1)), losses, 1)
    assert [study.steps_to(run, level) for level in (4.0, 1.0, 0.0, -1.0)] == [0.0, 1.0, 5.0, np.inf]
    assert [study.steps_to(run, level, 2) for level in (2.5, 1.5, 0.5, 0.4)] == [1.0, 4.0, 5.0, np.inf]
    assert run.late_loss() == 0.0
    assert study.ImageRun(run.rule, run.times, run.w, np.arange(30.0), 1).late_loss() == 28.0
