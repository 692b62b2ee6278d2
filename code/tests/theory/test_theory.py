"""The theorems' constants against closed forms, direct computation, and runs."""

import mpmath
import numpy as np
import pytest
from tokenmargin.data.problem import TokenProblem
from tokenmargin.data.synthetic import gaussian, orthogonal
from tokenmargin.errors import AssumptionError, FloatRangeError
from tokenmargin.margin.token_svm import TokenSVM, solve_token_svm
from tokenmargin.measures.statistics import exponent, wilson_interval
from tokenmargin.measures.trajectory import (
    direction_error,
    margin_component,
    residual,
    residual_norm,
    residual_parts,
    residual_sizes,
)
from tokenmargin.model.attention import attention, forces, outputs, query_outputs
from tokenmargin.model.losses import negative_slope
from tokenmargin.model.weights import entry_slack, gradient_weights, kappa, limit_weights, score_gaps
from tokenmargin.theory.conditions import conditions
from tokenmargin.theory.one_clock import log_loss_gap_bound, one_clock_bound, polyak_bounds, sharp_order_bound
from tokenmargin.theory.rates import loss_gap_constant, rates
from tokenmargin.theory.residual import (
    SHARE,
    alpha,
    contraction,
    curvatures,
    e_active,
    e_inf,
    orthogonal_step,
    polyak_threshold,
    proved_step,
    residual_limit,
    stability_threshold,
    transverse_operator,
)
from tokenmargin.training.moments import Adam, HeavyBall, train_with_moments
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


def test_entry_is_strict():
    """At W = 0 the output of scores 1, 0, -1 equals the runner-up's: (E) does not hold."""
    problem = TokenProblem(np.eye(3)[None], [1], [1.0], values=[[[1.0], [0.0], [-1.0]]])
    found = conditions(problem)
    assert not found.entered
    assert abs(found.slack) < 1e-300
    assert conditions(problem, np.diag([1e-9, 0.0, 0.0])).entered


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


def test_the_step_proved_for_orthogonal_constraints():
    """r_1 to high precision: the least x/(sqrt(x + x coth x) - 1), where its derivative vanishes."""
    with mpmath.workdps(30):
        ratio = lambda x: x / (mpmath.sqrt(x + x * mpmath.coth(x)) - 1)  # noqa: E731
        least = ratio(mpmath.findroot(lambda x: mpmath.diff(ratio, x), 1.05))
        assert float(least / 2) == pytest.approx(SHARE, rel=1e-14)
        assert all(ratio(mpmath.mpf(x) / 20) >= least for x in range(1, 400))
    svm = solve_token_svm(orthogonal(6, 2, 12, seed=0))
    assert orthogonal_step(svm) == pytest.approx(SHARE * stability_threshold(svm), rel=1e-12)
    assert proved_step(svm) == pytest.approx(stability_threshold(svm) / 3.0, rel=1e-9)
    with pytest.raises(AssumptionError, match="largest cosine"):
        orthogonal_step(solve_token_svm(orthogonal(2, 3, 6, seed=0)))


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


# --- Values, not orders: each formula against its words, with every constant computed another way ----------------------


@pytest.fixture(scope="module")
def solved():
    problem = gaussian(4, 3, 60, seed=4, scores="gaussian")
    return problem, solve_token_svm(problem)


def stacked(svm):
    """The constraints as rows, shape (N, d^2)."""
    return np.array([svm.constraints.combine(row).ravel() for row in np.eye(len(svm.duals))])


def test_kappa_is_the_ratio_of_the_extreme_weights(solved):
    problem, _ = solved
    W = 60.0 * solved[1].W
    c = problem.constraints
    q = -forces(problem, W)[c.sequence, c.query, c.token] * np.exp(c.margins(W))
    assert q.min() > 0.0
    assert q.max() > 1.5 * q.min()
    weights = gradient_weights(problem, c.margins(W))[1]
    assert kappa(problem, c.margins(W)) == pytest.approx(weights.max() / weights.min(), rel=1e-12)
    near = 6.0 * solved[1].W
    q = -forces(problem, near)[c.sequence, c.query, c.token] * np.exp(c.margins(near))
    assert kappa(problem, c.margins(near)) == pytest.approx(q.max() / q.min(), rel=1e-9)


