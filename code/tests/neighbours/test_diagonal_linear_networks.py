"""The limit of diagonal linear networks against the flow, linear programming and closed forms; attention in l1."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenmargin.data.problem import TokenProblem
from tokenmargin.data.synthetic import gaussian
from tokenmargin.errors import InfeasibleSVMError, SolverError
from tokenmargin.margin.token_svm import solve_token_svm
from tokenmargin.model.attention import gradient
from tokenmargin.neighbours import diagonal_linear_networks as dln

LINE, TARGET = np.array([[1.0, 1.0, 1.0], [3.0, 0.0, 1.0]]), np.array([3.0, 3.0])
DEPTHS = (2, 2.5, 3, 4, 7)


def sparse(seed, m=20, N=40, s=3):
    """A (m, N) Gaussian, y = A w of an s-sparse w."""
    rng = np.random.default_rng(seed)
    A, w = rng.standard_normal((m, N)) / np.sqrt(m), np.zeros(N)
    w[rng.choice(N, s, replace=False)] = rng.choice([-1.0, 1.0], s) * rng.uniform(0.5, 1.5, s)
    return A, A @ w


@pytest.mark.parametrize("D", DEPTHS)
def test_network_is_odd_and_its_slope_is_the_derivative(D):
    g, alpha, h = np.linspace(-0.9, 0.9, 7), np.geomspace(0.2, 0.5, 7), 1e-6
    up, down = dln.network(g + h, D, alpha)[0], dln.network(g - h, D, alpha)[0]
    w, slope = dln.network(g, D, alpha)
    np.testing.assert_allclose((up - down) / (2 * h), slope, rtol=1e-6)
    np.testing.assert_allclose(dln.network(-g, D, alpha)[0], -w)


def test_network_beyond_its_domain_is_nan_and_not_a_number_of_the_wrong_branch():
    w, slope = dln.network(np.array([1.0, -1.5, 0.5]), 4, 0.1)
    assert np.isnan(w[:2]).all()
    assert np.isnan(slope[:2]).all()
    assert np.isfinite(w[2])


def test_network_of_depth_two_is_the_limit_of_depths_above_two():
    # (1 - z)^-q with z = g/q -> e^g as q -> infinity: depth two with its gradients summed in another unit.
    g, D = np.array([-1.0, 0.3, 2.0]), 2 + 1e-6
    np.testing.assert_allclose(dln.network(g * (D - 2) / D, D, 0.1)[0], dln.network(g, 2, 0.1)[0], rtol=1e-4)


@pytest.mark.parametrize(("D", "alpha"), [(1.5, 0.1), (np.nan, 0.1), (3, 0.0), (3, -1.0), (2, np.nan)])
def test_depth_and_start_out_of_range_are_errors(D, alpha):
    with pytest.raises(ValueError, match="choose D >= 2 and alpha > 0"):
        dln.network(np.zeros(2), D, alpha)


@pytest.mark.parametrize("D", DEPTHS)
@pytest.mark.parametrize("alpha_D", [10.0, 1e-3])
def test_limit_is_where_the_flow_ends(D, alpha_D):
    A, y = sparse(3, 3, 6, 2)
    alpha = alpha_D ** (1 / D)
    np.testing.assert_allclose(dln.flow_limit(A, y, D, alpha), dln.gradient_flow(A, y, D, alpha), atol=1e-9)


@pytest.mark.parametrize("D", DEPTHS)
def test_limit_interpolates_at_any_start_and_scales_with_the_data(D):
    A, y = sparse(1)
    for alpha_D in (1e3, 1.0, 1e-4, 1e-8):
        w = dln.flow_limit(A, y, D, alpha_D ** (1 / D))
        np.testing.assert_allclose(A @ w, y, atol=1e-9)
        scaled = dln.flow_limit(A, 7 * y, D, (7 * alpha_D) ** (1 / D))
        np.testing.assert_allclose(scaled, 7 * w, atol=1e-8 * np.abs(w).max())


def test_limit_of_a_large_start_is_the_least_euclidean_norm():
    A, y = sparse(2)
    for D in (2, 3):
        np.testing.assert_allclose(dln.flow_limit(A, y, D, 1e3), np.linalg.pinv(A) @ y, atol=1e-4)


def test_dependent_rows_are_a_typed_error():
    for A in (np.ones((2, 3)), np.array([[1.0, 0.3, 0.1], [3.0, 0.9, 0.3]])):
        with pytest.raises(SolverError, match=r"is missed by|rows of A are dependent"):
            dln.flow_limit(A, np.array([1.0, 2.0]), 3, 1e-2)


@pytest.mark.parametrize("D", [2, 2.5, 3, 4])
def test_minimiser_of_the_line_is_the_paper_code_s_closed_form(D):
    p = 2 / D
    t = (4 - 6 * 2 ** (1 / 3) + 9 * 2 ** (2 / 3)) / 31 if D == 2 else 1 / (1 + (3**p / (2**p + 1)) ** (-D / (D - 2)))
    expected = [1 - t, 2 * (1 - t), 3 * t]
    np.testing.assert_allclose(dln.flow_limit(LINE, TARGET, D, 1e-9 ** (1 / D)), expected, atol=1e-9)
    np.testing.assert_allclose(dln.most_even(np.array([1.0, 2, 0]), np.array([-1.0, -2, 3]), D), expected, atol=1e-9)


@given(seed=st.integers(0, 10**6), scale=st.floats(1e-3, 1e3))
@settings(max_examples=30, deadline=None)
def test_l1_minimiser_is_certified_and_beaten_by_no_other_solution(seed, scale):
    A, y = sparse(seed, 6, 12, 6)
    found = dln.l1_minimiser(A, scale * y)
    assert found.certificate < 1e-9
    rng = np.random.default_rng(seed)
    other = found.w + (np.eye(12) - np.linalg.pinv(A) @ A) @ (scale * rng.standard_normal(12))
    assert np.abs(other).sum() >= found.norm * (1 - 1e-9)


def test_weights_of_the_norm_are_a_change_of_columns():
    A, y = sparse(4)
    c = np.random.default_rng(0).uniform(0.5, 2.0, 40)
    weighted = dln.l1_minimiser(A, y, weights=c)
    np.testing.assert_allclose(weighted.w * c, dln.l1_minimiser(A / c, y).w, atol=1e-9)
    assert weighted.norm == pytest.approx(c @ np.abs(weighted.w))


def test_no_solution_and_a_certificate_above_the_tolerance_are_errors():
    with pytest.raises(SolverError, match="no l1 minimiser"):
        dln.l1_minimiser(np.array([[1.0], [1.0]]), np.array([1.0, 2.0]))
    with pytest.raises(SolverError, match="certificate"):
        dln.l1_minimiser(*sparse(0), tolerance=-1.0)


def test_least_ratio_in_closed_form_and_below_one_exactly_for_the_only_minimiser():
    # A = [1, 1 - eps], w = (1, 0): the one dual is 1, so r = 1 - eps.
    r, dual = dln.least_ratio(np.array([[1.0, 0.7]]), np.array([1.0, 0.0]))
    assert r == pytest.approx(0.7)
    np.testing.assert_allclose(dual, [1.0])
    A, y = sparse(5)
    w = dln.l1_minimiser(A, y).w
    r, dual = dln.least_ratio(A, w)
    on = np.abs(w) > 1e-9
    np.testing.assert_allclose(A[:, on].T @ dual, np.sign(w[on]))
    assert np.abs(A[:, ~on].T @ dual).max() == pytest.approx(r)
    assert r < 1
    tie = np.array([[1.0, 1.0, 0.0]])
    assert dln.least_ratio(tie, np.array([1.0, 0.0, 0.0]))[0] == pytest.approx(1.0)


@pytest.mark.parametrize("D", DEPTHS)
def test_first_order_law_has_an_error_of_second_order(D):
    A, y = sparse(7)
    w = dln.l1_minimiser(A, y).w
    _, dual = dln.least_ratio(A, w)
    sizes, off = [], []
    for alpha_D in (1e-4, 1e-6):
        moved = dln.flow_limit(A, y, D, alpha_D ** (1 / D)) - w
        sizes.append(np.abs(moved).sum())
        off.append(np.abs(moved - dln.first_order(A, w, dual, D, alpha_D ** (1 / D))).sum())
    assert off[1] < 0.02 * sizes[1]
    assert off[1] / sizes[1] < 0.2 * off[0] / sizes[0]


def test_first_order_law_where_the_support_fills_all_rows():
    A, y = sparse(3, 3, 6, 3)
    w = dln.l1_minimiser(A, y).w
    assert (np.abs(w) > 1e-9).sum() == 3
    moved = dln.flow_limit(A, y, 3, 1e-3) - w
    np.testing.assert_allclose(dln.first_order(A, w, dln.least_ratio(A, w)[1], 3, 1e-3), moved, rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize("D", [2.5, 3, 4])
def test_knee_is_the_limit_of_nearly_equal_columns(D):
    for x in (0.1, 1.0, 10.0):
        off = []
        for eps in (1e-2, 1e-4):
            w = dln.flow_limit(np.array([[1.0, 1 - eps]]), np.ones(1), D, (x * eps) ** (1 / (D - 2)))
            off.append(abs(w[1] / dln.knee(x, D) - 1))
        assert off[1] < 1e-3
        assert off[1] < 0.05 * off[0]


def test_depth_two_has_no_knee():
    for x, D in ((1.0, 2), (0.0, 3), (np.nan, 3)):
        with pytest.raises(ValueError, match="it needs D > 2 and x > 0"):
            dln.knee(x, D)


def test_depth_two_on_two_columns_is_a_power_of_the_start():
    for eps in (0.3, 0.01):
        w = dln.flow_limit(np.array([[1.0, 1 - eps]]), np.ones(1), 2, 1e-4)
        assert w[1] == pytest.approx(1e-8**eps * w[0] ** (1 - eps), rel=1e-6)


@pytest.mark.parametrize("D", [2.5, 4])
def test_unequal_starts_weigh_the_norm_of_deep_networks(D):
    A, y = sparse(1)
    shape = np.exp2(np.random.default_rng(0).uniform(-2, 2, 40))
    weighted, plain = dln.l1_minimiser(A, y, weights=shape ** (2 - D)), dln.l1_minimiser(A, y)
    np.testing.assert_allclose(dln.flow_limit(A, y, D, 1e-10 ** (1 / D) * shape), weighted.w, atol=1e-4)
    if D == 4:
        assert np.abs(weighted.w - plain.w).max() > 0.1
    np.testing.assert_allclose(dln.flow_limit(A, y, 2, 1e-7 * shape), plain.w, atol=2e-3)


def test_l1_token_svm_is_certified_and_smaller_in_its_norm_than_the_frobenius_one():
    problem = gaussian(5, 4, 20, seed=1)
    V, svm, frobenius = dln.constraint_matrix(problem), dln.l1_token_svm(problem), solve_token_svm(problem)
    np.testing.assert_allclose(V @ frobenius.W.ravel(), frobenius.margins)
    assert (V @ svm.w).min() >= 1 - 1e-9
    assert svm.duals.min() >= -1e-9
    assert np.abs(V.T @ svm.duals).max() <= 1 + 1e-9
    assert svm.duals.sum() == pytest.approx(svm.norm)
    assert svm.norm < np.abs(frobenius.W).sum()
    assert np.linalg.norm(svm.w) > frobenius.norm
    ratio = dln.relative_l1_margin(np.array([3 * svm.w, frobenius.W.ravel()]), V, svm)
    assert ratio[0] == pytest.approx(1.0)
    assert ratio[1] < 1


def test_l1_token_svm_of_one_constraint_takes_its_largest_entry():
    tokens = np.array([[[3.0, 1.0], [0.0, 0.0]]])
    problem = TokenProblem(tokens, np.ones(1), np.array([1.0, 0.0]), np.array([[0.5, 2.0]]))
    np.testing.assert_allclose(dln.l1_token_svm(problem).w, [0.0, 1 / 6.0, 0.0, 0.0])


def test_tokens_that_no_matrix_separates_are_the_core_s_typed_error():
    tokens = np.array([[[1.0], [0.0]], [[-1.0], [0.0]]])
    problem = TokenProblem(tokens, np.array([1.0, -1.0]), np.ones(1), np.ones((2, 1)))
    with pytest.raises(InfeasibleSVMError, match="no matrix W separates"):
        dln.l1_token_svm(problem)


def test_first_steps_in_squares_are_normalised_gradient_steps_of_the_loss():
    problem, eta, alpha = gaussian(3, 4, 6, seed=2, scores="gaussian"), 0.05, 0.3
    U = V = np.full((6, 6), alpha)
    expected = [np.zeros(36)]
    for _ in range(5):
        G = gradient(problem, U * U - V * V)
        size = eta / np.sqrt(((U * G) ** 2 + (V * G) ** 2).sum())
        U, V = U - size * U * G, V + size * V * G
        expected.append((U * U - V * V).ravel())
    np.testing.assert_allclose(dln.train_squares(problem, eta, alpha, np.arange(6)), expected, atol=1e-12)


def test_entries_under_one_constraint_grow_with_the_exponents_of_its_entries():
    # One constraint V: every gradient is along V, so U_ij grows by 1 + h V_ij and |W_ij| as |W_max|^(|V_ij|/max |V|).
    tokens = np.array([[[2.0, 1.0], [0.0, 0.0]]])
    problem = TokenProblem(tokens, np.ones(1), np.array([1.0, 0.0]), np.array([[1.0, -0.5]]))
    W = np.abs(dln.train_squares(problem, 0.01, 0.1, np.array([300, 3000])))
    exponents = np.log(W[1] / W[0]) / np.log(W[1, 0] / W[0, 0])
    np.testing.assert_allclose(exponents, [1.0, 0.5, 0.5, 0.25], atol=0.01)
