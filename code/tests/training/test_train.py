"""Training: gradient against differences and many digits, the forms against one another, invariances, errors."""

from dataclasses import dataclass, replace

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenmargin.data.problem import TokenProblem
from tokenmargin.data.synthetic import gaussian, orthogonal
from tokenmargin.errors import InvalidProblemError, UnboundedStepError
from tokenmargin.margin.token_svm import solve_token_svm
from tokenmargin.measures.trajectory import worst_off_attention
from tokenmargin.model.attention import gradient, loss_value
from tokenmargin.model.highprecision import gradient_direction, normalized_gd
from tokenmargin.training.kernels import layout_of, scaled_weights
from tokenmargin.training.rules import GradientDescent, NormalizedGD, Polyak
from tokenmargin.training.train import train
from tokenmargin.training.trajectory import log_spaced

RULES = [
    GradientDescent(2.0),
    NormalizedGD(0.1),
    NormalizedGD(0.5, decay=0.5),
    Polyak(0.5),
    Polyak(0.5, cap=0.4),
]
LOSSES = ["logistic", "exponential"]
seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=12, deadline=None, derandomize=True)


def engine_direction(problem, W, loss="logistic"):
    weights = np.empty(len(problem.constraints))
    scaled_weights(problem.constraints.margins(W), layout_of(problem, loss), weights)
    G = -problem.constraints.combine(weights)
    return G / np.linalg.norm(G)


def unit(W):
    return W / np.linalg.norm(W)


def off(trajectory):
    return trajectory.log_off_attention[-1]


# --- The gradient -----------------------------------------------------------------------------------------------------


@quick
@given(seed=seeds, loss=st.sampled_from(LOSSES), Q=st.sampled_from([1, 3]))
def test_gradient_is_the_slope_of_the_loss(seed, loss, Q):
    problem = gaussian(3, 3, 6, seed=seed, scores="gaussian", Q=Q)
    rng = np.random.default_rng(seed)
    W, direction = rng.standard_normal((2, 6, 6))
    h = 1e-5
    slope = (loss_value(problem, W + h * direction, loss) - loss_value(problem, W - h * direction, loss)) / (2 * h)
    assert np.vdot(gradient(problem, W, loss), direction) == pytest.approx(slope, abs=1e-8)


@quick
@given(seed=seeds, loss=st.sampled_from(LOSSES), Q=st.sampled_from([1, 3]))
def test_engine_gradient_is_the_plain_one_where_that_is_exact(seed, loss, Q):
    problem = gaussian(3, 3, 6, seed=seed, scores="gaussian", Q=Q)
    W = 2 * np.random.default_rng(seed).standard_normal((6, 6))
    np.testing.assert_allclose(engine_direction(problem, W, loss), unit(gradient(problem, W, loss)), atol=1e-9)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("size", "digits"), [(30, 80), (5000, 2400)])
def test_gradient_direction_against_many_digits(size, digits, loss):
    problem = gaussian(2, 3, 12, seed=0, scores="gaussian")
    svm = solve_token_svm(problem)
    W = size * svm.W + 0.3 * np.random.default_rng(1).standard_normal((12, 12))
    assert problem.constraints.margins(W).min() > 0.99 * size - 10
    assert (
        np.linalg.norm(engine_direction(problem, W, loss) - gradient_direction(problem, W, loss, digits=digits)) < 1e-10
    )


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("scores", ["equal", "gaussian"])
@pytest.mark.parametrize(
    "mu", [[-1000, -999, -999.5, 5, 3, 2], [-1000, -1000, -1000, 5, 3, 2], [-1000, -999, -1000, -950, -949, 3]]
)
def test_gradient_direction_where_wrong_tokens_are_in_the_lead(mu, scores, loss):
    """Tokens that score alike exert no force on each other: what is left is e^-1000 times smaller, and still exact."""
    problem = gaussian(2, 4, 60, seed=1, scores=scores)
    W = problem.constraints.combine(np.linalg.solve(problem.constraints.gram, np.array(mu, dtype=float)))
    exact = gradient_direction(problem, W, loss, digits=1000)
    assert np.linalg.norm(engine_direction(problem, W, loss) - exact) < 1e-11