@pytest.mark.parametrize("loss", LOSSES)
def test_alpha_and_the_limit_from_their_words(solved, loss):
    problem, svm = solved
    q, duals = limit_weights(problem, loss), svm.duals
    level = np.prod((q / duals) ** (duals / duals.sum()))
    assert alpha(problem, svm, loss) == pytest.approx(level, rel=1e-9)
    R = svm.constraints.combine(residual_limit(problem, svm, loss))
    assert q * np.exp(-svm.constraints.margins(R)) == pytest.approx(level * duals, rel=1e-8)
    assert np.vdot(R, svm.W) == pytest.approx(0.0, abs=1e-8)
    assert e_inf(problem, svm, loss) == pytest.approx(np.linalg.norm(R), rel=1e-10)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_rate_table_by_value(solved, loss):
    problem, svm = solved
    rho, rest, t = 1.0 / np.linalg.norm(svm.W), e_inf(problem, svm, loss), np.array([50.0, 1e4])
    assert abs(rho - 1.0) > 0.1
    paths = {
        NormalizedGD(0.3): 0.3 * t,
        NormalizedGD(0.3, 0.5): 0.6 * np.sqrt(t),
        NormalizedGD(0.3, 0.25): 0.4 * t**0.75,
        Polyak(0.5): 0.5 * np.linalg.norm(svm.W) * t,
        Polyak(0.5, cap=0.2): 0.2 * t,
    }
    for rule, path in paths.items():
        law = rates(problem, svm, rule, t, loss)
        assert law.norm == pytest.approx(path, rel=1e-9)
        known = path > rest / 2.0
        assert known[1]
        assert law.direction_error[known] == pytest.approx((rest / path)[known], rel=1e-9)
        assert law.log_off_attention == pytest.approx(np.repeat(-rho * path[:, None], 4, axis=1), rel=1e-9)
        assert law.log_loss_gap == pytest.approx(-rho * path, rel=1e-9)
        assert law.settles
    t = np.array([1e4, 1e8])
    law = rates(problem, svm, GradientDescent(7.0), t, loss)
    norm = np.log(7.0 * alpha(problem, svm, loss) * t) / rho
    assert law.norm == pytest.approx(norm, rel=1e-9)
    assert law.direction_error == pytest.approx(rest / norm, rel=1e-9)
    sums = (svm.duals / limit_weights(problem, loss)).reshape(4, 2).sum(axis=1)
    assert np.exp(law.log_off_attention) == pytest.approx(sums / (7.0 * t[:, None]), rel=1e-8)
    assert np.exp(law.log_loss_gap) == pytest.approx(1.0 / (rho**2 * 7.0 * t), rel=1e-8)


def test_a_law_is_nan_until_it_says_something(solved):
    problem, svm = solved
    law = rates(problem, svm, GradientDescent(0.1), [1.0, 1e9])
    assert np.isnan([law.norm[0], law.direction_error[0], law.deviation[0], *law.log_off_attention[0]]).all()
    assert np.isfinite([law.norm[1], law.direction_error[1], law.deviation[1], *law.log_off_attention[1]]).all()
    early = rates(problem, svm, NormalizedGD(1e-3), [1.0, 1e6])
    assert np.isnan(early.direction_error[0])
    assert early.norm[0] == 1e-3
    for bad in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="iterations > 0"):
            rates(problem, svm, NormalizedGD(0.1), [1.0, bad])


def test_laws_beyond_the_edge_are_marked(solved):
    problem, svm = solved
    h, theta = stability_threshold(svm), polyak_threshold(svm)
    for inside, outside in (
        (NormalizedGD(0.99 * h), NormalizedGD(1.01 * h)),
        (Polyak(0.99 * theta), Polyak(1.01 * theta)),
        (Polyak(2.0 * theta, cap=0.99 * h), Polyak(2.0 * theta, cap=1.01 * h)),
    ):
        assert rates(problem, svm, inside, 100).settles
        late = rates(problem, svm, outside, 100)
        assert not late.settles
        assert np.isnan(late.deviation).all()
        assert np.isfinite(late.norm).all()
    assert rates(problem, svm, NormalizedGD(9.0 * h, 0.5), 100).settles
    assert rates(problem, svm, GradientDescent(9.0 * h), 100).settles


