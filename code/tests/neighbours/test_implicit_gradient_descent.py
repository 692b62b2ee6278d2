"""Derivatives against differences, the exact laws of an implicit step, and Lambert's function on attention."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import lambertw
from tokenmargin.data.problem import TokenProblem
from tokenmargin.data.synthetic import gaussian
from tokenmargin.errors import SolverError
from tokenmargin.margin.token_svm import solve_token_svm
from tokenmargin.model.attention import gradient
from tokenmargin.neighbours import implicit_gradient_descent as igd
from tokenmargin.theory.residual import residual_limit, stability_threshold, transverse_operator


def start(n=4, m=12, amplitude=3.0, seed=0):
    return igd.two_scales(n, m, amplitude, np.random.default_rng(seed))


def test_tanh_derivatives_are_each_the_slope_of_the_one_before():
    s, h = np.linspace(-3.0, 3.0, 13), 1e-5
    up, down, here = (igd.tanh_derivatives(s + e) for e in (h, -h, 0.0))
    for k in range(4):
        np.testing.assert_allclose((up[k] - down[k]) / (2.0 * h), here[k + 1], atol=1e-8)


def test_residuals_are_those_of_the_equation():
    problem, theta = start()
    r = problem.derivatives(theta, 0)[0]
    w, b = theta

    def u(x):
        return np.tanh(np.outer(x, w) + b) @ problem.a / np.sqrt(len(w))

    h = 1e-4
    second = (u(problem.x + h) - 2.0 * u(problem.x) + u(problem.x - h)) / h**2
    np.testing.assert_allclose(r[:4], (-second - problem.f) / 2.0, atol=1e-5)
    np.testing.assert_allclose(r[4:], u(np.array([0.0, 1.0])) / np.sqrt(2.0), rtol=1e-12)


def test_first_and_second_derivatives_against_differences():
    problem, theta = start(m=3)
    r, J, K = problem.derivatives(theta, 2)
    h = 1e-5
    for p, j in np.ndindex(theta.shape):
        shift = np.zeros_like(theta)
        shift[p, j] = h
        up, down = (problem.derivatives(theta + s, 1) for s in (shift, -shift))
        np.testing.assert_allclose((up[0] - down[0]) / (2.0 * h), J[:, p, j], atol=1e-7)
        slope = (up[1] - down[1]) / (2.0 * h)
        np.testing.assert_allclose(slope[:, :, j], K[:, [p, p + 1], j], atol=1e-7)
        np.testing.assert_allclose(np.delete(slope, j, axis=2), 0.0, atol=1e-12)
    assert r.shape == (6,)


def test_leading_axes_are_independent_networks():
    problem, theta = start()
    other, moved = start(seed=1)
    both = igd.Poisson(problem.x, problem.f, np.array([problem.a, other.a]))
    for alone, k in ((problem.derivatives(theta, 2), 0), (other.derivatives(moved, 2), 1)):
        for x, y in zip(both.derivatives(np.array([theta, moved]), 2), alone, strict=True):
            np.testing.assert_array_equal(x[k], y)


@pytest.mark.parametrize("eta", [0.1, 3.0, 50.0])
def test_an_implicit_step_solves_its_equation_and_lowers_the_loss_by_the_bound(eta):
    problem, theta = start(m=30)
    step = igd.implicit_step(problem, theta, eta)
    r, J = problem.derivatives(step.theta, 1)
    np.testing.assert_array_equal(step.r, r)
    move = -eta * np.tensordot(r, J, 1)
    np.testing.assert_allclose(step.theta - theta, move, atol=1e-6 * np.linalg.norm(move))
    least = np.linalg.eigvalsh(igd.gram(J))[0]
    before = igd.loss_value(problem.derivatives(theta, 0)[0])
    assert igd.loss_value(r) * (1.0 + eta * least) <= before


def test_a_short_implicit_step_is_an_explicit_one_to_first_order():
    problem, theta = start()
    gaps = []
    for eta in (2e-4, 1e-4):
        r, J = problem.derivatives(theta, 1)
        explicit = theta - eta * np.tensordot(r, J, 1)
        gaps.append(np.linalg.norm(igd.implicit_step(problem, theta, eta, 1e-11).theta - explicit))
    assert gaps[0] / gaps[1] == pytest.approx(4.0, rel=0.05)


def test_the_mixed_gram_matrix_makes_the_step_exact():
    problem, theta = start(m=8, amplitude=1.0)
    step = igd.implicit_step(problem, theta, 2.0, 1e-10)
    M = igd.mixed_gram(problem, theta, step.theta)
    r = problem.derivatives(theta, 0)[0]
    np.testing.assert_allclose(step.r + 2.0 * M @ step.r, r, atol=1e-8 * np.linalg.norm(r))


def test_late_factors_are_those_of_the_current_gram_matrix():
    run = igd.implicit_descent(*start(m=40, amplitude=1.0), 5.0, 200)
    factor = np.log(run.loss[-2] / run.loss[-1])
    assert factor == pytest.approx(2.0 * np.log1p(5.0 * run.eigenvalues[-1, 0]), rel=1e-3)
    assert factor != pytest.approx(2.0 * np.log1p(5.0 * run.eigenvalues[0, 0]), rel=0.2)
    assert (np.diff(run.loss) < 0.0).all()
    assert run.calls[0] == 1
    assert run.error <= 1e-7


def test_explicit_descent_takes_gradient_steps_and_runs_side_by_side():
    problem, theta = start()
    losses = igd.explicit_descent(problem, theta, np.array([0.01, 0.02]), 3)
    assert losses.shape == (4, 2)
    r, J = problem.derivatives(theta, 1)
    after = problem.derivatives(theta - 0.02 * np.tensordot(r, J, 1), 0)[0]
    assert losses[1, 1] == pytest.approx(0.5 * after @ after, rel=1e-12)
    np.testing.assert_allclose(igd.explicit_descent(problem, theta, 0.01, 3).squeeze(), losses[:, 0], rtol=1e-12)


@pytest.mark.parametrize("eta", [0.0, -1.0, np.inf, np.nan])
def test_step_sizes_that_are_none_are_errors(eta):
    with pytest.raises(ValueError, match="positive finite number"):
        igd.implicit_step(*start(), eta)


def test_what_is_not_an_implicit_step_is_not_returned():
    with pytest.raises(SolverError, match="take a shorter step"):
        igd.implicit_step(*start(), 10.0, iterations=1)


@given(x=st.floats(-20.0, 20.0), margin=st.floats(0.1, 3.0))
def test_lambert_step_solves_its_equation(x, margin):
    h = igd.lambert_step(x, 0.0, margin)
    assert h == pytest.approx(lambertw(np.exp(x) * margin).real / margin, rel=1e-9)
    assert h == pytest.approx(np.exp(x - margin * h), rel=1e-9)


def test_one_constraint_far_out_takes_exactly_lamberts_step():
    problem = TokenProblem(np.array([[[1.0, 0.0], [0.0, 0.0]]]), [1], decoder=[1.0, 0.0], queries=np.ones((1, 1, 2)))
    svm = solve_token_svm(problem)
    run = igd.train_implicitly(problem, lambda _: np.log(1e8), 4)
    np.testing.assert_allclose(
        run.h[1:], igd.lambert_step(run.log_eta, run.log_gradient[:-1], svm.margin)[1:], rtol=1e-5
    )


def test_training_on_attention_satisfies_the_implicit_equation():
    problem = gaussian(3, 3, 20, seed=0)
    run = igd.train_implicitly(problem, lambda _: np.log(30.0), 5)
    W = [problem.constraints.combine(c) for c in run.coefficients]
    for t in range(5):
        np.testing.assert_allclose(W[t + 1] - W[t], -30.0 * gradient(problem, W[t + 1]), atol=1e-8)
        assert run.h[t] == pytest.approx(np.linalg.norm(W[t + 1] - W[t]), rel=1e-9)
        assert run.log_gradient[t] == pytest.approx(np.log(np.linalg.norm(gradient(problem, W[t]))), rel=1e-9)
    svm = solve_token_svm(problem)
    expected = np.linalg.norm(W[5] / np.linalg.norm(W[5]) - svm.W / svm.norm)
    assert igd.direction_errors(svm, run.coefficients[5:])[0] == pytest.approx(expected, rel=1e-9)
    across = problem.constraints.combine(igd.residual_coefficients(svm, run.coefficients[5:])[0])
    assert np.vdot(across, svm.W) == pytest.approx(0.0, abs=1e-9)
    np.testing.assert_allclose(across, W[5] - np.vdot(W[5], svm.W) / svm.norm**2 * svm.W, atol=1e-9)


def test_beyond_the_edge_implicit_steps_of_one_length_settle_by_the_linear_map():
    problem = gaussian(4, 3, 60, seed=0)
    svm = solve_token_svm(problem)
    h, rho = 3.0 * stability_threshold(svm), svm.margin
    run = igd.train_implicitly(problem, lambda log_g: np.log(h) + rho * h - log_g, 25)
    assert run.h[-1] == pytest.approx(h, rel=1e-6)
    rest = igd.residual_coefficients(svm, run.coefficients) - residual_limit(problem, svm)
    k = int(np.argmax(np.abs(rest).max(axis=1) < 1e-4))
    assert k > 0
    expected = np.linalg.solve(np.eye(len(rest[0])) + h * rho * transverse_operator(svm), rest[k])
    np.testing.assert_allclose(rest[k + 1], expected, atol=1e-3 * np.abs(rest[k + 1]).max())


def test_weights_that_are_not_positive_are_an_error():
    problem = gaussian(4, 4, 40, seed=0, scores="gaussian")
    with pytest.raises(SolverError, match="Use equal scores"):
        igd.train_implicitly(problem, lambda _: 0.0, 3)
