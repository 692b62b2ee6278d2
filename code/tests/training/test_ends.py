"""Margins alone: the ends of runs from many starts, and the margins along one, are those of recorded runs."""

import numpy as np
import pytest
from tokenmargin.data.synthetic import gaussian, orthogonal
from tokenmargin.errors import InvalidProblemError, UnboundedStepError
from tokenmargin.training.ends import end_margins, margins_along
from tokenmargin.training.kernels import gram_times
from tokenmargin.training.rules import GradientDescent, NormalizedGD, Polyak
from tokenmargin.training.starts import adversarial_start, random_start
from tokenmargin.training.train import train

RULES = [GradientDescent(10.0), NormalizedGD(0.5), NormalizedGD(0.5, 0.5), Polyak(1.0, cap=3.0)]


class Halved:
    """A rule that the compiled kernels do not know."""

    def __repr__(self):
        return "Halved()"

    def effective_step(self, t, log_gradient_norm, log_loss_gap):
        return 0.5 ** (t + 1)


def recorded(problem, rule, times, W0, loss, decided=np.inf):
    run = train(problem, rule, times[-1], W0, loss=loss, record=times, form="gram", stop=lambda mu: mu.min() > decided)
    return run.margins[-1]


@pytest.mark.parametrize("loss", ["logistic", "exponential"])
@pytest.mark.parametrize("rule", [*RULES, Halved()], ids=repr)
@pytest.mark.parametrize(("n", "T", "d", "Q"), [(4, 4, 3, 1), (2, 3, 6, 3), (3, 2, 20, 1), (20, 4, 6, 1)])
def test_ends_are_those_of_recorded_runs_to_the_last_bit(n, T, d, Q, rule, loss):
    rng = np.random.default_rng([n, d])
    problem = gaussian(n, T, d, seed=d, scores="gaussian", Q=Q)
    starts = [random_start(problem, norm, rng) for norm in (0.0, 0.1, 5.0, 40.0)]
    times = np.array([[0, 100, 100, 300], [0, 10, 20, 700], [50, 60, 290, 300], [7, 8, 9, 10]])
    for decided in (np.inf, 2.0):
        ends = end_margins(problem, rule, times, starts, loss=loss, decided=decided)
        for mu, t, W0 in zip(ends, times, starts, strict=True):
            np.testing.assert_array_equal(mu, recorded(problem, rule, t, W0, loss, decided))


def test_a_run_is_left_where_its_margins_are_decided():
    problem = orthogonal(3, 3, 10, seed=0)
    far, near = (
        end_margins(problem, NormalizedGD(0.5), [50, 400], np.zeros((1, 10, 10)), decided=x) for x in (1e9, 1.0)
    )
    assert near.min() > 1.0
    assert far.min() > 2.0 * near.min()
    np.testing.assert_array_equal(near[0], margins_along(problem, NormalizedGD(0.5), 50)[-1])


@pytest.mark.parametrize("rule", [*RULES, Halved()], ids=repr)
@pytest.mark.parametrize("seed", range(3))
def test_margins_along_a_run_are_its_records(rule, seed):
    problem = gaussian(4, 4, 6, seed=seed, scores="gaussian")
    W0 = adversarial_start(problem, 4.0, np.random.default_rng(seed))
    run = train(problem, rule, 600, W0, record=np.arange(601), form="gram")
    np.testing.assert_allclose(margins_along(problem, rule, 600, W0), run.margins, rtol=1e-12, atol=1e-12)


def test_a_step_that_is_refused_in_a_recorded_run_is_refused_here():
    problem = orthogonal(1, 2, 4, seed=0)
    saturated = -600.0 * (problem.constraints.combine([1.0]))
    for run in (
        lambda: end_margins(problem, Polyak(1.0), [5], [np.zeros((4, 4)), saturated]),
        lambda: margins_along(problem, Polyak(1.0), 5, saturated),
    ):
        with pytest.raises(UnboundedStepError, match="Give the rule a cap"):
            run()


@pytest.mark.parametrize("times", [[], [3, 2], [-1, 2], [0.5], [[1, 2], [1, 2], [1, 2]], [np.nan], [np.inf]])
def test_times_are_refused_in_words(times):
    problem = orthogonal(2, 2, 4, seed=0)
    with pytest.raises(InvalidProblemError, match="times"):
        end_margins(problem, NormalizedGD(0.5), times, np.zeros((2, 4, 4)))


def test_no_start_has_no_end():
    assert end_margins(orthogonal(2, 2, 4, seed=0), NormalizedGD(0.5), [3], np.zeros((0, 4, 4))).shape == (0, 2)


@pytest.mark.parametrize("N", [*range(1, 14), 47, 48, 49, 60])
def test_products_with_a_gram_matrix_of_any_size(N):
    rng = np.random.default_rng(N)
    root, p, out = rng.standard_normal((N, N)), rng.standard_normal(N), np.full(N, np.nan)
    gram_times(root @ root.T, p, out)
    np.testing.assert_allclose(out, root @ root.T @ p, rtol=0, atol=1e-13 * N * np.abs(root @ root.T).max())