def test_plain_gradient_is_wrong_where_the_engine_is_right():
    problem = gaussian(2, 3, 12, seed=0)
    W = 60 * solve_token_svm(problem).W
    exact = gradient_direction(problem, W, digits=100)
    assert np.linalg.norm(unit(gradient(problem, W)) - exact) > 0.1
    assert np.linalg.norm(engine_direction(problem, W) - exact) < 1e-12


def test_run_against_many_digits():
    problem = gaussian(2, 2, 8, seed=1, scores="gaussian")
    times = np.array([1, 10, 100])
    W, log_off = normalized_gd(problem, 1.0, times, digits=150)
    run = train(problem, NormalizedGD(1.0), 100, record=times)
    np.testing.assert_allclose(run.W(-1), W[-1], atol=1e-10)
    np.testing.assert_allclose(run.log_off_attention[1:], log_off, rtol=1e-11)
    assert log_off[-1].max() < -37
    assert mpmath.mp.dps == 15


# --- The forms --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("Q", [1, 3])
def test_forms_agree_step_by_step(rule, loss, Q):
    problem = gaussian(3, 3, 12, seed=2, Q=Q)
    W0 = 0.1 * np.random.default_rng(3).standard_normal((12, 12))
    record = np.arange(31)
    runs = [train(problem, rule, 30, W0, loss=loss, record=record, form=f) for f in ("gram", "matrix", "reference")]
    for other in runs[1:]:
        np.testing.assert_allclose(other.margins, runs[0].margins, rtol=1e-7, atol=1e-8)
        np.testing.assert_allclose(other.path_length, runs[0].path_length, rtol=1e-7)
        np.testing.assert_allclose(other.log_gradient_norm, runs[0].log_gradient_norm, atol=1e-7)
        np.testing.assert_allclose(other.log_loss_gap, runs[0].log_loss_gap, atol=1e-6)
        np.testing.assert_allclose(other.W(-1), runs[0].W(-1), atol=1e-7)


@pytest.mark.parametrize("form", ["gram", "matrix"])
def test_run_continues_to_any_depth(form):
    problem = gaussian(2, 3, 20, seed=0)
    svm = solve_token_svm(problem)
    steps = int(1.02e5 / (2.0 * svm.margin))
    if form == "matrix":  # the same depth in few steps
        run = train(problem, NormalizedGD(2.0), 200, W0=1.02e5 * svm.W, form=form)
    else:
        run = train(problem, NormalizedGD(2.0), steps, form=form)
    assert worst_off_attention(run)[-1] < -1e5
    assert np.isfinite(run.log_gradient_norm).all()
    assert np.all(np.diff(run.path_length) > 0)


def test_custom_rule_runs_as_the_built_in_one():
    @dataclass(frozen=True)
    class Mine:
        def effective_step(self, t, log_gradient_norm, log_loss_gap):
            return 0.2 / np.sqrt(t + 1.0)

    problem = gaussian(3, 3, 20, seed=0)
    mine, built_in = (train(problem, rule, 200) for rule in (Mine(), NormalizedGD(0.2, decay=0.5)))
    np.testing.assert_allclose(mine.margins, built_in.margins, rtol=1e-10)


# --- Records, stopping, errors ----------------------------------------------------------------------------------------


def test_record_and_stop():
    problem = gaussian(3, 3, 20, seed=0)
    run = train(problem, NormalizedGD(0.1), 100, record=[7, 50])
    assert run.iterations.tolist() == [0, 7, 50, 100]
    np.testing.assert_allclose(run.path_length, 0.1 * run.iterations)
    early = train(problem, NormalizedGD(0.1), 100, record=np.arange(101), stop=lambda mu: mu.min() > 1.0)
    assert early.margins[-1].min() > 1.0 >= early.margins[-2].min()
    assert len(early) < 101
    assert len(train(problem, NormalizedGD(0.1), 0)) == 1
    assert {0, 1, 1000} <= set(log_spaced(1000).tolist())


@pytest.mark.parametrize("arguments", [{"record": [101]}, {"record": [0.5]}, {"W0": np.zeros((2, 2))}, {"steps": -1}])
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(InvalidProblemError):
        train(gaussian(2, 2, 8, seed=0), NormalizedGD(0.1), **{"steps": 100, **arguments})


def test_unknown_form_is_refused():
    with pytest.raises(ValueError, match="form is 'fast'"):
        train(gaussian(2, 2, 8, seed=0), NormalizedGD(0.1), 1, form="fast")


