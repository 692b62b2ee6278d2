"""Heavy ball and Adam: plain loops, many digits, invariances, limits; the max-norm SVM and its certificate."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenmargin.data.problem import TokenProblem
from tokenmargin.data.synthetic import gaussian, orthogonal
from tokenmargin.errors import InfeasibleSVMError, InvalidProblemError
from tokenmargin.margin.max_norm import solve_max_norm_svm
from tokenmargin.margin.token_svm import solve_token_svm
from tokenmargin.measures.selection import is_locally_optimal, settled_svm, worst_off_selection
from tokenmargin.measures.trajectory import direction_error, max_norm_margin, worst_off_attention
from tokenmargin.model.attention import gradient
from tokenmargin.theory.moments import adam_rate
from tokenmargin.training.moments import Adam, HeavyBall, train_with_moments
from tokenmargin.training.rules import GradientDescent, NormalizedGD
from tokenmargin.training.train import train

RULES = [HeavyBall(0.5, 0.9), Adam(0.02), Adam(0.02, eps=0.0), Adam(0.05, 0.5, 0.9, 1e-3), Adam(0.02, 0.0, 0.0, 0.0)]
seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=12, deadline=None, derandomize=True)


def plain(problem, rule, steps, loss):
    """The textbook loops in float64."""
    W = np.zeros((problem.d, problem.d))
    previous, m, v = W, np.zeros_like(W), np.zeros_like(W)
    for t in range(1, steps + 1):
        g = gradient(problem, W, loss)
        if isinstance(rule, HeavyBall):
            W, previous = W - rule.eta * g + rule.beta * (W - previous), W
            continue
        m = rule.beta1 * m + (1 - rule.beta1) * g
        v = rule.beta2 * v + (1 - rule.beta2) * g**2
        W = W - rule.eta * (m / (1 - rule.beta1**t)) / (np.sqrt(v / (1 - rule.beta2**t)) + rule.eps)
    return W


def shifted(problem, shift):
    """Scores plus `shift`: the exponential loss is multiplied by e^-shift, the softmax sees nothing of it."""
    values = problem.values + shift * problem.labels[:, None, None]
    return TokenProblem(problem.tokens, problem.labels, problem.decoder, problem.queries, values=values)


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("loss", ["logistic", "exponential"])
@pytest.mark.parametrize("Q", [1, 3])
def test_the_plain_loop_at_small_norm(rule, loss, Q):
    problem = gaussian(4, 3, 6, seed=1, scores="gaussian", Q=Q)
    run = train_with_moments(problem, rule, 60, loss=loss)
    np.testing.assert_allclose(run.W(), plain(problem, rule, 60, loss), atol=1e-8)


@pytest.mark.parametrize("W0", [None, 0.3])
def test_heavy_ball_without_momentum_is_gradient_descent(W0):
    problem = gaussian(4, 3, 12, seed=0, scores="gaussian")
    start = None if W0 is None else W0 * np.random.default_rng(1).standard_normal((12, 12))
    record = np.arange(51)
    ours = train_with_moments(problem, HeavyBall(2.0, 0.0), 50, start, record=record)
    theirs = train(problem, GradientDescent(2.0), 50, start, record=record)
    for name in ("iterations", "margins", "path_length", "effective_steps", "log_gradient_norm", "log_loss_gap"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-9, atol=1e-9, err_msg=name)
    np.testing.assert_allclose(ours.W(), theirs.W(), atol=1e-10)


@quick
@given(seed=seeds, shift=st.floats(-5.0, 400.0))
def test_adam_without_eps_does_not_see_the_loss_scale(seed, shift):
    problem = gaussian(3, 3, 8, seed=seed)
    rule = Adam(0.02, eps=0.0)
    a, b = (train_with_moments(p, rule, 40, loss="exponential") for p in (problem, shifted(problem, shift)))
    np.testing.assert_allclose(b.W(), a.W(), atol=1e-4)  # the shift rounds the scores; Adam magnifies small entries
    np.testing.assert_allclose(a.log_gradient_norm - b.log_gradient_norm, shift, rtol=1e-6, atol=1e-6)


@quick
@given(seed=seeds, shift=st.floats(0.0, 200.0))
def test_eta_and_eps_scale_with_the_loss(seed, shift):
    problem = gaussian(3, 3, 8, seed=seed)
    other = shifted(problem, shift)
    pairs = [
        (HeavyBall(0.5), HeavyBall(0.5 * np.exp(shift))),
        (Adam(0.02, eps=1e-2), Adam(0.02, eps=1e-2 * np.exp(-shift))),
    ]
    for rule, scaled in pairs:
        a = train_with_moments(problem, rule, 40, loss="exponential")
        b = train_with_moments(other, scaled, 40, loss="exponential")
        np.testing.assert_allclose(b.W(), a.W(), atol=1e-6)


def test_adam_is_exact_far_below_underflow():
    """From 3000 W_mm the gradient is e^-3000: the run is that of the same margins near zero, with the weights' ratios."""
    problem = orthogonal(3, 3, 12, seed=0)
    svm = solve_token_svm(problem)
    start = 3000.0 * svm.W
    run = train_with_moments(problem, Adam(0.01, eps=0.0), 30, start, record=np.arange(31))
    assert run.log_gradient_norm[0] < -2900
    assert np.isfinite(run.log_gradient_norm).all()
    # there the weights are those of e^-mu exactly: the exponential family's own shape does not depend on the depth
    deeper = train_with_moments(problem, Adam(0.01, eps=0.0), 30, 2.0 * start, record=np.arange(31))
    np.testing.assert_allclose(deeper.W() - 2.0 * start, run.W() - start, atol=1e-7)


