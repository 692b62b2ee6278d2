"""Several heads: equal ones, the limit, the motion of a difference, and turns; against runs and closed forms."""

from dataclasses import dataclass

import numpy as np
import pytest
from tokenmargin.data.heads import join_heads, multi_head, split_heads
from tokenmargin.data.problem import TokenProblem
from tokenmargin.data.synthetic import gaussian, orthogonal
from tokenmargin.errors import AssumptionError
from tokenmargin.margin.token_svm import solve_token_svm
from tokenmargin.model.attention import attention, outputs, query_outputs, query_weights
from tokenmargin.model.losses import negative_slope
from tokenmargin.theory.conditions import conditions
from tokenmargin.theory.flip import flip
from tokenmargin.theory.heads import (
    heads_curvatures,
    lead_of_turns,
    linearised_difference,
    one_head_rule,
    turns_threshold,
)
from tokenmargin.theory.one_clock import largest_constraint
from tokenmargin.theory.residual import curvatures, e_inf, residual_limit, stability_threshold
from tokenmargin.training.rules import GradientDescent, NormalizedGD, Polyak
from tokenmargin.training.starts import random_start
from tokenmargin.training.train import train

RULES = [GradientDescent(3.0), NormalizedGD(0.1), NormalizedGD(0.5, decay=0.5), Polyak(0.5), Polyak(0.5, cap=0.3)]
LOSSES = ["logistic", "exponential"]


@dataclass(frozen=True)
class Half:
    """A rule that no theorem here knows."""

    def effective_step(self, t, log_gradient_norm, log_loss_gap):
        return 0.5


