"""The two-cycle at the edge, against closed forms and against the exact cycle of the reduced map."""

import numpy as np
import pytest
from scipy.optimize import root
from tokenmargin.data.synthetic import gaussian, orthogonal
from tokenmargin.errors import AssumptionError
from tokenmargin.margin.token_svm import solve_token_svm
from tokenmargin.measures.geometry import gram_norm
from tokenmargin.theory.flip import flip
from tokenmargin.theory.residual import polyak_threshold, stability_threshold
from tokenmargin.training.rules import GradientDescent, NormalizedGD, Polyak

RULES = {"NGD": (NormalizedGD(1.0), stability_threshold, 1), "Polyak": (Polyak(1.0), polyak_threshold, 2)}


def reduced_step(problem, svm, rest, rule, size):
    """r -> r + h pi^j (w - p) off W_mm in coefficients; j = 1 for NGD, 2 for Polyak."""
    G, p, power = problem.constraints.gram, svm.duals / svm.duals.sum(), RULES[rule][2]

    def step(r):
        w = p * np.exp(-G @ (r - rest))
        d = w / w.sum() - p
        return r + size * d / np.sqrt(svm.margin**2 + d @ G @ d) ** power

    return step


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("scores", ["equal", "gaussian"])
def test_the_cycle_of_the_reduced_map_is_met_to_first_order(rule, scores):
    problem = gaussian(4, 3, 40, seed=5, scores=scores)
    svm = solve_token_svm(problem)
    step, threshold, _ = RULES[rule]
    fork, G = flip(problem, svm, step), problem.constraints.gram
    plane = np.linalg.svd(np.ones((1, len(G))))[2][1:].T  # moves of R across W_mm: their coefficients add up to zero
    off = []
    for mu in (4e-3, 2e-3, 1e-3):
        move = reduced_step(problem, svm, fork.rest, rule, (1.0 + mu) * threshold(svm))
        A = fork.amplitude(1.0 + mu)
        start = fork.rest + A * fork.direction + A**2 * fork.shift

        def unclosed(y, move=move, start=start):
            r = start + plane @ y
            return plane.T @ (move(move(r)) - r)

        one = start + plane @ root(unclosed, np.zeros(plane.shape[1]), tol=1e-12).x
        assert np.abs(move(move(one)) - one).max() < 1e-11
        two = move(one)
        assert gram_norm(G, one - two) > A  # not the rest point
        mean = 0.5 * (one + two) - fork.rest - A**2 * fork.shift
        exact = np.sort([float(gram_norm(G, r)) for r in (one, two)])
        off.append(
            (
                gram_norm(G, one - two) / (2.0 * A) - 1.0,
                gram_norm(G, mean) / A**2,
                exact - np.sort(fork.branches(1 + mu)),
            )
        )
    amplitudes, means, norms = (np.array(column) for column in zip(*off, strict=True))
    np.testing.assert_allclose(amplitudes[:-1] / amplitudes[1:], 2.0, rtol=0.05)  # linear in mu
    assert (means[1:] < means[:-1]).all()
    assert means[-1] < 0.05
    assert np.abs(norms[-1]).max() < 2e-3 * fork.amplitude(1.001)


@pytest.mark.parametrize(("rule", "coefficient"), [("NGD", 5 / 6), ("Polyak", 4 / 3)])
def test_an_orthogonal_pair_has_the_coefficient_of_its_exact_cycle(rule, coefficient):
    """h/h* = x sqrt(cosh 2x)/sinh x and theta/theta* = 2x coth 2x with x = s A/sqrt(2)."""
    pair = orthogonal(2, 2, 4, seed=1)
    fork = flip(pair, solve_token_svm(pair), RULES[rule][0])
    s = pair.constraints.norms[0]
    assert fork.growth == pytest.approx(coefficient * s**2 / 2.0, rel=1e-10)
    assert np.abs(fork.shift).max() < 1e-10  # no third moment, no shift


def test_the_direction_is_a_unit_vector_across_the_max_margin_ray():
    problem = gaussian(5, 4, 100, seed=2)
    svm = solve_token_svm(problem)
    fork = flip(problem, svm, NormalizedGD(1.0))
    assert gram_norm(fork.gram, fork.direction) == pytest.approx(1.0, rel=1e-12)
    assert abs(svm.margins @ fork.direction) < 1e-12
    a = fork.gram @ fork.direction
    p = svm.duals / svm.duals.sum()
    assert p @ a**2 == pytest.approx(2.0 * svm.margin / stability_threshold(svm), rel=1e-10)


def test_up_to_the_edge_there_is_no_amplitude_and_units_drop_out():
    problem = gaussian(4, 3, 40, seed=3)
    svm = solve_token_svm(problem)
    fork = flip(problem, svm, Polyak(1.0))
    assert fork.amplitude([0.5, 1.0]).tolist() == [0.0, 0.0]
    np.testing.assert_allclose(
        fork.branches([0.5, 1.0]), np.linalg.norm(problem.constraints.combine(fork.rest)), rtol=1e-10
    )
    scaled = type(problem)(
        1e3 * problem.tokens, problem.labels, problem.decoder, 1e3 * problem.queries, values=problem.values
    )
    other = flip(scaled, solve_token_svm(scaled), Polyak(1.0))
    np.testing.assert_allclose(other.amplitude(1.01), 1e-6 * fork.amplitude(1.01), rtol=1e-8)


@pytest.mark.parametrize("step", [GradientDescent(1.0), NormalizedGD(1.0, 0.5), Polyak(1.0, cap=3.0)])
def test_rules_without_a_constant_step_are_refused(step):
    problem = gaussian(4, 3, 40, seed=3)
    with pytest.raises(AssumptionError, match="the flip is known for NormalizedGD with a constant step"):
        flip(problem, solve_token_svm(problem), step)


def test_a_double_mode_is_refused():
    problem = orthogonal(4, 2, 8, seed=0)
    with pytest.raises(AssumptionError, match="needs a simple one"):
        flip(problem, solve_token_svm(problem), NormalizedGD(1.0))
