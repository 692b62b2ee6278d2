"""The algorithm in real matrices, the exact second moments against simulation and limits, and the game of the token SVM."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenmargin.data.synthetic import gaussian
from tokenmargin.errors import AssumptionError
from tokenmargin.margin.token_svm import solve_token_svm
from tokenmargin.neighbours import stochastic_extragradient as seg
from tokenmargin.theory.residual import stability_threshold
from tokenmargin.training.rules import NormalizedGD
from tokenmargin.training.train import train

GAME = seg.Game(np.array([1.0, 1.5, 2.0]), spread=0.3, sigma=0.2)


def test_an_operator_is_the_gradient_of_its_sample():
    rng = np.random.default_rng(0)
    B, g, z, h = rng.standard_normal((3, 3)), rng.standard_normal(6), rng.standard_normal(6), 1e-6

    def value(z):  # the y-part of F is the negative gradient in y
        return z[:3] @ B @ z[3:] + g[:3] @ z[:3] - g[3:] @ z[3:]

    slope = np.array([(value(z + h * e) - value(z - h * e)) / (2.0 * h) for e in np.eye(6)])
    np.testing.assert_allclose(seg.sample_operator(B, g)(z), slope * np.repeat([1.0, -1.0], 3), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("independent", [False, True])
def test_the_complex_iterates_are_extragradient_in_real_matrices_in_any_basis(independent):
    rng, eta = np.random.default_rng(1), 0.2
    U, V = (np.linalg.qr(rng.standard_normal((3, 3)))[0] for _ in range(2))
    z0 = rng.standard_normal(3) + 1j * rng.standard_normal(3)
    path = list(seg.iterates(GAME, z0[None], eta, 4, np.random.default_rng(5), independent))
    draws = np.random.default_rng(5)

    def sample():
        b = GAME.b + GAME.spread * draws.standard_normal((1, 3))[0]
        g = GAME.sigma / np.sqrt(2.0) * draws.standard_normal((2, 1, 3))[:, 0]
        return seg.sample_operator(U @ np.diag(b) @ V.T, np.concatenate([U @ g[0], V @ g[1]]))

    z = np.concatenate([U @ z0.real, V @ z0.imag])
    for k in range(5):
        np.testing.assert_allclose(U.T @ z[:3] + 1j * (V.T @ z[3:]), path[k][0], rtol=1e-11)
        first = sample()
        z = seg.extragradient_step(first, sample() if independent else first, z, eta)


@given(b=st.floats(0.1, 2.0), spread=st.floats(0.0, 2.0), eta=st.floats(0.01, 0.5))
def test_growths_are_the_moments_of_their_multipliers(b, spread, eta):
    game = seg.Game(np.array([b]), spread)
    nodes, weights = np.polynomial.hermite_e.hermegauss(12)  # exact for the moments of a normal law
    weights, sample = weights / weights.sum(), b + spread * nodes
    same = np.abs(1.0 + 1j * eta * sample - eta**2 * sample**2) ** 2 @ weights
    pair = np.abs(1.0 + 1j * eta * sample[:, None] - eta**2 * np.outer(sample, sample)) ** 2
    assert game.growth(eta)[0] == pytest.approx(same, rel=1e-10)
    assert game.independent_growth(eta)[0] == pytest.approx(weights @ pair @ weights, rel=1e-10)
    assert game.drift(eta)[0] == pytest.approx((1.0 + 1j * eta * sample - eta**2 * sample**2) @ weights, rel=1e-10)


def test_the_floor_is_the_fixed_point_and_does_not_vanish_with_the_step():
    floor = GAME.floor(0.1)
    np.testing.assert_allclose(GAME.growth(0.1) * floor + GAME.kick(0.1), floor)
    np.testing.assert_allclose(GAME.floor(1e-6), GAME.sigma**2 / GAME.second, rtol=1e-9)


def test_a_step_without_a_floor_is_refused():
    with pytest.raises(AssumptionError, match="choose eta"):
        GAME.floor(0.9)
    with pytest.raises(AssumptionError, match="grows"):
        GAME.floor(np.nan)


def test_the_law_of_averages_is_the_closed_form_without_spread():
    game, eta, K = seg.Game(np.array([0.7, 1.3]), sigma=0.4), 0.15, 37
    gain, noise = seg.average_law(game, eta, K)
    m = 1.0 + 1j * eta * game.b - eta**2 * game.b**2
    np.testing.assert_allclose(gain[-1], np.abs((1.0 - m**K) / (1.0 - m)) ** 2 / K**2)
    powers = np.abs(1.0 - m ** np.arange(K)[:, None]) ** 2
    np.testing.assert_allclose(noise[-1], game.sigma**2 / (game.b * K) ** 2 * powers.sum(axis=0))
    np.testing.assert_allclose(gain[0], 1.0)
    np.testing.assert_allclose(noise[0], 0.0)


def test_the_law_of_averages_has_its_constants():
    eta, K = 0.2, 20000
    gain, noise = seg.average_law(GAME, eta, K)
    np.testing.assert_allclose(K * noise[-1], GAME.average_constant(eta), rtol=1e-2)
    # the start: |z_0|^2/|1 - drift|^2 plus what the spread of b adds, over K^2
    assert (K**2 * gain[-1] >= 1.0 / np.abs(1.0 - GAME.drift(eta)) ** 2 * (1.0 - 1e-6)).all()
    np.testing.assert_allclose(K**2 * gain[-1], (K // 2) ** 2 * gain[K // 2 - 1], rtol=1e-6)
    plain = seg.Game(GAME.b, sigma=0.2)
    np.testing.assert_allclose(plain.average_constant(0.1), 0.04 / plain.b**2)


def test_the_laws_are_those_of_a_simulation():
    rng, eta, runs = np.random.default_rng(2), 0.2, 20000
    z0 = np.full((runs, 3), 2.0 + 1.0j)
    for law, found in (
        (seg.average_law(GAME, eta, 30), list(seg.averages(seg.iterates(GAME, z0, eta, 29, rng)))[-1]),
        (seg.average_law(GAME, eta, 200), list(seg.averages(seg.iterates(GAME, z0, eta, 199, rng)))[-1]),
    ):
        np.testing.assert_allclose((np.abs(found) ** 2).mean(axis=0), 5.0 * law[0][-1] + law[1][-1], rtol=0.06)
    starts = seg.restarted(GAME, z0, eta, [40, 10, 60], rng)
    squares = seg.restart_law(GAME, eta, [40, 10, 60], np.full(3, 5.0))
    for start, square in zip(starts, squares, strict=True):
        np.testing.assert_allclose((np.abs(start) ** 2).mean(axis=0), square, rtol=0.06)


def test_restarts_shrink_at_least_at_the_proved_rate():
    for eta in (0.3, 0.1, 0.01):
        b = np.linspace(1.0, 1.7, 9)
        K, rate = seg.best_restart(seg.Game(b), eta, int(np.ceil(6.0 * np.e / eta)))
        gain, _ = seg.average_law(seg.Game(b), eta, K)
        assert rate == pytest.approx(-np.log(gain[-1].max()) / K)
        assert rate >= eta / np.e * (1.0 - eta)  # K is rounded to whole steps


def test_play_is_normalized_gd_and_its_weighted_mean_is_the_weights_direction():
    problem = gaussian(3, 3, 30, seed=0)
    svm = solve_token_svm(problem)
    h = 1.5 * stability_threshold(svm)
    p, weight, C = seg.play(problem, h, 60)
    run = train(problem, NormalizedGD(h), 60, form="gram")
    np.testing.assert_allclose(C, run.coefficients[-1], rtol=1e-8)
    np.testing.assert_allclose(p.sum(axis=1), 1.0)
    np.testing.assert_allclose(seg.running_mean(p, weight)[-1], C / C.sum())


def test_below_the_edge_play_arrives_at_the_duals():
    problem = gaussian(3, 3, 30, seed=0)
    svm = solve_token_svm(problem)
    p, _, _ = seg.play(problem, 0.5 * stability_threshold(svm), 400)
    np.testing.assert_allclose(p[-1], svm.duals / svm.duals.sum(), atol=1e-10)
