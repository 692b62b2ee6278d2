"""Exact projections, the second moment against enumeration, and attention on a mask."""

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tokenmargin import NormalizedGD, TokenProblem, conditions, solve_token_svm, train
from tokenmargin.data import synthetic
from tokenmargin.model.attention import gradient, loss_value
from tokenmargin.neighbours import graph_svrg_iht as graph
from tokenmargin.neighbours.graph_svrg_iht import Rule

VECTORS = arrays(float, 7, elements=st.floats(-10.0, 10.0))


@given(x=VECTORS, s=st.integers(1, 7))
def test_projection_is_the_nearest_window(x, s):
    kept = graph.project(x, s)
    best = min(np.sum(np.delete(x, np.s_[i : i + s]) ** 2) for i in range(7 - s + 1))
    assert np.sum((x - kept) ** 2) == pytest.approx(best, abs=1e-9)
    np.testing.assert_allclose(graph.project(kept, s), kept)


@given(x=VECTORS, s=st.integers(1, 6))
def test_threshold_is_the_nearest_sparse_vector(x, s):
    kept = graph.threshold(x, s)
    best = min(np.sum(x[list(out)] ** 2) for out in combinations(range(7), 7 - s))
    assert np.sum((x - kept) ** 2) == pytest.approx(best, abs=1e-9)
    assert np.count_nonzero(kept) <= s


@pytest.mark.parametrize("s", [0, 8])
def test_a_window_fits_the_graph(s):
    with pytest.raises(ValueError, match="1 to 7"):
        graph.project(np.ones(7), s)


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"eta": 0.0}, "eta"), ({"eta": np.nan}, "eta"), ({"method": "saga"}, "unknown"), ({"scale": "max"}, "unknown")],
)
def test_bad_rules_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Rule(**({"s": 2, "eta": 0.1} | fields))


def test_blocks_fill_the_rows():
    assert Rule(2, 0.1, block=4).blocks(12) == 3
    with pytest.raises(ValueError, match="whole blocks"):
        Rule(2, 0.1, block=5).blocks(12)


def problem(seed=0, R=1, n=24, p=20, s=3, noise=0.3):
    return graph.signals(R, n, p, s, noise, np.random.default_rng(seed))


def test_one_block_is_projected_gradient_descent():
    A, y, _ = problem()
    path = graph.descend(A, y, Rule(3, 0.1, block=24), 4, np.random.default_rng(0))
    x = np.zeros(20)
    for k in range(4):
        x = graph.project(x - 0.1 * 2.0 * A[0].T @ (A[0] @ x - y[0]), 3)
        np.testing.assert_allclose(path[k + 1, 0], x, atol=1e-12)


def test_runs_are_independent_of_each_other():
    A, y, _ = problem(R=3)
    rule = Rule(3, 0.05, block=24, head=9)
    together = graph.descend(A, y, rule, 3, np.random.default_rng(0))
    alone = [graph.descend(A[[r]], y[[r]], rule, 3, np.random.default_rng(0))[:, 0] for r in range(3)]
    np.testing.assert_allclose(together.swapaxes(0, 1), alone, atol=1e-14)


def test_signals_have_their_shapes_and_supports():
    for connected in (True, False):
        A, y, x = graph.signals(50, 8, 20, 4, 0.0, np.random.default_rng(0), connected=connected)
        assert (np.abs(x).sum(axis=1) == 4).all()
        np.testing.assert_allclose(np.einsum("rnp,rp->rn", A, x), y)
        spans = np.array([np.ptp(np.flatnonzero(row)) for row in x])
        assert (spans == 3).all() == connected


def mean_over_draws(A, y, x, rule, draws):
    """Mean of ||x - x_LS||^2 and of x - x_LS after one epoch over all m^m draws of blocks, by the equations."""
    m, best = rule.blocks(len(A)), np.linalg.lstsq(A, y)[0]
    factor = m if rule.scale == "means" else 1.0
    square, mean = 0.0, np.zeros(len(x))
    for draw in product(range(m), repeat=m):
        z = x
        for i in draw:
            a, b = A.reshape(m, -1, len(x))[i], y.reshape(m, -1)[i]
            v = factor * 2.0 * a.T @ (a @ z - b)
            if rule.method == "svrg":
                v = v - factor * 2.0 * a.T @ (a @ x - b) + 2.0 * A.T @ (A @ x - y)
            z = z - rule.eta * v
        square += np.sum((z - best) ** 2) / draws
        mean += (z - best) / draws
    return square, mean


