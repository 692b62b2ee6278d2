"""Two-layer linear networks: what the flow conserves, its closed forms, and the imbalance of attention's factors."""

import numpy as np
import pytest
from tokenmargin.data.synthetic import gaussian
from tokenmargin.model.attention import loss_value
from tokenmargin.neighbours import linear_networks_initialisation as lin


def data(seed=0, n=4, D=9, m=2):
    rng = np.random.default_rng(seed)
    X, Y = rng.standard_normal((n, D)) / np.sqrt(D), rng.standard_normal((n, m))
    return lin.regression(X, Y), X, Y, rng


def layers(rng, r, m, h, size=1.0):
    return size * rng.standard_normal((r, h)) / np.sqrt(h), size * rng.standard_normal((m, h)) / np.sqrt(h)


def test_coordinates_reproduce_the_loss_and_the_min_norm_solution():
    problem, X, Y, rng = data()
    U, V = rng.standard_normal((9, 6)), rng.standard_normal((2, 6))
    loss = ((X @ U @ V.T - Y) ** 2).sum() / 2  # n = r: the least loss is zero
    np.testing.assert_allclose(lin.excess_loss(problem, problem.row.T @ U, V), loss, rtol=1e-12)
    np.testing.assert_allclose(problem.row @ problem.solution, np.linalg.pinv(X) @ Y, atol=1e-12)
    np.testing.assert_allclose(problem.row.T @ problem.null, 0.0, atol=1e-14)


def test_rank_deficient_inputs_keep_only_what_can_be_fitted():
    rng = np.random.default_rng(1)
    X = rng.standard_normal((6, 2)) @ rng.standard_normal((2, 5))
    Y = rng.standard_normal((6, 3))
    problem = lin.regression(X, Y)
    assert problem.S.shape == (2,)
    U, V = rng.standard_normal((5, 4)), rng.standard_normal((3, 4))
    least = ((X @ np.linalg.pinv(X) @ Y - Y) ** 2).sum() / 2
    excess = ((X @ U @ V.T - Y) ** 2).sum() / 2 - least
    np.testing.assert_allclose(lin.excess_loss(problem, problem.row.T @ U, V), excess, rtol=1e-10)


@pytest.mark.parametrize(
    ("X", "Y", "message"),
    [
        (np.ones((2, 3)), np.ones((3, 1)), "one row a sample"),
        (np.full((2, 3), np.nan), np.ones((2, 1)), "finite"),
        (np.ones(3), np.ones((3, 1)), "one row a sample"),
        (np.zeros((2, 3)), np.ones((2, 1)), "nothing to learn"),
    ],
)
def test_bad_data_are_refused(X, Y, message):
    with pytest.raises(ValueError, match=message):
        lin.regression(X, Y)


@pytest.mark.parametrize("seed", range(5))
def test_flow_conserves_the_imbalance_and_stays_below_the_bound(seed):
    problem, *_, rng = data(seed)
    U1, V = layers(rng, 4, 2, 30)
    path = lin.flow(problem, U1, V, np.linspace(0.0, 30.0, 61))
    np.testing.assert_allclose(lin.imbalance(path.U1, path.V)[-1], lin.imbalance(U1, V), atol=1e-8)
    bound = lin.rate_bound(problem, U1, V)
    assert bound > 0.0
    assert (path.log_excess <= path.log_excess[0] - bound * path.times + 1e-9).all()
    direct = np.log(lin.excess_loss(problem, path.U1, path.V))
    shallow = direct > -25.0
    assert shallow.sum() > 5
    np.testing.assert_allclose(path.log_excess[shallow], direct[shallow], atol=1e-3)