def test_heavy_ball_underflows_to_rest_and_adam_with_eps_too():
    problem = orthogonal(3, 3, 12, seed=0)
    start = 3000.0 * solve_token_svm(problem).W
    for rule in (HeavyBall(0.5), Adam(0.01)):
        run = train_with_moments(problem, rule, 5, start)
        np.testing.assert_array_equal(run.W(), start)
        assert np.isfinite(run.log_loss_gap).all()


def test_large_eps_makes_adam_momentum():
    """eps far above the gradient: Adam is a heavy ball of step (1 - beta1) eta/eps, but for the bias correction."""
    problem = gaussian(3, 3, 12, seed=0)
    adam = train_with_moments(problem, Adam(1e4, 0.0, 0.999, 1e5), 200)
    ball = train_with_moments(problem, HeavyBall(0.1, 0.0), 200)
    np.testing.assert_allclose(adam.W(), ball.W(), rtol=1e-4, atol=1e-5)


def test_momentum_speeds_gradient_descent_up():
    problem = gaussian(4, 3, 60, seed=0)
    ball = train_with_moments(problem, HeavyBall(0.2, 0.9), 5000)
    descent = train(problem, GradientDescent(2.0), 5000)
    assert ball.log_loss_gap[-1] == pytest.approx(descent.log_loss_gap[-1], abs=0.02)
    assert np.linalg.norm(ball.W() - descent.W()) < 1e-2 * np.linalg.norm(descent.W())


def test_adam_keeps_its_clock():
    problem = gaussian(4, 3, 40, seed=0)
    svm = solve_max_norm_svm(problem)
    for rule in (Adam(1e-3, 0.5, 0.9, 0.0), Adam(1e-2, 0.9, 0.99, 0.0), Adam(0.5, 0.5, 0.9, 0.0)):
        run = train_with_moments(problem, rule, 6000, record=np.array([4000]))
        rate = -(run.log_loss_gap[-1] - run.log_loss_gap[-2]) / 2000
        assert rate == pytest.approx(adam_rate(rule, svm.margin), rel=0.05)
        assert rate < min(rule.eta * svm.margin, -0.5 * np.log(rule.beta2)) * 1.02


def test_adam_rate_solves_the_recursion():
    """The closed form f(r) against Adam's own recursion on a gradient e^{-r t}."""
    rule, margin = Adam(0.01, 0.5, 0.9, 0.0), 3.0
    r = adam_rate(rule, margin)
    move = rule.moves(1, 1)
    for t in range(400):
        change = move(np.ones((1, 1)), -r * t)
    assert margin * change[0, 0] == pytest.approx(r, rel=1e-9)
    assert adam_rate(replace(rule, eta=1e-6), margin) == pytest.approx(3e-6, rel=1e-3)
    assert adam_rate(replace(rule, eta=1e4), margin) == pytest.approx(-0.5 * np.log(0.9), rel=1e-6)


def test_an_entry_without_gradient_stays():
    problem = gaussian(3, 3, 6, seed=0)
    tokens = problem.tokens.copy()
    tokens[:, :, 0] = 0.0
    silent = TokenProblem(tokens, problem.labels, problem.decoder, values=problem.values)
    run = train_with_moments(silent, Adam(0.02, eps=0.0), 20)
    np.testing.assert_array_equal(run.W()[0], 0.0)
    assert np.abs(run.W()[1:, 1:]).min() > 0.0


