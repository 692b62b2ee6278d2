"""Univariate ReLU networks: sums by cumulative sums, closed forms of the best network, regions and KKT residual."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from tokenmargin.neighbours import relu_linear_regions as rl


def direct(x, y, theta):
    """Margins (n,) of one network, by the definition."""
    return y * (np.maximum(np.outer(x, theta[:, 1]) + theta[:, 2], 0.0) @ theta[:, 0])


def problem(runs=3, n=12, changes=2, m=7, seed=0):
    x, y = rl.labelled_points(runs, n, changes, 0.05, seed)
    return x, y, rl.balanced_start(runs, m, 1.5, seed + 1)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 30))
def test_margins_are_those_of_the_definition(seed, runs, m):
    x, y, theta = problem(runs, 20, 3, m, seed)
    margins, _ = rl.margins_and_slopes(x, y, theta)
    for r in range(runs):
        np.testing.assert_allclose(margins[r], direct(x[r], y[r], theta[r]), atol=1e-12)


def test_slope_is_the_derivative_of_minus_the_log_loss():
    x, y, theta = problem(runs=1)
    _, slope = rl.margins_and_slopes(x, y, theta)
    step = 1e-6
    for j in np.ndindex(*theta.shape[1:]):
        move = np.zeros_like(theta)
        move[(0, *j)] = step
        up, down = (rl.log_loss(direct(x[0], y[0], (theta + s * move)[0])) for s in (1, -1))
        assert slope[(0, *j)] == pytest.approx(-(up - down) / (2 * step), abs=1e-6)


def test_slope_obeys_euler_s_identity_at_any_margin():
    x, y, theta = problem()
    margins, slope = rl.margins_and_slopes(x, y, 1e3 * theta)
    p = np.exp(margins.min(axis=1, keepdims=True) - margins)
    mean = (p * margins).sum(axis=1) / p.sum(axis=1)
    np.testing.assert_allclose((1e3 * theta * slope).sum(axis=(1, 2)), 2 * mean, rtol=1e-9)


def test_neurons_without_a_kink_are_on_or_off_everywhere():
    x, y = np.array([[-0.5, 0.5]]), np.array([[1.0, -1.0]])
    theta = np.array([[[2.0, 0.0, 1.0], [5.0, 0.0, -1.0], [1.0, 0.0, 0.0]]])
    np.testing.assert_array_equal(rl.kinks(theta), [[2.0, -2.0, 2.0]])
    np.testing.assert_allclose(rl.margins_and_slopes(x, y, theta)[0], [[2.0, -2.0]])


def test_labels_change_where_they_should():
    x, y = rl.labelled_points(5, 50, 3, 0.1, 2)
    assert (np.diff(x, axis=1) >= 0).all()
    assert (np.abs(x) <= 1).all()
    assert (np.abs(x[..., None] - np.array([-0.5, 0.0, 0.5])).min(axis=-1) >= 0.1).all()
    np.testing.assert_array_equal(y, np.where(x < -0.5, 1, np.where(x < 0, -1, np.where(x < 0.5, 1, -1))))


def test_start_is_balanced_and_its_size_does_not_depend_on_the_width():
    theta = rl.balanced_start(20, 2000, 0.7, 3)
    np.testing.assert_allclose(np.abs(theta[..., 0]), np.linalg.norm(theta[..., 1:], axis=-1))
    assert (theta**2).sum(axis=(1, 2)).mean() == pytest.approx(2 * 0.49, rel=0.03)


def test_small_steps_keep_the_balance():
    # d(a^2 - w^2 - b^2) = O(eta^2) a step, so it is linear in c over a fixed time
    x, y, theta = problem(runs=1)
    drift = []
    for c, steps in ((0.02, 200), (0.01, 400)):
        last = rl.train(x, y, theta, c, np.array([steps]))[-1][1][0]
        drift.append(np.abs(last[:, 0] ** 2 - (last[:, 1:] ** 2).sum(axis=1)).max())
    assert drift[0] / drift[1] == pytest.approx(2.0, rel=0.1)


def test_breakpoints_merge_and_drop():
    theta = np.array([[1.0, 1.0, 0.5], [1.0, -1.0, 0.2], [2.0, 1.0, -0.202], [1e-6, 1.0, 0.0], [1.0, 1.0, 5.0]])
    where, change = rl.breakpoints(theta)
    np.testing.assert_allclose(where, [-0.5, (0.2 + 2 * 0.202) / 3])
    np.testing.assert_allclose(change, [1.0, 3.0])
    assert rl.regions(theta) == 3
    assert rl.regions(theta, merge=1e-3) == 4
    assert rl.regions(theta[-1:]) == 1


@settings(deadline=None, max_examples=30)
@given(st.floats(-0.9, 0.9), st.floats(0.01, 1.0))
def test_best_network_of_one_sign_change_in_closed_form(p, part):
    q = p + part * (0.99 - p)
    x, y = np.array([-0.95, p, q, 0.995]), np.array([1.0, 1.0, -1.0, -1.0])
    net = rl.largest_margin(x, y)
    assert net.cost == pytest.approx((np.hypot(1, p) + np.hypot(1, q)) / (q - p), rel=1e-7)
    assert (direct(x, y, net.theta) >= 1 - 1e-7).all()
    assert 0.5 * (net.theta**2).sum() == pytest.approx(net.cost, rel=1e-9)


def test_best_network_is_scaled_by_its_duals_and_satisfies_the_conditions():
    for changes in (1, 2, 3):
        x, y = (part[0] for part in rl.labelled_points(1, 40, changes, 0.08, changes))
        net = rl.largest_margin(x, y)
        assert net.certificate <= 1e-7
        assert net.duals.sum() == pytest.approx(net.cost, rel=1e-7)
        np.testing.assert_allclose(direct(x, y, net.theta)[net.duals > 1e-6], 1.0, rtol=1e-6)
        assert rl.kkt_residual(x, y, net.theta) < 1e-3
        assert rl.kkt_residual(x, y, 7.0 * net.theta) == pytest.approx(rl.kkt_residual(x, y, net.theta), abs=1e-9)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 40))
def test_no_network_has_a_larger_margin(seed, m):
    x, y = (part[0] for part in rl.labelled_points(1, 15, 2, 0.1, seed))
    if (y == y[0]).all():  # fifteen points may all fall on one side
        with pytest.raises(ValueError, match="never change sign"):
            rl.largest_margin(x, y)
        return
    net, rng = rl.largest_margin(x, y), np.random.default_rng(seed)
    noise = 0.3 * rng.standard_normal(net.theta.shape)
    for theta in (net.theta + noise, np.vstack([net.theta, rng.standard_normal((m, 3))])):
        assert direct(x, y, theta).min() <= (theta**2).sum() / (2 * net.cost) + 1e-6


def test_starting_from_the_changes_loses_nothing():
    x, y = (part[0] for part in rl.labelled_points(1, 25, 3, 0.08, 4))
    cost, bound = rl._cutting_planes(np.stack([x, np.ones_like(x)], axis=1), y, 1e-7)[3:]
    assert bound <= cost * (1 + 1e-9)
    assert rl.largest_margin(x, y).cost == pytest.approx(cost, rel=1e-7)


def test_best_network_on_a_grid_of_directions():
    x, y = (part[0] for part in rl.labelled_points(1, 10, 2, 0.1, 8))
    angle = np.linspace(0.0, 2 * np.pi, 3001)
    F = y[:, None] * np.maximum(np.outer(x, np.cos(angle)) + np.sin(angle), 0.0)
    grid = linprog(np.ones(6002), A_ub=np.hstack([-F, F]), b_ub=-np.ones(10)).fun
    cost = rl.largest_margin(x, y).cost
    assert cost * (1 - 1e-7) <= grid <= 1.02 * cost


def test_training_from_a_small_start_reaches_the_best_network():
    x, y = rl.labelled_points(2, 30, 1, 0.1, 5)
    theta, margins = rl.train(x, y, rl.balanced_start(2, 40, 0.3, 6), 2.0, np.array([3000]))[-1][1:]
    for r in range(2):
        best = rl.largest_margin(x[r], y[r])
        share = 2 * best.cost * margins[r].min() / (theta[r] ** 2).sum()
        assert 0.99 < share <= 1 + 1e-9
        assert rl.regions(theta[r]) == rl.regions(best.theta) == 3
        assert rl.kkt_residual(x[r], y[r], theta[r]) < 0.02


def test_refusals():
    x, y, theta = problem(runs=1)
    with pytest.raises(ValueError, match="sorted"):
        rl.train(x[:, ::-1], y, theta, 1.0, np.array([1]))
    with pytest.raises(ValueError, match=r"y be -1 or \+1"):
        rl.train(x, 2 * y, theta, 1.0, np.array([1]))
    with pytest.raises(ValueError, match="never change sign"):
        rl.largest_margin(x[0], np.ones(x.shape[1]))
    with pytest.raises(ValueError, match="misclassified"):
        rl.kkt_residual(x[0], y[0], -np.abs(theta[0]))
