"""Sketches against linear algebra, the mean path as an expectation, and a preconditioner as a change of tokens."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenmargin import NormalizedGD, TokenProblem, conditions, solve_token_svm, train
from tokenmargin.data import synthetic
from tokenmargin.errors import AssumptionError, FloatRangeError
from tokenmargin.model.attention import gradient, loss_value
from tokenmargin.neighbours import promise


def model(kind="ridge", n=40, p=6, seed=0, mu=0.01):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((n, p)) * np.geomspace(1.0, 0.1, p)
    z = A @ rng.standard_normal(p) + 0.1 * rng.standard_normal(n)
    return promise.Regression(A, np.where(z > 0.0, 1.0, -1.0) if kind == "logistic" else z, mu, kind)


@pytest.mark.parametrize("kind", ["ridge", "logistic"])
def test_gradient_and_hessian_are_differences_of_the_loss(kind):
    m, h = model(kind), 1e-5
    w = np.random.default_rng(1).standard_normal(m.p)
    steps = h * np.eye(m.p)
    slopes = [(m.loss(w + e) - m.loss(w - e)) / (2 * h) for e in steps]
    np.testing.assert_allclose(m.gradient(w), slopes, rtol=1e-7, atol=1e-9)
    curves = [(m.gradient(w + e) - m.gradient(w - e)) / (2 * h) for e in steps]
    np.testing.assert_allclose(m.hessian(w), curves, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", ["ridge", "logistic"])
def test_minimizer_has_no_gradient_and_gaps_are_positive(kind):
    m = model(kind)
    best = promise.minimizer(m)
    np.testing.assert_allclose(m.gradient(best), 0.0, atol=1e-14)
    run = promise.sketchy_svrg(m, 6, np.random.default_rng(0), rank=3, batch=8)
    gaps = promise.gaps(m, run, best)
    direct = [m.loss(w) - m.loss(best) for w in run.w]
    np.testing.assert_allclose(gaps, direct, rtol=1e-6, atol=1e-13)
    assert gaps[-1] < gaps[0]


def test_ridge_minimizer_is_the_normal_equations():
    m = model()
    expected = np.linalg.lstsq(
        np.vstack([m.A / np.sqrt(m.n), np.sqrt(m.mu) * np.eye(m.p)]), np.append(m.b / np.sqrt(m.n), np.zeros(m.p))
    )[0]
    np.testing.assert_allclose(promise.minimizer(m), expected, rtol=1e-10)


@given(rank=st.integers(0, 5), seed=st.integers(0, 1000))
def test_nystrom_is_its_formula_and_lies_below_the_matrix(rank, seed):
    S = np.random.default_rng(seed).standard_normal((9, 5)) * np.geomspace(1.0, 1e-2, 5)
    M = S.T @ S
    P = promise.nystrom(S, rank, 1e-3, np.random.default_rng(7))
    O = np.linalg.qr(np.random.default_rng(7).standard_normal((5, rank)))[0]
    expected = M @ O @ np.linalg.pinv(O.T @ M @ O) @ O.T @ M if rank else np.zeros((5, 5))
    sketch = P.power(1.0) - 1e-3 * np.eye(5)
    np.testing.assert_allclose(sketch, expected, atol=1e-9 * M.max())
    assert np.linalg.eigvalsh(M - sketch).min() > -1e-10 * M.max()
    if rank == 5:
        np.testing.assert_allclose(sketch, M, atol=1e-9 * M.max())


@given(s=st.floats(-1.0, 1.0), t=st.floats(-1.0, 1.0))
def test_powers_multiply(s, t):
    P = promise.nystrom(np.random.default_rng(0).standard_normal((7, 4)), 2, 0.05, np.random.default_rng(1))
    np.testing.assert_allclose(P.power(s) @ P.power(t), P.power(s + t), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(P.power(0.0), np.eye(4), atol=1e-12)


@given(rank=st.integers(0, 6), exponent=st.floats(-4.0, 1.0))
def test_condition_of_an_exact_sketch(rank, exponent):
    rng, rho = np.random.default_rng(3), 10.0**exponent
    spectrum, V = np.sort(rng.uniform(0.01, 2.0, 6))[::-1], np.linalg.qr(rng.standard_normal((6, 6)))[0]
    P = promise.Preconditioner(V[:, :rank], spectrum[:rank], rho)
    values = P.eigenvalues((V * spectrum) @ V.T)
    condition = promise.sketched_condition(spectrum, rank, rho)
    assert condition == pytest.approx(values[-1] / values[0], rel=1e-8)
    plain = spectrum[0] / spectrum[-1]
    if 0 < rank < 6 and rho <= spectrum[-1]:
        assert condition == pytest.approx(spectrum[rank] / rho * (1.0 + rho / spectrum[rank - 1]))
    if 0 < rank < 6 and spectrum[rank] <= rho <= spectrum[rank - 1]:
        assert condition <= max(2.0, rho / spectrum[-1]) * (1 + 1e-12)
        assert condition <= plain * (1 + 1e-12)


def test_a_spectrum_that_is_not_positive_has_no_condition_number():
    with pytest.raises(FloatRangeError, match="raise the ridge"):
        promise.sketched_condition(np.array([1.0, 0.0]), 1, 1e-3)


def test_mean_over_all_draws_of_batches_is_the_mean_path():
    m, eta, steps = model(n=3, p=2), 0.2, 3
    H, best = m.hessian(np.zeros(2)), promise.minimizer(m)
    P = promise.nystrom(m.root(np.zeros(2)), 1, 0.1, np.random.default_rng(0))
    start, inverse, total = np.array([1.0, -2.0]), P.power(-1.0), np.zeros(2)
    for draw in product(range(3), repeat=steps):
        w = start
        for i in draw:
            rows = slice(i, i + 1)
            w = w - eta * inverse @ (m.gradient(w, rows) - m.gradient(start, rows) + m.gradient(start))
        total += w - best
    path = promise.mean_path(H, start - best, [eta], [inverse], steps)
    np.testing.assert_allclose(total / 3**steps, path[-1], rtol=1e-12)


def test_one_batch_of_all_samples_is_the_mean_path_exactly():
    m = model()
    run = promise.sketchy_svrg(m, 5, np.random.default_rng(2), rank=3, batch=m.n)
    best = promise.minimizer(m)
    path = promise.mean_path(m.hessian(best), run.w[0] - best, run.etas, run.inverses, run.steps)
    assert run.steps == 1
    np.testing.assert_allclose(run.w - best, path, atol=1e-12)


def test_late_rate_is_the_slope_of_the_mean_path():
    m = model()
    H, P = m.hessian(np.zeros(m.p)), promise.nystrom(m.root(np.zeros(m.p)), 2, 0.01, np.random.default_rng(0))
    eta = 0.4 / P.eigenvalues(H)[-1]
    epochs = 400
    path = promise.mean_path(H, np.ones(m.p), [eta] * epochs, [P.power(-1.0)] * epochs, 4)
    gaps = promise.quadratic_gap(H, path)
    assert np.log(gaps[-2] / gaps[-1]) == pytest.approx(promise.late_rate(H, P.power(-1.0), eta, 4), rel=1e-6)
    with pytest.raises(AssumptionError, match="shorten the step"):
        promise.late_rate(H, P.power(-1.0), 2.1 / P.eigenvalues(H)[-1], 4)


def test_default_step_is_its_formula():
    m, rows = model(), np.arange(6)
    P = promise.nystrom(m.root(np.zeros(m.p)), 2, 0.01, np.random.default_rng(0))
    top = np.linalg.eigvals(P.power(-1.0) @ m.hessian(np.zeros(m.p), rows)).real.max()
    eta = promise.default_step(m, np.zeros(m.p), P, rows)
    assert eta == pytest.approx(max(0.5 / (m.mu * m.n + top), 1.0 / (3.0 * top)), rel=1e-9)


def test_the_preconditioner_is_kept_for_ridge_and_renewed_for_logistic():
    rng = np.random.default_rng(0)
    kept = promise.sketchy_svrg(model(), 3, rng, rank=2, batch=10)
    renewed = promise.sketchy_svrg(model("logistic"), 3, rng, rank=2, batch=10)
    assert len(set(kept.etas)) == 1
    assert len(set(renewed.etas)) == 3
    assert kept.steps == 4


def test_too_long_a_step_diverges_to_infinite_gaps_without_warnings():
    m = model()
    run = promise.svrg(m, 10, np.random.default_rng(0), eta=1e6, batch=1)
    assert run.w.shape == (11, m.p)
    assert np.isinf(promise.gaps(m, run, promise.minimizer(m))[-1])
    short = promise.svrg(m, 10, np.random.default_rng(0), eta=0.1, batch=8)
    assert np.isfinite(short.w).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"A": np.ones(3)}, "give"),
        ({"b": np.ones(4)}, "give"),
        ({"A": np.full((3, 2), np.nan)}, "drop or fill"),
        ({"mu": 0.0}, "mu is 0.0"),
        ({"mu": np.nan}, "mu is nan"),
        ({"kind": "probit"}, "'ridge' or 'logistic'"),
        ({"kind": "logistic"}, "code the classes"),
    ],
)
def test_bad_regressions_are_refused(change, message):
    fields = {"A": np.ones((3, 2)), "b": np.array([1.0, 2.0, 3.0]), "mu": 0.1, "kind": "ridge"} | change
    with pytest.raises(ValueError, match=message):
        promise.Regression(**fields)


@pytest.mark.parametrize(("rank", "rho", "message"), [(-1, 1.0, "rank"), (4, 1.0, "rank"), (1, 0.0, "rho")])
def test_bad_sketches_are_refused(rank, rho, message):
    with pytest.raises(ValueError, match=message):
        promise.nystrom(np.ones((5, 3)), rank, rho, np.random.default_rng(0))


def test_a_batch_holds_samples():
    with pytest.raises(ValueError, match="at least 1"):
        promise.svrg(model(), 1, np.random.default_rng(0), eta=0.1, batch=0)


def attention_case(seed=0):
    problem = synthetic.gaussian(3, 4, 8, seed=seed)
    return problem, promise.token_preconditioner(problem, 4, 1e-2, np.random.default_rng(seed))


def test_preconditioned_tokens_have_the_same_loss_and_scores():
    problem, P = attention_case()
    turned, W = promise.preconditioned(problem, P), np.random.default_rng(1).standard_normal((8, 8))
    np.testing.assert_allclose(turned.scores, problem.scores, rtol=1e-14)
    assert loss_value(turned, P.power(0.5) @ W) == pytest.approx(loss_value(problem, W), rel=1e-12)
    np.testing.assert_allclose(gradient(turned, P.power(0.5) @ W), P.power(-0.5) @ gradient(problem, W), atol=1e-12)


def test_masked_tokens_stay_masked():
    rng = np.random.default_rng(0)
    mask = np.array([[True, True, True], [True, True, False]])
    problem = TokenProblem(rng.standard_normal((2, 3, 4)), [1, -1], rng.standard_normal(4), mask=mask)
    P = promise.token_preconditioner(problem, 2, 0.1, rng)
    turned = promise.preconditioned(problem, P)
    np.testing.assert_array_equal(turned.mask, mask)
    np.testing.assert_allclose(turned.scores, problem.scores)


def test_the_svm_of_the_turned_tokens_minimises_the_norm_of_p():
    problem, P = attention_case(1)
    W, plain = P.power(-0.5) @ solve_token_svm(promise.preconditioned(problem, P)).W, solve_token_svm(problem)
    assert problem.constraints.margins(W).min() == pytest.approx(1.0, abs=1e-8)
    M = P.power(1.0)
    # The minimiser of a convex quadratic form over a convex set: no feasible direction descends.
    rng = np.random.default_rng(0)
    for _ in range(20):
        other = plain.W + 0.3 * problem.constraints.combine(rng.uniform(size=len(problem.constraints)))
        other /= min(1.0, problem.constraints.margins(other).min())
        if problem.constraints.margins(other).min() > 0.0:
            assert np.vdot(M @ W, other - W) >= -1e-8
    assert np.vdot(W, M @ W) < np.vdot(plain.W, M @ plain.W)


def test_the_whole_gram_matrix_makes_constraints_acute():
    problem = synthetic.gaussian(3, 3, 12, seed=4)
    assert conditions(problem).cosine < -0.05
    cosines = []
    for rho in (1e-2, 1e-6):
        P = promise.token_preconditioner(problem, 12, rho, np.random.default_rng(0))
        cosines.append(conditions(promise.preconditioned(problem, P)).cosine)
    assert cosines[1] > cosines[0]
    assert cosines[1] > -1e-3


def test_training_the_turned_problem_is_training_along_the_preconditioned_gradient():
    problem, P = attention_case(2)
    W = np.zeros((8, 8))
    for _ in range(20):
        G = P.power(-0.5) @ gradient(problem, W)
        W = W - 0.05 * P.power(-0.5) @ G / np.linalg.norm(G)
    run = train(promise.preconditioned(problem, P), NormalizedGD(0.05), 20)
    np.testing.assert_allclose(P.power(-0.5) @ run.W(), W, atol=1e-10)