def test_flow_moves_along_the_negative_gradient():
    problem, X, Y, rng = data(3)
    U, V = rng.standard_normal((9, 7)), rng.standard_normal((2, 7))
    E = X @ U @ V.T - Y
    dt = 1e-7
    path = lin.flow(problem, problem.row.T @ U, V, np.array([0.0, dt]))
    np.testing.assert_allclose((path.U1[1] - path.U1[0]) / dt, -problem.row.T @ X.T @ E @ V, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose((path.V[1] - path.V[0]) / dt, -E.T @ X @ U, rtol=1e-4, atol=1e-4)


def test_late_rate_is_the_least_eigenvalue_of_the_kernel():
    problem, *_, rng = data(2)
    path = lin.flow(problem, *layers(rng, 4, 2, 30), np.linspace(0.0, 200.0, 201))
    assert path.rate(150.0) == pytest.approx(lin.kernel_rate(problem, path.U1[-1], path.V[-1]), rel=1e-4)


def test_kernel_rate_is_the_form_in_the_inputs():
    problem, X, _, rng = data(4)
    U, V = rng.standard_normal((9, 5)), rng.standard_normal((2, 5))
    kernel = np.kron(X @ X.T, V @ V.T) + np.kron(X @ U @ U.T @ X.T, np.eye(2))
    rate = lin.kernel_rate(problem, problem.row.T @ U, V)
    assert rate == pytest.approx(2 * np.linalg.eigvalsh(kernel)[0], rel=1e-8)


def test_bound_is_exact_for_whitened_data_and_wide_layers_at_right_angles():
    problem = lin.Regression(np.ones(2), np.full((2, 1), 0.1), np.eye(3)[:, :2], np.eye(3)[:, 2:])
    U1, V = 50.0 * np.eye(2, 3), 50.0 * np.eye(1, 3, 2)
    path = lin.flow(problem, U1, V, np.array([0.0, 0.001, 0.002]))
    assert path.rate(0.0) == pytest.approx(lin.rate_bound(problem, U1, V), rel=1e-6)


def test_width_beyond_the_rows_changes_nothing():
    problem, *_, rng = data(5)
    U1, V = layers(rng, 4, 2, 40)
    small_U, small_V, basis = lin.compressed(U1, V)
    assert small_U.shape == (4, 6)
    np.testing.assert_allclose(small_U @ basis.T, U1, atol=1e-14)
    assert lin.imbalance_level(small_U, small_V) == pytest.approx(lin.imbalance_level(U1, V), rel=1e-10)
    times = np.array([3.0])
    wide, narrow = lin.flow(problem, U1, V, times), lin.flow(problem, small_U, small_V, times)
    np.testing.assert_allclose(narrow.V @ basis.T, wide.V, atol=1e-7)


def test_stacked_runs_are_the_single_runs():
    problem, *_, rng = data(6)
    pairs = [layers(rng, 4, 2, 6, size) for size in (0.3, 1.0)]
    U1, V = (np.array(x) for x in zip(*pairs, strict=True))
    together = lin.flow(problem, U1, V, np.array([1.0, 4.0]))
    for k, pair in enumerate(pairs):
        alone = lin.flow(problem, *pair, np.array([1.0, 4.0]))
        np.testing.assert_allclose(together.V[:, k], alone.V, atol=1e-8)
        np.testing.assert_allclose(together.log_excess[:, k], alone.log_excess, atol=1e-7)


def test_a_network_too_narrow_for_the_bound_is_refused():
    with pytest.raises(ValueError, match="widen"):
        lin.imbalance_level(np.ones((3, 2)), np.ones((1, 2)))


def test_a_start_that_fits_is_refused():
    problem = lin.Regression(np.ones(1), np.ones((1, 1)), np.eye(2)[:, :1], np.eye(2)[:, 1:])
    with pytest.raises(ValueError, match="another start"):
        lin.flow(problem, np.ones((1, 1)), np.ones((1, 1)), np.array([1.0]))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_one_output_in_closed_form(seed, sign):
    problem, *_, rng = data(seed, n=1, m=1)
    problem = lin.Regression(problem.S, sign * problem.target, problem.row, problem.null)
    U1, V = 10 ** rng.uniform(-1, 1, (2, 1, 1)) * rng.standard_normal((2, 1, 3))
    sigma, goal, c = problem.S[0] ** 2, problem.solution[0, 0], lin.imbalance_level(U1, V)
    times = np.linspace(0.0, 60.0 / (sigma * np.hypot(c, 2 * goal)), 101)
    path = lin.flow(problem, U1, V, times)
    theta = (path.U1 * path.V).sum(axis=(1, 2))
    closed = lin.scalar_curve(sigma, goal, c, theta[0], times)
    np.testing.assert_allclose(closed, theta, atol=1e-6 * np.abs([goal, *theta]).max())
    np.testing.assert_allclose(lin.imbalance_level(path.U1, path.V), c, rtol=1e-6)
    total = (path.U1**2 + path.V**2).sum(axis=(1, 2))
    np.testing.assert_allclose(total, np.hypot(c, 2 * theta), rtol=1e-6)
    assert path.rate(0.8 * times[-1]) == pytest.approx(lin.scalar_rate(sigma, goal, c), rel=1e-5)
    assert lin.scalar_rate(sigma, goal, c) >= lin.rate_bound(problem, U1, V)


def test_balanced_start_of_the_wrong_sign_goes_to_the_saddle():
    with pytest.raises(ValueError, match="saddle"):
        lin.scalar_curve(1.0, 2.0, 0.0, -0.5, np.array([1.0]))
    with pytest.raises(ValueError, match="saddle"):
        lin.scalar_curve(1.0, 2.0, 0.0, 0.0, np.array([1.0]))
    problem = lin.Regression(np.ones(1), np.full((1, 1), 2.0), np.eye(2)[:, :1], np.eye(2)[:, 1:])
    start = np.full((1, 1), 0.7)
    path = lin.flow(problem, start, -start, np.array([0.0, 20.0]))
    assert path.U1[-1, 0, 0] == pytest.approx(0.0, abs=1e-9)
    assert path.log_excess[-1] == pytest.approx(np.log(2.0), abs=1e-8)


def test_zero_is_a_saddle_and_a_smaller_start_waits_longer_by_its_growth_rate():
    problem, *_, rng = data(8, m=1)
    U1, V = layers(rng, 4, 1, 5)
    growth = np.linalg.norm(problem.S[:, None] * problem.target, 2)
    sizes, times = np.array([1e-4, 1e-5])[:, None, None], np.linspace(0.0, 18.0 / growth, 901)
    path = lin.flow(problem, sizes * U1, sizes * V, times)
    waits = [np.interp(0.1, path.log_excess[0, k] - path.log_excess[:, k], times) for k in (0, 1)]
    assert growth * (waits[1] - waits[0]) == pytest.approx(np.log(10.0), rel=1e-3)
    still = lin.flow(problem, 0 * U1, 0 * V, times)
    np.testing.assert_array_equal(still.log_excess, still.log_excess[0])


@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.75])
def test_distance_of_wide_random_starts(alpha):
    problem, _, _, rng = data(9, D=30)
    h, runs, (r, m) = 400, 60, problem.target.shape
    parts = []
    for _ in range(runs):
        U, V = h**-alpha * rng.standard_normal((30, h)), h**-alpha * rng.standard_normal((m, h))
        U1, V, basis = lin.compressed(problem.row.T @ U, V)
        parts.append((U1, V, problem.null.T @ U @ basis))
    U1, V, U2 = (np.array(x) for x in zip(*parts, strict=True))
    path = lin.flow(problem, U1, V, np.array([20.0]))
    mean = np.sqrt((np.linalg.norm(U2 @ lin.transposed(path.V[-1]), axis=(1, 2)) ** 2).mean())
    assert r == 4
    assert mean == pytest.approx(lin.wide_distance(problem, np.array([h]), alpha, 20.0)[0], rel=0.06)


