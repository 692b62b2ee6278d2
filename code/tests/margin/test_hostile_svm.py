"""The token SVM at the edges: any scale, equal and zero tokens, near dependence, raw tables: right, or refused in words.

The judge is rational arithmetic on the data as they stand, written here anew: optimality conditions in fractions.
"""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from tokenmargin.data.constraints import Constraints
from tokenmargin.data.problem import TokenProblem
from tokenmargin.data.synthetic import gaussian, orthogonal
from tokenmargin.errors import InfeasibleSVMError, SolverError
from tokenmargin.margin.exact import exact_least_distance
from tokenmargin.margin.max_norm import solve_max_norm_svm
from tokenmargin.margin.token_svm import TokenSVM, is_separable, solve_token_svm

METHODS = ["gram", "working-set"]


def rescaled(problem, factors):
    """The same sequences, each with its tokens (and so its query) times a factor."""
    factors = np.broadcast_to(factors, problem.n)[:, None, None]
    return TokenProblem(problem.tokens * factors, problem.labels, problem.decoder, values=problem.values)


def exact_matrices(c):
    """V_k in fractions, each a list of d*d numbers, from the tokens and queries as floating point holds them."""
    matrices = []
    for i, q, t in zip(c.sequence, c.query, c.token, strict=True):
        best, other, z = (
            [Fraction(float(x)) for x in row] for row in (c.tokens[i, c.selection[i]], c.tokens[i, t], c.queries[i, q])
        )
        matrices.append([(a - b) * y for a, b in zip(best, other, strict=True) for y in z])
    return matrices


def judge(svm, tolerance=1e-8):
    """Optimality of the duals in fractions: W = sum lambda V has margins >= 1 - tolerance, and sum lambda = ||W||^2.

    Duals are floating-point numbers, so margins of constraints much longer than the shortest carry the rounding of W:
    that much, and no more, is allowed them.
    """
    V = exact_matrices(svm.constraints)
    duals = [Fraction(float(x)) for x in svm.duals]
    assert min(duals) >= 0
    W = [sum(x * v[j] for x, v in zip(duals, V, strict=True)) for j in range(len(V[0]))]
    square = sum(w * w for w in W)
    assert abs(sum(duals) / square - 1) <= tolerance
    for v, norm in zip(V, svm.constraints.norms, strict=True):
        product = sum(a * b for a, b in zip(v, W, strict=True))
        assert product >= 1 - tolerance - Fraction(float(1e-13 * norm * svm.norm))
    assert svm.norm == pytest.approx(float(square) ** 0.5, rel=tolerance)


def judge_farkas(error, c):
    """Rational weights near the given ones make the constraints vanish: the exact solver, then exact arithmetic."""
    found = exact_least_distance(c, error.farkas)
    assert not found.feasible
    assert (error.farkas >= 0.0).all()
    assert error.farkas.sum() == pytest.approx(1.0)
    sizes = error.farkas * c.norms
    assert np.linalg.norm(c.combine(error.farkas)) <= 1e-12 * sizes.sum()


def verdict(problem, **options):
    """'solved', 'infeasible' or 'refused', each verified."""
    try:
        svm = solve_token_svm(problem, **options)
    except InfeasibleSVMError as error:
        judge_farkas(error, problem.constraints)
        return "infeasible"
    except SolverError as error:
        words = "10^" in str(error) and (
            "Rescale the tokens" in str(error) or "Divide tokens and queries" in str(error)
        )
        return "refused" if words else "refused without words"
    assert svm.certificate() <= 1e-9
    judge(svm)
    return "solved"


# --- Scales -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("scale", "norm"), [(1e-3, 816496.5809), (3e-4, 9072184.233), (1e-12, None), (1e12, None)])
def test_orthogonal_tokens_with_one_sequence_scaled(method, scale, norm):
    # Sequences do not meet: ||W||^2 = sum_i s_i^-4 (T - 1)/T.
    svm = solve_token_svm(rescaled(orthogonal(3, 3, 9, seed=0), [1.0, scale, 1.0]), method=method)
    closed = np.sqrt(2 / 3 * (2.0 + scale**-4))
    assert svm.norm == pytest.approx(closed, rel=1e-9)
    assert norm is None or closed == pytest.approx(norm, rel=1e-9)
    assert svm.certificate() <= 1e-9


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(40))
def test_lognormal_norms(method, seed):
    factors = np.random.default_rng(seed).lognormal(0.0, 1.5, 5)
    assert solve_token_svm(rescaled(gaussian(5, 4, 40, seed=seed), factors), method=method).certificate() <= 1e-9


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    exponents=st.lists(st.floats(-8.0, 8.0), min_size=3, max_size=3),
    d=st.integers(2, 8),
    method=st.sampled_from(METHODS),
)
def test_any_scale_of_any_sequence(seed, exponents, d, method):
    problem = gaussian(3, 3, d, seed=seed)
    scaled = rescaled(problem, 10.0 ** np.array(exponents))
    assert verdict(scaled, method=method) == ("solved" if is_separable(problem) else "infeasible")
    assert is_separable(scaled) == is_separable(problem)


