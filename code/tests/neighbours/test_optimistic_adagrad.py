"""The exact moments and factor of optimistic gradients, the accumulators, and the token SVM of AdaGrad's own norm."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenmargin.data.synthetic import gaussian
from tokenmargin.errors import LostStepError
from tokenmargin.margin.token_svm import solve_token_svm
from tokenmargin.model.attention import gradient
from tokenmargin.neighbours import optimistic_adagrad as oag


def game(c=0.3, tau=0.0):
    return oag.Game(np.array([0.4, 1.0]), c, np.full(2, tau))


def rng():
    return np.random.default_rng(0)


def test_the_operator_is_the_gradient_of_the_game():
    g, h = game(), 1e-6

    def value(z):
        x, y = z[:, 0], z[:, 1]
        return (0.5 * g.c * x**2 + g.b * x * y - 0.5 * g.c * y**2).sum()

    z = np.array([[0.3, -1.2], [0.7, 0.5]])
    slope = np.zeros_like(z)
    for index in np.ndindex(2, 2):
        shift = np.zeros_like(z)
        shift[index] = h
        slope[index] = (value(z + shift) - value(z - shift)) / (2.0 * h)
    np.testing.assert_allclose(np.einsum("jab,jb->ja", g.M, z), slope * [1.0, -1.0], atol=1e-8)


def test_two_steps_by_hand():
    g, eta, delta = oag.Game(np.array([1.0]), 0.5, np.zeros(1)), 0.2, 0.7
    M, x0 = g.M[0], np.ones(2)
    g1 = M @ x0
    h1 = eta / (delta + np.abs(g1))
    x1 = x0 - h1 * g1
    g2 = M @ (x1 - h1 * g1)
    run = oag.play(g, oag.adagrad(eta, delta), 2, 1, rng())
    np.testing.assert_allclose(run.square[:, 0], [g1 @ g1, g2 @ g2])
    np.testing.assert_allclose(run.growth[:, 0], [np.abs(g1).sum(), np.hypot(g1, g2).sum()])


@pytest.mark.parametrize("rule", [oag.constant(0.2), oag.decreasing(0.8), oag.adagrad(1.0, 0.5)])
def test_without_noise_the_moments_are_those_of_the_play(rule):
    run = oag.play(game(), rule, 60, 1, rng())
    square, growth = oag.expected(game(), rule, 60)
    np.testing.assert_allclose(square.sum(axis=1), run.square[:, 0], rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(growth.sum(axis=1), run.growth[:, 0], rtol=1e-8)


@pytest.mark.parametrize(("rule", "tolerance"), [(oag.constant(0.2), 0.02), (oag.adagrad(1.0, 1.0), 0.03)])
def test_with_noise_they_are_its_mean(rule, tolerance):
    run = oag.play(game(tau=0.5), rule, 80, 4000, rng())
    square, _ = oag.expected(game(tau=0.5), rule, 80)
    np.testing.assert_allclose(run.square[40:].mean(), square[40:].sum(axis=1).mean(), rtol=tolerance)


def test_moments_stay_symmetric_over_many_calls():
    square, _ = oag.expected(game(), oag.constant(0.3), 5000)
    np.testing.assert_allclose(square[-1], 0.0, atol=1e-12)


@given(eta=st.floats(0.01, 1.2), c=st.floats(0.0, 0.5), b=st.floats(0.1, 1.0))
def test_the_factor_is_the_spectral_radius_of_the_step(eta, c, b):
    s = eta * (c - 1j * b)
    companion = np.array([[1.0 - 2.0 * s, s], [1.0, 0.0]])
    assert oag.osg_factor(eta, c, b) == pytest.approx(np.abs(np.linalg.eigvals(companion)).max(), rel=1e-6)


def test_the_edge_of_an_undamped_pair_is_one_over_root_three():
    edge = 1.0 / np.sqrt(3.0)
    below, at, above = oag.osg_factor(np.array([0.999, 1.0, 1.001]) * edge, 0.0, 1.0)
    assert below < 1.0 < above
    assert at == pytest.approx(1.0, abs=1e-12)
    assert oag.osg_factor(0.01, 0.0, 1.0) == pytest.approx(1.0 - 0.5e-4, abs=1e-7)


def test_the_floor_of_a_bilinear_pair_is_the_variance_of_the_noise():
    pair = oag.Game(np.array([1.0]), 0.0, np.array([0.3]))
    floors = [oag.expected(pair, oag.constant(eta), 4000)[0][-1, 0] / (2.0 * 0.3**2) for eta in (0.1, 0.05)]
    assert floors[1] == pytest.approx(1.0, abs=0.02)
    assert (floors[0] - 1.0) / (floors[1] - 1.0) == pytest.approx(4.0, rel=0.15)


def test_a_play_that_diverges_is_an_error():
    with pytest.raises(LostStepError, match="Shorten the steps"):
        oag.play(oag.Game(np.ones(1), 0.0, np.zeros(1)), oag.constant(3.0), 2000, 1, rng())
    with pytest.raises(LostStepError, match="diverges"):
        oag.play(oag.Game(np.array([np.nan]), 0.0, np.zeros(1)), oag.constant(0.1), 2, 1, rng())


def test_slopes_and_running_means_of_powers():
    k = np.arange(1, 1001)
    assert oag.slope(3.0 * k**-0.7, 100) == pytest.approx(-0.7, abs=1e-12)
    np.testing.assert_allclose(oag.running_mean(np.array([[2.0], [4.0]])), [[2.0], [3.0]])


def test_adagrad_on_attention_takes_its_steps():
    problem = gaussian(3, 3, 12, seed=0)
    run = oag.train_adagrad(problem, 0.1, 1e-3, np.arange(4))
    for t in range(3):
        G = gradient(problem, run.W[t])
        np.testing.assert_allclose(run.v[t + 1], run.v[t] + G**2, rtol=1e-9, atol=1e-18)
        np.testing.assert_allclose(
            run.W[t + 1], run.W[t] - 0.1 * G / (1e-3 + np.sqrt(run.v[t + 1])), rtol=1e-9, atol=1e-15
        )
        np.testing.assert_allclose(problem.constraints.combine(run.weights[t]), -G, atol=1e-12)


def test_the_own_svm_is_optimal_in_its_norm_and_the_token_svm_for_equal_accumulators():
    problem = gaussian(3, 3, 12, seed=1)
    svm = solve_token_svm(problem)
    W, own = oag.own_svm(problem, np.ones((12, 12)), 0.5)
    np.testing.assert_allclose(W, svm.W, atol=1e-8)
    np.testing.assert_allclose(own.duals / own.duals.sum(), svm.duals / svm.duals.sum(), atol=1e-8)
    v = np.random.default_rng(2).uniform(0.1, 4.0, (12, 12))
    W, own = oag.own_svm(problem, v, 0.1)
    P = 0.1 + np.sqrt(v)
    assert problem.constraints.margins(W).min() == pytest.approx(1.0, abs=1e-7)
    np.testing.assert_allclose(P * W, problem.constraints.combine(own.duals), atol=1e-8)  # stationarity
    assert (P * W**2).sum() < (P * svm.W**2).sum()


def test_with_a_fixed_preconditioner_the_weights_tend_to_the_duals_of_its_svm():
    problem = gaussian(3, 3, 40, seed=0)
    v = np.random.default_rng(3).uniform(0.2, 5.0, (40, 40))
    _, own = oag.own_svm(problem, v, 0.0)
    W = np.zeros((40, 40))
    for _ in range(3000):
        W = W - 20.0 * gradient(problem, W) / np.sqrt(v)
    p = oag.gradient_weights(problem, problem.constraints.margins(W))[0]
    assert oag.share_distance(p, own.duals) < 0.01
    assert oag.share_distance(p, solve_token_svm(problem).duals) > 2.0 * oag.share_distance(p, own.duals)


def test_angles_and_distances():
    a = np.array([[1.0, 0.0], [0.0, 0.0]])
    assert oag.misalignment(3.0 * a, a) == 0.0
    assert oag.misalignment(a, a[::-1]) == pytest.approx(1.0)
    near = np.array([[1.0, 1e-9], [0.0, 0.0]])
    assert oag.misalignment(near, a) == pytest.approx(0.5e-18, rel=1e-6)
    assert oag.share_distance(np.array([1.0, 0.0]), np.array([0.0, 5.0])) == 1.0
    assert oag.share_distance(np.array([1.0, 3.0]), np.array([2.0, 6.0])) == 0.0