# --- The max-norm SVM -------------------------------------------------------------------------------------------------


@quick
@given(seed=seeds)
def test_max_norm_svm_is_certified_and_beats_the_frobenius_one(seed):
    problem = gaussian(3, 3, 8, seed=seed)
    svm, frobenius = solve_max_norm_svm(problem), solve_token_svm(problem)
    assert svm.certificate() < 1e-8
    assert svm.margin >= frobenius.margins.min() / np.abs(frobenius.W).max() - 1e-9
    for W in np.random.default_rng(seed).uniform(-1, 1, (5, 8, 8)):  # weak duality at any other W of the box
        assert problem.constraints.margins(W).min() <= svm.bound + 1e-9


def test_max_norm_svm_of_one_constraint_is_its_sign():
    problem = gaussian(1, 2, 5, seed=0)
    V = problem.constraints.combine([1.0])
    svm = solve_max_norm_svm(problem)
    assert svm.margin == pytest.approx(np.abs(V).sum())
    np.testing.assert_allclose(svm.W, np.sign(V), atol=1e-9)


def test_max_norm_svm_of_a_crowd_does_not_exist():
    with pytest.raises(InfeasibleSVMError, match="no matrix W separates the selected tokens"):
        solve_max_norm_svm(gaussian(30, 4, 2, seed=0))


def test_adam_seeks_the_max_norm_margin_and_not_the_frobenius_one():
    problem = gaussian(4, 3, 20, seed=0)
    best, frobenius = solve_max_norm_svm(problem), solve_token_svm(problem)
    run = train_with_moments(problem, Adam(2e-3, 0.5, 0.9, 0.0), 20000, record=np.array([20000]))
    assert max_norm_margin(run, best)[-1] > 0.99 * best.margin
    assert direction_error(run, frobenius)[-1] > 0.2
    assert np.isnan(max_norm_margin(run, best)[0])


# --- What a run settles on --------------------------------------------------------------------------------------------


def test_a_run_settles_on_the_optimal_tokens_of_orthogonal_data():
    problem = orthogonal(3, 3, 9, seed=0)
    run = train(problem, NormalizedGD(0.1), 3000)
    svm = settled_svm(run)
    np.testing.assert_allclose(svm.W, solve_token_svm(problem).W, atol=1e-8)
    assert is_locally_optimal(problem, svm)
    np.testing.assert_allclose(worst_off_selection(run, problem.optimal), worst_off_attention(run), rtol=1e-12)


def test_a_run_can_settle_on_another_token():
    """One sequence, three collinear tokens: the best lies behind the middle one; from far on the other side W goes there."""
    tokens = np.array([[[1.0, 0.0], [0.0, 0.0], [-1.0, 0.2]]])
    problem = TokenProblem(tokens, [1.0], [1.0], np.array([[1.0, 0.0]]), values=np.array([[[1.0], [0.0], [0.5]]]))
    run = train(problem, NormalizedGD(0.1), 3000, W0=np.array([[-9.0, 0.0], [0.0, 0.0]]))
    svm = settled_svm(run)
    assert run.selection.tolist() == [[2]]
    assert is_locally_optimal(problem, svm)
    assert direction_error(run, svm)[-1] < 0.05
    assert worst_off_selection(run, [2])[-1] < -100 < -1 < worst_off_attention(run)[-1] + 1


def test_the_worst_token_is_never_locally_optimal():
    problem = gaussian(3, 3, 20, seed=0, scores="gaussian")
    worst = solve_token_svm(problem, problem.scores.argmin(axis=1))
    assert not is_locally_optimal(problem, worst)
    assert is_locally_optimal(problem, solve_token_svm(problem))


# --- Errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: HeavyBall(0.0), "eta is 0.0; it must be a positive finite number"),
        (lambda: HeavyBall(1.0, 1.0), r"beta is 1.0; it must lie in \[0, 1\)"),
        (lambda: Adam(1.0, beta2=-0.1), "beta2 is -0.1"),
        (lambda: Adam(1.0, eps=-1.0), "eps is -1.0; it must be a finite number >= 0"),
        (lambda: adam_rate(Adam(1.0, 0.9, 0.811), 0.03), "the law needs beta1 <= beta2"),  # three solutions
    ],
)
def test_errors_say_what_to_give(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_bad_records_are_refused():
    with pytest.raises(InvalidProblemError, match="record must hold integers"):
        train_with_moments(gaussian(2, 2, 8, seed=0), HeavyBall(1.0), 10, record=[11])
