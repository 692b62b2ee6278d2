"""The forms of the engine take the same steps, and "auto" takes the cheaper one."""

import tracemalloc

import numpy as np
import pytest
from tokenmargin.data.problem import TokenProblem
from tokenmargin.data.synthetic import gaussian, taught
from tokenmargin.margin.token_svm import solve_token_svm
from tokenmargin.training.cost import GRAM_BYTES, cheaper_form, cost_per_step, gram_share, numbers_held
from tokenmargin.training.rules import GradientDescent, NormalizedGD, Polyak
from tokenmargin.training.train import train


@pytest.mark.parametrize("step", [GradientDescent(1.0), NormalizedGD(0.1), NormalizedGD(0.5, decay=0.5), Polyak(0.5)])
@pytest.mark.parametrize("Q", [1, 4])
def test_gram_and_matrix_forms_agree(step, Q):
    problem = gaussian(5, 4, 40, seed=1, scores="gaussian", Q=Q)
    gram, matrix = (train(problem, step, 2000, form=form) for form in ("gram", "matrix"))
    assert np.linalg.norm(gram.W() - matrix.W()) <= 1e-9 * np.linalg.norm(matrix.W())
    np.testing.assert_allclose(gram.path_length, matrix.path_length, rtol=1e-9)
    np.testing.assert_allclose(gram.log_loss_gap, matrix.log_loss_gap, rtol=1e-8)


def test_forms_agree_with_masks_and_a_start():
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((6, 5, 12))
    mask = np.arange(5) < rng.integers(2, 6, size=6)[:, None]
    problem = TokenProblem(tokens, np.ones(6), rng.standard_normal(12), tokens[:, :2], mask=mask)
    start = rng.standard_normal((12, 12))
    gram, matrix = (train(problem, NormalizedGD(0.1), 500, start, form=form) for form in ("gram", "matrix"))
    np.testing.assert_allclose(gram.W(), matrix.W(), rtol=1e-9, atol=1e-10)


def test_auto_takes_the_cheaper_form_that_fits():
    step = NormalizedGD(0.1)
    small, long, large = gaussian(5, 4, 100, seed=0), gaussian(20, 40, 16, seed=0), gaussian(3000, 6, 4, seed=0)
    assert cost_per_step(small) == {"gram": 15.0**2, "matrix": 2.0 * 5 * 100 * 104}
    assert cheaper_form(small, step) == "gram"
    assert gram_share(long) > 1.0
    assert cheaper_form(long, step) == "matrix"
    assert 8 * cost_per_step(large)["gram"] > GRAM_BYTES
    assert cheaper_form(large, step) == "matrix"
    assert train(large, step, 2).matrices is not None


@pytest.mark.parametrize("shape", [(200, 4, 30), (40, 12, 20), (60, 6, 120)])
@pytest.mark.parametrize("Q", [1, 4])
@pytest.mark.parametrize("form", ["gram", "matrix"])
def test_each_form_holds_the_numbers_that_are_counted(shape, Q, form):
    n, T, d = shape
    rng = np.random.default_rng(0)
    tokens, queries = rng.standard_normal((n, T, d)), rng.standard_normal((n, Q, d))
    problem, fresh = (TokenProblem(tokens, np.ones(n), np.eye(d)[0], queries) for _ in range(2))
    train(problem, NormalizedGD(0.1), 2, record=[2], form=form)  # compiles, and imports what it needs
    tracemalloc.start()
    train(fresh, NormalizedGD(0.1), 2, record=[2], form=form)
    peak = tracemalloc.get_traced_memory()[1] / 8
    tracemalloc.stop()
    assert peak == pytest.approx(numbers_held(problem)[form], rel=0.2)


def test_taught_problems_are_separable_at_any_size():
    problem = taught(60, 5, 6, seed=0)
    assert len(problem.constraints) > 6**2
    assert solve_token_svm(problem).certificate() <= 1e-9
    gaps = np.sort(problem.scores, axis=1)
    np.testing.assert_array_equal(gaps, np.tile([0.0, 0.0, 0.0, 0.0, 1.0], (60, 1)))
