"""Convolutions, both solvers against their subproblems' optima, the rules, their price, and the gradients on attention."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenmargin.data.problem import TokenProblem
from tokenmargin.data.synthetic import signal_plus_noise
from tokenmargin.model.attention import gradient
from tokenmargin.neighbours import cogradient_descent as cogd

SUPPORT = 3


def small(seed=0, runs=2, N=4, K=2, L=12):
    rng = np.random.default_rng(seed)
    b = cogd.planted_signals(runs, N, K, L, SUPPORT, rng)
    return b, rng.standard_normal((runs, K, L)), rng.standard_normal((runs, N, K, L))


def test_compose_is_a_sum_of_circular_convolutions():
    _, d, z = small()
    L = d.shape[-1]
    for t in range(L):
        direct = sum(d[:, None, :, s] * z[..., (t - s) % L] for s in range(L)).sum(axis=2)
        np.testing.assert_allclose(cogd.compose(d, z)[..., t], direct, atol=1e-12)


def test_objective_by_hand():
    b, d, z = np.array([[[3.0, 0.0]]]), np.array([[[1.0, 0.0]]]), np.array([[[[1.0, -2.0]]]])
    np.testing.assert_allclose(cogd.objective(b, d, z, 0.5), [0.5 * (4.0 + 4.0) + 0.5 * 3.0])


def test_planted_signals_have_unit_filters_and_their_noise():
    quiet = cogd.planted_signals(3, 5, 2, 16, SUPPORT, np.random.default_rng(1), noise=0.0)
    loud = cogd.planted_signals(3, 5, 2, 16, SUPPORT, np.random.default_rng(1), noise=0.3)
    assert (loud - quiet).std() == pytest.approx(0.3, rel=0.15)


@given(scale=st.floats(0.01, 100.0))
def test_projection_is_the_nearest_admissible_filter(scale):
    rng = np.random.default_rng(2)
    d = scale * rng.standard_normal((1, 2, 6))
    near = cogd.project(d, SUPPORT)
    assert (near[..., SUPPORT:] == 0.0).all()
    assert (np.linalg.norm(near, axis=-1) <= 1.0 + 1e-12).all()
    np.testing.assert_allclose(cogd.project(near, SUPPORT), near, rtol=1e-12)
    for _ in range(20):
        other = cogd.project(near + 0.1 * rng.standard_normal(d.shape), SUPPORT)
        assert ((d - near) * (other - near)).sum() <= 1e-9 * scale


def test_shrinking_is_soft_thresholding():
    np.testing.assert_allclose(cogd.shrink(np.array([-2.0, -0.3, 0.0, 0.5]), 0.4), [-1.6, 0.0, 0.0, 0.1])


def test_descent_never_raises_the_objective_and_ends_at_a_stationary_point():
    b, d, z = small(3)
    d, penalty = cogd.project(d, SUPPORT), 0.1
    values = [cogd.objective(b, d, z, penalty)]
    for _ in range(300):
        z = cogd.code_descent(b, d, z, penalty)
        values.append(cogd.objective(b, d, z, penalty))
    assert (np.diff(values, axis=0) <= 1e-10).all()
    residual = np.fft.rfft(b - cogd.compose(d, z))[:, :, None]
    slope = np.fft.irfft(np.conj(np.fft.rfft(d))[:, None] * residual, z.shape[-1])
    assert np.abs(slope).max() <= penalty * (1.0 + 1e-3)
    np.testing.assert_allclose(slope[z != 0.0], penalty * np.sign(z[z != 0.0]), rtol=1e-2)


def test_both_solvers_of_the_filters_have_the_same_optimum():
    b, d, z = small(4)
    slow = cogd.project(d, SUPPORT)
    duals = [np.zeros_like(b), np.zeros_like(d)]
    for _ in range(200):
        slow = cogd.filter_descent(b, slow, z, SUPPORT)
        d = cogd.filter_steps(b, d, z, duals, (0.5, 5.0), SUPPORT)
    np.testing.assert_allclose(d, slow, atol=1e-5)


def test_both_solvers_of_the_codes_have_the_same_optimum():
    b, d, z = small(5)
    d, slow, duals = cogd.project(d, SUPPORT), z, [np.zeros_like(b), np.zeros_like(z)]
    for _ in range(400):
        slow = cogd.code_descent(b, d, slow, 0.1)
        z = cogd.code_steps(b, d, z, duals, (1.0, 1.0), 0.1)
    np.testing.assert_allclose(cogd.objective(b, d, z, 0.1), cogd.objective(b, d, slow, 0.1), rtol=1e-4)


def test_exact_filters_have_no_gradient_and_the_price_is_quadratic():
    b, old, z = small(6)
    best = cogd.exact_filters(b, z)
    residual = np.fft.rfft(cogd.compose(best, z) - b)[:, :, None]
    np.testing.assert_allclose((np.conj(np.fft.rfft(z)) * residual).sum(axis=1), 0.0, atol=1e-9)
    rng = np.random.default_rng(0)
    for rule in cogd.RULES[1:]:
        moved = cogd.apply_rule(rule, best, old, z.sum(axis=1), 7, rng, held=0.6)
        price = cogd.objective(b, moved, z, 0.0) - cogd.objective(b, best, z, 0.0)
        np.testing.assert_allclose(price, 0.5 * (cogd.compose(moved - best, z) ** 2).sum(axis=(1, 2)), rtol=1e-8)


def test_under_a_constraint_the_price_is_no_smaller():
    b, _, z = small(7)
    best = cogd.project(np.ones((2, 2, 12)), SUPPORT)
    for _ in range(300):
        best = cogd.filter_descent(5.0 * b, best, z, SUPPORT)
    rng = np.random.default_rng(1)
    for _ in range(30):
        other = cogd.project(rng.standard_normal(best.shape), SUPPORT)
        price = cogd.objective(5.0 * b, other, z, 0.0) - cogd.objective(5.0 * b, best, z, 0.0)
        quadratic = 0.5 * (cogd.compose(other - best, z) ** 2).sum(axis=(1, 2))
        assert (price >= quadratic * (1.0 - 1e-6) - 1e-6).all()


def test_rules_touch_the_entries_that_they_say():
    new, old = np.array([[1.0, 2.0, 3.0, 4.0]]), np.array([[10.0, 10.0, 10.0, 10.0]])
    score, rng = np.array([[0.1, 5.0, -9.0, 3.0]]), np.random.default_rng(0)
    np.testing.assert_allclose(cogd.apply_rule("hold", new, old, score, 2, rng), [[1.0, 9.92, 3.0, 9.94]])
    np.testing.assert_allclose(cogd.apply_rule("kick", new, old, score, 2, rng), [[1.0, 3.0, 3.0, 5.0]])
    for rule in ("random hold", "random kick"):
        assert (cogd.apply_rule(rule, new, old, score, 3, rng) != new).sum() == 3
    for rule in cogd.RULES:
        assert cogd.apply_rule(rule, new, old, score, 0, rng) is new
    np.testing.assert_array_equal(cogd.apply_rule("hold", new, new, score, 4, rng, held=0.5), new)


def test_learning_without_a_rule_descends_and_repeats():
    b, *_ = small(8, runs=3)
    for solver in ("admm", "proximal"):
        first, again = (
            cogd.learn_filters(b, 2, SUPPORT, "none", np.random.default_rng(1), solver=solver, epochs=8)
            for _ in range(2)
        )
        np.testing.assert_array_equal(first.objective, again.objective)
        assert (first.objective[-1] < 0.1 * first.objective[0]).all()
        assert (first.price == 0.0).all()
    np.testing.assert_allclose(first.admissible[1:], first.objective[1:], rtol=1e-10)
    assert (np.diff(first.objective[1:], axis=0) <= 1e-10).all()


def test_the_last_epoch_applies_no_rule():
    b, *_ = small(9)
    run = cogd.learn_filters(b, 2, SUPPORT, "hold", np.random.default_rng(1), epochs=4)
    assert (run.price[-1] == 0.0).all()
    assert (run.price[:-1] != 0.0).all()


def test_joint_gradients_are_the_model_s():
    data = [signal_plus_noise(4, 3, 5, seed=s) for s in range(2)]
    rng = np.random.default_rng(2)
    W, u = rng.standard_normal((2, 5, 5)), rng.standard_normal((2, 5))
    to_W, to_u, loss = cogd.joint_gradients(data, W, u)
    for p, s in enumerate(data):
        problem = TokenProblem(s.tokens, s.labels, u[p], s.queries)
        np.testing.assert_allclose(to_W[p], gradient(problem, W[p]), rtol=1e-9, atol=1e-13)
    for j in range(5):
        shift = 1e-6 * np.eye(5)[j]
        ends = [cogd.joint_gradients(data, W, u + sign * shift)[2] for sign in (1.0, -1.0)]
        np.testing.assert_allclose(to_u[:, j], (ends[0] - ends[1]) / 2e-6, rtol=1e-6, atol=1e-9)
    assert (loss > 0.0).all()


def test_training_in_turn_starts_with_an_idle_matrix_and_descends():
    data = [signal_plus_noise(6, 3, 5, seed=3)]
    loss, ratio = cogd.train_in_turn(data, "none", np.random.default_rng(0), epochs=5, eta=1.0)
    held, _ = cogd.train_in_turn(data, "hold", np.random.default_rng(0), epochs=5, eta=1.0)
    assert (np.diff(loss[:, 0]) < 0.0).all()
    assert held[0, 0] == loss[0, 0]  # W is still zero
    assert (ratio > 0.0).all()


def test_bad_input_is_an_error_that_says_what_is_needed():
    b, d, z = small()
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="must be one of none, hold"):
        cogd.apply_rule("push", d, d, z.sum(axis=1), 1, rng)
    with pytest.raises(ValueError, match="0 to 24 entries"):
        cogd.apply_rule("hold", d, d, z.sum(axis=1), 25, rng)
    with pytest.raises(ValueError, match="'admm' or 'proximal'"):
        cogd.learn_filters(b, 2, SUPPORT, "none", rng, solver="newton")
