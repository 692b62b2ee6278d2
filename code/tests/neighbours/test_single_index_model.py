"""The exact flow, the threshold that stopping is, the laws of the errors, and attention in squares."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.stats import chi
from tokenmargin.data import synthetic
from tokenmargin.data.synthetic import orthogonal
from tokenmargin.model.attention import gradient, loss_value
from tokenmargin.neighbours import single_index_model as sim

B = np.array([1.0, -2.0, 2.0]) / 3.0


def gaussian(rng, n):
    return 0.5 * rng.standard_normal(n)


@given(
    m=st.floats(1e-3, 1.0) | st.floats(-1.0, -1e-3),
    exponent=st.floats(-8.0, -0.5),
    rise=st.floats(0.0, 2.0),
)
def test_flow_solves_its_equation(m, exponent, rise):
    alpha = 10.0**exponent
    # beta' = 4 (M - beta) sqrt(beta^2 + 4 alpha^4), as w^2 + v^2 = sqrt((w^2 - v^2)^2 + 4 (wv)^2) and wv = alpha^2.
    s = rise * (1.0 + np.log1p(abs(m) / alpha**2)) / (4.0 * abs(m))
    h = 1e-5 * s + 1e-9
    slope = (sim.flow(m, alpha, s + h) - sim.flow(m, alpha, s)) / h
    beta = sim.flow(m, alpha, s + h / 2)
    expected = 4.0 * (m - beta) * np.hypot(beta, 2.0 * alpha**2)
    assert slope == pytest.approx(expected, rel=1e-3, abs=1e-4 * abs(m) * (abs(m) + alpha**2))


def test_flow_agrees_with_a_solver_in_the_factors():
    alpha, M, s = 0.03, np.array([0.7, -0.2, 0.05]), 3.0

    def slope(_, y):
        w, v = y[:3], y[3:]
        r = w * w - v * v - M
        return np.concatenate([-2.0 * r * w, 2.0 * r * v])

    y = solve_ivp(slope, (0.0, s), np.full(6, alpha), rtol=1e-11, atol=1e-14).y[:, -1]
    np.testing.assert_allclose(sim.flow(M, alpha, s), y[:3] ** 2 - y[3:] ** 2, rtol=1e-7)
    np.testing.assert_allclose(y[:3] * y[3:], alpha**2, rtol=1e-8)


def test_flow_starts_at_zero_is_odd_and_ends_at_its_target():
    M = np.array([0.9, 0.1, 1e-3])
    np.testing.assert_allclose(sim.flow(M, 1e-3, 0.0), 0.0, atol=1e-18)
    np.testing.assert_allclose(sim.flow(M, 1e-3, 1e6), M, rtol=1e-9)
    np.testing.assert_array_equal(sim.flow(-M, 1e-3, 2.0), -sim.flow(M, 1e-3, 2.0))


def test_descent_tends_to_the_flow_at_first_order_in_the_step():
    M, alpha, s = np.array([1.0, -0.4, 0.1]), 1e-4, 8.0
    errors = [
        np.abs(sim.descend(M, alpha, eta, [round(s / eta)])[0] - sim.flow(M, alpha, s)).max() for eta in (2e-3, 1e-3)
    ]
    assert errors[0] / errors[1] == pytest.approx(2.0, rel=0.05)
    assert errors[1] < 2e-3


def test_descent_follows_the_gradient_of_its_loss():
    M, alpha, eta, h = np.array([0.6, -0.3]), 0.2, 0.01, 1e-6
    start = np.full((2, 2), alpha)

    def loss(y):
        beta = y[0] ** 2 - y[1] ** 2
        return beta @ beta - 2.0 * M @ beta

    moved = start.copy()
    for index in np.ndindex(2, 2):
        shift = np.zeros((2, 2))
        shift[index] = h
        moved[index] -= eta / 2.0 * (loss(start + shift) - loss(start - shift)) / (2.0 * h)
    expected = moved[0] ** 2 - moved[1] ** 2
    np.testing.assert_allclose(sim.descend(M, alpha, eta, [1])[0], expected, rtol=1e-8)


@given(m=st.floats(0.0, 1.0), alpha=st.floats(1e-6, 0.1))
def test_below_the_longest_step_descent_never_overshoots(m, alpha):
    path = sim.descend(np.array([m, 1.0]), alpha, 0.2499, np.arange(60))
    assert (np.diff(path, axis=0) >= -1e-12).all()
    assert (path <= np.array([m, 1.0]) + 1e-12).all()


def test_a_step_that_may_overshoot_is_an_error():
    with pytest.raises(ValueError, match="shorten the step or scale M"):
        sim.descend(np.array([1.0]), 1e-3, 0.25, [1])
    with pytest.raises(ValueError, match="must be below 1"):
        sim.descend(np.array([np.nan]), 1e-3, 0.1, [1])


@pytest.mark.parametrize("alpha", [1e-2, 1e-5, 1e-12])
def test_growth_time_is_when_half_is_learned(alpha):
    m, eta = np.array([0.05, 0.2, 1.0]), 1e-3
    half = np.array([sim.flow(x, alpha, sim.growth_time(x, x, alpha, eta) * sim.clock(x, eta)) for x in m])
    np.testing.assert_allclose(half / m, 0.5, atol=2.0 * alpha**2 / m.min())


@given(delta=st.floats(0.05, 0.95), exponent=st.floats(-12.0, -2.0), level=st.floats(0.05, 1.0))
def test_stopping_is_thresholding_up_to_its_bounds(delta, exponent, level):
    alpha = 10.0**exponent
    s, window = np.log(level / alpha**2) / (4.0 * level), (alpha**2 / level) ** delta
    below, above = sim.flow(np.array([1.0 - delta, 1.0 + delta]) * level, alpha, s)
    assert below <= level * window * (1.0 + 1e-9)
    missing = 1.0 - above / ((1.0 + delta) * level)
    assert -1e-12 <= missing <= ((1.0 + delta) * window + alpha**2 / level) * (1.0 + 1e-9) + 1e-12


def test_stopped_is_hard_thresholding_and_has_no_unit():
    M = np.array([[1.0, 0.5, -0.4, 0.1, 0.02], [0.3, -0.9, 0.05, 0.02, 0.01]])
    level = np.array([0.22, 0.13])
    beta = sim.stopped(M, level, 1e-8, 0.01)
    np.testing.assert_allclose(beta, sim.hard(M, level[:, None]), atol=1e-4)
    np.testing.assert_allclose(sim.stopped(1e6 * M, 1e6 * level, 1e-8, 0.01), 1e6 * beta, rtol=1e-6, atol=1e-20)


def test_rows_stop_each_at_its_own_step_whatever_their_number():
    M, scale = sim.score_moments(B, 20, 50, 25, np.random.default_rng(0), np.sin, gaussian)
    level = sim.universal_level(scale, 20)
    beta = sim.stopped(M, level, 1e-4, 0.02)
    single = np.concatenate([sim.stopped(M[[r]], level[[r]], 1e-4, 0.02) for r in range(25)])
    np.testing.assert_array_equal(beta, single)


def test_soft_thresholding_minimises_the_lasso():
    M, level = np.array([0.9, -0.3, 0.1]), 0.2
    grid = np.linspace(-1.5, 1.5, 30001)
    best = [grid[np.argmin((grid - m) ** 2 + 2.0 * level * np.abs(grid))] for m in M]
    np.testing.assert_allclose(sim.soft(M, level), best, atol=1e-4)
    np.testing.assert_array_equal(sim.hard(M, level), [0.9, -0.3, 0.0])


def test_moments_have_the_law_of_data_that_are_drawn_in_full():
    runs, n, p = 400, 60, 12
    M, scale = sim.score_moments(B, p, n, runs, np.random.default_rng(1), np.sin, gaussian)
    rng = np.random.default_rng(2)
    full = np.empty_like(M)
    for r in range(runs):
        x = rng.standard_normal((n, p))
        y = np.sin(x[:, :3] @ B) + gaussian(rng, n)
        full[r] = x.T @ y / n
    # E sin(u) u = E cos(u) = e^(-1/2) by Stein's identity.
    for sample in (M, full):
        np.testing.assert_allclose(sample.mean(axis=0)[:3], np.exp(-0.5) * B, atol=0.03)
        np.testing.assert_allclose(sample.mean(axis=0)[3:], 0.0, atol=0.03)
    second = (1.0 - np.exp(-2.0)) / 2.0 + 0.25
    np.testing.assert_allclose(np.mean(scale**2), second / n, rtol=0.05)
    for sample in (M, full):
        np.testing.assert_allclose(sample[:, 3:].var(), second / n, rtol=0.1)


def test_a_truncation_enters_before_everything_else():
    def huge(rng, n):
        return np.full(n, 1e9)

    M, scale = sim.score_moments(B, 4, 100, 2, np.random.default_rng(0), np.sin, huge, lambda y: np.clip(y, -1.0, 1.0))
    np.testing.assert_allclose(scale, 0.1)
    assert np.abs(M).max() < 1.0


def test_direction_error_is_the_chord_of_the_angle():
    assert sim.direction_error(np.array([3.0, -6.0, 6.0, 0.0]), B) == pytest.approx(0.0, abs=1e-15)
    assert sim.direction_error(np.array([0.0, 0.0, 0.0, 5.0]), B) == pytest.approx(np.sqrt(2.0))
    for bad in (np.zeros(4), np.array([1.0, np.nan, 0.0, 0.0])):
        with pytest.raises(ValueError, match="has no direction"):
            sim.direction_error(bad, B)


def test_median_error_has_its_limits_and_the_law_of_a_simulation():
    assert sim.median_error(5, 1e-9, 2.0) == pytest.approx(chi.median(4) * 1e-9 / 2.0)
    assert sim.median_error(10**8, 1.0, 1e-9) == pytest.approx(np.sqrt(2.0), rel=1e-6)
    M, _ = sim.score_moments(B, 50, 200, 4000, np.random.default_rng(3), np.sin, gaussian)
    scale = np.sqrt(((1.0 - np.exp(-2.0)) / 2.0 + 0.25) / 200)
    for k in (3, 50):
        measured = np.median(sim.direction_error(M[:, :k], B))
        assert measured == pytest.approx(sim.median_error(k, scale, np.exp(-0.5)), rel=0.04)


def test_squares_on_attention_grow_by_the_formula_while_attention_rests():
    problem = synthetic.gaussian(6, 5, 20, seed=0)
    G = np.abs(gradient(problem, np.zeros((20, 20))))
    eta, alpha, size = 0.05 / G.max(), 1e-8, 1e-6
    entry, gap, number = sim.train_squares(problem, alpha, eta, 170, size)
    due = np.ceil(sim.growth_time(G, size, alpha, eta))
    seen = due <= 165
    assert seen.sum() >= 5
    assert np.abs(entry - due)[seen].max() <= 1
    assert (entry[due > 171] == -1).all()
    assert gap[0] == pytest.approx(1.0)
    assert number[0] == 400.0


def test_squares_on_attention_take_a_gradient_step():
    problem = synthetic.gaussian(3, 4, 6, seed=1)
    alpha, eta, h = 0.3, 1e-3, 1e-6
    start = np.full((2, 6, 6), alpha)
    _, gap, _ = sim.train_squares(problem, alpha, eta, 1, 1.0)
    slope = np.empty_like(start)
    for index in np.ndindex(start.shape):
        ends = [start.copy(), start.copy()]
        ends[0][index] += h
        ends[1][index] -= h
        high, low = (loss_value(problem, y[0] ** 2 - y[1] ** 2) for y in ends)
        slope[index] = (high - low) / (2.0 * h)
    moved = start - eta * slope
    W = moved[0] ** 2 - moved[1] ** 2
    assert gap[1] == pytest.approx(sim.relative_gap(problem)(W), rel=1e-9)


def test_matrix_training_decreases_the_loss_and_effective_numbers_count():
    problem = orthogonal(2, 3, 6, seed=0)
    gap, number = sim.train_matrix(problem, 0.1, 30)
    assert (np.diff(gap) < 0.0).all()
    assert 0.0 < gap[-1] < 1.0
    assert ((number >= 1.0) & (number <= 36.0)).all()
    assert sim.effective_number(np.eye(4)) == pytest.approx(4.0)
    assert sim.effective_number(np.zeros((3, 3))) == 9.0
