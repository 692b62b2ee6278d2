"""Directional smoothness in closed cases: quadratics, the exponential, and the bounds on a convex problem."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.special import expit
from tokenmargin.data.synthetic import gaussian
from tokenmargin.margin.token_svm import solve_token_svm
from tokenmargin.model import attention
from tokenmargin.model.attention import infimum, loss_value
from tokenmargin.neighbours import directional_smoothness as ds

MEASURES = ("point", "path", "optimal")

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
    for measure in ("optimal", "path"):
        assert ds.adapted_step(X0, value, gradient, measure) == pytest.approx(cauchy, rel=1e-9)
    cousin = np.linalg.norm(g) / (2 * np.linalg.norm(A @ g))
    for start in (1e-6, 1.0, 1e4):
        assert ds.adapted_step(X0, value, gradient, "point", start) == pytest.approx(cousin, rel=1e-9)


@pytest.mark.parametrize("scale", [0.1, 1.0, 20.0])
@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_the_three_measures(seed, scale):
    rng = np.random.default_rng(seed)
    data, y = rng.standard_normal((20, 4)), rng.choice([-1.0, 1.0], 20)
    f, g, L = ds.logistic_problem(data, y)
    a, v = rng.standard_normal(4), scale * rng.standard_normal(4)
    b = a + v
    H, A, D = ds.optimal_smoothness(a, b, f, g), ds.path_smoothness(a, b, g), ds.point_smoothness(a, b, g)
    end = (g(b) - g(a)) @ v / (v @ v)
    assert 0 < H <= A * (1 + 1e-9)
    assert 2 * end * (1 + 1e-9) >= H
    assert end <= min(A, D / 2) * (1 + 1e-12)
    assert A <= L
    assert D <= 2 * L
    assert ds.order_constant(np.abs(data @ v).max()) * D >= A * (1 - 1e-9)


def test_optimal_is_the_weighted_mean_of_the_slopes_along_the_step():
    rng = np.random.default_rng(3)
    f, g, _ = ds.logistic_problem(rng.standard_normal((20, 4)), rng.choice([-1.0, 1.0], 20))
    a, b = rng.standard_normal((2, 4))
    s, w = np.polynomial.legendre.leggauss(40)
    s, w = (s + 1) / 2, w / 2
    slopes = np.array([(g(a + t * (b - a)) - g(a)) @ (b - a) / t for t in s]) / ((b - a) @ (b - a))
    assert ds.optimal_smoothness(a, b, f, g) == pytest.approx((2 * s * w) @ slopes, rel=1e-9)


@pytest.mark.parametrize("r", [0.1, 1.0, 1.5936242600400401, 5.0])
def test_the_order_constant_is_attained_by_an_exponential_tail(r):
    x, y = np.zeros(1), np.full(1, r)

    def g(x):
        return -np.exp(-x)

    ratio = ds.path_smoothness(x, y, g) / ds.point_smoothness(x, y, g)
    assert ratio == pytest.approx(ds.order_constant(r), rel=1e-4)
    assert (ds.order_constant(r) <= 1 + 1e-12) == (r <= ds.adapted_normalized_length("optimal") + 1e-12)


def test_neither_path_wise_nor_point_wise_is_always_the_larger():
    _, g, _ = ds.logistic_problem(np.ones((1, 1)), np.ones(1))
    x, y = np.zeros(1), np.full(1, 8.0)
    assert ds.path_smoothness(x, y, g) == pytest.approx(0.25, rel=1e-4)
    assert ds.path_smoothness(x, y, g) > 1.9 * ds.point_smoothness(x, y, g)
    skew = np.array([[1.0, 3.0], [3.0, 9.1]])
    x, y = np.zeros(2), np.array([3.0, -0.9])

    def turned(x):
        return skew @ x

    assert ds.point_smoothness(x, y, turned) > 2.1 * ds.path_smoothness(x, y, turned)


def test_adapted_step_solves_its_own_equation_on_logistic_regression():
    rng = np.random.default_rng(0)
    f, g, _ = ds.logistic_problem(rng.standard_normal((30, 3)), rng.choice([-1.0, 1.0], 30))
    x = rng.standard_normal(3)
    for measure in MEASURES:
        eta = ds.adapted_step(x, f, g, measure)
        y = x - eta * g(x)
        assert eta * ds.smoothness(x, y, f, g, measure) == pytest.approx(1.0, rel=1e-8)
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


def test_the_constant_of_polyaks_bound_is_least_at_the_root_of_two():
    constants = {gamma: ds.polyak_bound(np.sqrt(2.0), np.ones(1), gamma)[0] for gamma in (1.3, np.sqrt(2), 1.5)}
    assert constants[np.sqrt(2)] == pytest.approx(3 + 2 * np.sqrt(2))
    assert constants[1.5] == pytest.approx(6.0)
    assert min(constants.values()) == constants[np.sqrt(2)]


def test_exponential_tail_gives_the_limits_and_the_three_lengths():
    f, g = lambda x: float(np.exp(-x[0])), lambda x: -np.exp(-x)
    x = np.array([1.3])
    for measure in MEASURES:
        for r in (0.2, 1.0, 2.5):
            M = ds.smoothness(x, x + r, f, g, measure)
            assert M * np.exp(1.3) == pytest.approx(ds.limit_ratio(r, measure), rel=1e-4)
        eta = ds.adapted_step(x, f, g, measure)
        assert eta * np.exp(-1.3) == pytest.approx(ds.adapted_normalized_length(measure), rel=1e-4)
    assert ds.adapted_normalized_length("point") == pytest.approx(np.log(2))
    assert ds.adapted_normalized_length("path") == pytest.approx(1.0)
    assert ds.adapted_normalized_length("optimal") == pytest.approx(1.5936242600400401)


def test_comparison_runs_every_rule_below_its_bound():
    rng = np.random.default_rng(4)
    A = rng.standard_normal((60, 3)) * [3.0, 1.0, 0.5]
    y = np.where(rng.random(60) < expit(A @ [0.5, -0.5, 0.3]), 1.0, -1.0)
    result = ds.compare(A, y, 40, 1.5)
    assert np.linalg.norm(result.gradient(ds.logistic_minimiser(A, y))) < 1e-14
    for rule in result.paths:
        gap, bound = result.gap(rule), result.bound(rule)
        assert (gap[-len(bound) :] <= bound[-len(gap) :]).all()
        assert result.smoothness(rule).max() <= result.L * (1 + 1e-9)
    assert len(result.gap("NGD")) == len(result.gap("1/L")) == 40
    assert len(result.kept("Polyak", 1e-6)) < len(result.kept("Polyak", 1e-9)) < 41
    # The best among the first k iterates, not counting the one after the last bounded step.
    assert result.gap("NGD")[0] == pytest.approx(np.log(2) - result.low)


def attention_at(norm, seed=1):
    problem = gaussian(3, 3, 12, seed=seed)
    W = norm * np.random.default_rng(seed).standard_normal((12, 12)) / 12
    return problem, W, problem.constraints.margins(W)


def flat_attention(problem):
    def f(w):
        return loss_value(problem, w.reshape(12, 12))

    return f, lambda w: attention.gradient(problem, w.reshape(12, 12)).ravel()


@pytest.mark.parametrize("measure", ["point", "path", "optimal"])
@pytest.mark.parametrize("h", [0.3, 4.0])
def test_relative_smoothness_on_attention_agrees_with_the_definition(measure, h):
    problem, W, mu = attention_at(2.0)
    f, g = flat_attention(problem)
    w, size = W.ravel(), np.linalg.norm(g(W.ravel()))
    M = ds.smoothness(w, w - h * g(w) / size, f, g, measure)
    assert ds.relative_smoothness(problem, mu, h, measure) == pytest.approx(M / size, rel=1e-6)


def test_scaled_gap_is_the_loss_gap_and_has_no_seam_where_the_exponential_would_overflow():
    problem, W, mu = attention_at(2.0)
    gap = loss_value(problem, W) - infimum(problem)
    assert ds.scaled_gap(problem, mu, 1.5) == pytest.approx(gap * np.exp(1.5), rel=1e-10)
    far = mu - mu.min()
    below, above = (ds.scaled_gap(problem, far + c, c) for c in (599.0, 601.0))
    assert below == pytest.approx(above, rel=1e-12)
    assert ds.scaled_gap(problem, far + 5000.0, 5000.0) == pytest.approx(above, rel=1e-12)


@pytest.mark.parametrize("measure", ["point", "path", "optimal"])
def test_adapted_lengths_on_attention_start_at_the_implicit_step_and_end_at_the_margin_s(measure):
    problem = gaussian(3, 3, 12, seed=1)
    f, g = flat_attention(problem)
    w, rho = np.zeros(144), solve_token_svm(problem).margin
    lengths = ds.adapted_lengths(problem, measure, 150)
    assert lengths[0] == pytest.approx(ds.adapted_step(w, f, g, measure) * np.linalg.norm(g(w)), rel=1e-6)
    assert rho * lengths[-1] == pytest.approx(ds.adapted_normalized_length(measure), rel=1e-3)


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match="1 < gamma < 2"):
        ds.polyak_bound(1.0, np.ones(3), 1.0)
    with pytest.raises(ValueError, match="gradient is zero"):
        ds.adapted_step(np.zeros(3), value, gradient, "point")
    with pytest.raises(ValueError, match="no curvature"):
        ds.adapted_step(np.ones(2), lambda x: float(x.sum()), lambda x: np.ones(2), "point")


def test_several_queries_are_refused():
    problem = gaussian(2, 3, 8, seed=0, Q=3)
    with pytest.raises(ValueError, match="3 queries a sequence"):
        ds.relative_smoothness(problem, np.zeros(len(problem.constraints)), 1.0, "point")


def test_logistic_gradient_by_differences():
    rng = np.random.default_rng(2)
    f, g, L = ds.logistic_problem(rng.standard_normal((15, 3)), rng.choice([-1.0, 1.0], 15))
    x, step = rng.standard_normal(3), 1e-6
    numeric = [(f(x + step * e) - f(x - step * e)) / (2 * step) for e in np.eye(3)]
    np.testing.assert_allclose(g(x), numeric, atol=1e-8)
    assert L > 0
