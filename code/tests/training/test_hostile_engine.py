"""Hostile problems: the engine equals the equations in many digits, or refuses in words; it is never silently wrong."""

from contextlib import suppress

import mpmath
import numpy as np
import pytest
from tokenmargin.data.problem import TokenProblem
from tokenmargin.data.sequences import Sequences
from tokenmargin.errors import (
    InvalidProblemError,
    LostStepError,
    TokenMarginError,
    UnboundedStepError,
)
from tokenmargin.model import highprecision as exact
from tokenmargin.training.joint import train_joint
from tokenmargin.training.moments import HeavyBall, train_with_moments
from tokenmargin.training.rules import GradientDescent, NormalizedGD, Polyak
from tokenmargin.training.train import train

FORMS = ["gram", "matrix"]
LOSSES = ["logistic", "exponential"]
DIGITS = 700  # more than the figures of e^-1200, the smallest attention of the runs below


def problem(scores, d=4, seed=0, tokens=1.0, Q=1):
    """Gaussian tokens and queries of a size, with the scores given, shape (n, T)."""
    rng, (n, T) = np.random.default_rng(seed), np.shape(scores)
    x, z = tokens * rng.standard_normal((n, T, d)), rng.standard_normal((n, Q, d))
    return TokenProblem(
        x,
        np.ones(n),
        [1.0],
        x if Q == T else z,
        values=np.array(scores, dtype=float)[:, :, None],
    )


def judge(rule):
    """The rule in many digits."""
    if isinstance(rule, GradientDescent):
        return exact.gradient_descent(rule.eta)
    if isinstance(rule, NormalizedGD):
        return exact.normalized(rule.eta, rule.decay)
    return exact.polyak(rule.theta, rule.cap)


def check(data, rule, steps, W0=None, loss="logistic", form="gram", digits=DIGITS, rtol=1e-9):
    """Train, and compare W, path length, log gradient norm and log loss gap with many digits."""
    run = train(data, rule, steps, W0, loss=loss, form=form, record=[steps])
    true = exact.run(data, judge(rule), [steps], W0, loss, digits=digits)
    W, start = true.matrices[-1], 0.0 if W0 is None else np.linalg.norm(W0)
    assert np.linalg.norm(run.W() - W) <= rtol * np.linalg.norm(W)
    assert run.path_length[-1] == pytest.approx(true.path_length[-1], rel=rtol, abs=1e-15 * start)
    for name in ("log_gradient_norm", "log_loss_gap"):
        if np.isneginf(getattr(true, name)[-1]) or np.isnan(getattr(run, name)[-1]):
            continue  # the digits do not resolve it
        assert getattr(run, name)[-1] == pytest.approx(getattr(true, name)[-1], rel=rtol, abs=rtol)
    return run


def equal_or_refused(*arguments, **options):
    """As `check`; a typed error will do."""
    with suppress(TokenMarginError):
        check(*arguments, **options)


