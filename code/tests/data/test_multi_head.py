"""Several heads as one problem: against the model written out, against differences and many digits, and against one head."""

import mpmath
import numpy as np
import pytest
from tokenmargin.data.heads import join_heads, multi_head, split_heads
from tokenmargin.data.problem import TokenProblem
from tokenmargin.data.synthetic import gaussian
from tokenmargin.errors import InvalidProblemError
from tokenmargin.model.attention import gradient, loss_value, outputs
from tokenmargin.model.losses import pointwise_loss
from tokenmargin.model.weights import gradient_weights
from tokenmargin.training.rules import GradientDescent, NormalizedGD, Polyak
from tokenmargin.training.train import train

RULES = [GradientDescent(3.0), NormalizedGD(0.1), NormalizedGD(0.5, decay=0.5), Polyak(0.5), Polyak(0.5, cap=0.3)]
LOSSES = ["logistic", "exponential"]


def padded(seed=3):
    """Sequences of different lengths, every token a query, scores by a decoder of the tokens."""
    rng = np.random.default_rng(seed)
    x, mask = rng.standard_normal((3, 4, 5)), np.ones((3, 4), dtype=bool)
    mask[1, 3] = mask[2, 2:] = False
    return TokenProblem(x, [1, -1, 1], rng.standard_normal(5), x, mask)


def matrices(problem, heads, seed=0, scale=1.0):
    return scale * np.random.default_rng(seed).standard_normal((heads, problem.d, problem.d))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("problem", [gaussian(3, 4, 6, seed=1, scores="gaussian"), padded()])
@pytest.mark.parametrize("output", ["mean", "sum"])
def test_the_loss_is_that_of_the_mean_or_sum_of_the_heads_outputs(problem, loss, output):
    W = matrices(problem, 3)
    m = np.array([outputs(problem, each) for each in W])
    m = m.mean(axis=0) if output == "mean" else m.sum(axis=0)
    several = multi_head(problem, 3, output)
    np.testing.assert_allclose(outputs(several, join_heads(W)), m, rtol=1e-13)
    assert loss_value(several, join_heads(W), loss) == pytest.approx(pointwise_loss(m, loss).mean(), rel=1e-13)


@pytest.mark.parametrize("loss", LOSSES)
def test_each_heads_gradient_is_the_derivative_by_its_matrix(loss):
    problem = padded()
    W = matrices(problem, 2)
    G = split_heads(gradient(multi_head(problem, 2), join_heads(W), loss), 2)

    def value(each):
        m = np.mean([outputs(problem, one) for one in each], axis=0)
        return pointwise_loss(m, loss).mean()

    for j, a, b in [(0, 1, 2), (1, 4, 0), (1, 3, 3)]:
        move = np.zeros_like(W)
        move[j, a, b] = 1e-5
        assert G[j, a, b] == pytest.approx((value(W + move) - value(W - move)) / 2e-5, rel=1e-6)


def test_the_gradient_agrees_with_many_digits_where_a_head_is_saturated_on_a_wrong_token():
    """L(W^1, W^2) in sixty digits, differentiated there: one head is e^-40 from a token that is not optimal."""
    problem = gaussian(1, 3, 3, seed=4)
    c = problem.constraints
    wrong = -40.0 / float(c.norms[0] ** 2) * c.combine([1.0, 0.0])
    W = np.array([matrices(problem, 1)[0], wrong])
    several = multi_head(problem, 2).constraints
    p, _ = gradient_weights(multi_head(problem, 2), several.margins(join_heads(W)))
    G = split_heads(-several.combine(p), 2)
    x, z, gamma = problem.tokens[0], problem.queries[0, 0], problem.scores[0]

    def output(matrix):
        e = [mpmath.exp(sum(x[t, a] * matrix[a][b] * z[b] for a in range(3) for b in range(3))) for t in range(3)]
        return sum(e[t] * gamma[t] for t in range(3)) / sum(e)

    with mpmath.workdps(60):
        exact = [[[mpmath.mpf(v) for v in row] for row in each] for each in W]
        for j, a, b in [(0, 0, 1), (1, 2, 0)]:
            values = []
            for sign in (1, -1):
                exact[j][a][b] += sign * mpmath.mpf("1e-20")
                m = (output(exact[0]) + output(exact[1])) / 2
                values.append(mpmath.log(1 + mpmath.exp(-m)))
                exact[j][a][b] -= sign * mpmath.mpf("1e-20")
            slope = (values[0] - values[1]) / mpmath.mpf("2e-20")
            assert G[j, a, b] == pytest.approx(float(slope), rel=1e-9)
    assert 0.0 < np.linalg.norm(G[1]) < 1e-12 * np.linalg.norm(G[0])


@pytest.mark.parametrize("step", RULES)
def test_one_head_is_the_problem_itself(step):
    problem = gaussian(4, 3, 20, seed=2)
    W0 = matrices(problem, 1, scale=0.1)
    alone, one = train(problem, step, 200, W0[0]), train(multi_head(problem, 1), step, 200, join_heads(W0))
    np.testing.assert_array_equal(one.coefficients, alone.coefficients)
    np.testing.assert_array_equal(split_heads(one.W(), 1)[0], alone.W())


def test_exchanging_heads_exchanges_their_runs():
    problem = gaussian(3, 3, 10, seed=0, scores="gaussian")
    W0, step = matrices(problem, 3, scale=0.3), NormalizedGD(0.1)
    several = multi_head(problem, 3)
    run = split_heads(train(several, step, 100, join_heads(W0)).W(), 3)
    other = split_heads(train(several, step, 100, join_heads(W0[[2, 0, 1]])).W(), 3)
    np.testing.assert_allclose(other, run[[2, 0, 1]], rtol=1e-10, atol=1e-12)


def test_masks_and_values_are_kept():
    problem = padded()
    several = multi_head(problem, 2)
    np.testing.assert_array_equal(several.scores, problem.scores)
    np.testing.assert_array_equal(several.query_mask, np.hstack([problem.query_mask] * 2))
    assert len(several.constraints) == 2 * len(problem.constraints)


def test_joining_and_splitting_are_inverse():
    W = matrices(gaussian(2, 3, 4, seed=0), 3)
    np.testing.assert_array_equal(split_heads(join_heads(W), 3), W)


def test_bad_arguments_are_named():
    problem = gaussian(2, 3, 4, seed=0)
    for heads in (0, 1.5, True, "2"):
        with pytest.raises(InvalidProblemError, match=r"heads is .*; give the number of heads, an integer >= 1"):
            multi_head(problem, heads)
    with pytest.raises(ValueError, match="must be 'mean' or 'sum'"):
        multi_head(problem, 2, "largest")
    with pytest.raises(InvalidProblemError, match=r"matrices has shape \(2, 4, 3\)"):
        join_heads(np.zeros((2, 4, 3)))
    with pytest.raises(InvalidProblemError, match=r"W has shape \(7, 7\); give the W of `multi_head` with 2 heads"):
        split_heads(np.zeros((7, 7)), 2)
    with pytest.raises(InvalidProblemError, match="zero below"):
        split_heads(np.ones((8, 8)), 2)
