"""Measures at hostile scales, judged by mpmath: direction error, residual, attention and loss gap of the run as it is held.

Tokens from 1e-150 to 1e150 (queries of order one), starts that make margins of 1 to 1e6, as long as ||W||^2 is a float.
"""

import mpmath
import numpy as np
import pytest
from tokenmargin.data.problem import TokenProblem
from tokenmargin.data.synthetic import gaussian
from tokenmargin.margin.token_svm import solve_token_svm
from tokenmargin.measures.trajectory import (
    direction_error,
    margin_component,
    residual_norm,
    residual_parts,
    worst_off_attention,
)
from tokenmargin.training.rules import NormalizedGD
from tokenmargin.training.train import train

number = np.vectorize(mpmath.mpf, otypes=[object])
SIZES = [1e-150, 1e-100, 1e-30, 1e-3, 1.0, 1e3, 1e30, 1e100, 1e150]
DEPTHS = [0.0, 30.0, 1e3, 1e6]
CASES = [(size, depth) for size in SIZES for depth in DEPTHS if depth / size < 1e153]


@pytest.fixture(autouse=True)
def digits():
    with mpmath.workdps(60):
        yield


def setting(size, depth, form):
    """A run of a hundred steps from `depth` W_mm (margins `depth`), and the SVM of its problem."""
    plain = gaussian(3, 3, 12, seed=2, scores="gaussian")
    problem = TokenProblem(plain.tokens * size, plain.labels, plain.decoder, plain.queries, values=plain.values)
    svm = solve_token_svm(problem)
    start = depth * svm.W
    return problem, svm, train(problem, NormalizedGD(0.5 / size), 100, start, record=[1, 10, 100], form=form)


def matrix(constraints, coefficients):
    """sum_k c_k V_k in many digits."""
    c = constraints
    best, other = c.tokens[c.sequence, c.selection[c.sequence]], c.tokens[c.sequence, c.token]
    left = (number(best) - number(other)) * number(np.asarray(coefficients))[:, None]
    return left.T @ number(c.query_vector)


def iterates(run, svm):
    """W_t and W_mm in many digits, from what the run and the SVM hold."""
    c = run.problem.constraints
    W = [
        number(run.W0) + matrix(c, run.coefficients[k]) if run.matrices is None else number(run.matrices[k])
        for k in range(len(run))
    ]
    return W, matrix(c, svm.duals) if svm.rounded is None else number(svm.rounded)


def norm(x):
    return mpmath.sqrt((x * x).sum())


@pytest.mark.parametrize("form", ["gram", "matrix"])
@pytest.mark.parametrize(("size", "depth"), CASES)
def test_direction_and_residual(size, depth, form):
    _, svm, run = setting(size, depth, form)
    W, W_mm = iterates(run, svm)
    unit = W_mm / norm(W_mm)
    rounding = 1e-14  # of a direction; of a residual, times ||W||
    for k in range(1, len(run)):
        along = (W[k] * unit).sum()
        R = W[k] - along * unit
        error, size_W = norm(W[k] / norm(W[k]) - unit), norm(W[k])
        assert abs(direction_error(run, svm)[k] - error) <= 1e-9 * error + rounding
        assert abs(margin_component(run, svm)[k] / along - 1) <= 1e-12
        assert abs(residual_norm(run, svm)[k] - norm(R)) <= 1e-9 * norm(R) + rounding * size_W
        active, rest = (part[k] for part in residual_parts(run, svm))
        assert abs(mpmath.hypot(active, rest) - norm(R)) <= 1e-9 * norm(R) + rounding * size_W


@pytest.mark.parametrize("form", ["gram", "matrix"])
@pytest.mark.parametrize(("size", "depth"), CASES)
def test_attention_and_loss_gap(size, depth, form):
    problem, _, run = setting(size, depth, form)
    c, gamma = problem.constraints, number(problem.scores)
    for k in range(len(run)):
        e = np.vectorize(mpmath.exp, otypes=[object])(-number(run.margins[k]))
        off, gap = [], mpmath.mpf(0)
        for i in range(problem.n):
            mine = c.sequence == i
            share = e[mine] / (1 + e[mine].sum())
            best = gamma[i, problem.optimal[i]]
            delta = (share * (best - gamma[i, c.token[mine]])).sum()
            off.append(mpmath.log(share.sum()))
            gap += mpmath.log1p(mpmath.exp(-best) * mpmath.expm1(delta) / (1 + mpmath.exp(-best))) / problem.n
        for value, true in ((worst_off_attention(run)[k], max(off)), (run.log_loss_gap[k], mpmath.log(gap))):
            assert abs(value - true) <= 1e-12 * max(1, abs(true))
