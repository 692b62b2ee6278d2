"""Directional smoothness in closed cases: quadratics, the exponential, and the bounds on a convex problem."""

from itertools import pairwise

import numpy as np
import pytest
from neighbours import directional_smoothness as ds

A = np.diag([1.0, 4.0, 25.0])
X0 = np.array([3.0, -2.0, 1.0])


def value(x):
    return float(x @ A @ x / 2)


def gradient(x):
    return A @ x


def test_on_a_quadratic_the_measures_are_rayleigh_quotients():
    y = np.array([0.0, 1.0, 5.0])
    v = y - X0
    assert ds.point_smoothness(X0, y, gradient) == pytest.approx(2 * np.linalg.norm(A @ v) / np.linalg.norm(v))
    rayleigh = v @ A @ v / (v @ v)
    assert ds.optimal_smoothness(X0, y, value, gradient) == pytest.approx(rayleigh)
    assert ds.path_smoothness(X0, y, gradient) == pytest.approx(rayleigh)


def test_adapted_steps_on_a_quadratic_are_the_cauchy_step_and_its_point_wise_cousin():
    g = gradient(X0)
    cauchy = g @ g / (g @ A @ g)
    assert ds.adapted_step(X0, value, gradient, "optimal") == pytest.approx(cauchy, rel=1e-9)
    cousin = np.linalg.norm(g) / (2 * np.linalg.norm(A @ g))
    for start in (1e-6, 1.0, 1e4):
        assert ds.adapted_step(X0, value, gradient, "point", start) == pytest.approx(cousin, rel=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_measures_are_ordered_and_below_the_global_constant(seed):
    rng = np.random.default_rng(seed)
    data, y = rng.standard_normal((20, 4)), rng.choice([-1.0, 1.0], 20)
    f, g, L = ds.logistic_problem(data, y)
    a, b = rng.standard_normal((2, 4))
    H, P, M = ds.optimal_smoothness(a, b, f, g), ds.path_smoothness(a, b, g), ds.point_smoothness(a, b, g)
    assert 0 < H <= min(P, M) * (1 + 1e-12)
    assert P <= L
    assert M <= 2 * L


def test_adapted_step_solves_its_own_equation_on_logistic_regression():
    rng = np.random.default_rng(0)
    f, g, _ = ds.logistic_problem(rng.standard_normal((30, 3)), rng.choice([-1.0, 1.0], 30))
    x = rng.standard_normal(3)
    for measure in ("point", "optimal"):
        eta = ds.adapted_step(x, f, g, measure)
        y = x - eta * g(x)
        M = ds.point_smoothness(x, y, g) if measure == "point" else ds.optimal_smoothness(x, y, f, g)
        assert eta * M == pytest.approx(1.0, rel=1e-8)
        assert f(y) <= f(x) - 0.5 * eta * g(x) @ g(x) * (1 - 1e-8)


def test_bounds_hold_on_a_quadratic():
    K, D = 60, float(np.linalg.norm(X0))
    path = ds.descend(X0, gradient, K, lambda x, g: ds.adapted_step(x, value, gradient, "optimal"))
    etas = np.array([np.linalg.norm(b - a) / np.linalg.norm(gradient(a)) for a, b in pairwise(path)])
    assert (np.array([value(x) for x in path[1:]]) <= ds.adapted_bound(D, etas)).all()
    path = ds.descend(X0, gradient, K, lambda x, g: 1.5 * value(x) / (g @ g))
    H = np.array([ds.optimal_smoothness(a, b, value, gradient) for a, b in pairwise(path)])
    average = np.cumsum(path[:-1] / H[:, None], axis=0) / np.cumsum(1 / H)[:, None]
    assert (np.array([value(x) for x in average]) <= ds.polyak_bound(D, H, 1.5)).all()
    path = ds.descend(X0, gradient, K, lambda x, g: D / np.sqrt(K) / np.linalg.norm(g))
    H = np.array([ds.optimal_smoothness(a, b, value, gradient) for a, b in pairwise(path)])
    assert min(value(x) for x in path[:-1]) <= ds.normalized_bound(D, value(X0), H)


def test_exponential_tail_gives_the_two_lengths():
    f, g = lambda x: float(np.exp(-x[0])), lambda x: -np.exp(-x)
    x = np.array([1.3])
    for measure in ("point", "optimal"):
        eta = ds.adapted_step(x, f, g, measure)
        assert eta * np.exp(-1.3) == pytest.approx(ds.adapted_normalized_length(measure), rel=1e-9)
    assert ds.adapted_normalized_length("optimal") == pytest.approx(1.5936242600400401)


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match="1 < gamma < 2"):
        ds.polyak_bound(1.0, np.ones(3), 1.0)
    with pytest.raises(ValueError, match="gradient is zero"):
        ds.adapted_step(np.zeros(3), value, gradient, "point")
    with pytest.raises(ValueError, match="no curvature"):
        ds.adapted_step(np.ones(2), lambda x: float(x.sum()), lambda x: np.ones(2), "point")


def test_logistic_gradient_by_differences():
    rng = np.random.default_rng(2)
    f, g, L = ds.logistic_problem(rng.standard_normal((15, 3)), rng.choice([-1.0, 1.0], 15))
    x, step = rng.standard_normal(3), 1e-6
    numeric = [(f(x + step * e) - f(x - step * e)) / (2 * step) for e in np.eye(3)]
    np.testing.assert_allclose(g(x), numeric, atol=1e-8)
    assert L > 0
