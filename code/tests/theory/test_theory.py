"""The theorems' constants against closed forms, direct computation, and runs."""

import numpy as np
import pytest
from tokenmargin.data.problem import TokenProblem
from tokenmargin.data.synthetic import gaussian, orthogonal
from tokenmargin.errors import AssumptionError
from tokenmargin.margin.token_svm import TokenSVM, solve_token_svm
from tokenmargin.measures.statistics import exponent, wilson_interval
from tokenmargin.measures.trajectory import direction_error, margin_component, residual_norm, residual_parts
from tokenmargin.model.attention import attention, forces, query_outputs
from tokenmargin.model.weights import entry_slack, gradient_weights, kappa, limit_weights
from tokenmargin.theory.conditions import conditions
from tokenmargin.theory.one_clock import log_loss_gap_bound, one_clock_bound, sharp_order_bound
from tokenmargin.theory.rates import loss_gap_constant, rates
from tokenmargin.theory.residual import (
    alpha,
    contraction,
    curvatures,
    e_active,
    e_inf,
    proved_step,
    residual_limit,
    stability_threshold,
    transverse_operator,
)
from tokenmargin.training.rules import GradientDescent, NormalizedGD, Polyak
from tokenmargin.training.train import train

RULES = [GradientDescent(5.0), NormalizedGD(0.1), NormalizedGD(0.3, 0.5), Polyak(0.5)]
LOSSES = ("logistic", "exponential")


@pytest.fixture
def pair() -> TokenProblem:
    """One sequence of two tokens: a single constraint V = (e1 - e2) e1'."""
    return TokenProblem(np.eye(2)[None], np.ones(1), np.array([1.0, 0.0]))


def test_orthonormal_tokens_with_equal_scores_have_no_residual():
    problem = orthogonal(4, 3, 12, seed=1)
    assert e_inf(problem, solve_token_svm(problem)) < 1e-12


@pytest.mark.parametrize("loss", LOSSES)
def test_one_constraint_in_closed_form(pair, loss):
    svm = solve_token_svm(pair)
    assert pytest.approx(np.array([[1.0, 0.0], [-1.0, 0.0]]) / 2.0) == svm.W
    assert svm.margin == pytest.approx(np.sqrt(2.0))
    slope = np.exp(-1.0) if loss == "exponential" else 1.0 / (1.0 + np.e)
    assert alpha(pair, svm, loss) == pytest.approx(2.0 * slope)
    assert e_inf(pair, svm, loss) == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(AssumptionError, match="no finite threshold"):
        stability_threshold(svm)


@pytest.mark.parametrize("Q", [1, 3])
@pytest.mark.parametrize("loss", LOSSES)
def test_weights_and_entry_slack_against_the_model(Q, loss):
    problem = gaussian(4, 3, 10, seed=2, scores="gaussian", Q=Q)
    W = np.random.default_rng(0).standard_normal((10, 10))
    c = problem.constraints
    p, q = gradient_weights(problem, c.margins(W), loss)
    assert p == pytest.approx(-forces(problem, W, loss)[c.sequence, c.query, c.token], abs=1e-14)
    assert q == pytest.approx(p * np.exp(c.margins(W)))
    m_q = query_outputs(problem, attention(problem, W))
    slack = m_q[c.sequence, c.query] - problem.scores[c.sequence, c.token]
    assert entry_slack(problem, c.margins(W)) == pytest.approx(slack, abs=1e-12)


def test_weights_tend_to_their_limit():
    problem = gaussian(3, 3, 40, seed=3, scores="gaussian")
    far = gradient_weights(problem, np.full(len(problem.constraints), 40.0))[1]
    assert far == pytest.approx(limit_weights(problem), rel=1e-12)


def test_kappa_is_infinite_where_the_entry_condition_fails():
    problem = TokenProblem(np.eye(3)[None], np.ones(1), np.array([1.0, 0.9, 0.0]))
    assert kappa(problem, np.zeros(2)) == np.inf
    assert np.isfinite(kappa(problem, np.full(2, 5.0)))


@pytest.mark.parametrize(("scores", "mu"), [((1.0, 0.002, 0.0), (-8.0, -7.0)), ((1e-4, 5e-5, 0.0), (-8.0, -7.0))])
def test_entry_slack_tells_nearly_equal_scores_from_equal_ones(scores, mu):
    """A runner-up in the lead whose score is hardly above the last one's: (E) fails, if only by a little."""
    problem = TokenProblem(np.eye(3)[None], np.ones(1), np.array(scores))
    e = np.exp(-np.array([0.0, *mu]))
    m = e @ np.array(scores) / e.sum()
    assert entry_slack(problem, np.array(mu)) == pytest.approx(m - np.array(scores[1:]), rel=1e-9)
    assert entry_slack(problem, np.array(mu)).min() < 0.0
    assert kappa(problem, np.array(mu)) == np.inf


