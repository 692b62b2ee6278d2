"""Where runs end: starts, fates, and the part of a start that never changes."""

import numpy as np
import pytest
from scipy.stats import norm
from tokenmargin.data.problem import TokenProblem
from tokenmargin.data.synthetic import gaussian, orthogonal
from tokenmargin.errors import AssumptionError
from tokenmargin.margin.token_svm import is_separable, solve_token_svm
from tokenmargin.studies.basins import (
    arrival,
    entered_start,
    first_choice,
    off_span,
    on_signal,
    outcome,
    selected_share,
    signal_ratio,
)
from tokenmargin.theory.conditions import conditions
from tokenmargin.theory.one_clock import polyak_bounds
from tokenmargin.training.rules import NormalizedGD, Polyak
from tokenmargin.training.starts import adversarial_start, in_the_basin, random_start
from tokenmargin.training.train import train


@pytest.mark.parametrize("kind", [random_start, adversarial_start])
def test_starts_have_their_norm(kind):
    problem = orthogonal(3, 3, 10, seed=0)
    assert np.linalg.norm(kind(problem, 7.0, np.random.default_rng(0))) == pytest.approx(7.0)


def test_a_start_in_the_basin_satisfies_E_a_unit_away_from_a_multiple_of_the_svm():
    problem = gaussian(6, 5, 20, seed=3, scores="gaussian")
    svm = solve_token_svm(problem)
    W0 = in_the_basin(problem, svm, np.random.default_rng(0))
    assert conditions(problem, W0).entered
    assert not conditions(problem).entered
    multiples = [np.linalg.norm(W0 - 2.0**k * svm.W) for k in range(12)]
    assert min(abs(np.array(multiples) - 1.0)) < 1e-12


def test_an_adversarial_start_puts_a_wrong_token_ahead_in_every_sequence():
    problem = orthogonal(3, 3, 10, seed=0)
    mu = problem.constraints.margins(adversarial_start(problem, 5.0, np.random.default_rng(0)))
    assert (mu.reshape(3, 2).min(axis=1) < 0).all()


def test_fate_under_the_theorem_is_optimal_and_infeasible_where_no_matrix_separates():
    problem = orthogonal(3, 3, 10, seed=0)
    W0 = adversarial_start(problem, 10.0, np.random.default_rng(0))
    assert outcome(problem, W0)[0] == "optimal"
    middle = np.array([[[0.0], [1.0], [-1.0]]])
    stuck = TokenProblem(middle, [1.0], [1.0], np.ones((1, 1)), values=[[[1.0], [0.0], [0.0]]])
    assert not is_separable(stuck)
    assert outcome(stuck, np.zeros((1, 1)), length=10.0)[0] == "infeasible"


def test_shares_add_up_and_repeat():
    first = selected_share(2, 3, 4, "gaussian", 5.0, 1, 4)
    assert first == selected_share(2, 3, 4, "gaussian", 5.0, 1, 4)
    assert sum(first.values()) == 4


def test_off_span_is_zero_on_the_span_and_everything_off_it():
    problem = orthogonal(2, 2, 6, seed=0)
    svm = solve_token_svm(problem)
    assert off_span(svm, 3.0 * svm.W) == pytest.approx(0.0, abs=1e-12)
    beyond = np.linalg.svd(problem.tokens.reshape(4, 6))[2][-1]
    assert off_span(svm, 2.0 * np.outer(beyond, beyond)) == pytest.approx(2.0)


def test_arrival_meets_its_prediction():
    run = arrival(NormalizedGD(1.0), 0, random_start, 3.0, 0, 3, 3, 1000)
    assert run["reached"]
    assert run["residual"] == pytest.approx(run["predicted"], rel=1e-9)


@pytest.mark.parametrize("scores", ["equal", "gaussian"])
@pytest.mark.parametrize(("loss", "Q"), [("logistic", 1), ("exponential", 1), ("logistic", 4)])
def test_no_polyak_step_leaves_its_bounds_and_the_upper_one_is_not_far(scores, loss, Q):
    """The lemma on the step rules: theta r/B <= h_t <= theta Gamma/rho under (A) from a start inside (E)."""
    rng, closest = np.random.default_rng(0), 0.0
    for seed in range(5):
        problem = orthogonal(3, 4, 14, seed=seed, scores=scores, Q=Q)
        svm = solve_token_svm(problem)
        W0 = entered_start(problem, svm, 4.0, rng)
        low, high = polyak_bounds(problem, svm, W0, 0.7, loss)
        h = train(problem, Polyak(0.7), 200, W0, loss=loss, record=np.arange(201)).effective_steps
        assert low <= h.min()
        assert h.max() <= high
        closest = max(closest, h.max() / high)
    assert closest > 0.01


def test_an_entered_start_is_inside_and_outside_the_basin_no_bound_is_given():
    problem = orthogonal(3, 4, 14, seed=1, scores="gaussian")
    svm = solve_token_svm(problem)
    W0 = entered_start(problem, svm, 20.0, np.random.default_rng(1))
    assert conditions(problem, W0).entered
    with pytest.raises(AssumptionError, match="only if \\(E\\) holds"):
        polyak_bounds(problem, svm, W0 - 40.0 * svm.W)


def test_acute_constraints_are_always_separable_by_their_sum():
    """Under (A) the sum of all constraints has positive margins: the token SVM is feasible."""
    problem = orthogonal(4, 3, 12, seed=2, scores="gaussian")
    c = problem.constraints
    assert conditions(problem).acute
    assert c.margins(c.combine(np.ones(len(c)))).min() >= (c.norms**2).min() * (1 - 1e-12)


@pytest.mark.parametrize("T", [2, 3, 7])
def test_the_first_choice_is_chance_without_signal_and_certain_with_much(T):
    assert first_choice(0.0, T) == pytest.approx(1 / T, rel=1e-9)
    assert first_choice(12.0, T) == pytest.approx(1.0, rel=1e-9)
    assert first_choice(1.3, 2) == pytest.approx(norm.cdf(1.3 / np.sqrt(2)), rel=1e-9)


def test_the_first_choice_of_data_is_the_predicted_share():
    n, T, d, noise = 40, 4, 400, 5.0
    r = signal_ratio(n, T, d, noise)
    shares = [on_signal(n, T, d, noise, seed, steps=2)["first"] for seed in range(25)]
    predicted = first_choice(r, T)
    assert np.mean(shares) == pytest.approx(predicted, abs=4 * np.sqrt(predicted * (1 - predicted) / 1000))