@pytest.mark.parametrize("method", ["svrg", "sto"])
@pytest.mark.parametrize("scale", ["means", "sums"])
def test_second_moment_is_the_mean_over_all_draws(method, scale):
    rng = np.random.default_rng(1)
    A, y, x = rng.standard_normal((6, 2)) / 2.0, rng.standard_normal(6), np.array([1.0, -2.0])
    rule = Rule(2, 0.1, block=2, method=method, scale=scale)
    square, _ = mean_over_draws(A, y, x, rule, 27)
    moment = graph.mean_square(A, y, x, rule, 1)
    assert moment[0] == pytest.approx(np.sum((x - np.linalg.lstsq(A, y)[0]) ** 2))
    assert moment[1] == pytest.approx(square, rel=1e-12)


@pytest.mark.parametrize("scale", ["means", "sums"])
def test_mean_factors_are_those_of_all_draws(scale):
    rng = np.random.default_rng(2)
    A, y, x = rng.standard_normal((6, 2)) / 2.0, rng.standard_normal(6), np.array([1.0, -2.0])
    _, mean = mean_over_draws(A, y, x, Rule(2, 0.1, block=2, scale=scale), 27)
    values, vectors = np.linalg.eigh(2.0 * A.T @ A)
    factors = graph.mean_factors(values, 0.1, 3, scale)
    start = x - np.linalg.lstsq(A, y)[0]
    np.testing.assert_allclose(mean, vectors @ (factors * (vectors.T @ start)), rtol=1e-11)


@given(m=st.integers(2, 200), largest=st.floats(0.1, 10.0))
def test_at_its_edge_the_factor_of_sums_is_minus_one(m, largest):
    edge = graph.sums_edge(largest, m)
    assert graph.mean_factors(np.array([largest]), edge, m, "sums")[0] == pytest.approx(-1.0, abs=1e-9)
    assert 2.0 / m <= edge * largest * (1 + 1e-12)
    assert abs(graph.mean_factors(np.array([largest]), edge, m)[0]) < 1.0 + 1e-9
    assert graph.sums_edge(1.0, 10**6) * 10**6 == pytest.approx(2.0, rel=1e-4)


def test_one_block_has_no_edge_of_sums():
    with pytest.raises(ValueError, match="two or more"):
        graph.sums_edge(1.0, 1)


def test_the_law_is_for_rules_without_a_head():
    for fields in ({"head": 4}, {"plain_first": True}):
        with pytest.raises(ValueError, match="drop them"):
            graph.mean_square(np.ones((8, 2)), np.ones(8), np.ones(2), Rule(2, 0.1, **fields), 1)


def test_variance_reduction_reaches_least_squares_and_plain_steps_do_not():
    A, y, x = problem(3, n=48, noise=0.5)
    best = graph.least_squares(A[0], y[0], x[0] != 0)
    ends = [
        graph.descend(A, y, Rule(3, 0.05, method=m), 80, np.random.default_rng(0), x)[-1, 0] for m in ("svrg", "sto")
    ]
    assert np.linalg.norm(ends[0] - best) < 1e-6
    assert np.linalg.norm(ends[1] - best) > 1e-3


def test_a_head_that_misses_the_support_halts():
    halted = 0
    for seed in range(8):
        A, y, x = problem(seed, n=48, noise=0.5)
        best = graph.least_squares(A[0], y[0], x[0] != 0)
        if not graph.head_window(A[0], y[0], best, 3)[x[0] != 0].all():
            end = graph.descend(A, y, Rule(3, 0.05, head=3), 200, np.random.default_rng(0), 0.9 * x)[-1, 0]
            assert np.linalg.norm(end - best) > 1e-3
            halted += 1
    assert halted >= 4


def test_a_diverging_run_stays_finite():
    A, y, x = problem(n=48)
    path = graph.descend(A, y, Rule(3, 5.0, scale="sums"), 30, np.random.default_rng(0), x)
    assert np.isfinite(path).all()
    assert np.abs(path[-1]).max() == pytest.approx(graph.LOST * np.abs(y).max())


