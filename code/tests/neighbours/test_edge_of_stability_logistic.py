"""Separable logistic regression with large steps: closed forms on two points, limits, stability threshold."""

import numpy as np
import pytest
from tokenmargin.neighbours import edge_of_stability_logistic as eos


def data(seed=0, n=6, d=10):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) / np.sqrt(d)


def test_max_margin_of_two_points_is_the_first_axis():
    svm = eos.max_margin(eos.two_points(0.1, 0.75))
    np.testing.assert_allclose(svm.w, [10.0, 0.0], atol=1e-10)
    np.testing.assert_allclose(svm.duals, 100 * np.array([0.75, 1.0]) / 1.75)
    assert svm.gamma == pytest.approx(0.1)


def test_max_margin_satisfies_its_optimality_conditions():
    S = data(1, n=30, d=12)
    S = S * np.sign(S @ np.ones(12))[:, None]
    svm = eos.max_margin(S)
    margins = S @ svm.w
    assert margins.min() >= 1 - 1e-9
    assert svm.duals.min() >= 0
    assert svm.duals @ (margins - 1) == pytest.approx(0, abs=1e-8)
    np.testing.assert_allclose(S.T @ svm.duals, svm.w)


def test_not_separable_is_an_error():
    with pytest.raises(ValueError, match="not linearly separable"):
        eos.max_margin(np.array([[1.0, 0.0], [-1.0, 0.0]]))


def test_potential_minimiser_of_two_points_in_closed_form():
    S, b = eos.two_points(0.1, 0.75), 0.75
    svm = eos.max_margin(S)
    v = eos.potential_minimiser(S, svm)
    # e^-v - b e^(b v) = 0
    np.testing.assert_allclose(v, [0.0, -np.log(b) / (1 + b)], atol=1e-9)


def test_potential_minimiser_weights_are_the_duals():
    S = data(3, n=5, d=60)
    svm = eos.max_margin(S)
    assert (svm.duals > 0).all()
    weights = np.exp(-S @ eos.potential_minimiser(S, svm))
    np.testing.assert_allclose(weights / weights.sum(), svm.duals / svm.duals.sum(), rtol=1e-6)


def test_potential_minimiser_is_a_minimum():
    S = data(4, n=4, d=6)
    svm = eos.max_margin(S)
    v = eos.potential_minimiser(S, svm)
    for seed in range(5):
        move = eos.split(np.random.default_rng(seed).standard_normal(6), svm)[1]
        assert eos.potential(v + 0.1 * move, S, svm) >= eos.potential(v, S, svm)


def test_sharpness_is_the_largest_eigenvalue_of_a_numerical_hessian():
    S, w, step = data(2, n=5, d=3), np.array([0.3, -0.2, 0.5]), 1e-5
    rows = [
        (eos.gradient(w + step * e, S, "logistic") - eos.gradient(w - step * e, S, "logistic")) / (2 * step)
        for e in np.eye(3)
    ]
    assert eos.sharpness(w, S) == pytest.approx(np.linalg.eigvalsh(np.array(rows)).max(), rel=1e-6)


@pytest.mark.parametrize("loss", ["logistic", "exponential"])
def test_gradient_is_the_derivative_of_the_loss(loss):
    S, w, step = data(2, n=5, d=3), np.array([0.3, -0.2, 0.5]), 1e-6
    numeric = [
        (eos.loss_value(w + step * e, S, loss) - eos.loss_value(w - step * e, S, loss)) / (2 * step) for e in np.eye(3)
    ]
    np.testing.assert_allclose(eos.gradient(w, S, loss), numeric, atol=1e-8)


def test_exponential_explodes_where_logistic_does_not():
    S, times = eos.two_points(), np.arange(2001)
    exponential = eos.gradient_descent(S, 16.0, times, "exponential")
    logistic = eos.gradient_descent(S, 16.0, times, "logistic")
    assert not exponential.finite
    assert len(exponential.times) < 20
    assert logistic.finite
    assert (np.diff(logistic.loss) > 0).any()
    assert logistic.loss[-1] < 0.01


