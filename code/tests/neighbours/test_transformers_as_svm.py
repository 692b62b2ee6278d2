"""The Frobenius and the nuclear token SVM in closed cases, and training against the core engine."""

import numpy as np
import pytest
from tokenmargin.data.problem import TokenProblem
from tokenmargin.data.synthetic import orthogonal
from tokenmargin.errors import InfeasibleSVMError
from tokenmargin.margin.token_svm import is_separable, solve_token_svm
from tokenmargin.model.attention import gradient
from tokenmargin.neighbours import transformers_as_svm as tas
from tokenmargin.training.rules import NormalizedGD
from tokenmargin.training.train import train


def one_problem(n=3, T=4, d=8, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, T, d))
    X /= np.linalg.norm(X, axis=2, keepdims=True)
    return TokenProblem(X, rng.choice([-1.0, 1.0], n), rng.standard_normal(d))


def test_one_constraint_has_the_same_solution_in_both_norms():
    x, z = np.array([3.0, 4.0]), np.array([1.0, 2.0])
    V = np.outer(x, z)[None]
    for norm in ("fro", "nuc"):
        svm = tas.solve_norm_svm(V, norm)
        np.testing.assert_allclose(svm.W, V[0] / (25 * 5), atol=1e-6)
        np.testing.assert_allclose(svm.norm, 1 / np.sqrt(125), rtol=1e-6)


def test_two_sequences_with_orthogonal_queries_and_one_difference_separate_the_norms():
    # V_1 = e1 e1', V_2 = e1 e2': one matrix e1 (1, 1) solves both; nuclear = Frobenius = sqrt 2.
    V = np.zeros((2, 2, 2))
    V[0, 0, 0] = V[1, 0, 1] = 1.0
    for norm in ("fro", "nuc"):
        np.testing.assert_allclose(tas.solve_norm_svm(V, norm).norm, np.sqrt(2), rtol=1e-6)
    # V_2 = e2 e2' instead: every feasible W has trace >= 2, so the nuclear norm is 2 and not sqrt 2.
    V[1] = np.diag([0.0, 1.0])
    np.testing.assert_allclose(tas.solve_norm_svm(V, "fro").norm, np.sqrt(2), rtol=1e-6)
    np.testing.assert_allclose(tas.solve_norm_svm(V, "nuc").norm, 2.0, rtol=1e-6)


def test_frobenius_solution_is_the_core_token_svm():
    problem = one_problem()
    V = tas.selection_constraints(problem.tokens, problem.queries[:, 0], problem.optimal)
    np.testing.assert_allclose(tas.solve_norm_svm(V, "fro").W, solve_token_svm(problem).W, atol=1e-5)


def test_nuclear_solution_has_rank_at_most_n_and_norms_are_ordered():
    problem = one_problem(n=2, T=4, d=7, seed=3)
    V = tas.selection_constraints(problem.tokens, problem.queries[:, 0], problem.optimal)
    nuclear, frobenius = tas.solve_norm_svm(V, "nuc"), tas.solve_norm_svm(V, "fro")
    assert tas.numerical_rank(nuclear.W) <= 2
    assert np.linalg.norm(frobenius.W) <= np.linalg.norm(nuclear.W) * (1 + 1e-6)
    assert nuclear.norm <= np.linalg.norm(frobenius.W, "nuc") * (1 + 1e-6)


def test_infeasible_is_an_error_that_says_what_to_do():
    V = np.array([[[1.0]], [[-1.0]]])
    with pytest.raises(InfeasibleSVMError, match="larger d or another selection"):
        tas.solve_norm_svm(V, "nuc")


def test_equality_constraints_hold_and_the_certificate_includes_them():
    V = np.array([np.diag([1.0, 0.0])])
    E = np.array([np.diag([1.0, -1.0])])
    for norm, value in (("fro", np.sqrt(2)), ("nuc", 2.0)):
        svm = tas.solve_norm_svm(V, norm, E)
        np.testing.assert_allclose(svm.norm, value, rtol=1e-6)
        assert svm.certificate() < 1e-6


