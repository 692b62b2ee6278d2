"""The general loop: it takes the very steps of the engine, by the same rule objects."""

import math

import numpy as np
import pytest
from tokenmargin.data.synthetic import gaussian
from tokenmargin.errors import UnboundedStepError
from tokenmargin.model.attention import gradient, infimum, loss_value
from tokenmargin.training.descent import descend
from tokenmargin.training.moments import Adam, HeavyBall, train_with_moments
from tokenmargin.training.rules import GradientDescent, NormalizedGD, Polyak
from tokenmargin.training.train import train

RULES = [
    GradientDescent(2.0),
    NormalizedGD(0.3),
    NormalizedGD(0.3, 0.5),
    Polyak(0.7),
    Polyak(1.0, cap=0.2),
    HeavyBall(0.5),
    Adam(0.02),
]


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_on_attention_it_is_the_engine(rule):
    problem = gaussian(4, 3, 6, seed=1, scores="gaussian")
    best = infimum(problem)

    def oracle(w, t):
        W = w.reshape(problem.d, problem.d)
        return loss_value(problem, W), gradient(problem, W).ravel()

    *_, last = descend(oracle, np.zeros(problem.d**2), rule, 30, infimum=best)
    engine = train_with_moments if isinstance(rule, HeavyBall | Adam) else train
    run = engine(problem, rule, 30, record=[30])
    np.testing.assert_allclose(last.w.reshape(problem.d, problem.d), run.W(), rtol=1e-6, atol=1e-9)
    assert last.length == pytest.approx(run.effective_steps[-1], rel=1e-6)


class Asked:
    """A step rule that keeps what it is asked."""

    def __init__(self):
        self.calls = []

    def effective_step(self, t, log_gradient_norm, log_loss_gap):
        self.calls.append((t, log_gradient_norm, log_loss_gap))
        return 0.1 * (t + 1.0)


def test_each_step_is_as_long_as_the_rule_says():
    rule, target = Asked(), np.array([3.0, -4.0])
    run = list(
        descend(
            lambda w, t: (0.5 * float(np.sum((w - target) ** 2)) + 2.0, w - target), np.zeros(2), rule, 3, infimum=2.0
        )
    )
    assert [call[0] for call in rule.calls] == [0, 1, 2, 3]
    assert rule.calls[0][1:] == pytest.approx((math.log(5.0), math.log(12.5)))
    np.testing.assert_allclose([iterate.length for iterate in run], [0.1, 0.2, 0.3, 0.4])
    np.testing.assert_allclose(run[-1].w, 0.6 * target / 5.0)


@pytest.mark.parametrize("rule", [Polyak(), NormalizedGD(1.0), Adam(0.1)], ids=repr)
def test_without_a_gradient_it_stays(rule):
    *_, last = descend(lambda w, t: (0.0, np.zeros(2)), np.ones(2), rule, 4)
    np.testing.assert_array_equal(last.w, 1.0)
    assert last.length == 0.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_values_that_no_step_can_use_are_refused(value):
    with pytest.raises(UnboundedStepError, match=r"at iteration 0 the value is .*give the rule a shorter step"):
        list(descend(lambda w, t: (value, np.ones(1)), np.ones(1), GradientDescent(1.0), 2))