ALL, ONE = (True, True, True), (False, True, False)
SOLVED = [
    *((ALL, p) for p in (-75, -70, -40, -12, 12, 40, 70, 75)),
    *((ONE, p) for p in (-75, -40, -12, 12, 40, 75, 100)),
]
REFUSED = [*((ALL, p) for p in (-150, -100, -77, 77, 100, 150)), *((ONE, p) for p in (-150, -100, -77, 150))]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("which", "power"), SOLVED)
def test_extreme_scales_are_solved(method, which, power):
    """Tokens, and with them queries, times 10^power: the ||V_k|| go as the square, the duals as the inverse fourth power."""
    scaled = rescaled(gaussian(3, 3, 6, seed=1), np.where(which, 10.0**power, 1.0))
    assert verdict(scaled, method=method) == "solved"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("which", "power"), REFUSED)
def test_scales_whose_duals_no_float_holds_are_refused(method, which, power):
    scaled = rescaled(gaussian(3, 3, 6, seed=1), np.where(which, 10.0**power, 1.0))
    assert verdict(scaled, method=method) == "refused"
    assert is_separable(scaled)  # the question has no scale


@pytest.mark.parametrize("power", [-150, -100, 100, 150])
def test_the_advice_for_extreme_scales_can_be_followed(power):
    plain = gaussian(3, 3, 6, seed=1)
    problem = rescaled(plain, 10.0**power)
    with pytest.raises(
        SolverError, match=r"Divide tokens and queries by 2\^(-?\d+): exact, and W_mm is then 4\^"
    ) as caught:
        solve_token_svm(problem)
    k = int(str(caught.value).partition("queries by 2^")[2].partition(":")[0])
    svm = solve_token_svm(rescaled(problem, 2.0**-k))
    assert 2.0 ** (-2 * k) * svm.norm == pytest.approx(10.0 ** (-2 * power) * solve_token_svm(plain).norm, rel=1e-9)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3, 1e6, 1e20, 1e70])
def test_support_vectors_do_not_depend_on_the_size_of_one_sequence(scale):
    """The duals of the large sequence are up to 1e-140 of the others': they were called none, and the theory refused."""
    for problem in (gaussian(3, 3, 60, seed=0), gaussian(5, 4, 12, seed=5)):
        svm = solve_token_svm(rescaled(problem, np.where(np.arange(problem.n) == 1, scale, 1.0)))
        np.testing.assert_array_equal(svm.support, svm.margins < 1.0 + 1e-9)
        assert svm.support[svm.constraints.sequence == 1].any()


def test_a_power_of_two_scales_the_solution_exactly():
    problem = gaussian(4, 3, 20, seed=3)
    svm, other = solve_token_svm(problem), solve_token_svm(rescaled(problem, 2.0**100))
    np.testing.assert_array_equal(np.ldexp(other.duals, 400), svm.duals)
    np.testing.assert_array_equal(other.margins, svm.margins)


# --- Equal and zero tokens --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [*METHODS, "cvxpy"])
def test_equal_tokens_say_which(method):
    x = np.random.default_rng(0).standard_normal((2, 3, 4))
    x[1, 2] = x[1, 0]
    problem = TokenProblem(x, [1, 1], [1.0], values=np.array([[[1.0], [0.0], [0.5]]] * 2))
    with pytest.raises(InfeasibleSVMError, match=r"tokens 0 and 2 of sequence 1 are equal: .* keep one, or mask one"):
        solve_token_svm(problem, method=method)
    assert not is_separable(problem)


@pytest.mark.parametrize("method", [*METHODS, "cvxpy"])
def test_a_zero_query_says_so(method):
    x = np.random.default_rng(0).standard_normal((2, 3, 4))
    x[1, 0] = 0.0
    problem = TokenProblem(x, [1, 1], [1.0], values=np.array([[[1.0], [0.0], [0.5]]] * 2))
    words = (
        r"the query of sequence 1 is zero \(the default query is the first token, which is zero\): give another query"
    )
    with pytest.raises(InfeasibleSVMError, match=words) as caught:
        solve_token_svm(problem, method=method)
    assert caught.value.sequences == (1,)
    with pytest.raises(InfeasibleSVMError, match="the query of sequence 1 is zero"):
        solve_max_norm_svm(problem)


# --- Small shapes, near dependence ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(1, 2, 1), (1, 3, 1), (1, 2, 2), (2, 2, 1), (6, 2, 2), (3, 5, 2), (12, 4, 3)])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_small_shapes(method, shape, full, seed):
    n, T, d = shape
    problem = gaussian(n, T, d, seed=seed, Q=T if full else 1)
    assert verdict(problem, method=method) in ("solved", "infeasible")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("power", range(2, 40, 3))