def test_plain_polyak_at_a_saturated_wrong_token_and_its_cap():
    problem = orthogonal(1, 2, 4, seed=0)
    W0 = -600 * solve_token_svm(problem).W
    with pytest.raises(UnboundedStepError, match="Give the rule a cap"):
        train(problem, Polyak(1.0), 10, W0)
    run = train(problem, Polyak(1.0, cap=5.0), 3000, W0)
    assert run.effective_steps[0] == pytest.approx(5.0)
    assert worst_off_attention(run)[-1] < -100


# --- Invariances ------------------------------------------------------------------------------------------------------


@quick
@given(seed=seeds, rule=st.sampled_from(RULES))
def test_equal_queries_count_as_one(seed, rule):
    problem = gaussian(3, 3, 15, seed=seed)
    repeated = replace(problem, queries=np.repeat(problem.queries, 3, axis=1), query_mask=None)
    one, three = train(problem, rule, 50), train(repeated, rule, 50)
    np.testing.assert_allclose(three.W(-1), one.W(-1), atol=1e-8)


def test_full_self_attention_is_the_tokens_as_queries():
    problem = gaussian(3, 3, 30, seed=5)
    full = problem.self_attention()
    assert full.Q == 3
    np.testing.assert_array_equal(full.queries, problem.tokens)
    direct = train(gaussian(3, 3, 30, seed=5, Q=3), NormalizedGD(0.1), 100)
    np.testing.assert_array_equal(train(full, NormalizedGD(0.1), 100).W(-1), direct.W(-1))


@quick
@given(seed=seeds, rule=st.sampled_from(RULES))
def test_order_of_tokens_and_sequences_does_not_matter(seed, rule):
    problem = gaussian(4, 3, 20, seed=seed)
    rng = np.random.default_rng(seed)
    i, t = rng.permutation(4), rng.permutation(3)
    other = TokenProblem(
        problem.tokens[i][:, t], problem.labels[i], problem.decoder, problem.queries[i], values=problem.values[i][:, t]
    )
    a, b = train(problem, rule, 50), train(other, rule, 50)
    np.testing.assert_allclose(b.W(-1), a.W(-1), atol=1e-8)
    np.testing.assert_allclose(off(b), off(a)[i], atol=1e-7)


@quick
@given(seed=seeds, scale=st.floats(0.3, 3.0))
def test_scaled_tokens_scale_the_clock(seed, scale):
    """Tokens and queries times a: V times a^2, so NGD with eta/a^2 takes W/a^2 along the same margins."""
    problem = gaussian(3, 3, 20, seed=seed)
    scaled = replace(problem, tokens=scale * problem.tokens, queries=scale * problem.queries)
    a = train(problem, NormalizedGD(0.1), 60)
    b = train(scaled, NormalizedGD(0.1 / scale**2), 60)
    np.testing.assert_allclose(b.margins, a.margins, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(scale**2 * b.W(-1), a.W(-1), atol=1e-8)


@quick
@given(seed=seeds, rule=st.sampled_from(RULES))
def test_duplicated_data_train_as_the_data(seed, rule):
    problem = gaussian(3, 3, 20, seed=seed)
    twice = problem.subset(np.array([0, 1, 2, 0, 1, 2]))
    np.testing.assert_allclose(train(twice, rule, 50).W(-1), train(problem, rule, 50).W(-1), atol=1e-8)


@quick
@given(seed=seeds, rule=st.sampled_from(RULES), full=st.booleans())
def test_padding_does_not_count(seed, rule, full):
    problem = gaussian(3, 3, 20, seed=seed, Q=3 if full else 1)
    rng = np.random.default_rng(seed)

    def pad(x, width):
        return np.concatenate([x, rng.standard_normal((3, 2, width))], axis=1)

    mask = np.arange(5)[None, :] < np.full((3, 1), 3)
    tokens = pad(problem.tokens, 20)
    queries = tokens if full else problem.queries
    query_mask = mask if full else None
    values = pad(problem.values, 1)
    padded = TokenProblem(tokens, problem.labels, problem.decoder, queries, mask, query_mask, values)
    a, b = train(problem, rule, 50), train(padded, rule, 50)
    np.testing.assert_allclose(b.W(-1), a.W(-1), atol=1e-10)
    assert (b.attention[-1][..., 3:] == 0).all()