def test_a_zero_constraint_is_not_acute():
    tokens = np.array([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
    problem = TokenProblem(tokens, np.ones(1), np.ones(1), values=np.array([[[1.0], [0.0], [0.0]]]))
    assert not conditions(problem).acute


def test_a_cap_limits_the_law_of_polyak():
    problem = orthogonal(2, 2, 4, seed=0)
    svm = solve_token_svm(problem)
    cap = 0.25 * svm.norm
    assert rates(problem, svm, Polyak(0.5, cap=cap), 100).norm == pytest.approx([100 * cap])


def test_conditions_name_what_fails():
    good = conditions(orthogonal(3, 3, 9, seed=0))
    assert good.equal_scores
    assert good.acute
    assert good.entered
    bad = conditions(gaussian(3, 3, 9, seed=0, scores="gaussian"))
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
    bound = one_clock_bound(run, svm)
    E, sharp = sharp_order_bound(run, svm)
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
    assert ends == pytest.approx(2 * [e_inf(problem, svm, loss)], rel=1e-6)


def test_rates_take_one_iteration_or_many():
    problem = orthogonal(2, 2, 4, seed=0)
    svm = solve_token_svm(problem)
    assert rates(problem, svm, NormalizedGD(0.5), 100).norm == pytest.approx([50.0])
    assert rates(problem, svm, Polyak(0.5), [10, 20]).log_off_attention[:, 0] == pytest.approx([-5.0, -10.0])


def test_sharp_constants_refuse_inactive_constraints():
    problem = gaussian(6, 5, 24, seed=0)
    svm = solve_token_svm(problem)
    assert not svm.support.all()
    with pytest.raises(AssumptionError, match="not support vectors"):
        e_inf(problem, svm)


INACTIVE = [gaussian(6, 5, 24, seed=0), gaussian(6, 5, 24, seed=1, scores="gaussian"), gaussian(8, 5, 20, seed=2)]


@pytest.mark.parametrize("problem", INACTIVE)
@pytest.mark.parametrize("loss", LOSSES)
def test_the_active_part_of_the_residual_has_a_limit_where_constraints_are_inactive(problem, loss):
    svm = solve_token_svm(problem)
    run = train(problem, Polyak(0.5, cap=10.0), 30_000, loss=loss, record=[30_000])
    active, rest = residual_parts(run, svm)
    assert active[-1] == pytest.approx(e_active(problem, svm, loss), rel=1e-5)
    assert rest[-1] > 0.1
    assert active**2 + rest**2 == pytest.approx(residual_norm(run, svm) ** 2, rel=1e-9)


@pytest.mark.parametrize("problem", INACTIVE)
@pytest.mark.parametrize("rule", RULES[1:], ids=repr)
def test_the_sharp_order_bound_holds_where_constraints_are_inactive(problem, rule):
    svm = solve_token_svm(problem)
    run = train(problem, rule, 5000)
    E, sharp = sharp_order_bound(run, svm)
    late = np.isfinite(sharp)
    assert late[-1]
    assert (residual_norm(run, svm)[late] <= E).all()
    assert (direction_error(run, svm)[late] <= sharp[late]).all()


def test_residual_parts_see_the_start_off_the_span():
    problem = orthogonal(2, 3, 10, seed=0)
    svm = solve_token_svm(problem)
    W0 = np.random.default_rng(0).standard_normal((10, 10))
    run = train(problem, NormalizedGD(0.1), 50, W0)
    rest = residual_parts(run, svm)[1]
    assert rest == pytest.approx(np.full(len(run), rest[0]), rel=1e-12)  # no step moves it
    c = problem.constraints
    inside = c.combine(np.linalg.lstsq(c.gram, c.margins(W0), rcond=1e-12)[0])
    assert rest[0] == pytest.approx(np.linalg.norm(W0 - inside))


def test_a_constraint_of_margin_one_without_weight_is_refused():
    """x_opt = e1 + e2 against e2, e1 and (e1 + e2)/2 with one query: the third constraint is the mean of the others."""
    tokens = np.array([[[1.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.5, 0.5]]])
    values = np.array([[[1.0], [0.0], [0.0], [0.0]]])
    problem = TokenProblem(tokens, np.ones(1), np.ones(1), np.array([[1.0, 0.0]]), values=values)
    svm = solve_token_svm(problem)
    assert svm.margins == pytest.approx(np.ones(3))
    weightless = TokenSVM(svm.constraints, np.array([1.0, 1.0, 0.0]), svm.margins)  # of the many duals of this W_mm
    assert pytest.approx(svm.W) == weightless.W
    with pytest.raises(AssumptionError, match="strict complementarity"):
        residual_limit(problem, weightless)


def test_all_curvatures_are_one_on_orthogonal_constraints():
    svm = solve_token_svm(orthogonal(6, 2, 12, seed=0, scale=0.3))
    assert curvatures(svm) == pytest.approx(np.ones(5))
    assert contraction(svm, 0.3 * svm.norm) == pytest.approx(0.7)
    assert stability_threshold(svm) == pytest.approx(2.0 * svm.norm)


def test_the_transverse_operator_has_the_curvatures_and_keeps_to_the_plane():
    problem = gaussian(4, 3, 40, seed=1)
    svm = solve_token_svm(problem)
    operator = transverse_operator(svm)
    values = np.sort(np.linalg.eigvals(operator).real)
    assert values[1:] == pytest.approx(curvatures(svm), rel=1e-8)
    r = np.random.default_rng(0).standard_normal(len(svm.duals))
    assert (svm.constraints.gram @ svm.duals) @ (operator @ r) == pytest.approx(0.0, abs=1e-10)


@pytest.mark.parametrize("d", [24, 60])
def test_the_proved_step_is_never_beyond_the_edge(d):
    for seed in range(10):
        svm = solve_token_svm(gaussian(5, 4, d, seed=seed, scores="gaussian"))
        assert proved_step(svm) <= stability_threshold(svm) * (1 + 1e-12)


def test_the_proved_step_is_the_edge_for_two_orthogonal_constraints():
    svm = solve_token_svm(orthogonal(2, 2, 4, seed=0))
    assert proved_step(svm) == pytest.approx(stability_threshold(svm))


@pytest.mark.parametrize("seed", range(3))
def test_steps_below_the_proved_one_settle_from_far_away(seed):
    problem = gaussian(4, 3, 60, seed=seed)
    svm = solve_token_svm(problem)
    W0 = 20.0 * np.random.default_rng(seed).standard_normal((60, 60)) / 60.0
    run = train(problem, NormalizedGD(0.95 * proved_step(svm)), 5000, W0, record=[5000])
    assert residual_parts(run, svm)[0][-1] == pytest.approx(e_active(problem, svm), rel=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_the_residual_settles_at_the_predicted_pace(seed):
    """Just before rounding, each step shrinks the distance to R_inf by the contraction factor."""
    problem = gaussian(3, 3, 30, seed=seed)
    svm = solve_token_svm(problem)
    h, limit = 0.4 * svm.norm, residual_limit(problem, svm)
    run = train(problem, NormalizedGD(h), 400, record=np.arange(401), form="gram")
    C = run.coefficients
    rest = C - ((C @ svm.margins) / (svm.duals @ svm.margins))[:, None] * svm.duals - limit
    distance = np.sqrt(np.einsum("tk,kl,tl->t", rest, svm.constraints.gram, rest))
    late = np.flatnonzero(distance < 1e-8)[0]
    assert distance[late] / distance[late - 1] == pytest.approx(contraction(svm, h), rel=1e-3)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("rule", RULES[1:], ids=repr)
def test_the_loss_gap_has_its_constant_and_stays_below_its_bound(rule, loss):
    problem = gaussian(4, 3, 60, seed=4)
    svm = solve_token_svm(problem)
    run = train(problem, rule, 20_000, loss=loss)
    scaled = np.exp(run.log_loss_gap + svm.margin * margin_component(run, svm))
    assert scaled[-1] == pytest.approx(loss_gap_constant(problem, svm, loss), rel=1e-4)
    assert (run.log_loss_gap <= log_loss_gap_bound(problem, one_clock_bound(run, svm), loss) + 1e-12).all()


def test_gradient_descent_has_loss_gap_w_mm_squared_over_eta_t():
    problem = gaussian(4, 3, 60, seed=4)
    svm = solve_token_svm(problem)
    run = train(problem, GradientDescent(10.0), 100_000, record=[100_000])
    law = rates(problem, svm, GradientDescent(10.0), 100_000).log_loss_gap
    assert np.exp(law) == pytest.approx(svm.norm**2 / 1e6)
    assert run.log_loss_gap[-1] == pytest.approx(law, abs=1e-3)


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
