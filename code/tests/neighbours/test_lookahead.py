"""Multipliers against the algorithms, limits against closed forms, the last iterate's law, and lookahead on attention."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenmargin.data.synthetic import gaussian
from tokenmargin.errors import AssumptionError
from tokenmargin.margin.token_svm import solve_token_svm
from tokenmargin.measures.geometry import gram_norm
from tokenmargin.model.attention import gradient
from tokenmargin.neighbours import lookahead as la
from tokenmargin.theory.residual import residual_limit, stability_threshold
from tokenmargin.training.rules import NormalizedGD
from tokenmargin.training.train import train

METHODS = [la.Method(tau, anchored) for tau in (1, 2, 3, 7) for anchored in (True, False)]


@pytest.mark.parametrize("method", METHODS)
@given(a=st.floats(-1.0, 1.0), b=st.floats(-1.0, 1.0), lam=st.floats(0.0, 1.0))
def test_a_step_on_a_plane_is_one_complex_multiplier(method, a, b, lam):
    A, z, gamma = np.array([[a, b], [-b, a]]), np.array([0.3, -1.2]), 0.8
    moved = method.step(lambda w: A @ w, z, gamma, lam)
    predicted = method.multiplier(gamma * (a - 1j * b), lam) * (0.3 - 1.2j)
    assert moved[0] + 1j * moved[1] == pytest.approx(predicted, rel=1e-10, abs=1e-10)


def test_the_displacement_of_rapp_is_the_geometric_sum_also_at_minus_one():
    s = np.array([0.3 - 0.4j, -1.0, 0.7j])
    for tau in (1, 2, 5):
        expected = 1.0 - sum((-s) ** j for j in range(tau + 1))
        np.testing.assert_allclose(la.Method(tau, True).displacement(s), expected, rtol=1e-13)


def test_gda_and_extragradient_are_the_first_two():
    A, z = np.array([[0.2, 1.0], [-1.0, 0.2]]), np.array([1.0, 2.0])

    def F(w):
        return np.tanh(A @ w)

    np.testing.assert_allclose(la.Method(1, False).step(F, z, 0.3, 1.0), z - 0.3 * F(z))
    np.testing.assert_allclose(la.Method(2, True).step(F, z, 0.3, 1.0), z - 0.3 * F(z - 0.3 * F(z)))


def test_many_anchored_steps_are_the_resolvent():
    rng = np.random.default_rng(0)
    A = la.dense_game(rng, 4, -0.3)
    z = rng.standard_normal(8)
    w = la.Method(200, True).inner(lambda w: A @ w, z, 0.8)
    np.testing.assert_allclose(w + 0.8 * A @ w, z, atol=1e-13)


def test_a_method_without_steps_is_refused():
    with pytest.raises(ValueError, match="at least one inner step"):
        la.Method(0, True)


def test_the_boundary_bounds_the_class():
    s = la.class_boundary(0.9, 0.4)
    v, size = (1.0 / s).real, np.abs(s)
    assert (v >= -0.4 / 0.9 - 1e-12).all()
    assert (size <= 0.9 + 1e-12).all()
    assert (np.isclose(v, -0.4 / 0.9) | np.isclose(size, 0.9)).all()


@pytest.mark.parametrize("method", METHODS[2:])
def test_the_longest_relaxation_parts_the_stable_from_the_unstable(method):
    g, r = 0.5, 0.1
    longest = la.longest_relaxation(method, g, r)
    u = np.linspace(0.005, 1.0, 150)[:, None]
    cosine = -r * u + (1.0 + r * u) * np.linspace(0.0, 1.0, 150)
    s = g * u * (cosine + 1j * np.sqrt(1.0 - cosine**2))
    assert np.abs(method.multiplier(s, 0.98 * longest)).max() < 1.0
    assert np.abs(method.multiplier(s, 1.02 * longest)).max() > 1.0


@pytest.mark.parametrize("g", [0.3, 0.6, 0.9])
def test_limits_are_the_closed_forms(g):
    plus = (np.sqrt(1.0 + 8.0 * g**2) - 1.0) / (4.0 * g)  # r = g(1 - 2 r^2)
    two = (np.sqrt(4.0 + 8.0 * g**2) - 2.0) / (4.0 * g)  # 2 r = g(1 - 2 r^2)
    a = (1.0 + g**2) / g
    eg = (np.sqrt(a**2 + 4.0 * (1.0 - g**2)) - a) / 4.0
    assert la.comonotone_limit(la.Method(2, True), g) == pytest.approx(plus, abs=1e-5)
    assert la.comonotone_limit(la.Method(2, False), g) == pytest.approx(two, abs=1e-5)
    assert la.comonotone_limit(la.Method(2, True), g, lam=1.0) == pytest.approx(eg, abs=1e-5)
    assert la.comonotone_limit(la.Method(1, False), g) == 0.0
    assert la.comonotone_limit(la.Method(200, True), g) == pytest.approx(g, abs=1e-5)  # the resolvent: gamma > -rho


def test_best_steps():
    assert la.best_step(la.Method(2, True), 1.0)[1] == pytest.approx(0.5, abs=1e-5)
    assert la.best_step(la.Method(2, False), 1.0)[1] == pytest.approx((np.sqrt(3.0) - 1.0) / 2.0, abs=1e-5)
    g, limit = la.best_step(la.Method(2, False), 3.0)
    assert (g, limit) == (pytest.approx(2.0, abs=1e-3), pytest.approx(0.5, abs=1e-4))


def test_games_have_the_constants_they_are_made_for():
    rng = np.random.default_rng(1)
    size = np.array([0.2, 0.7, 1.0])
    A, c, Q = la.normal_game(rng, size, -0.4)
    np.testing.assert_allclose(A @ A.T, A.T @ A, atol=1e-14)
    np.testing.assert_allclose(np.abs(c), size)
    np.testing.assert_allclose((1.0 / c).real, -0.4)
    z = rng.standard_normal(6)
    y, moved = Q.T @ z, Q.T @ A @ z
    np.testing.assert_allclose(moved[::2] + 1j * moved[1::2], c * (y[::2] + 1j * y[1::2]))
    A = la.dense_game(rng, 5, -0.4)
    inverse = np.linalg.inv(A)
    assert np.linalg.norm(A, 2) == pytest.approx(1.0)
    assert np.linalg.eigvalsh(inverse + inverse.T)[0] / 2.0 == pytest.approx(-0.4)
    assert np.linalg.norm(A @ A.T - A.T @ A) > 1e-3


@given(lam=st.floats(0.05, 1.0), v=st.floats(-0.45, 0.5), k=st.integers(5, 60))
def test_the_worst_residual_is_the_maximum_over_frequencies(lam, v, k):
    q = np.linspace(1e-5, 1.0, 20001) / (1.0 + v) ** 2
    D = la.strength(lam, v)
    brute = (q * np.abs(1.0 - D * q) ** k)[D * q <= 1.0].max()
    assert la.worst_residual(k, lam, v) >= brute * (1.0 - 1e-12)
    if D * (k + 1) * q[-1] >= 1.0:
        assert la.worst_residual(k, lam, v) == pytest.approx(brute, rel=1e-3)


def test_the_worst_residual_tends_to_its_constant():
    assert 1e9 * la.worst_residual(1e9, 0.5, -0.2) == pytest.approx(1.0 / (np.e * la.strength(0.5, -0.2)), rel=1e-6)


@pytest.mark.parametrize(("lam", "v"), [(1.4, -0.3), (2.0, 0.0), (0.1, -1.0), (0.0, 0.0), (np.nan, 0.0)])
def test_a_relaxation_that_grows_is_refused(lam, v):
    with pytest.raises(AssumptionError, match="choose a smaller lambda"):
        la.strength(lam, v)


@pytest.mark.parametrize("lam", [0.2, 0.5, 0.9])
def test_real_edges_are_the_closed_forms(lam):
    for tau in (1, 3, 5):
        assert la.real_edge(la.Method(tau, False), lam) == pytest.approx(1.0 + (2.0 / lam - 1.0) ** (1.0 / tau))
    for tau in (2, 4):
        assert la.real_edge(la.Method(tau, False), lam) == pytest.approx(2.0)
        assert la.real_edge(la.Method(tau, True), lam) == pytest.approx(1.0)
    edge = la.real_edge(la.Method(3, True), lam)
    assert la.Method(3, True).multiplier(edge, lam) == pytest.approx(-1.0)


def test_the_field_of_attention_is_its_normalized_gradient():
    problem = gaussian(3, 4, 20, seed=0)
    C = np.random.default_rng(0).standard_normal(len(problem.constraints))
    G = gradient(problem, problem.constraints.combine(C))
    np.testing.assert_allclose(
        problem.constraints.combine(la.attention_field(problem)(C)), G / np.linalg.norm(G), rtol=1e-9, atol=1e-12
    )


def test_one_inner_step_is_a_shorter_normalized_step():
    problem = gaussian(3, 3, 30, seed=1)
    F, C = la.attention_field(problem), np.zeros(len(problem.constraints))
    for _ in range(20):
        C = la.Method(1, False).step(F, C, 0.4, 0.25)
    run = train(problem, NormalizedGD(0.1), 20, form="gram")
    np.testing.assert_allclose(C, run.coefficients[-1], rtol=1e-9)


def test_the_rest_point_of_attention_is_that_of_the_sharp_constant_whatever_the_method():
    problem = gaussian(3, 3, 60, seed=2)
    svm, gram = solve_token_svm(problem), problem.constraints.gram
    F, h = la.attention_field(problem), stability_threshold(svm)
    for method, ratio in ((la.Method(3, False), 1.1), (la.Method(2, True), 0.3)):
        C = np.zeros(len(gram))
        for _ in range(800):
            C = method.step(F, C, ratio * h, 0.5)
        rest = C - (C @ svm.margins) / (svm.duals @ svm.margins) * svm.duals
        limit = residual_limit(problem, svm)
        assert gram_norm(gram, rest - limit) < 1e-6 * gram_norm(gram, limit)
