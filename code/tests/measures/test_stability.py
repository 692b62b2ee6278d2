"""Stability of normalised steps: closed forms, the located threshold, and the log-scale loss gap behind Polyak's step."""

import numpy as np
import pytest
from tokenmargin.data.problem import TokenProblem
from tokenmargin.data.synthetic import gaussian, orthogonal
from tokenmargin.errors import UnboundedStepError
from tokenmargin.margin.token_svm import solve_token_svm
from tokenmargin.measures.stability import alternation, is_unstable, locate_threshold, orbit, settle
from tokenmargin.measures.trajectory import residual_sizes
from tokenmargin.model.losses import log_loss_gap_of
from tokenmargin.theory.residual import lambda_max, polyak_threshold, stability_threshold
from tokenmargin.training.rules import NormalizedGD, Polyak
from tokenmargin.training.train import train


def pair(angle):
    """Two sequences of two tokens, scores 1 and 0, whose two constraints are unit matrices at the given angle."""
    tokens = np.zeros((2, 2, 3))
    tokens[0, 0], tokens[1, 0] = [1.0, 0.0, 0.0], [np.cos(angle), np.sin(angle), 0.0]
    queries = np.tile([0.0, 0.0, 1.0], (2, 1))
    return TokenProblem(tokens, np.ones(2), np.ones(1), queries, values=np.array([[[1.0], [0.0]]] * 2))


@pytest.mark.parametrize("angle", [0.5, 1.0, np.pi / 2])
def test_threshold_of_two_constraints_in_closed_form(angle):
    """lambda = 1/(1 + cos), ||W_mm||^2 = 2 lambda, and H has the one eigenvalue lambda (1 - cos)."""
    svm = solve_token_svm(pair(angle))
    dual = 1.0 / (1.0 + np.cos(angle))
    curvature = dual * (1.0 - np.cos(angle))
    assert lambda_max(svm) == pytest.approx(curvature, rel=1e-9)
    assert polyak_threshold(svm) == pytest.approx(2.0 / curvature, rel=1e-9)
    assert stability_threshold(svm) == pytest.approx(2.0 * np.sqrt(2.0 * dual) / curvature, rel=1e-9)


def test_lambda_max_is_the_norm_of_the_projected_operator():
    svm = solve_token_svm(gaussian(3, 3, 30, seed=0))
    V = np.array([svm.constraints.combine(row).ravel() for row in np.eye(len(svm.duals))])
    unit = svm.W.ravel() / svm.norm
    flat = V - np.outer(V @ unit, unit)
    assert lambda_max(svm) == pytest.approx(np.linalg.norm(np.sqrt(svm.duals)[:, None] * flat, 2) ** 2, rel=1e-9)


@pytest.mark.parametrize("rule", ["NGD", "Polyak"])
def test_the_located_threshold_is_the_predicted_one(rule):
    problem = gaussian(4, 3, 40, seed=1, scores="gaussian")
    svm = solve_token_svm(problem)
    W = settle(problem, 0.1 * svm.norm)
    make, predicted = (NormalizedGD, stability_threshold(svm)) if rule == "NGD" else (Polyak, polyak_threshold(svm))
    low, high = locate_threshold(lambda size: is_unstable(problem, make(size), W, seed=0), predicted / 4, 4 * predicted)
    assert high <= 1.001 * low
    assert np.sqrt(low * high) == pytest.approx(predicted, rel=2e-3)


def test_locate_threshold_bisects_and_refuses_a_wrong_bracket():
    low, high = locate_threshold(lambda x: x > np.pi, 1.0, 10.0, tolerance=1e-6)
    assert low <= np.pi <= high <= low * (1 + 1e-6)
    with pytest.raises(ValueError, match="from a stable size to an unstable one"):
        locate_threshold(lambda x: x > np.pi, 1.0, 2.0)


