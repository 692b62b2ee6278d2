"""The token SVM against a second solver, its certificate, closed forms, invariances, and Farkas certificates."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenmargin.data.problem import TokenProblem
from tokenmargin.data.synthetic import gaussian, orthogonal, taught
from tokenmargin.errors import InfeasibleSVMError, InvalidProblemError, SolverError
from tokenmargin.margin.token_svm import FEASIBILITY, solve_token_svm

METHODS = ["gram", "working-set"]
seeds = st.integers(0, 2**32 - 1)


def solve_or_skip(problem, **options):
    try:
        return solve_token_svm(problem, **options)
    except InfeasibleSVMError:
        assume(False)


def close(a, b, tolerance):
    return np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b)


# --- Agreement, and the certificate ---------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(seed=seeds, n=st.integers(1, 5), T=st.integers(2, 4), d=st.integers(2, 6), full=st.booleans())
def test_agrees_with_cvxpy(seed, n, T, d, full):
    problem = gaussian(n, T, d, seed=seed, scores="gaussian", Q=T if full else 1)
    svm = solve_or_skip(problem)
    assume(svm.margin > 1e-2 * problem.constraints.norms.max())  # cvxpy's own accuracy falls with the margin
    try:
        slow = solve_token_svm(problem, method="cvxpy", tolerance=1e-5)
    except SolverError:  # Clarabel stops on some problems, and says so
        assume(False)
    assert close(svm.W, slow.W, 1e-6)
    assert svm.margin == pytest.approx(slow.margin, rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(seed=seeds, n=st.integers(1, 12), T=st.integers(2, 6), d=st.integers(2, 30), full=st.booleans())
def test_certificate_and_agreement_of_both_methods(seed, n, T, d, full):
    problem = gaussian(n, T, d, seed=seed, Q=T if full else 1)
    svm = solve_or_skip(problem, method="gram")
    assume(svm.margin > 1e-5 * problem.constraints.norms.max())  # far from the threshold of infeasibility
    assert svm.certificate() <= 1e-9
    other = solve_token_svm(problem, method="working-set")
    assert other.certificate() <= 1e-9
    assert close(other.W, svm.W, 1e-7)


def test_residuals_say_what_their_formulas_say():
    svm = solve_token_svm(gaussian(6, 4, 30, seed=0))
    margins = np.array(
        [
            np.vdot(np.outer(v, z), svm.W)
            for v, z in zip(svm.constraints.difference, svm.constraints.query_vector, strict=True)
        ]
    )
    np.testing.assert_allclose(svm.margins, margins, atol=1e-12)
    assert svm.norm == pytest.approx(np.linalg.norm(svm.W), rel=1e-12)
    worse = type(svm)(svm.constraints, 1.01 * svm.duals, 1.01 * svm.margins)
    assert worse.gap() == pytest.approx(1 - 1 / 1.01, rel=1e-9)
    shrunk = type(svm)(svm.constraints, 0.9 * svm.duals, 0.9 * svm.margins)
    assert shrunk.primal_residual() == pytest.approx(0.1, abs=1e-9)
    flipped = type(svm)(svm.constraints, -svm.duals, svm.margins)
    assert flipped.dual_residual() == pytest.approx(svm.duals.max() / svm.duals.sum())


@pytest.mark.parametrize(("n", "T", "d"), [(62, 6, 40), (80, 5, 12)])
def test_many_constraints_need_no_whole_gram(n, T, d):
    problem = taught(n, T, d, seed=1)
    assert len(problem.constraints) > 300
    svm = solve_token_svm(problem)
    assert svm.certificate() <= 1e-9
    assert "gram" not in vars(problem.constraints)
    assert close(svm.W, solve_token_svm(problem, method="gram").W, 1e-7)


# --- Closed forms ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_one_constraint_in_closed_form(method):
    problem = gaussian(1, 2, 7, seed=3)
    svm = solve_token_svm(problem, method=method)
    c = problem.constraints
    V = np.outer(c.difference[0], c.query_vector[0])
    np.testing.assert_allclose(svm.W, V / np.vdot(V, V), rtol=1e-12)
    assert svm.margin == pytest.approx(np.linalg.norm(V), rel=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_orthonormal_tokens_in_closed_form(method):
    # |x_opt - x_t|^2 = 2, inner products within a sequence 1 (+1 on the diagonal), so lambda = 1/T for each of T-1
    n, T = 3, 4
    svm = solve_token_svm(orthogonal(n, T, n * T, seed=0), method=method)
    np.testing.assert_allclose(svm.duals, 1.0 / T, rtol=1e-10)
    assert svm.margin == pytest.approx(np.sqrt(T / (n * (T - 1))), rel=1e-10)


# --- Invariances ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_duplicated_sequences_change_nothing(method, seed):
    problem = gaussian(4, 3, 12, seed=seed)
    svm = solve_or_skip(problem, method=method)
    twice = solve_token_svm(problem.subset([0, 1, 2, 3, 0, 1, 2, 3, 3]), method=method)
    assert twice.certificate() <= 1e-9
    assert close(twice.W, svm.W, 1e-7)


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_order_of_sequences_and_tokens_does_not_matter(seed):
    problem = gaussian(4, 4, 16, seed=seed)
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(4), rng.permutation(4)
    shuffled = TokenProblem(
        problem.tokens[rows][:, columns],
        problem.labels[rows],
        problem.decoder,
        problem.queries[rows],
        values=problem.values[rows][:, columns],
    )
    assert close(solve_or_skip(shuffled).W, solve_or_skip(problem).W, 1e-7)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1e3])
def test_scaled_tokens_scale_the_margin(method, scale):
    problem = gaussian(5, 4, 40, seed=2)
    scaled = TokenProblem(
        scale * problem.tokens, problem.labels, problem.decoder, scale * problem.queries, values=problem.values
    )
    svm, other = solve_token_svm(problem, method=method), solve_token_svm(scaled, method=method)
    assert other.margin == pytest.approx(scale**2 * svm.margin, rel=1e-9)
    assert close(scale**2 * other.W, svm.W, 1e-8)


@pytest.mark.parametrize("method", METHODS)
def test_padding_changes_nothing(method):
    problem = gaussian(5, 4, 40, seed=4)
    padded = TokenProblem(
        np.concatenate([problem.tokens, np.full((5, 2, 40), 9.0)], axis=1),
        problem.labels,
        problem.decoder,
        problem.queries,
        mask=np.arange(6) < np.full((5, 1), 4),
        values=np.concatenate([problem.values, np.full((5, 2, 1), 9.0)], axis=1),
    )
    svm, other = solve_token_svm(problem, method=method), solve_token_svm(padded, method=method)
    np.testing.assert_array_equal(other.W, svm.W)


def test_another_selection_is_solved_and_checked():
    problem = gaussian(3, 3, 30, seed=5)
    selection = (problem.optimal + 1) % 3
    svm = solve_token_svm(problem, selection)
    logits = np.einsum("itd,de,ie->it", problem.tokens, svm.W, problem.queries[:, 0])
    np.testing.assert_array_equal(logits.argmax(axis=1), selection)
    with pytest.raises(InvalidProblemError, match="one integer token index for each of 3 sequences"):
        solve_token_svm(problem, [0, 1])


# --- Infeasible problems and errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["gram", "working-set", "cvxpy"])
@pytest.mark.parametrize("seed", range(5))
def test_infeasible_problems_carry_a_farkas_certificate(method, seed):
    problem = gaussian(12, 4, 3, seed=seed)
    with pytest.raises(InfeasibleSVMError, match="a convex combination of the constraints of sequence") as caught:
        solve_token_svm(problem, method=method)
    error, c = caught.value, problem.constraints
    assert error.farkas.shape == (len(c),)
    assert error.farkas.min() >= 0.0
    assert error.farkas.sum() == pytest.approx(1.0)
    accuracy = 1e-6 if method == "cvxpy" else FEASIBILITY
    assert np.linalg.norm(c.combine(error.farkas)) <= accuracy * c.norms.max()
    assert set(error.sequences) == set(c.sequence[error.farkas > 1e-6])
    assert "Use a larger d, fewer sequences, or another selection." in str(error)


@pytest.mark.parametrize("method", METHODS)
def test_opposite_constraints_are_infeasible(method):
    # the same two tokens and query, the optimal token swapped: V_1 = -V_2
    x = np.array([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]], [[1.0, 2.0], [3.0, 1.0]]])
    problem = TokenProblem(x, [1, -1, 1], [1.0, -1.0], np.ones((3, 2)))
    with pytest.raises(InfeasibleSVMError, match=r"sequence\(s\) 0, 1 vanishes") as caught:
        solve_token_svm(problem, method=method)
    np.testing.assert_allclose(caught.value.farkas, [0.5, 0.5, 0.0], atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_equal_tokens_with_different_values_are_infeasible(method):
    problem = TokenProblem(np.ones((1, 2, 3)), [1], [1.0], values=np.array([[[0.0], [1.0]]]))
    with pytest.raises(InfeasibleSVMError):
        solve_token_svm(problem, method=method)


def test_many_infeasible_constraints_are_recognised():
    problem = gaussian(150, 4, 8, seed=0)
    with pytest.raises(InfeasibleSVMError) as caught:
        solve_token_svm(problem)
    assert caught.value.residual < FEASIBILITY
    assert "gram" not in vars(problem.constraints)


def test_error_texts():
    problem = gaussian(3, 3, 20, seed=0)
    with pytest.raises(
        ValueError, match="method is 'newton'; it must be one of 'auto', 'gram', 'working-set', 'cvxpy'"
    ):
        solve_token_svm(problem, method="newton")
    with pytest.raises(SolverError, match="above the tolerance") as caught:
        solve_token_svm(problem, method="cvxpy", tolerance=0.0)
    assert "Rescale the tokens" in str(caught.value)