def test_descent_is_along_the_negative_gradient():
    problem = one_problem(seed=5)
    W = np.random.default_rng(1).standard_normal((8, 8))
    G = tas.descent(problem.tokens[None], problem.queries[None, :, 0], problem.scores[None], W[None])[0]
    assert tas.alignment(G, -gradient(problem, W)) == pytest.approx(1.0, abs=1e-12)


def test_train_w_agrees_with_the_core_engine():
    problem = one_problem(seed=2)
    W0 = np.zeros((1, 8, 8))
    ours = tas.train_w(
        problem.tokens[None], problem.queries[None, :, 0], problem.scores[None], W0, 0.1, np.array([0, 300])
    )
    core = train(problem, NormalizedGD(0.1), 300)
    np.testing.assert_allclose(ours[-1, 0], core.W(), atol=1e-9)
    np.testing.assert_array_equal(ours[0], W0)


def test_gradient_steps_in_k_and_q_keep_the_imbalance_to_second_order():
    problem = one_problem(seed=2)
    rng = np.random.default_rng(0)
    K, Q = 0.3 * rng.standard_normal((2, 1, 8, 8))
    arrays = (problem.tokens[None], problem.queries[None, :, 0], problem.scores[None])
    drift = []
    for eta in (0.02, 0.01):
        _, imbalance = tas.train_kq(*arrays, K, Q, eta, np.array([0, round(1 / eta)]))
        drift.append(abs(imbalance[1, 0] - imbalance[0, 0]))
    assert drift[1] < 0.6 * drift[0] < 0.02


def test_scaled_forces_stay_exact_where_the_softmax_underflows():
    scores = np.array([[[1.0, 0.0]]])
    f = tas.scaled_forces(np.array([[[5000.0, 0.0]]]), scores)
    np.testing.assert_allclose(f, [[[1.0, -1.0]]] / (1 + np.exp([[[1.0]]])), rtol=1e-12)


def test_mixture_head_finds_the_mixture():
    X = np.eye(3)[None, None]
    target = np.array([[[0.7, 0.3 + 0.2, -0.2]]]) - [[[0.0, 0.2, 0.0]]]
    W = tas.train_mixture(X, np.eye(3)[None, :1], target, 1.0, np.array([20000]))[-1, 0]
    a = W @ np.eye(3)[0]
    assert a[0] - a[1] == pytest.approx(np.log(0.7 / 0.3), abs=2e-2)
    assert a[1] - a[2] > 5.0


def test_alignment_and_direction_error_of_scaled_copies():
    W = np.arange(6.0).reshape(2, 3)
    assert tas.alignment(W, 7 * W) == pytest.approx(1.0)
    assert tas.direction_error(W, 7 * W) == pytest.approx(0.0, abs=1e-15)
    assert tas.direction_error(W, -W) == pytest.approx(2.0)
    assert tas.numerical_rank(np.diag([1.0, 1e-3, 1e-5])) == 2


@pytest.mark.parametrize("norm", ["fro", "nuc"])
def test_relative_margin_is_one_at_the_solution_and_less_elsewhere(norm):
    X, z, scores = tas.random_tokens(1, 2, 3, 5, seed=0)
    V = tas.selection_constraints(X[0], z[0], scores[0].argmax(axis=1))
    svm = tas.solve_norm_svm(V, norm)
    other = svm.W + 0.3 * np.random.default_rng(1).standard_normal((5, 5))
    ratio = tas.relative_margin(np.array([3 * svm.W, other]), V, svm, norm)
    assert ratio[0] == pytest.approx(1.0, abs=1e-6)
    assert ratio[1] < 1.0
    np.testing.assert_array_equal(tas.selected(X, z, svm.W[None]), scores.argmax(axis=2))


def test_random_tokens_are_unit_and_depend_only_on_the_seed():
    X, z, scores = tas.random_tokens(2, 3, 4, 6, seed=7)
    np.testing.assert_allclose(np.linalg.norm(X, axis=-1), 1.0)
    assert z.shape == (2, 3, 6)
    np.testing.assert_array_equal(tas.random_tokens(2, 3, 4, 6, seed=7)[2], scores)
    assert (tas.random_tokens(2, 3, 4, 6, seed=8)[2] != scores).any()


