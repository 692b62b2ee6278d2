"""What weights that nearly cancel the constraints prove, judged by rational arithmetic and by solved problems."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenmargin.data.constraints import Constraints
from tokenmargin.data.problem import TokenProblem
from tokenmargin.data.synthetic import gaussian
from tokenmargin.errors import InfeasibleSVMError
from tokenmargin.margin.exact import combination, exact_least_distance
from tokenmargin.margin.farkas import is_proof, relative_margin_bound
from tokenmargin.margin.token_svm import solve_constraints, solve_token_svm


def opposite(t):
    """V_1 = e_1 + t e_2, V_2 = -e_1 + t e_2, V_3 = -e_2: infeasible for t > 0; without V_3 feasible, of relative margin t."""
    return np.array([[1.0, t], [-1.0, t], [0.0, -1.0]])


def simplex(d, seed):
    """d + 1 Gaussian vectors and positive weights that cancel them up to rounding, in a random order."""
    rng = np.random.default_rng(seed)
    s, w = rng.standard_normal((d, d)), rng.uniform(0.1, 1.0, d + 1)
    s = np.vstack([s, -(w[:d] @ s) / w[d]])
    order = rng.permutation(d + 1)
    return s[order], w[order]


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.floats(-12.0, 12.0), st.floats(0.0, 1.0))
def test_a_proof_is_confirmed_by_rational_arithmetic(seed, d, power, noise):
    s, w = simplex(d, seed)
    size = np.exp(np.random.default_rng(seed).uniform(-power, power, d + 1) if power > 0 else np.zeros(d + 1))
    c = Constraints.of_vectors(s * size[:, None])
    weights = w / size * (1.0 + noise * 1e-3 * np.random.default_rng(seed + 1).standard_normal(d + 1))
    if is_proof(c, weights):
        assert not exact_least_distance(c, weights).feasible


@pytest.mark.parametrize("d", [1, 3, 10, 40])
@pytest.mark.parametrize("scale", [1e-150, 1.0, 1e150])
def test_weights_that_cancel_to_rounding_are_a_proof_at_any_scale(d, scale):
    s, w = simplex(d, d)
    c = Constraints.of_vectors(s * scale)
    assert is_proof(c, w)
    assert relative_margin_bound(c, w) < 1e-14


@pytest.mark.parametrize("t", [0.3, 1e-3, 1e-8])
def test_nothing_is_proved_where_a_margin_exists(t):
    c = Constraints.of_vectors(opposite(t)[:2])
    svm = solve_constraints(c)
    bound = relative_margin_bound(c, np.array([0.5, 0.5]))
    assert bound == pytest.approx(
        t / np.hypot(1.0, t), rel=1e-6
    )  # the largest relative margin, which equal weights attain
    assert svm.margin / c.norms.max() <= bound
    assert not is_proof(c, np.array([0.5, 0.5]))
    assert not is_proof(Constraints.of_vectors(opposite(t)), np.array([0.5, 0.5, 0.0]))
    assert is_proof(Constraints.of_vectors(opposite(t)), np.array([0.5, 0.5, t]))


def test_weights_far_from_cancelling_prove_nothing():
    s, w = simplex(5, 0)
    c = Constraints.of_vectors(s)
    assert not is_proof(c, np.random.default_rng(1).uniform(0.1, 1.0, 6))
    assert not is_proof(c, np.where(np.arange(6) == 2, 0.0, w))


@given(st.integers(0, 2**32 - 1))
def test_no_margin_exceeds_the_bound_of_any_weights(seed):
    problem = gaussian(2, 3, 12, seed=seed)
    c, svm = problem.constraints, solve_token_svm(problem)
    weights = np.random.default_rng(seed).uniform(0.0, 1.0, len(c))
    assert (c.margins(svm.W) / c.norms).min() / svm.norm <= relative_margin_bound(c, weights) * (1.0 + 1e-9)


def test_a_combination_is_exact_where_floats_cancel():
    c = Constraints.of_vectors(np.array([[1.0, 2.0**-80], [-1.0, 2.0**-90]]))
    np.testing.assert_array_equal(combination(c, np.ones(2))[:, 0], [0.0, 2.0**-80 + 2.0**-90])
    np.testing.assert_array_equal(combination(c, np.ones(2), -1000)[:, 0], [0.0, (2.0**-80 + 2.0**-90) * 2.0**-1000])


@pytest.mark.parametrize("spread", [0.0, 1.5])
def test_more_weights_than_rational_arithmetic_takes_are_proved_all_the_same(spread):
    problem = gaussian(350, 4, 15, seed=0)
    factors = np.random.default_rng(0).lognormal(0.0, spread, problem.n)[:, None, None]
    problem = TokenProblem(problem.tokens * factors, problem.labels, problem.decoder, values=problem.values)
    with pytest.raises(InfeasibleSVMError, match=r"vanishes \(proved; relative norm") as caught:
        solve_token_svm(problem)
    assert caught.value.proved
    assert (caught.value.farkas > 0.0).sum() > 200
    assert caught.value.residual < 1e-12
