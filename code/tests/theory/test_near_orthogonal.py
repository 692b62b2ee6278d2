"""The near-orthogonality theorem: closed form, limits, units, and runs from certified starts."""

import numpy as np
import pytest
from tokenmargin.data.problem import TokenProblem
from tokenmargin.data.synthetic import gaussian, orthogonal
from tokenmargin.margin.token_svm import solve_token_svm
from tokenmargin.model.attention import outputs
from tokenmargin.model.losses import negative_slope
from tokenmargin.model.weights import entry_slack
from tokenmargin.theory.near_orthogonal import _least_outputs, lowest_certified_margin, robustness
from tokenmargin.training.rules import NormalizedGD, Polyak
from tokenmargin.training.train import train


def certified(problem, hbar=0.5, **more):
    return robustness(problem, solve_token_svm(problem), hbar, **more)


def test_orthogonal_tokens_do_not_interfere():
    found = certified(orthogonal(4, 3, 20, seed=0))
    assert found.interference < 1e-12
    assert found.slack < 1e-12
    assert found.certified


@pytest.mark.parametrize("e", [0.2, 1.0, 4.0])
def test_two_sequences_of_two_tokens_in_closed_form(e):
    tokens = np.array([[[1.0, 0.0], [0.0, 0.0]], [[-0.01, 1.0], [0.0, 0.0]]])
    problem = TokenProblem(tokens, [1, 1], [1.0], np.eye(2)[[0, 0]], values=[[[1.0], [0.0]]] * 2)
    svm = solve_token_svm(problem)
    found = robustness(problem, svm, 40.0, least_margin=-np.log(e))
    slack = 40.0 * 0.01 / svm.margin
    psi = 1.0 / (1.0 + e) ** 2 if e <= 1.0 else 1.0 / (4.0 * e)
    ratio = np.exp(slack) * 0.01 * psi * (1.0 + e) ** 2 * negative_slope(1.0 / (1.0 + e)) / negative_slope(1.0)
    assert found.slack == pytest.approx(slack)
    assert ratio <= found.interference <= 1.2 * ratio


def test_starts_outside_entry_are_not_certified():
    found = certified(gaussian(4, 4, 400, seed=0, scores="gaussian"))
    assert not found.entered
    assert not found.certified
    assert found.interference == np.inf


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_answer_has_no_units(scale):
    problem = gaussian(4, 3, 60, seed=1)
    other = TokenProblem(
        scale * problem.tokens, problem.labels, problem.decoder, problem.queries, values=problem.values
    )
    a, b = certified(problem), certified(other, 0.5 / scale)
    assert a.interference == pytest.approx(b.interference)
    assert a.slack == pytest.approx(b.slack)


@pytest.mark.parametrize("scores", ["equal", "gaussian"])
def test_least_outputs_are_least(scores):
    problem = gaussian(4, 4, 10, seed=2, scores=scores)
    c, rng = problem.constraints, np.random.default_rng(0)
    for e in (0.1, 1.0, 5.0):
        bound = _least_outputs(problem, np.array([e]))[0]
        for _ in range(200):
            mu = -np.log(e) + rng.exponential(2.0, len(c)) * (rng.uniform(size=len(c)) < 0.5)
            s = np.exp(-mu).reshape(4, 3)
            others = problem.scores[c.sequence, c.token].reshape(4, 3)
            m = (problem.optimal_scores + (s * others).sum(axis=1)) / (1.0 + s.sum(axis=1))
            assert (m >= bound - 1e-12).all()
    assert _least_outputs(problem, np.array([1e-12]))[0] == pytest.approx(problem.optimal_scores)


def test_certification_is_monotone_in_the_least_margin_under_equal_scores():
    problem = gaussian(4, 4, 100, seed=3)
    svm = solve_token_svm(problem)
    ratios = [robustness(problem, svm, 0.5, least_margin=M).interference for M in (-3.0, -1.0, 0.0, 1.0, 3.0)]
    assert (np.diff(ratios) < 0.0).all()
    lowest = lowest_certified_margin(problem, svm, 0.5)
    assert robustness(problem, svm, 0.5, least_margin=lowest).certified
    assert not robustness(problem, svm, 0.5, least_margin=lowest - 0.1).certified


def test_a_problem_far_from_orthogonal_is_never_certified():
    problem = gaussian(4, 4, 4, seed=0)
    assert lowest_certified_margin(problem, solve_token_svm(problem), 0.5) == np.inf


@pytest.mark.parametrize(
    ("scores", "Q", "loss"), [("equal", 1, "logistic"), ("gaussian", 1, "exponential"), ("equal", 3, "exponential")]
)
@pytest.mark.parametrize("seed", range(4))
def test_from_certified_starts_the_least_margin_never_falls(scores, Q, loss, seed):
    problem = gaussian(4, 3, 200, seed=seed, scores=scores, Q=Q)
    svm, c = solve_token_svm(problem), problem.constraints
    M = lowest_certified_margin(problem, svm, 0.5, loss=loss)
    if np.inf == M:
        pytest.skip("not certified anywhere")
    target = M + np.random.default_rng(seed).exponential(2.0, len(c))
    target[seed] = M
    W0 = c.combine(np.linalg.solve(c.gram, target))
    for rule in (NormalizedGD(0.5), NormalizedGD(0.5, 0.5), Polyak(5.0, cap=0.5)):
        run = train(problem, rule, 300, W0, record=np.arange(301), loss=loss)
        assert np.diff(run.margins.min(axis=1)).min() >= -1e-9
        assert min(entry_slack(problem, mu).min() for mu in run.margins) > 0.0
    assert (outputs(problem, run.W()) > problem.second_scores).all()