def test_the_deviation_beside_the_laws(solved):
    problem, svm = solved
    omega = curvatures(svm)
    assert omega[0] < 1.0
    t = np.array([100.0, 300.0])
    law = rates(problem, svm, NormalizedGD(0.1), t)
    assert law.deviation == pytest.approx(np.exp(-omega[0] * 0.1 * t / svm.norm), rel=1e-9)
    late = rates(problem, svm, NormalizedGD(0.99 * stability_threshold(svm)), t)
    assert late.deviation == pytest.approx(0.98**t, rel=1e-6)
    run = train(problem, NormalizedGD(0.1), 400, record=np.arange(401), form="gram")
    R = svm.constraints.combine(residual_limit(problem, svm))
    distance = np.array([np.linalg.norm(residual(run, svm, k) - R) for k in (200, 400)])
    predicted = rates(problem, svm, NormalizedGD(0.1), [200, 400]).deviation
    assert np.log(distance[1] / distance[0]) == pytest.approx(np.log(predicted[1] / predicted[0]), rel=0.05)


def test_attention_leaves_the_other_tokens_no_faster_than_e_to_the_minus_margin():
    """Two constraints at an obtuse angle have a curvature above one: the residual's limit is held up by attention itself."""
    tokens = np.zeros((2, 2, 3))
    tokens[:, 0] = [[1.0, 0.0, 0.0], [np.cos(2.2), np.sin(2.2), 0.0]]
    z = np.tile([0.0, 0.0, 1.0], (2, 1))
    problem = TokenProblem(tokens, np.ones(2), np.ones(1), z, values=np.array([[[1.0], [0.0]], [[2.0], [0.0]]]))
    svm = solve_token_svm(problem)
    assert curvatures(svm)[0] > 2.0
    step = NormalizedGD(0.002 * svm.norm)
    run = train(problem, step, 6000, record=[3000, 6000], form="gram")
    R = svm.constraints.combine(residual_limit(problem, svm))
    distance = np.array([np.linalg.norm(residual(run, svm, k) - R) for k in (-2, -1)])
    predicted = rates(problem, svm, step, [3000, 6000]).deviation
    assert predicted == pytest.approx(np.exp([-6.0, -12.0]), rel=1e-9)
    assert np.log(distance[1] / distance[0]) == pytest.approx(-6.0, rel=0.1)


@pytest.mark.parametrize("loss", LOSSES)
def test_rows_that_hold_where_constraints_are_inactive(loss):
    problem = INACTIVE[2]
    svm = solve_token_svm(problem)
    on, c, rho = svm.support, problem.constraints, svm.margin
    assert not on.all()
    eta, steps = 20.0, 300_000
    run = train(problem, GradientDescent(eta), steps, loss=loss, record=[steps])
    law = rates(problem, svm, GradientDescent(eta), [steps], loss)
    assert np.isnan(law.direction_error).all()
    q = limit_weights(problem, loss)
    level = np.exp(rho**2 * svm.duals[on] @ np.log(q[on] / svm.duals[on]))
    assert law.norm == pytest.approx([np.log(eta * level * steps) / rho], rel=1e-9)
    sums = np.bincount(c.sequence[on], svm.duals[on] / q[on], problem.n)
    held = sums > 0.0
    assert np.exp(law.log_off_attention[0, held]) == pytest.approx(sums[held] / (eta * steps), rel=1e-8)
    assert np.isnan(law.log_off_attention[0, ~held]).all()
    assert run.log_loss_gap[-1] == pytest.approx(law.log_loss_gap[0], abs=0.02)
    assert margin_component(run, svm)[-1] == pytest.approx(law.norm[0], rel=0.02)