# --- The examples -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_slopes_that_differ_by_hundreds_of_orders(form):
    run = check(problem([[700, 0], [350, 0], [630, 0]]), NormalizedGD(0.1), 600, form=form)
    assert run.path_length[-1] == pytest.approx(60.0, rel=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_raw_pixels_under_a_decoder_that_scores_in_the_hundreds(form):
    rng = np.random.default_rng(3)
    pixels = rng.integers(0, 17, (4, 3, 6)).astype(float)
    data = TokenProblem(pixels, [1, -1, 1, -1], 10.0 * rng.standard_normal(6))
    assert np.abs(data.scores).max() > 300.0
    run = check(data, NormalizedGD(0.001), 40, form=form)
    assert run.path_length[-1] == pytest.approx(0.04, rel=1e-12)
    assert train(data, NormalizedGD(0.001), 2000, form=form).path_length[-1] == pytest.approx(2.0, rel=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", ["zero query", "copy of the optimal token", "copies of a wrong token"])
def test_constraints_without_force_do_not_stop_the_others(case, form):
    rng = np.random.default_rng(1)
    x, z, values = (
        rng.standard_normal((2, 3, 5)),
        rng.standard_normal((2, 1, 5)),
        np.array([[1.0, 0.0, 0.5], [0.2, 0, 1]]),
    )
    if case == "zero query":
        z[1] = 0.0
    elif case == "copy of the optimal token":
        x[0, 1] = x[0, 0]
    else:
        x[0, 2] = x[0, 1]
    data = TokenProblem(x, [1, 1], [1.0], z, values=values[:, :, None])
    check(data, NormalizedGD(5.0), 30, form=form, rtol=1e-8)
    run = train(data, NormalizedGD(0.5), 3000, form=form)
    assert run.path_length[-1] == pytest.approx(1500.0, rel=1e-12)
    assert np.linalg.norm(run.W()) > 1300.0


# --- The table --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("rule", [NormalizedGD(0.5), GradientDescent(1.0), Polyak(0.5, cap=1.0)], ids=repr)
@pytest.mark.parametrize("scale", [1e-300, 1e-150, 1e-12, 1.0, 1e3, 1e12, 1e300])
def test_scores_of_any_scale(scale, rule, loss, form):
    scores = scale * np.array([[1.0, 0.0, 0.3], [0.5, -0.5, 0.0]])
    if isinstance(rule, GradientDescent):
        rule = GradientDescent(1.0 / scale)
    equal_or_refused(problem(scores), rule, 6, loss=loss, form=form, rtol=1e-8)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rule", [NormalizedGD(0.5), GradientDescent(1.0), Polyak(0.5)], ids=repr)
@pytest.mark.parametrize("size", [1e-150, 1e-80, 1e-12, 1e12, 1e80, 1e150])
def test_tokens_of_any_scale(size, rule, form):
    data = problem([[1.0, 0.0, 0.3], [0.5, -0.5, 0.0]], tokens=size)
    if not isinstance(rule, Polyak):
        rule = type(rule)(rule.eta / (size if isinstance(rule, NormalizedGD) else min(size, 1e75) ** 2))
    equal_or_refused(data, rule, 6, form=form, rtol=1e-8)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "shape",
    [
        (1, 2, 1, 1),
        (1, 2, 4, 1),
        (3, 2, 1, 1),
        (2, 2, 3, 2),
        (2, 3, 3, 3),
        (1, 6, 2, 1),
    ],
)
def test_the_smallest_shapes(shape, loss, form):
    n, T, d, Q = shape
    scores = np.random.default_rng(5).standard_normal((n, T))
    for rule in (NormalizedGD(0.3), GradientDescent(1.0), Polyak(0.3, cap=1.0)):
        equal_or_refused(
            problem(scores, d, 2, Q=Q),
            rule,
            8,
            loss=loss,
            form=form,
            digits=100,
            rtol=1e-8,
        )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "rule",
    [NormalizedGD(0.1), GradientDescent(1.0), Polyak(0.5), Polyak(0.5, cap=1.0)],
    ids=repr,
)
@pytest.mark.parametrize("norm", [1e2, 1e3, 1e6, 1e10, 1e14, 1e18])
def test_starts_of_any_norm(norm, rule, form):
    W0 = np.random.default_rng(2).standard_normal((4, 4))
    W0 *= norm / np.linalg.norm(W0)
    data = problem([[1.0, 0.0, 0.3], [0.5, -0.5, 0.0]])
    if norm <= 1e3:
        return equal_or_refused(data, rule, 4, W0, form=form, digits=1500, rtol=1e-8)
    try:  # the figures of e^-norm are not affordable: what is left is that no step is counted that W does not take
        run = train(data, rule, 4, W0, form=form, record=[4])
    except (LostStepError, UnboundedStepError):
        return None
    moved = np.linalg.norm(run.W() - W0)
    assert moved <= run.path_length[-1] + 4e-16 * norm
    assert run.path_length[-1] == 0.0 or moved > 0.0
    return None


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "rule",
    [GradientDescent(1e300), NormalizedGD(1e200), Polyak(1e300), HeavyBall(1e300)],
    ids=repr,
)
def test_absurd_steps_are_refused(rule, form):
    data = problem([[1.0, 0.0], [0.5, 0.0]])
    with pytest.raises(UnboundedStepError, match=r"the step is e\^") as caught:
        train_with_moments(data, rule, 5) if isinstance(rule, HeavyBall) else train(data, rule, 5, form=form)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("form", FORMS)