def test_split_is_an_orthogonal_decomposition():
    S = data(5)
    svm = eos.max_margin(S)
    w = np.random.default_rng(0).standard_normal((4, 10))
    along, rest = eos.split(w, svm)
    np.testing.assert_allclose(rest @ svm.w, 0, atol=1e-12)
    np.testing.assert_allclose(along**2 + (rest**2).sum(axis=1), (w**2).sum(axis=1))


def test_loss_constant_of_one_point():
    # One point: L = log(1 + e^-m), m' = eta s^2 e^-m, so eta gamma^2 t L -> 1 with gamma = |s|.
    S, eta, T = np.array([[0.5]]), 20.0, 100_000
    run = eos.gradient_descent(S, eta, np.array([T]))
    assert eta * 0.25 * T * run.loss[-1] == pytest.approx(1.0, rel=2e-3)


def test_normalised_threshold_is_where_two_points_lose_stability():
    S = eos.two_points(0.5, 0.9)  # duals 4(b, 1)/(1 + b): sum lambda s s' off w_mm is 4 b, ||w_mm|| = 2
    svm = eos.max_margin(S)
    threshold = eos.normalised_threshold(S, svm)
    assert threshold == pytest.approx(2 * 2 / (4 * 0.9))
    v = eos.potential_minimiser(S, svm)
    for factor, stable in ((0.95, True), (1.05, False)):
        w = eos.normalised_descent(S, factor * threshold, np.array([3000]))[0]
        assert (np.linalg.norm(eos.split(w, svm)[1] - v) < 1e-6) == stable


def test_modes_are_those_of_the_potential_s_hessian():
    S, step = data(3, n=5, d=60), 1e-5
    svm = eos.max_margin(S)
    kappa, modes = eos.residual_modes(S, svm)
    v = eos.potential_minimiser(S, svm)
    assert len(kappa) == 4
    np.testing.assert_allclose(svm.w @ modes, 0.0, atol=1e-9)
    for k, mode in zip(kappa, modes.T, strict=True):
        up, middle, down = (eos.potential(v + s * step * mode, S, svm) for s in (1, 0, -1))
        assert (up - 2 * middle + down) / step**2 == pytest.approx(svm.gamma**2 * middle * k, rel=1e-4)


@pytest.mark.parametrize(("gamma", "b", "eta"), [(1.0, 0.6, 10.0), (1.0, 0.3, 1.0), (2.0, 0.6, 1.0)])
def test_orthogonal_error_of_two_points_decays_with_its_mode_s_exponent(gamma, b, eta):
    S = eos.two_points(gamma, b)
    svm = eos.max_margin(S)
    kappa, _ = eos.residual_modes(S, svm)
    np.testing.assert_allclose(kappa, [b / gamma**2])
    w = eos.gradient_descent(S, eta, np.array([2000, 20000])).w
    off = np.linalg.norm(eos.split(w, svm)[1] - eos.potential_minimiser(S, svm), axis=1)
    assert np.log(off[1] / off[0]) / np.log(10) == pytest.approx(-kappa[0], abs=0.01)


@pytest.mark.parametrize("eta", [0.5, 30.0])
def test_component_along_the_margin_grows_as_the_logarithm(eta):
    S = data(3, n=5, d=60)
    svm = eos.max_margin(S)
    run = eos.gradient_descent(S, eta, np.array([3000, 30000]))
    along, _ = eos.split(run.w, svm)
    assert svm.gamma * (along[1] - along[0]) / np.log(10) == pytest.approx(1.0, rel=0.02)
    assert eta * svm.gamma**2 * 30000 * run.loss[-1] == pytest.approx(1.0, rel=0.02)


def test_normalised_steps_have_their_length_and_never_underflow():
    S = data(3, n=5, d=60)
    path = eos.normalised_descent(S, 2.0, np.arange(3000))
    np.testing.assert_allclose(np.linalg.norm(np.diff(path, axis=0), axis=1), 2.0)
    assert (S @ path[-1]).min() > 800