def test_a_sequence_without_a_support_vector_has_the_slope_of_its_least_margin():
    """Sequence 2 is sequence 1 with its margin doubled: no support vector; (1 - s) of it decays with twice the slope."""
    tokens = np.zeros((2, 2, 3))
    tokens[:, 0] = [[1.0, 0.0, 0.0], [2.0, 0.1, 0.0]]
    z = np.tile([0.0, 0.0, 1.0], (2, 1))
    problem = TokenProblem(tokens, np.ones(2), np.ones(1), z, values=np.array([[[1.0], [0.0]]] * 2))
    svm = solve_token_svm(problem)
    assert svm.support.tolist() == [True, False]
    law = rates(problem, svm, NormalizedGD(0.1), [1000])
    assert law.log_off_attention == pytest.approx(np.array([[-100.0, -200.0]]), rel=1e-9)
    run = train(problem, NormalizedGD(0.1), 1000)
    assert run.log_off_attention[-1, :, 0] == pytest.approx(law.log_off_attention[0], rel=0.02)
    assert np.isnan(rates(problem, svm, GradientDescent(1.0), [1e6]).log_off_attention[0, 1])
    assert np.isnan(law.direction_error).all()


def test_the_one_clock_bound_by_value(solved):
    problem, svm = solved
    run = train(problem, NormalizedGD(0.3, 0.5), 300, 4.0 * svm.W, record=np.arange(301))
    V = stacked(svm)
    big, N = np.linalg.norm(V, axis=1).max(), len(V)
    q = np.array([gradient_weights(problem, mu)[1] for mu in run.margins[5:]])
    worst = (q.max(axis=1) / q.min(axis=1)).max()
    assert worst > 1.01 * (q.max(axis=1) / q.min(axis=1)).min()
    start, S = 5, np.concatenate([[0.0], np.cumsum(0.3 / np.sqrt(np.arange(300) + 1.0))])
    S = S - S[start]
    c = np.array([np.vdot(run.W(k), svm.W) for k in range(301)]) / svm.norm
    e = np.array([np.linalg.norm(run.W(k) - c[k] * svm.W / svm.norm) for k in range(301)])
    bound = one_clock_bound(run, svm, start=start)
    assert bound.start == start
    along = c[start] + S / (svm.norm * big)
    high = np.sqrt(e[start] ** 2 + S[start:] * (2.0 * worst * (N - 1) / np.e * svm.norm + 0.3 / np.sqrt(start + 1.0)))
    assert np.isnan(bound.along[:start]).all()
    assert bound.along[start:] == pytest.approx(along[start:], rel=1e-9)
    assert bound.residual[start:] == pytest.approx(high, rel=1e-7)
    assert bound.direction[start:] == pytest.approx(high / along[start:], rel=1e-7)
    off = np.log(2.0) - along[start:] / svm.norm + big * high
    assert bound.log_off_attention[start:] == pytest.approx(off, rel=1e-7)
    steepest = (1.0 / (1.0 + np.exp(problem.second_scores))).max()
    gap = np.log(steepest * score_gaps(problem).max()) + off
    assert log_loss_gap_bound(problem, bound)[start:] == pytest.approx(gap, rel=1e-7)


def sharp_constants(problem, svm, run):
    V = stacked(svm)
    sigma = np.linalg.svd(V, compute_uv=False)
    sigma, big = sigma[sigma > 1e-8 * sigma[0]][-1], np.linalg.norm(V, axis=1).max()
    q = np.array([gradient_weights(problem, mu)[1] for mu in run.margins])
    C = (q.max(axis=1) / q.min(axis=1)).max() * (len(V) - 1) / np.e
    return C, big, svm.duals.min() * sigma / (2.0 * svm.norm**2), run.effective_steps.max()


def test_the_sharp_order_bound_by_value(solved):
    problem, svm = solved
    run = train(problem, NormalizedGD(0.3, 0.5), 200, 8.0 * svm.W, record=np.arange(201))
    C, big, beta, hbar = sharp_constants(problem, svm, run)
    E, direction = sharp_order_bound(run, svm)
    assert pytest.approx((C + big * hbar / 2.0) / beta + hbar, rel=1e-6) == E
    assert direction == pytest.approx(E / (8.0 * svm.norm + run.path_length / (svm.norm * big)), rel=1e-6)
    far = 1e4 * svm.constraints.combine(np.random.default_rng(0).standard_normal(len(svm.duals)))
    far = far - np.vdot(far, svm.W) * svm.W / svm.norm**2
    run = train(problem, NormalizedGD(0.3, 0.5), 20, far + 3e4 * np.linalg.norm(far) * svm.W, record=np.arange(21))
    C, big, beta, hbar = sharp_constants(problem, svm, run)
    assert np.linalg.norm(far) > (C + big * hbar / 2.0) / beta + hbar
    assert sharp_order_bound(run, svm)[0] == pytest.approx(np.linalg.norm(far), rel=1e-6)