def test_polyak_at_a_saturated_wrong_token_gives_advice_that_works(form):
    data = problem([[1.0, 0.0], [0.5, 0.0]])
    W0 = -300.0 * data.constraints.combine(np.ones(2))
    with pytest.raises(
        UnboundedStepError, match=r"the attention of sequence \d has saturated on .* Polyak\(theta, cap="
    ) as caught:
        train(data, Polyak(0.5), 5, W0, form=form)
    cap = float(str(caught.value).partition("cap=")[2].partition(")")[0])
    assert cap == pytest.approx(1.0 / data.constraints.norms.max(), rel=1e-2)
    check(data, Polyak(0.5, cap=cap), 5, W0, form=form, digits=2500)


def test_a_step_that_is_lost_in_rounding_is_an_error():
    data = problem([[1.0, 0.0], [0.5, 0.0]])
    with pytest.raises(
        LostStepError,
        match=r"of length 0.1, is lost in the rounding of W, whose norm is 1e\+18",
    ):
        train(data, NormalizedGD(0.1), 5, W0=1e18 * np.eye(4) / 2)


@pytest.mark.parametrize(
    "W0",
    [
        "text",
        np.full((4, 4), "1"),
        1j * np.ones((4, 4)),
        np.zeros((4, 4), "datetime64[s]"),
    ],
)
def test_starts_that_are_no_numbers_are_refused(W0):
    with pytest.raises(InvalidProblemError, match="W0 has type"):
        train(problem([[1.0, 0.0]]), NormalizedGD(0.1), 1, W0)


@pytest.mark.parametrize("steps", ["5", None, 2.5, 1j, np.nan, np.inf, [3]])
def test_counts_of_steps_that_are_no_integers_are_refused(steps):
    with pytest.raises(InvalidProblemError, match="steps"):
        train(problem([[1.0, 0.0]]), NormalizedGD(0.1), steps)
    with pytest.raises(InvalidProblemError, match="record"):
        train(problem([[1.0, 0.0]]), NormalizedGD(0.1), 5, record=["1"])


# --- Joint training ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("case", ["plain", "large", "small", "zero query", "copies", "zero tokens"])
def test_joint_runs_against_many_digits(case, loss, full):
    rng = np.random.default_rng(4)
    x, z, y = (
        rng.standard_normal((3, 3, 5)),
        rng.standard_normal((3, 5)),
        np.array([1.0, -1.0, 1.0]),
    )
    x *= {"large": 1e2, "small": 1e-12}.get(case, 1.0)
    if case == "zero query":
        z[0] = 0.0
    elif case == "copies":
        x[0, 1] = x[0, 0]
    elif case == "zero tokens":
        x[1] = 0.0
    data = Sequences(x, y, z)
    eta0, steps = (0.5, 12) if case == "large" else (2.0, 12)
    options = {"eta0": eta0, "decay": 0.0, "loss": loss}
    run = train_joint(data, steps, normalizer="full" if full else "separate", **options)
    W, u, path_W, path_u = exact.joint(data, steps, full=full, digits=3000 if case == "large" else DIGITS, **options)
    for ours, true in (
        (run.W(), W),
        (run.u(), u),
        (run.path_W[-1], path_W),
        (run.path_u[-1], path_u),
    ):
        assert np.linalg.norm(ours - true) <= 1e-8 * np.linalg.norm(true)
    assert mpmath.mp.dps == 15