def test_exponent_of_the_distance_inside_and_beyond_the_range_of_the_theorem():
    problem, *_ = data(9)
    widths = np.array([1e6, 1e8])
    for alpha, exponent, time in ((0.45, 0.4, 30.0), (0.5, 0.5, 60.0), (0.75, 0.75, 200.0)):
        near, far = lin.wide_distance(problem, widths, alpha, time)
        assert np.log(near / far) / np.log(100.0) == pytest.approx(exponent, abs=0.03)
    limit = np.sqrt(5 * np.linalg.norm(problem.solution, "nuc"))
    assert lin.wide_distance(problem, widths, 0.75, 200.0)[1] * 1e6 == pytest.approx(limit, rel=0.01)


def test_factor_velocity_is_minus_the_gradient():
    problem = gaussian(3, 4, 6, seed=0)
    K, Q, dK, dQ = np.random.default_rng(0).standard_normal((4, 6, 6))
    step = 1e-6
    numeric = (
        loss_value(problem, (K + step * dK) @ (Q + step * dQ).T)
        - loss_value(problem, (K - step * dK) @ (Q - step * dQ).T)
    ) / (2 * step)
    vK, vQ = lin.factor_velocity(problem, K, Q)
    assert -(vK * dK).sum() - (vQ * dQ).sum() == pytest.approx(numeric, rel=1e-6)


def test_imbalance_of_attention_drifts_by_the_integrated_coefficient():
    problem = gaussian(3, 4, 6, seed=1)
    K, Q = 0.5 * np.random.default_rng(1).standard_normal((2, 6, 4))
    start, C = K.T @ K - Q.T @ Q, lin.drift_coefficient(problem, K, Q, 20.0)
    off = []
    for steps in (100, 400):
        k, q = lin.factor_descent(problem, K, Q, 20.0 / steps, steps)
        drift = (k.T @ k - q.T @ q - start) * steps / 20.0
        off.append(np.linalg.norm(drift - C) / np.linalg.norm(C))
    assert off[0] < 0.1
    assert off[1] == pytest.approx(off[0] / 4, rel=0.1)