def test_nuclear_solution_is_not_unique_on_orthogonal_tokens():
    # Queries e1, e2, differences e1, e2: diag(1, 1) has nuclear norm 2, and so has the rank-one matrix of ones.
    V = np.array([np.diag([1.0, 0.0]), np.diag([0.0, 1.0])])
    svm = tas.solve_norm_svm(V, "nuc")
    np.testing.assert_allclose(tas.relative_margin(np.ones((2, 2)), V, svm, "nuc"), 1.0, rtol=1e-6)
    assert tas.relative_margin(np.ones((2, 2)), V, tas.solve_norm_svm(V, "fro"), "fro") < 0.8


def test_every_nuclear_solution_lives_on_the_queries_and_the_differences():
    X, z, scores = tas.random_tokens(1, 2, 3, 7, seed=4)
    V = tas.selection_constraints(X[0], z[0], scores[0].argmax(axis=1))
    W = tas.solve_norm_svm(V, "nuc").W
    P = np.linalg.pinv(z[0]) @ z[0]
    np.testing.assert_allclose(W @ P, W, atol=1e-5)
    shrunk = np.random.default_rng(0).standard_normal((7, 7))
    assert np.linalg.norm(shrunk @ P, "nuc") < np.linalg.norm(shrunk, "nuc")


def test_the_face_of_solutions_on_orthonormal_tokens():
    problem = orthogonal(3, 4, 12, seed=0, scores="gaussian")
    tokens, queries, n, T = problem.tokens, problem.queries[:, 0], 3, 4
    V = tas.selection_constraints(tokens, queries, problem.optimal)
    nuclear = tas.solve_norm_svm(V, "nuc")
    assert nuclear.norm == pytest.approx(n * np.sqrt(1 - 1 / T), rel=1e-6)
    g = tokens[np.arange(n), problem.optimal] - tokens.mean(axis=1)
    ends = g.T @ queries, np.outer(g.sum(axis=0), queries.sum(axis=0))
    np.testing.assert_allclose(ends[0], solve_token_svm(problem).W, atol=1e-9)
    for share in (0.0, 0.3, 1.0):
        W = share * ends[0] + (1 - share) * ends[1]
        np.testing.assert_allclose(np.tensordot(V, W, 2), 1.0)
        assert np.linalg.norm(W, "nuc") == pytest.approx(nuclear.norm, rel=1e-6)


def test_a_start_of_rank_one_never_reaches_a_nuclear_solution_of_higher_rank():
    X, z, scores = tas.random_tokens(1, 4, 5, 8, seed=0)
    rng = np.random.default_rng(0)
    K, Q = 0.3 * rng.standard_normal((2, 1, 8, 1)) * rng.standard_normal((1, 1, 1, 8))
    W = tas.train_kq(X, z, scores, K, Q, 0.1, np.array([3000]))[0][-1]
    V = tas.selection_constraints(X[0], z[0], tas.selected(X, z, W)[0])
    svm = tas.solve_norm_svm(V, "nuc")
    assert tas.numerical_rank(W[0], 1e-10) == 1
    assert tas.numerical_rank(svm.W) > 1
    assert tas.relative_margin(W[0], V, svm, "nuc") < 0.97


def test_the_limit_of_kq_training_is_balanced_and_fixed_by_its_own_force():
    X, z, scores = tas.random_tokens(1, 3, 4, 8, seed=2)
    K, Q = 0.1 * np.random.default_rng(1).standard_normal((2, 1, 8, 8))
    W = tas.train_kq(X, z, scores, K, Q, 0.1, np.array([4000]))[0][-1, 0]
    V = tas.selection_constraints(X[0], z[0], tas.selected(X, z, W[None])[0])
    svm = tas.solve_norm_svm(V, "nuc")
    force = np.tensordot(svm.duals, V, 1)
    U, sizes, R = np.linalg.svd(svm.W)
    kept = sizes > 1e-4 * sizes[0]
    np.testing.assert_allclose(U[:, kept].T @ force @ R[kept].T, np.eye(kept.sum()), atol=1e-4)
    assert np.linalg.norm(force, 2) == pytest.approx(1.0, abs=1e-6)
    assert tas.relative_margin(W, V, svm, "nuc") == pytest.approx(1.0, abs=0.02)


