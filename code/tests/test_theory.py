"""The theorems' constants against closed forms, direct computation, and runs."""

import numpy as np
import pytest
from tokenmargin import attention, theory
from tokenmargin.datasets import gaussian, orthogonal
from tokenmargin.dynamics import train
from tokenmargin.errors import AssumptionError
from tokenmargin.measure import direction_error, exponent, residual_norm, wilson_interval
from tokenmargin.problem import TokenProblem
from tokenmargin.steps import GradientDescent, NormalizedGD, Polyak
from tokenmargin.svm import solve_token_svm

RULES = [GradientDescent(5.0), NormalizedGD(0.1), NormalizedGD(0.3, 0.5), Polyak(0.5)]
LOSSES = ("logistic", "exponential")


@pytest.fixture
def pair() -> TokenProblem:
    """One sequence of two tokens: a single constraint V = (e1 - e2) e1'."""
    return TokenProblem(np.eye(2)[None], np.ones(1), np.array([1.0, 0.0]))


def test_orthonormal_tokens_with_equal_scores_have_no_residual():
    problem = orthogonal(4, 3, 12, seed=1)
    assert theory.e_inf(problem, solve_token_svm(problem)) < 1e-12


@pytest.mark.parametrize("loss", LOSSES)
def test_one_constraint_in_closed_form(pair, loss):
    svm = solve_token_svm(pair)
    assert pytest.approx(np.array([[1.0, 0.0], [-1.0, 0.0]]) / 2.0) == svm.W
    assert svm.margin == pytest.approx(np.sqrt(2.0))
    slope = np.exp(-1.0) if loss == "exponential" else 1.0 / (1.0 + np.e)
    assert theory.alpha(pair, svm, loss) == pytest.approx(2.0 * slope)
    assert theory.e_inf(pair, svm, loss) == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(AssumptionError, match="no finite threshold"):
        theory.stability_threshold(svm)


@pytest.mark.parametrize("Q", [1, 3])
@pytest.mark.parametrize("loss", LOSSES)
def test_weights_and_entry_slack_against_the_model(Q, loss):
    problem = gaussian(4, 3, 10, seed=2, scores="gaussian", Q=Q)
    W = np.random.default_rng(0).standard_normal((10, 10))
    c = problem.constraints
    p, q = theory.weights(problem, c.margins(W), loss)
    assert p == pytest.approx(-attention.forces(problem, W, loss)[c.sequence, c.query, c.token], abs=1e-14)
    assert q == pytest.approx(p * np.exp(c.margins(W)))
    m_q = attention.query_outputs(problem, attention.attention(problem, W))
    slack = m_q[c.sequence, c.query] - problem.scores[c.sequence, c.token]
    assert theory.entry_slack(problem, c.margins(W)) == pytest.approx(slack, abs=1e-12)


def test_weights_tend_to_their_limit():
    problem = gaussian(3, 3, 40, seed=3, scores="gaussian")
    far = theory.weights(problem, np.full(len(problem.constraints), 40.0))[1]
    assert far == pytest.approx(theory.limit_weights(problem), rel=1e-12)


def test_kappa_is_infinite_where_the_entry_condition_fails():
    problem = TokenProblem(np.eye(3)[None], np.ones(1), np.array([1.0, 0.9, 0.0]))
    assert theory.kappa(problem, np.zeros(2)) == np.inf
    assert np.isfinite(theory.kappa(problem, np.full(2, 5.0)))


def test_conditions_name_what_fails():
    good = theory.conditions(orthogonal(3, 3, 9, seed=0))
    assert good.equal_scores
    assert good.acute
    assert good.entered
    bad = theory.conditions(gaussian(3, 3, 9, seed=0, scores="gaussian"))
    assert not bad.equal_scores
    assert bad.score_spread > 0
    assert not bad.acute
    assert bad.cosine < 0


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("loss", LOSSES)
def test_bounds_hold_along_runs(rule, loss):
    problem = gaussian(4, 3, 60, seed=4)
    svm = solve_token_svm(problem)
    run = train(problem, rule, 2000, loss=loss, record=np.arange(2001))
    error = direction_error(run, svm)[1:]
    bound = theory.one_clock_bound(run, svm)
    E, sharp = theory.sharp_order_bound(run, svm)
    assert (error <= bound.direction[1:]).all()
    assert (residual_norm(run, svm) <= bound.residual + 1e-12).all()
    assert (residual_norm(run, svm) <= E).all()
    assert (error <= sharp[1:]).all()
    assert (np.nanmax(run.log_off_attention, axis=(1, 2)) <= bound.log_off_attention + 1e-9).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_every_normalised_rule_reaches_the_same_residual(loss):
    problem = gaussian(5, 4, 100, seed=5)
    svm = solve_token_svm(problem)
    ends = [residual_norm(train(problem, rule, 100_000, loss=loss), svm)[-1] for rule in (RULES[1], RULES[3])]
    assert ends == pytest.approx(2 * [theory.e_inf(problem, svm, loss)], rel=1e-6)


def test_rates_take_one_iteration_or_many():
    problem = orthogonal(2, 2, 4, seed=0)
    svm = solve_token_svm(problem)
    assert theory.rates(problem, svm, NormalizedGD(0.5), 100).norm == pytest.approx([50.0])
    assert theory.rates(problem, svm, Polyak(0.5), [10, 20]).log_off_attention[:, 0] == pytest.approx([-5.0, -10.0])


def test_sharp_constants_refuse_inactive_constraints():
    problem = gaussian(6, 5, 24, seed=0)
    svm = solve_token_svm(problem)
    assert not svm.support.all()
    with pytest.raises(AssumptionError, match="not support vectors"):
        theory.e_inf(problem, svm)


def test_exponent_of_a_power_law_is_exact():
    x = np.geomspace(1, 1e4, 20)
    fit = exponent(x, 3.0 * x**-0.75)
    assert fit.value == pytest.approx(-0.75)
    assert fit.low <= fit.value <= fit.high
    with pytest.raises(ValueError, match="three"):
        exponent(x, x, (2.0, 2.1))


def test_wilson_interval_in_closed_form():
    z = 1.959963984540054
    assert wilson_interval(10, 10) == pytest.approx((10 / (10 + z**2), 1.0))