def test_nearly_opposite_constraints_are_solved(method, power):
    # V_1 = e1 + t e2, V_2 = -e1 + t e2: W = e2/t, however small t is; only t = 0 is infeasible.
    t = 2.0**-power
    tokens = np.array([[[1.0, t], [0.0, 0.0]], [[-1.0, t], [0.0, 0.0]]])
    values = np.array([[[1.0], [0.0]]] * 2)
    queries = np.array([[1.0, 0.0]] * 2)
    svm = solve_token_svm(TokenProblem(tokens, [1, 1], [1.0], queries, values=values), method=method)
    np.testing.assert_allclose(svm.W, [[0.0, 0.0], [1.0 / t, 0.0]], rtol=1e-9, atol=1e-9 / t)
    tokens[:, :, 1] = 0.0
    with pytest.raises(InfeasibleSVMError):
        solve_token_svm(TokenProblem(tokens, [1, 1], [1.0], queries, values=values), method=method)


def test_exact_least_distance_from_any_start():
    c = gaussian(3, 3, 4, seed=0).constraints
    outcomes = [exact_least_distance(c, start) for start in (np.zeros(len(c)), np.ones(len(c)), np.eye(len(c))[2])]
    for one in outcomes:
        assert one.feasible
        np.testing.assert_array_equal(one.duals, outcomes[0].duals)
        np.testing.assert_array_equal(one.margins[one.duals > 0.0], 1.0)
    judge(TokenSVM(c, outcomes[0].duals, outcomes[0].margins), 1e-14)


def test_nan_fails_every_certificate():
    svm = solve_token_svm(gaussian(3, 3, 20, seed=0))
    for duals, margins in [(svm.duals * np.nan, svm.margins), (svm.duals, svm.margins * np.nan)]:
        assert not TokenSVM(svm.constraints, duals, margins).certificate() <= np.inf


def test_tokens_whose_difference_overflows_are_refused():
    tokens = np.array([[[1.5e308, 1.0], [-1.5e308, 0.0]]])
    problem = TokenProblem(tokens, [1], [1.0], np.ones((1, 2)), values=np.array([[[1.0], [0.0]]]))
    with pytest.raises(SolverError, match="exceeds floating point"):
        solve_token_svm(problem)


# --- Raw tables -------------------------------------------------------------------------------------------------------

TABLES = {
    "breast cancer": lambda: load_breast_cancer(return_X_y=True)[0],
    "wine": lambda: load_wine(return_X_y=True)[0],
    "diabetes": lambda: load_diabetes(return_X_y=True, scaled=False)[0],
}


def largest_separation(c):
    """max over |W_ij| <= 1 of min_k <V_k/||V_k||, W>, by HiGHS."""
    left = c.difference / np.linalg.norm(c.difference, axis=1, keepdims=True)
    right = c.query_vector / np.linalg.norm(c.query_vector, axis=1, keepdims=True)
    U = np.einsum("kd,ke->kde", left, right).reshape(len(c), -1)
    goal = np.append(np.zeros(U.shape[1]), -1.0)
    bounds = [(-1.0, 1.0)] * U.shape[1] + [(None, None)]
    return linprog(goal, np.column_stack([-U, np.ones(len(c))]), np.zeros(len(c)), bounds=bounds, method="highs").x[-1]


@pytest.mark.parametrize(
    ("table", "n", "T", "feasible"),
    [
        ("breast cancer", 10, 4, True),
        ("breast cancer", 40, 2, True),
        ("wine", 40, 2, True),
        ("wine", 40, 4, True),
        ("diabetes", 40, 4, True),
        ("diabetes", 110, 4, False),
    ],
)
def test_raw_tables_are_judged_by_a_linear_program(table, n, T, feasible):
    rng = np.random.default_rng(0)
    rows = TABLES[table]()
    x = rows[rng.permutation(len(rows))[: n * T]].reshape(n, T, -1)
    problem = TokenProblem(x, np.ones(n), [1.0], values=rng.standard_normal((n, T, 1)))
    separation = largest_separation(problem.constraints)
    assert (separation > 1e-6) == feasible
    if feasible:
        svm = solve_token_svm(problem)
        assert svm.certificate() <= 1e-9
        assert problem.constraints.margins(svm.W).min() > 1.0 - 1e-9
    else:
        with pytest.raises(InfeasibleSVMError) as caught:
            solve_token_svm(problem)
        c, farkas = problem.constraints, caught.value.farkas
        assert np.linalg.norm(c.combine(farkas)) <= 1e-12 * (farkas @ c.norms)


@pytest.mark.parametrize("seed", range(5))
def test_vectors_are_constraints_with_the_query_one(seed):
    S = np.random.default_rng(seed).standard_normal((6, 8))
    c = Constraints.of_vectors(S)
    np.testing.assert_array_equal(c.gram, S @ S.T)
    assert is_separable(c)
    assert not is_separable(Constraints.of_vectors(np.vstack([S, -S[:1]])))


def test_counting_constraints_forms_no_vector():
    c = gaussian(3, 3, 6, seed=0).constraints
    assert len(c) == 6
    assert not {"difference", "query_vector", "units"} & set(vars(c))
