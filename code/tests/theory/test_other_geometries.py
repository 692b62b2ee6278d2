"""Regularisation path, lower bounds, momentum, other norms, minibatches: closed forms, limits, and runs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenmargin.data.problem import TokenProblem
from tokenmargin.data.synthetic import gaussian, orthogonal
from tokenmargin.errors import AssumptionError, InfeasibleSVMError
from tokenmargin.margin.max_norm import solve_max_norm_svm
from tokenmargin.margin.token_svm import solve_token_svm
from tokenmargin.measures.geometry import gram_norm
from tokenmargin.measures.trajectory import direction_error, margin_component, residual_norm, residual_sizes
from tokenmargin.model.attention import infimum, loss_value
from tokenmargin.theory.lower_bound import least_residual
from tokenmargin.theory.minibatch import minibatch_law
from tokenmargin.theory.momentum import momentum_growth, momentum_threshold
from tokenmargin.theory.other_norms import norm_margin, norm_margins
from tokenmargin.theory.regularisation_path import path_point, path_residual
from tokenmargin.theory.residual import contraction, e_active, e_inf, residual_limit, stability_threshold
from tokenmargin.training.minibatch import MinibatchNGD, train_minibatch
from tokenmargin.training.moments import train_with_moments
from tokenmargin.training.rules import NormalizedGD
from tokenmargin.training.steepest import (
    NormalizedHeavyBall,
    SteepestDescent,
    dual_norm,
    matrix_norm,
    steepest_direction,
)
from tokenmargin.training.train import train

NORMS = [1.0, 1.3, 2.0, 4.0, np.inf, "spectral"]


@pytest.fixture(scope="module")
def problem():
    return gaussian(5, 3, 60, seed=0, scores="gaussian")


@pytest.fixture(scope="module")
def svm(problem):
    return solve_token_svm(problem)


def test_no_other_matrix_of_the_norm_has_less_loss(problem, svm):
    point = path_point(problem, svm, 8.0)
    c, rng = problem.constraints, np.random.default_rng(0)
    W = c.combine(point.coefficients)
    assert np.linalg.norm(W) == pytest.approx(8.0)
    gap = loss_value(problem, W) - infimum(problem)
    assert np.exp(point.log_loss_gap) == pytest.approx(gap, rel=1e-9)
    for size in (1e-2, 0.3, 3.0):
        for _ in range(20):
            other = W + size * c.combine(rng.standard_normal(len(c)))
            assert loss_value(problem, 8.0 * other / np.linalg.norm(other)) - infimum(problem) > gap


@pytest.mark.parametrize("loss", ["logistic", "exponential"])
def test_the_path_tends_to_the_residual_to_first_order(problem, svm, loss):
    gram, limit = problem.constraints.gram, residual_limit(problem, svm, loss)
    rest = []
    for r in (1e3, 1e4):
        found = path_point(problem, svm, r, loss=loss).residual
        rest.append(gram_norm(gram, found - path_residual(problem, svm, r, loss)))
        assert gram_norm(gram, found - limit) < 0.1 * e_inf(problem, svm, loss)
    assert rest[0] / rest[1] == pytest.approx(100.0, rel=0.05)


def test_the_path_has_no_memory_of_inactive_constraints():
    crowded = gaussian(6, 5, 24, seed=0)
    svm = solve_token_svm(crowded)
    assert not svm.support.all()
    found = path_point(crowded, svm, 1e5).residual
    assert gram_norm(crowded.constraints.gram, found) == pytest.approx(e_active(crowded, svm), rel=1e-2)


def test_radius_is_validated(problem, svm):
    with pytest.raises(ValueError, match="radius"):
        path_point(problem, svm, 0.0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scores", ["equal", "gaussian"])
def test_the_least_residual_is_below_e_inf_and_has_its_unit(seed, scores):
    problem = gaussian(5, 3, 80, seed=seed, scores=scores)
    svm = solve_token_svm(problem)
    least = least_residual(problem, svm)
    assert 0.0 < least <= e_inf(problem, svm)
    scaled = TokenProblem(10 * problem.tokens, problem.labels, problem.decoder, problem.queries, values=problem.values)
    assert least_residual(scaled, solve_token_svm(scaled)) == pytest.approx(least / 10.0)


@pytest.mark.parametrize("seed", range(5))
def test_every_witness_gives_a_lower_bound(seed):
    problem = gaussian(4, 3, 80, seed=seed, scores="gaussian")
    svm = solve_token_svm(problem)
    rng = np.random.default_rng(seed)
    limit, best = e_inf(problem, svm), least_residual(problem, svm)
    assert best > limit / 3.0
    for _ in range(50):
        v = residual_limit(problem, svm) + rng.choice([0.1, 1.0, 10.0]) * rng.standard_normal(len(svm.duals))
        v -= (svm.margins @ v) / (svm.margins @ svm.duals) * svm.duals
        found = least_residual(problem, svm, witness=v)
        assert 0.0 <= found <= limit
        assert least_residual(problem, svm, witness=7.0 * v) == pytest.approx(found)


def test_a_witness_along_w_mm_is_refused(problem, svm):
    with pytest.raises(ValueError, match="orthogonal to W_mm"):
        least_residual(problem, svm, witness=svm.duals)


def test_balanced_weights_leave_no_residual():
    problem = orthogonal(4, 3, 12, seed=1)
    svm = solve_token_svm(problem)
    assert e_inf(problem, svm) < 1e-12
    assert least_residual(problem, svm) < 1e-12


def test_a_single_constraint_has_no_residual():
    problem = gaussian(1, 2, 6, seed=0)
    svm = solve_token_svm(problem)
    assert least_residual(problem, svm) == 0.0
    point = path_point(problem, svm, 7.0)
    assert problem.constraints.combine(point.coefficients) == pytest.approx(7.0 * svm.W / svm.norm)
    assert path_residual(problem, svm, 7.0) == pytest.approx(0.0, abs=1e-12)
    for refused in (
        lambda: momentum_growth(svm, 0.1, 0.5),
        lambda: momentum_threshold(svm, 0.5),
        lambda: minibatch_law(problem, svm, 0.1, 1),
    ):
        with pytest.raises(AssumptionError, match="single direction"):
            refused()


@pytest.mark.parametrize("score", [1.001, 3.0, 40.0])
def test_two_constraints_attain_the_least_residual(score):
    tokens = np.zeros((2, 2, 2))
    tokens[0, 0], tokens[1, 0] = [1.0, 0.0], [0.3, 2.0]
    queries = np.eye(2)[[0, 0]]
    problem = TokenProblem(tokens, [1, 1], [1.0], queries, values=[[[1.0], [0.0]], [[score], [0.0]]])
    svm = solve_token_svm(problem)
    assert least_residual(problem, svm) == pytest.approx(e_inf(problem, svm), rel=1e-9)


def test_two_queries_of_one_token_can_be_balanced_at_every_score():
    """q_k/q_l does not depend on scores there: the residual vanishes for all of them, or for none (lower-bound theorem, part 1)."""
    for score in (0.5, 2.0, 7.0):
        problem = TokenProblem(
            [[[1.0, 0.0], [0.0, 0.0]]], [1.0], [1.0], [[[1.0, 0.0], [0.0, 1.0]]], values=[[[score], [0.0]]]
        )
        svm = solve_token_svm(problem)
        assert len(svm.duals) == 2
        assert e_inf(problem, svm) < 1e-12


def test_lower_bounds_need_all_constraints():
    crowded = gaussian(6, 5, 24, seed=0)
    with pytest.raises(AssumptionError, match="not support vectors"):
        least_residual(crowded, solve_token_svm(crowded))


def test_without_momentum_the_growth_is_the_contraction(svm):
    for share in (0.3, 0.9, 1.2):
        h = share * stability_threshold(svm)
        assert momentum_growth(svm, h, 0.0) == pytest.approx(contraction(svm, h))
    assert momentum_threshold(svm, 0.0) == stability_threshold(svm)


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.9])
def test_growth_crosses_one_at_the_threshold(svm, beta):
    threshold = momentum_threshold(svm, beta)
    assert momentum_growth(svm, threshold, beta) == pytest.approx(1.0)
    assert momentum_growth(svm, 0.99 * threshold, beta) < 1.0 < momentum_growth(svm, 1.01 * threshold, beta)


def test_heavy_ball_without_momentum_is_normalised_descent(problem):
    ball = train_with_moments(problem, NormalizedHeavyBall(0.1, 0.0), 50, record=[50])
    plain = train(problem, NormalizedGD(0.1), 50, record=[50])
    assert ball.W() == pytest.approx(plain.W(), abs=1e-12)
    same = train_with_moments(problem, SteepestDescent(0.1, 2.0), 50, record=[50])
    assert same.W() == pytest.approx(plain.W(), abs=1e-12)


def test_momentum_keeps_the_residual_and_runs_the_clock_faster(problem, svm):
    run = train_with_moments(problem, NormalizedHeavyBall(0.2, 0.8), 1500, record=[750, 1500])
    assert residual_norm(run, svm)[-1] == pytest.approx(e_inf(problem, svm), rel=1e-6)
    assert np.diff(margin_component(run, svm))[-1] == pytest.approx(750 * 0.2 / 0.2, rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(NORMS), st.sampled_from([1e-200, 1.0, 1e200]))
def test_the_steepest_direction_attains_the_dual_norm(seed, norm, scale):
    rng = np.random.default_rng(seed)
    G = scale * rng.standard_normal((4, 4))
    D = steepest_direction(G, norm)
    assert matrix_norm(D, norm) == pytest.approx(1.0)
    assert np.vdot(G / scale, D) == pytest.approx(dual_norm(G / scale, norm))
    other = rng.standard_normal((4, 4))
    assert np.vdot(G / scale, other / matrix_norm(other, norm)) <= dual_norm(G / scale, norm) * (1 + 1e-12)


def test_no_gradient_no_direction():
    assert not steepest_direction(np.zeros((3, 3)), "spectral").any()
    assert matrix_norm(np.zeros((3, 3)), 3.0) == 0.0


@pytest.mark.parametrize("bad", [0.5, "nuclear", np.nan])
def test_norms_are_validated(bad):
    with pytest.raises(ValueError, match="norm is"):
        SteepestDescent(0.1, bad)


@pytest.mark.parametrize("norm", NORMS)
def test_the_margin_in_a_norm_is_certified_and_descent_approaches_it(norm):
    problem = gaussian(3, 3, 8, seed=1)
    best = norm_margin(problem, norm)
    assert best.certificate() < 1e-6
    run = train_with_moments(problem, SteepestDescent(0.1, norm), 1500, record=[300, 1500])
    share = norm_margins(run, norm)[1:] / best.upper
    assert 0.9 < share[1] <= 1.0
    assert share[0] < share[1]
    assert np.isnan(norm_margins(run, norm)[0])


def test_known_norms_agree_with_their_own_solvers():
    problem = gaussian(3, 3, 8, seed=1)
    assert norm_margin(problem, 2.0).margin == pytest.approx(solve_token_svm(problem).margin)
    assert norm_margin(problem, np.inf).margin == pytest.approx(solve_max_norm_svm(problem).margin)


def test_no_margin_in_any_norm_without_separation():
    with pytest.raises(InfeasibleSVMError):
        norm_margin(gaussian(12, 4, 3, seed=0), 3.0)


def test_the_full_batch_is_normalised_descent(problem, svm):
    run = train_minibatch(problem, MinibatchNGD(0.1, 5), 200, seed=0, record=[100])
    plain = train(problem, NormalizedGD(0.1), 200, record=[100])
    assert run.coefficients == pytest.approx(plain.coefficients)
    assert run.log_loss_gap == pytest.approx(plain.log_loss_gap)
    assert run.log_gradient_norm == pytest.approx(plain.log_gradient_norm)
    law = minibatch_law(problem, svm, 0.1, 5)
    assert law.rest == pytest.approx(e_inf(problem, svm))
    assert law.variance == pytest.approx(0.0, abs=1e-12)
    assert law.speed == pytest.approx(1.0)


def test_the_law_of_minibatches_against_a_run(problem, svm):
    law = minibatch_law(problem, svm, 0.1, 3)
    run = train_minibatch(problem, MinibatchNGD(0.1, 3), 10_000, seed=1, record=np.arange(2000, 10_000, 10))
    assert np.sqrt(np.mean(residual_sizes(run, svm)[1:] ** 2)) == pytest.approx(law.size, rel=0.03)
    assert law.size > law.rest
    assert minibatch_law(problem, svm, 0.05, 3).variance == pytest.approx(law.variance / 2.0, rel=0.05)


def test_single_sequences_cannot_be_balanced(problem, svm):
    with pytest.raises(AssumptionError, match="no rest"):
        minibatch_law(problem, svm, 0.1, 1)
    run = train_minibatch(problem, MinibatchNGD(0.1, 1), 3000, seed=0)
    assert direction_error(run, svm)[-1] > 5.0 * e_inf(problem, svm) / run.norms[-1]


def test_batches_are_validated(problem):
    with pytest.raises(ValueError, match="at most so many"):
        train_minibatch(problem, MinibatchNGD(0.1, 6), 10, seed=0)
    with pytest.raises(ValueError, match="positive integer"):
        MinibatchNGD(0.1, 0)