def test_separable_agrees_with_the_solver():
    verdicts = []
    for seed in range(20):
        X, z, scores = tas.random_tokens(1, 6, 4, 2, seed=seed)
        alpha = scores.argmax(axis=2)
        V = tas.selection_constraints(X[0], z[0], alpha[0])
        verdicts.append(is_separable(tas.token_constraints(X[0], z[0], alpha[0])))
        (svm,) = tas.selected_svms(X, z, alpha, "fro")
        assert (svm is not None) == verdicts[-1]
        if not verdicts[-1]:
            with pytest.raises(InfeasibleSVMError):
                tas.solve_norm_svm(V, "fro")
    assert 0 < sum(verdicts) < 20


def test_mixture_parts_of_one_sequence_of_orthonormal_tokens_in_closed_form():
    X, z, p = np.eye(4)[None], np.eye(4)[:1], np.array([0.5, 0.3, 0.2])
    W_mm, finite = tas.mixture_parts(X, z, p)
    # logits w with w_0 = w_1 = w_2 = w_3 + 1 and least norm; finite: log p up to a constant, of mean zero.
    np.testing.assert_allclose(W_mm[:, 0], [0.25, 0.25, 0.25, -0.75], atol=1e-6)
    np.testing.assert_allclose(finite[:3, 0], np.log(p) - np.log(p).mean(), atol=1e-12)
    np.testing.assert_allclose(finite[:, 1:], 0.0, atol=1e-12)


def test_singular_values_beyond_the_rank_vanish_with_the_dual_matrix_s_exponents():
    runs = 12
    X, z, scores = tas.random_tokens(runs, 4, 5, 8, seed=50)
    K, Q = 0.3 * np.random.default_rng(1).standard_normal((2, runs, 8, 8))
    W, _ = tas.train_kq(X, z, scores, K, Q, 0.1, np.array([300, 1500, 7500]))
    off: list[list[float]] = [[], []]
    svms = tas.selected_svms(X, z, tas.selected(X, z, W[-1]), "nuc")
    for r, svm in enumerate(svms):
        V = tas.selection_constraints(X[r], z[r], tas.selected(X, z, W[-1])[r])
        for window in (0, 1):
            measured, predicted = tas.rank_exponents(W[window : window + 2, r], V, svm)
            assert len(predicted) == 4 - tas.numerical_rank(svm.W)
            off[window] += list(np.abs(measured - predicted))
    early, late = np.median(off, axis=1)
    assert late < early
    assert late < 0.03


@pytest.mark.parametrize(("n", "T", "d"), [(2, 3, 6), (4, 3, 5), (3, 4, 9)])
@pytest.mark.parametrize("norm", ["fro", "nuc"])
def test_both_norms_have_the_solution_of_the_whole_conic_program(norm, n, T, d):
    """The Frobenius SVM comes from another solver, the nuclear one from the span of the constraints' rows and columns."""
    for seed in range(3):
        X, z, _ = tas.random_tokens(1, n, T, d, seed)
        V = tas.selection_constraints(X[0], z[0], np.zeros(n, dtype=int))
        if not tas.is_separable(tas.token_constraints(X[0], z[0], np.zeros(n, dtype=int))):
            continue
        svm = tas.solve_norm_svm(V, norm)
        W, duals, _ = tas._solve_small(V, norm, None)
        assert svm.norm == pytest.approx(np.linalg.norm(W, norm), rel=1e-6)
        np.testing.assert_allclose(svm.duals.sum(), duals.sum(), rtol=1e-6)
        np.testing.assert_allclose(svm.W, W, atol=1e-3 * svm.norm)