def test_polyak_bounds_by_value(solved):
    problem, svm = solved
    W0 = 8.0 * svm.W
    c = problem.constraints
    slack = query_outputs(problem, attention(problem, W0))[c.sequence, c.query] - problem.scores[c.sequence, c.token]
    assert slack.min() > 0.0
    ratio = (negative_slope(problem.optimal_scores) / negative_slope(outputs(problem, W0))).min()
    largest = (score_gaps(problem) / slack).max()
    low, high = polyak_bounds(problem, svm, W0, 0.7)
    assert low == pytest.approx(0.7 * ratio / np.linalg.norm(stacked(svm), axis=1).max(), rel=1e-9)
    assert high == pytest.approx(0.7 * largest * svm.norm, rel=1e-9)
    with pytest.raises(AssumptionError, match="only if"):
        polyak_bounds(problem, svm, -W0)


@pytest.mark.parametrize("rule", [HeavyBall(0.1), Adam(0.1)], ids=repr)
@pytest.mark.parametrize("bound", [one_clock_bound, sharp_order_bound])
def test_bounds_refuse_runs_whose_steps_are_not_along_the_gradient(solved, rule, bound):
    problem, svm = solved
    run = train_with_moments(problem, rule, 100, 8.0 * svm.W)
    with pytest.raises(AssumptionError, match="not along the gradient"):
        bound(run, svm)


class Halved:
    """A rule of one's own."""

    def effective_step(self, t, log_gradient_norm, log_loss_gap):
        return 0.1


def test_bounds_take_a_rule_of_ones_own(solved):
    problem, svm = solved
    run = train(problem, Halved(), 50, 8.0 * svm.W)
    same = train(problem, NormalizedGD(0.1), 50, 8.0 * svm.W)
    assert one_clock_bound(run, svm).residual == pytest.approx(one_clock_bound(same, svm).residual, rel=1e-6)


def test_the_proved_step_by_value(solved):
    svm = solved[1]
    V = stacked(svm)
    diameter = max(np.linalg.norm(a - b) for a in V for b in V)
    assert proved_step(svm) == pytest.approx(8.0 / svm.norm / diameter**2, rel=1e-9)


@pytest.mark.parametrize("form", ["gram", "matrix"])
def test_the_residual_of_both_forms_by_value(solved, form):
    problem, svm = solved
    W0 = np.random.default_rng(1).standard_normal((60, 60))
    run = train(problem, NormalizedGD(0.5), 40, W0, record=[20, 40], form=form)
    for k in range(len(run)):
        W, unit = run.W(k), svm.W / svm.norm
        expected = W - (W * unit).sum() * unit
        assert residual(run, svm, k) == pytest.approx(expected, abs=1e-10)
        assert residual_norm(run, svm)[k] == pytest.approx(np.linalg.norm(expected), rel=1e-10)
        assert direction_error(run, svm)[k] == pytest.approx(np.linalg.norm(W / np.linalg.norm(W) - unit), rel=1e-8)
    with pytest.raises(ValueError, match="residual_norm"):
        residual_sizes(run, svm)


def test_a_run_with_numbers_that_are_none_gives_no_bound_and_no_residual(solved):
    problem, svm = solved
    run = train(problem, NormalizedGD(0.1), 20, form="gram")
    run.coefficients[-1, 0] = np.nan
    with pytest.raises(FloatRangeError):
        residual_sizes(run, svm)
    run = train(problem, NormalizedGD(0.1), 20, 8.0 * svm.W)
    run.effective_steps[-1] = np.nan
    with pytest.raises(FloatRangeError, match="effective step"):
        one_clock_bound(run, svm)


def test_the_residual_is_orthogonal_to_w_mm_to_its_own_rounding(solved):
    """Far out, rounding of W leaves a part along W_mm that a second projection takes away."""
    problem, svm = solved
    run = train(problem, NormalizedGD(1.0), 400, 1e9 * svm.W, record=np.arange(401), form="gram")
    unit = svm.W / svm.norm
    for k in range(0, 401, 40):
        R = residual(run, svm, k)
        assert abs(np.vdot(R, unit)) <= 1e-14 * np.linalg.norm(R)
