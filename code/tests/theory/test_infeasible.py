"""The splitting of constraints that no W separates: certificates, closed forms, the floor of the loss gap, and runs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenmargin.data.constraints import Constraints
from tokenmargin.data.contradictions import among_rivals, two_labels
from tokenmargin.data.problem import TokenProblem
from tokenmargin.data.synthetic import gaussian
from tokenmargin.errors import AssumptionError, SolverError
from tokenmargin.margin.token_svm import is_separable, solve_constraints, solve_token_svm
from tokenmargin.model.attention import infimum, loss_value
from tokenmargin.theory import infeasible
from tokenmargin.theory.infeasible import (
    loss_gap_floor,
    separable_component,
    separable_error,
    separable_residual,
    split,
)
from tokenmargin.training.rules import GradientDescent, NormalizedGD
from tokenmargin.training.train import train

MAKERS = {
    "rivals": lambda seed: among_rivals(5, 20, seed=seed),
    "two rivals": lambda seed: among_rivals(5, 20, seed=seed, contradicted=2),
    "labels": lambda seed: two_labels(5, 20, seed=seed),
}


def test_a_feasible_problem_is_separable_throughout_and_gives_the_token_svm():
    problem = gaussian(5, 4, 30, seed=1)
    parts, svm = split(problem), solve_token_svm(problem)
    assert parts.separable.all()
    assert not parts.weights.any()
    assert not len(parts.sequences)
    assert pytest.approx(svm.W, abs=1e-9) == parts.W
    assert parts.margin == pytest.approx(svm.margin)
    assert loss_gap_floor(problem, parts) == 0.0


def test_vectors_in_the_plane_in_closed_form():
    parts = split(Constraints.of_vectors([[3.0, 0.0], [-1.0, 0.0], [1.0, 2.0], [-5.0, 4.0]]))
    assert parts.separable.tolist() == [False, False, True, True]
    assert parts.weights == pytest.approx([0.25, 0.75, 0.0, 0.0])
    assert pytest.approx([0.0, 0.5]) == parts.W.ravel()
    assert parts.margin == pytest.approx(2.0)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("seed", range(5))
def test_both_certificates(kind, seed):
    problem = MAKERS[kind](seed)
    parts, c = split(problem), problem.constraints
    assert parts.proved
    assert not is_separable(problem)
    assert (parts.weights[~parts.separable] > 0.0).all()
    assert not parts.weights[parts.separable].any()
    assert parts.weights.sum() == pytest.approx(1.0)
    assert np.linalg.norm(c.combine(parts.weights)) < 1e-15
    margins = c.margins(parts.W)
    assert margins[parts.separable].min() == pytest.approx(1.0)
    assert margins[~parts.separable] == pytest.approx(0.0, abs=1e-12)
    assert np.linalg.norm(parts.W) == pytest.approx(parts.norm)


def test_nothing_is_separable_when_many_sequences_share_few_dimensions():
    problem = gaussian(12, 4, 3, seed=0)
    parts = split(problem)
    assert not parts.separable.any()
    assert parts.norm == 0.0
    assert len(parts.sequences) == 12
    with pytest.raises(AssumptionError, match="no W_sep"):
        _ = parts.margin


def test_equal_tokens_belong_to_the_rest():
    parts = split(Constraints.of_vectors([[0.0, 0.0], [1.0, 0.0]]))
    assert parts.separable.tolist() == [False, True]
    assert parts.weights.tolist() == [1.0, 0.0]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(-3, 3), min_size=3, max_size=3), min_size=2, max_size=8))
def test_the_splitting_of_integer_vectors_is_proved_and_does_not_depend_on_lengths(rows):
    vectors = np.array(rows, dtype=float)
    parts = split(Constraints.of_vectors(vectors))
    longer = split(Constraints.of_vectors(vectors * 2.0 ** np.arange(len(rows))[:, None]))
    assert parts.proved
    assert (parts.separable == longer.separable).all()
    assert parts.weights @ vectors == pytest.approx(0.0, abs=1e-12)


def test_cancelling_up_to_rounding_only_is_refused_and_says_so():
    tokens = gaussian(3, 4, 20, seed=0).tokens.copy()
    tokens[0, 0] = tokens[0, 1:].mean(axis=0)
    scores = np.tile([[1.0], [0.0], [0.0], [0.0]], (3, 1, 1))
    problem = TokenProblem(tokens, np.ones(3), np.ones(1), values=scores)
    with pytest.raises(SolverError, match="up to rounding only"):
        split(problem)


def test_too_large_for_exact_arithmetic_is_unproved_and_the_same(monkeypatch):
    problem = among_rivals(5, 20, seed=0)
    proved = split(problem)
    monkeypatch.setattr(infeasible, "EXACT", 0)
    unproved = split(problem)
    assert not unproved.proved
    assert (unproved.separable == proved.separable).all()
    assert unproved.weights == pytest.approx(proved.weights)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("loss", ["logistic", "exponential"])
def test_no_matrix_gets_below_the_floor(kind, loss):
    problem = MAKERS[kind](3)
    parts = split(problem)
    floor = loss_gap_floor(problem, parts, loss)
    rng = np.random.default_rng(0)
    tried = [
        parts.W * scale + rng.standard_normal(parts.W.shape) for scale in (0.0, 1.0, 10.0, 100.0) for _ in range(10)
    ]
    least = min(loss_value(problem, W, loss) for W in tried) - infimum(problem, loss)
    assert 0.0 < floor <= least


def test_the_floor_is_reached_where_one_constraint_pays():
    tokens = np.array([[[0.0], [0.0]], [[1.0], [0.0]]])
    problem = TokenProblem(tokens, [1, 1], [1.0], np.ones((2, 1)), values=[[[1.0], [0.0]], [[1.0], [0.0]]])
    parts = split(problem)
    gap = loss_value(problem, np.array([[50.0]])) - infimum(problem)
    assert parts.separable.tolist() == [False, True]
    assert gap == pytest.approx(loss_gap_floor(problem, parts))


@pytest.mark.parametrize("rule", [GradientDescent(5.0), NormalizedGD(0.1)])
def test_the_separable_margins_grow_and_the_rest_stays(rule):
    problem = two_labels(5, 30, seed=1)
    parts = split(problem)
    run = train(problem, rule, 20_000)
    c = separable_component(run, parts)
    assert (np.diff(c) > 0.0).all()
    late = slice(-30, None)
    slope = np.polyfit(np.log(run.iterations[late]), parts.margin * c[late], 1)[0]
    assert slope == pytest.approx(1.0, abs=0.02)
    assert np.abs(run.margins[:, ~parts.separable]).max() < 1.0
    assert separable_error(run, parts)[-1] < 0.1


def test_the_residual_off_the_rest_has_the_predicted_size():
    problem = two_labels(5, 30, seed=2)
    parts = split(problem)
    run = train(problem, GradientDescent(5.0), 30_000)
    assert separable_error(run, parts)[-1] * run.norms[-1] == pytest.approx(
        separable_residual(problem, parts), rel=2e-3
    )


def test_the_residual_knows_where_the_rest_has_stopped():
    problem = two_labels(5, 30, seed=2, low=-0.3)
    parts = split(problem)
    run = train(problem, GradientDescent(5.0), 100_000)
    W, c = run.W(), problem.constraints
    off = ~parts.separable
    gram, margins = c.gram[np.ix_(off, off)], run.margins[-1][off]
    x = np.zeros(len(c))
    x[off] = np.linalg.lstsq(gram, margins, rcond=1e-9)[0]
    W_rest = c.combine(x)
    assert np.abs(margins).max() > 0.5
    predicted = np.hypot(separable_residual(problem, parts, W_rest), np.linalg.norm(W_rest))
    measured = separable_error(run, parts)[-1] * np.linalg.norm(W)
    assert measured == pytest.approx(predicted, rel=5e-3)
    assert abs(separable_residual(problem, parts) / measured - 1.0) > 0.05


def test_the_residual_needs_every_separable_constraint_in_w_sep():
    problem = gaussian(12, 4, 20, seed=0)
    with pytest.raises(AssumptionError, match="no weight"):
        separable_residual(problem, split(problem))


def test_where_both_labels_favour_one_token_the_rest_runs_away():
    problem = two_labels(5, 30, seed=0, low=0.2)
    parts = split(problem)
    run = train(problem, NormalizedGD(0.1), 5_000)
    assert np.abs(run.margins[-1][~parts.separable]).min() > 100.0
    assert separable_error(run, parts)[-1] > 0.3
    assert (np.diff(separable_component(run, parts)) > 0.0).all()


def test_zero_constraints_take_nothing_from_the_separable_part():
    """Copies of the optimal token span nothing: W_sep is the token SVM of the others."""
    x, y = [-1.0, -1.0, 2.0], [1.0, -1.0, 2.0]
    tokens = np.array([[x, y, x]])
    problem = TokenProblem(tokens, [-1.0], [1.0], tokens, values=[[[2.0], [1.0], [0.5]]])
    parts = split(problem)
    assert parts.proved
    zero = problem.constraints.norms == 0.0
    assert zero.any()
    assert (parts.separable == ~zero).all()
    assert problem.constraints.margins(parts.W)[~zero].min() == pytest.approx(1.0)
    vectors = np.einsum("kd,ke->kde", problem.constraints.difference, problem.constraints.query_vector)[~zero]
    alone = solve_constraints(Constraints.of_vectors(vectors.reshape(len(vectors), -1)))
    assert parts.W.ravel() == pytest.approx(alone.W.ravel())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_w_sep_has_margin_one_on_the_separable_part_and_zero_on_the_rest(seed):
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-2, 3, (rng.integers(1, 9), rng.integers(1, 6))).astype(float)
    vectors[rng.integers(len(vectors))] = 0.0
    parts = split(Constraints.of_vectors(vectors))
    margins = vectors @ parts.W.ravel()
    assert margins[~parts.separable] == pytest.approx(0.0, abs=1e-9)
    if parts.separable.any():
        assert margins[parts.separable].min() == pytest.approx(1.0)
        assert parts.duals.sum() == pytest.approx(np.vdot(parts.W, parts.W))