def test_alternation_and_residual_sizes_agree_with_the_matrices():
    problem = gaussian(3, 3, 30, seed=2)
    svm = solve_token_svm(problem)
    run = train(problem, NormalizedGD(1.0), 12, record=np.array([10, 11, 12]), form="gram")
    W = [run.W(k) for k in range(1, 4)]
    assert alternation(run, 1) == pytest.approx(np.linalg.norm(W[2] - 2 * W[1] + W[0]), rel=1e-9)
    matrix = train(problem, NormalizedGD(1.0), 12, record=np.array([10, 11, 12]), form="matrix")
    assert alternation(matrix, 1) == pytest.approx(alternation(run, 1), rel=1e-6)
    unit = svm.W / svm.norm
    expected = [np.linalg.norm(w - np.vdot(w, unit) * unit) for w in W]
    np.testing.assert_allclose(residual_sizes(run, svm)[1:], expected, rtol=1e-9)


@pytest.mark.parametrize("step", [NormalizedGD(1.0), NormalizedGD(9.0, decay=0.5), Polyak(2.5)])
def test_an_orbit_has_the_residuals_of_the_recorded_run(step):
    problem = gaussian(3, 3, 30, seed=2)
    svm = solve_token_svm(problem)
    start = problem.constraints.combine(np.random.default_rng(0).standard_normal(len(svm.duals)))
    run = train(problem, step, 320, start, record=np.arange(301, 321), form="gram")
    unit = svm.W / svm.norm
    W = [run.W(k) for k in range(1, len(run))]
    expected = [np.linalg.norm(w - np.vdot(w, unit) * unit) for w in W]
    np.testing.assert_allclose(orbit(problem, step, svm, 300, 20, start), expected, rtol=1e-8)


@pytest.mark.parametrize("skip", [0, 1])
def test_an_orbit_refuses_an_unbounded_polyak_step(skip):
    """A start at which a wrong token has saturated: refused in the steps skipped and in those kept."""
    problem = orthogonal(1, 2, 4, seed=0)
    svm = solve_token_svm(problem)
    with pytest.raises(UnboundedStepError, match="Give the rule a cap"):
        orbit(problem, Polyak(1.0), svm, skip, 3, -600.0 * svm.W)


def test_the_two_cycle_of_an_orthogonal_pair_in_closed_form():
    """At h = 2 h* the pair alternates between r and -r with h/h* = x sqrt(cosh 2x)/sinh x, x = s r/sqrt 2, s = 1."""
    problem = pair(np.pi / 2)
    svm = solve_token_svm(problem)
    h = 2.0 * stability_threshold(svm)
    kick = problem.constraints.combine(np.array([1e-6, 0.0]))
    x = orbit(problem, NormalizedGD(h), svm, 2000, 50, kick) / np.sqrt(2.0)
    np.testing.assert_allclose(x * np.sqrt(np.cosh(2 * x)) / np.sinh(x), 2.0, rtol=1e-8)


def test_the_loss_gap_is_exact_for_subnormal_gaps():
    """Polyak's step used to vanish where a gap of 1e-320, multiplied by the slope of the loss, rounded to zero."""
    for exponent in range(-324, -10, 7):
        for gamma in (-2.0, 0.0, 3.0):
            delta = float(f"1e{exponent}") if exponent > -324 else 5e-324
            log_gap = [log_loss_gap_of(delta, np.log(delta), gamma, exponential) for exponential in (False, True)]
            assert log_gap[0] - np.log(delta) == pytest.approx(-np.logaddexp(0.0, gamma), rel=1e-9, abs=1e-9)
            assert log_gap[1] - np.log(delta) == pytest.approx(-gamma, rel=1e-9, abs=1e-9)


def test_polyak_passes_the_smallest_float_without_a_jolt():
    problem = gaussian(5, 4, 100, seed=1, scores="gaussian")
    svm = solve_token_svm(problem)
    run = train(problem, Polyak(0.5), 2000, record=np.arange(1000, 2001), form="gram")
    np.testing.assert_allclose(run.effective_steps[1:], 0.5 * svm.norm, rtol=1e-6)