@pytest.mark.parametrize("step", RULES)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("output", ["mean", "sum"])
def test_equal_heads_take_the_steps_of_one(step, loss, output):
    problem, J = gaussian(3, 4, 30, seed=1, scores="gaussian"), 3
    W0 = random_start(problem, 0.5, np.random.default_rng(0))
    run = train(multi_head(problem, J, output), step, 150, join_heads([W0] * J), loss=loss)
    read = problem if output == "mean" else problem.with_decoder(J * problem.decoder)
    one = train(read, one_head_rule(step, J), 150, W0, loss=loss)
    np.testing.assert_allclose(split_heads(run.W(), J), [one.W()] * J, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("heads", [2, 3])
def test_what_the_theorems_need_of_several_heads_is_that_of_one(heads, loss):
    problem = gaussian(3, 3, 40, seed=2, scores="gaussian")
    several, svm = multi_head(problem, heads), solve_token_svm(problem)
    all_svm = solve_token_svm(several)
    np.testing.assert_allclose(split_heads(all_svm.W, heads), [svm.W] * heads, atol=1e-12)
    assert all_svm.margin == pytest.approx(svm.margin / np.sqrt(heads), rel=1e-12)
    assert e_inf(several, all_svm, loss) == pytest.approx(np.sqrt(heads) * e_inf(problem, svm, loss), rel=1e-10)
    rest = several.constraints.combine(residual_limit(several, all_svm, loss))
    one = problem.constraints.combine(residual_limit(problem, svm, loss))
    np.testing.assert_allclose(split_heads(rest, heads), [one] * heads, atol=1e-10)
    np.testing.assert_allclose(curvatures(all_svm), heads_curvatures(svm, heads), rtol=1e-10)
    assert turns_threshold(svm, heads) == pytest.approx(stability_threshold(all_svm), rel=1e-10)


@pytest.mark.parametrize("problem", [orthogonal(3, 3, 9, seed=0), gaussian(3, 3, 9, seed=0, scores="gaussian")])
def test_the_conditions_are_those_of_one_head_and_entry_that_of_every_head(problem):
    several, one = multi_head(problem, 2), conditions(problem)
    rng = np.random.default_rng(5)
    for _ in range(20):
        W = [random_start(problem, 3.0, rng) for _ in range(2)]
        both = conditions(several, join_heads(W))
        assert (both.acute, both.equal_scores) == (one.acute, one.equal_scores)
        slack = [conditions(problem, each).slack for each in W]
        assert both.slack == pytest.approx(min(slack), rel=1e-9)


@pytest.mark.parametrize("step", [NormalizedGD(0.5), Polyak(0.5, cap=1.0)])
def test_under_A_and_S_no_head_is_left_behind(step):
    problem = orthogonal(2, 3, 8, seed=1)
    svm = solve_token_svm(problem)
    rng = np.random.default_rng(2)
    run = train(
        multi_head(problem, 3), step, 20_000, join_heads([random_start(problem, r, rng) for r in (0.1, 3.0, 20.0)])
    )
    for W in split_heads(run.W(), 3):
        assert np.linalg.norm(W / np.linalg.norm(W) - svm.W / svm.norm) < 0.02
        assert problem.constraints.margins(W).min() > 100.0


@pytest.mark.parametrize("Q", [1, 3])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_linear_law_is_the_curvature_of_the_outputs_with_the_slopes_held_fixed(Q, loss):
    problem = gaussian(3, 3, 8, seed=4, scores="gaussian", Q=Q)
    W = random_start(problem, 1.0, np.random.default_rng(0))
    run = train(problem, NormalizedGD(0.1), 1, W, loss=loss)
    start = np.random.default_rng(1).standard_normal(len(problem.constraints))
    D = problem.constraints.combine(start)
    slope = negative_slope(outputs(problem, W), loss) / problem.n

    def pulled(matrix):
        s = attention(problem, matrix)
        f = s * (problem.scores[:, None, :] - query_outputs(problem, s)[:, :, None])
        f = f * (slope[:, None] * query_weights(problem))[:, :, None]
        return np.einsum("iqt,itd,iqe->de", f, problem.tokens, problem.queries)

    curved = (pulled(W + 1e-5 * D) - pulled(W - 1e-5 * D)) / 2e-5
    moved = problem.constraints.combine(linearised_difference(run, start)[1] - start)
    np.testing.assert_allclose(moved, 0.1 / np.linalg.norm(pulled(W)) * curved, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("step", [GradientDescent(10.0), NormalizedGD(0.1), Polyak(0.2)])
def test_a_small_difference_follows_the_linear_law_of_the_one_head_run(step):
    problem, heads = gaussian(3, 4, 30, seed=0), 3
    G = problem.constraints.gram
    rng, every = np.random.default_rng(1), np.arange(301)
    parts = rng.standard_normal((heads, len(G)))
    parts -= parts.mean(axis=0)  # the differences add up to zero
    W0 = join_heads([1e-6 * problem.constraints.combine(part) for part in parts])
    run = train(multi_head(problem, heads), step, 300, W0, record=every)
    one = train(problem, one_head_rule(step, heads), 300, record=every)
    for j, part in enumerate(parts):
        law = linearised_difference(one, part)
        for t in (1, 30, 100):
            measured = 1e6 * (split_heads(run.W(t), heads)[j] - one.W(t))
            error = np.linalg.norm(measured - problem.constraints.combine(law[t]))
            assert error < 1e-3 * np.sqrt(law[t] @ G @ law[t])


def test_under_S_the_curvature_changes_its_sign_where_attention_passes_one_half():
    """Hess m_i[D, D] = g_i s_i (1 - s_i) ((1 - 2 s_i) mean(nu)^2 - Var nu), moments under the attention off the optimal token."""
    problem = gaussian(1, 5, 20, seed=3)
    c, rng = problem.constraints, np.random.default_rng(0)
    for _ in range(20):
        W, D = random_start(problem, 8.0, rng), random_start(problem, 1.0, rng)
        mu, nu = c.margins(W), c.margins(D)
        s, share = 1 / (1 + np.exp(-mu).sum()), np.exp(-mu) / np.exp(-mu).sum()
        mean = share @ nu
        form = s * (1 - s) * ((1 - 2 * s) * mean**2 - share @ (nu - mean) ** 2)
        curved = (outputs(problem, W + 1e-4 * D) + outputs(problem, W - 1e-4 * D) - 2 * outputs(problem, W)) / 1e-8
        assert curved[0] == pytest.approx(form, abs=1e-6)


def test_heads_that_attend_by_half_never_draw_apart_under_steps_of_the_theorem():
    problem, heads = orthogonal(3, 4, 12, seed=0), 3
    svm = solve_token_svm(problem)
    bound = 2.0 * svm.margin / (np.sqrt(heads) * largest_constraint(svm) ** 2)
    rng = np.random.default_rng(0)
    W0 = [random_start(problem, 5.0, rng) + 12.0 * svm.W / svm.norm for _ in range(heads)]
    assert min(attention(problem, W)[np.arange(3), 0, problem.optimal].min() for W in W0) > 0.5
    for step in (NormalizedGD(0.99 * bound), Polyak(0.5, cap=0.99 * bound)):
        run = train(multi_head(problem, heads), step, 3000, join_heads(W0))
        W = np.array([split_heads(run.W(k), heads) for k in range(len(run))])
        for j, l in ((0, 1), (0, 2), (1, 2)):
            distance = np.linalg.norm(W[:, j] - W[:, l], axis=(1, 2))
            assert (np.diff(distance) <= 1e-11).all()
            assert distance[-1] < 0.999 * distance[0]


def test_under_A_the_lead_is_the_first_mode_to_flip():
    """The eigenvalue one belongs to a positive vector of a matrix without negative entries (Perron and Frobenius)."""
    for seed in range(5):
        problem = orthogonal(2, 4, 8, seed=seed)
        svm = solve_token_svm(problem)
        assert curvatures(svm)[-1] <= 1.0 + 1e-12
        for heads in (2, 5):
            assert turns_threshold(svm, heads) == pytest.approx(2.0 * np.sqrt(heads) * svm.norm, rel=1e-12)


@pytest.mark.parametrize("ratio", [1.001, 1.1, 1.5, 20.0, 3000.0])
def test_two_heads_exchange_their_lead_on_the_reduced_map(ratio):
    """R = (x/2 rho)(What, -What) goes to -R: weights e^-x/2 and e^x/2 of W_mm on the two heads."""
    svm = solve_token_svm(gaussian(3, 4, 40, seed=0))
    edge = np.sqrt(8.0) * svm.norm
    x = lead_of_turns(svm, NormalizedGD(ratio * edge))
    part = np.array([1.0, np.exp(-x)]) / np.hypot(1.0, np.exp(-x))  # of the head behind, and of the one ahead
    assert ratio * edge * svm.margin * (part[0] - part[1]) == pytest.approx(2.0 * x, rel=1e-9)
    y = lead_of_turns(svm, Polyak(2.0 * ratio))
    assert 2.0 * ratio * np.tanh(y) == pytest.approx(2.0 * y, rel=1e-9)


def test_the_turns_begin_with_the_fork_of_the_flip_theorem():
    problem = orthogonal(1, 4, 4, seed=0)
    svm, several = solve_token_svm(problem), multi_head(problem, 2)
    both = solve_token_svm(several)
    for step, edge in ((NormalizedGD(1.0), turns_threshold(svm, 2)), (Polyak(1.0), 2.0)):
        ratio = 1.0 + 1e-5
        beyond = NormalizedGD(ratio * edge) if isinstance(step, NormalizedGD) else Polyak(ratio * edge)
        amplitude = flip(several, both, step).amplitude(ratio)  # of (c^1 - c^2)/sqrt(2)
        assert lead_of_turns(svm, beyond) == pytest.approx(np.sqrt(2.0) * svm.margin * amplitude, rel=1e-4)


@pytest.mark.parametrize("ratio", [0.9, 1.2])
def test_two_heads_of_a_run_take_turns_beyond_the_edge_and_not_below(ratio):
    problem = orthogonal(1, 3, 4, seed=1)
    svm = solve_token_svm(problem)
    start = join_heads([0.01 * svm.W, -0.01 * svm.W])
    for step in (NormalizedGD(ratio * turns_threshold(svm, 2)), Polyak(2.0 * ratio)):
        run = train(multi_head(problem, 2), step, 1000, start, record=[998, 999, 1000])
        lead = [svm.margin**2 * np.sum((W[0] - W[1]) * svm.W) for W in (split_heads(run.W(k), 2) for k in (-3, -2, -1))]
        law = lead_of_turns(svm, step)
        np.testing.assert_allclose(np.abs(lead), law, rtol=1e-8, atol=1e-9)
        assert law == 0.0 if ratio < 1.0 else lead[0] * lead[1] < 0.0


def test_a_head_can_stay_on_a_wrong_token_for_ever():
    """Score 1 at -1, 0 at 0, 1/2 at 2: m' vanishes at one point, and beyond it a head runs to the score 1/2."""
    values = np.array([[[1.0], [0.0], [0.5]]])
    problem = TokenProblem([[[-1.0], [0.0], [2.0]]], [1], [1.0], [[1.0]], values=values)
    run = train(multi_head(problem, 2), NormalizedGD(0.05), 20_000, join_heads([[[0.0]], [[1.0]]]))
    left, right = split_heads(run.W(), 2)[:, 0, 0]
    assert run.selection.tolist() == [[0, 2]]
    assert -left / right == pytest.approx(2.0, rel=1e-2)  # of the token SVMs of the two tokens
    gap = np.logaddexp(0.0, -0.75) - np.logaddexp(0.0, -1.0)
    assert np.exp(run.log_loss_gap[-1]) == pytest.approx(gap, rel=1e-9)


def test_what_cannot_be_said_is_refused():
    problem = gaussian(2, 3, 20, seed=0)
    svm, run = solve_token_svm(problem), train(problem, NormalizedGD(0.1), 20)
    with pytest.raises(AssumptionError, match="no scaling is known"):
        one_head_rule(Half(), 2)
    with pytest.raises(AssumptionError, match="must record every iteration"):
        linearised_difference(train(problem, NormalizedGD(0.1), 20, record=[10]), np.ones(4))
    with pytest.raises(AssumptionError, match=r"start has shape \(3,\); give one coefficient for each of 4"):
        linearised_difference(train(problem, NormalizedGD(0.1), 20, record=np.arange(21)), np.ones(3))
    with pytest.raises(AssumptionError, match="one head takes no turns"):
        turns_threshold(svm, 1)
    for step in (GradientDescent(1.0), NormalizedGD(0.1, decay=0.5), Polyak(3.0, cap=1.0)):
        with pytest.raises(AssumptionError, match="has no constant step"):
            lead_of_turns(svm, step)
    assert len(run) > 0