def attention(seed=0):
    return synthetic.gaussian(3, 4, 6, seed=seed)


def test_diagonals_are_a_band():
    np.testing.assert_array_equal(graph.diagonals(4, 0, 1), np.eye(4, dtype=bool))
    assert graph.diagonals(5, -1, 3).sum() == 13
    assert not graph.diagonals(3, 3, 1).any()


def test_restricted_problem_has_the_loss_and_gradient_of_the_entries():
    given_problem, mask = attention(), graph.diagonals(6, -1, 3)
    entries = graph.restricted(given_problem, mask)
    W = np.random.default_rng(0).standard_normal((6, 6)) * mask
    column = np.zeros((entries.d, entries.d))
    column[:, 0] = W[mask]
    np.testing.assert_array_equal(graph.entries(column, mask), W)
    assert loss_value(entries, column) == pytest.approx(loss_value(given_problem, W), rel=1e-13)
    G = gradient(entries, column)
    np.testing.assert_allclose(graph.entries(G, mask), gradient(given_problem, W) * mask, atol=1e-14)
    np.testing.assert_array_equal(G[:, 1:], 0.0)


def test_restricted_svm_is_feasible_and_optimal_on_the_mask():
    given_problem, mask = attention(1), graph.diagonals(6, -2, 5)
    W, free = (
        graph.entries(solve_token_svm(graph.restricted(given_problem, mask)).W, mask),
        solve_token_svm(given_problem),
    )
    margins = given_problem.constraints.margins(W)
    assert margins.min() == pytest.approx(1.0, abs=1e-8)
    assert np.linalg.norm(W) >= free.norm
    # Stationarity: W is a non-negative combination of the active (V_k) on the mask.
    c = given_problem.constraints
    active = np.flatnonzero(margins < 1.0 + 1e-6)
    V = np.array([np.outer(c.difference[k], c.query_vector[k])[mask] for k in active])
    duals = np.linalg.lstsq(V.T, W[mask])[0]
    np.testing.assert_allclose(V.T @ duals, W[mask], atol=1e-7)
    assert duals.min() > -1e-7


def test_all_entries_are_the_free_problem():
    given_problem, mask = attention(2), np.ones((6, 6), bool)
    entries = graph.restricted(given_problem, mask)
    assert solve_token_svm(entries).norm == pytest.approx(solve_token_svm(given_problem).norm, rel=1e-9)
    assert conditions(entries).cosine == pytest.approx(conditions(given_problem).cosine, abs=1e-12)
    runs = [train(p, NormalizedGD(0.1), 30) for p in (given_problem, entries)]
    np.testing.assert_allclose(graph.entries(runs[1].W(), mask), runs[0].W(), atol=1e-10)


def test_bad_masks_and_several_queries_are_refused():
    for mask in (np.ones((5, 5), bool), np.zeros((6, 6), bool)):
        with pytest.raises(ValueError, match="the mask has shape"):
            graph.restricted(attention(), mask)
    with pytest.raises(ValueError, match="is for one"):
        graph.restricted(attention().self_attention(), np.ones((6, 6), bool))


def test_a_band_as_wide_as_the_matrix_is_normalized_descent():
    given_problem = attention(3)
    W, first = graph.band_descent(given_problem, 11, 0.1, 12)
    assert first == -5
    np.testing.assert_allclose(W, train(given_problem, NormalizedGD(0.1), 12).W(), atol=1e-10)


def test_the_tail_finds_a_band_that_alone_matters():
    rng = np.random.default_rng(0)
    X, z = rng.standard_normal((40, 3, 6)), rng.standard_normal((40, 6))
    logits = np.einsum("itd,de,ie->it", X, 3.0 * graph.diagonals(6, 2, 1), z)
    scores = np.eye(3)[logits.argmax(axis=1)]
    hidden = TokenProblem(X, np.ones(40), np.ones(1), z, values=scores[:, :, None])
    W, first = graph.band_descent(hidden, 1, 0.2, 60)
    assert first == 2
    np.testing.assert_array_equal(W[~graph.diagonals(6, 2, 1)], 0.0)
