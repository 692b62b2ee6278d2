"""Hostile problems: the engine equals the equations in many digits, or refuses in words; it is never silently wrong."""

import re
from dataclasses import dataclass
from typing import Any

import mpmath
import numpy as np
import pytest
from tokenmargin.data.digits import digits
from tokenmargin.data.problem import TokenProblem
from tokenmargin.data.sequences import Sequences
from tokenmargin.data.synthetic import gaussian
from tokenmargin.errors import (
    InvalidProblemError,
    LostStepError,
    UnboundedStepError,
)
from tokenmargin.margin.token_svm import solve_token_svm
from tokenmargin.measures.stability import orbit
from tokenmargin.model import highprecision as exact
from tokenmargin.theory.residual import stability_threshold
from tokenmargin.training.joint import train_joint
from tokenmargin.training.moments import Adam, HeavyBall, train_with_moments
from tokenmargin.training.rules import GradientDescent, NormalizedGD, Polyak
from tokenmargin.training.train import train

FORMS = ["gram", "matrix"]
LOSSES = ["logistic", "exponential"]
DIGITS = 60


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


def check(data, rule, steps, W0=None, loss="logistic", form="gram", rtol=1e-9):
    """Train, and compare W, path length, log gradient norm and log loss gap with many digits.

    W - W0 to rtol of itself, and to what the rounding of W0, 1e-16 ||W0||, does to the margins that decide it.
    """
    run = train(data, rule, steps, W0, loss=loss, form=form, record=[steps])
    true = exact.run(data, judge(rule), [steps], W0, loss)
    start = np.zeros((data.d, data.d)) if W0 is None else W0
    size, moved = np.linalg.norm(start), true.matrices[-1] - start
    rounding = 1e-15 * size * (1.0 + data.constraints.norms.max() * np.linalg.norm(moved))
    assert np.linalg.norm(run.W() - true.matrices[-1]) <= rtol * np.linalg.norm(moved) + rounding
    assert run.path_length[-1] == pytest.approx(true.path_length[-1], rel=rtol + rounding, abs=1e-15 * size)
    for name in ("log_gradient_norm", "log_loss_gap"):
        ours, theirs = getattr(run, name)[-1], getattr(true, name)[-1]
        if not np.isnan(ours):  # the outputs cancel
            assert ours == pytest.approx(theirs, rel=rtol, abs=rtol + rounding)
    return run


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

SCORES = [[1.0, 0.0, 0.3], [0.5, -0.4, 0.0]]


@dataclass(frozen=True)
class Case:
    """A run, and the error by which it is refused where it is."""

    name: str
    data: TokenProblem
    rule: Any
    steps: int = 6
    W0: Any = None
    losses: tuple = ("logistic",)


def cases():
    """The hostile table: (case, loss, form)."""
    table = [*scores(), *tokens(), *starts(), *shapes(), *degenerate()]
    return [(case, loss, form) for case in table for loss in case.losses for form in FORMS]


def scores():
    for scale in (1e-300, 1e-150, 1e-12, 1.0, 1e3, 1e6, 1e9, 1e12, 1e100):
        data = problem(scale * np.array(SCORES))
        step = 1.0 / scale
        for rule in (NormalizedGD(0.5), GradientDescent(step), Polyak(0.5, cap=1.0), Polyak(0.5)):
            yield Case(f"scores {scale:g}", data, rule, losses=("logistic", "exponential"))
    balanced = problem([[1e12, 0.0, 3e11], [5e11, -5e11, 0.0]])
    for rule in (NormalizedGD(0.5), GradientDescent(1e-12), Polyak(0.5, cap=1.0), Polyak(0.5)):
        yield Case("scores balanced at 1e12", balanced, rule, losses=("logistic", "exponential"))
    mixed = problem([[1e12, 0, 3e11], [0.5, -0.5, 0], [1e-12, 0, -1e-12]])
    for rule in (NormalizedGD(0.5), GradientDescent(1.0), Polyak(0.5, cap=1.0), Polyak(0.5)):
        yield Case("scores mixed", mixed, rule, losses=("logistic", "exponential"))


def tokens():
    for size in (1e-150, 1e-80, 1e-12, 1e12, 1e80, 1e150):
        data = problem(SCORES, tokens=size)
        for rule in (NormalizedGD(0.5 / size), GradientDescent(min(1e300, 1.0 / size**2)), Polyak(0.5)):
            yield Case(f"tokens {size:g}", data, rule)
            yield Case(f"tokens {size:g}, deep", data, rule, W0=60.0 * solve_token_svm(data).W)


def starts():
    W0 = np.random.default_rng(2).standard_normal((4, 4))
    for norm in (1e2, 1e3, 1e6, 1e8, 1e10, 1e14, 1e18):
        for rule in (NormalizedGD(0.1), GradientDescent(1.0), Polyak(0.5), Polyak(0.5, cap=1.0)):
            yield Case(f"start {norm:g}", problem(SCORES), rule, 4, norm * W0 / np.linalg.norm(W0))


def shapes():
    for shape in ((1, 2, 1, 1), (1, 2, 4, 1), (3, 2, 1, 1), (2, 2, 3, 2), (2, 3, 3, 3), (1, 6, 2, 1)):
        n, T, d, Q = shape
        values = np.random.default_rng(5).standard_normal((n, T))
        for rule in (NormalizedGD(0.3), GradientDescent(1.0), Polyak(0.3, cap=1.0)):
            yield Case(f"shape {shape}", problem(values, d, 2, Q=Q), rule, 8, losses=("logistic", "exponential"))


def degenerate():
    """Copies, zeros, near ties, nearly dependent constraints, and a start saturated on wrong tokens."""
    rng = np.random.default_rng(1)
    x, z, values = rng.standard_normal((2, 3, 5)), rng.standard_normal((2, 1, 5)), np.array([[1, 0, 0.5], [0.2, 0, 1]])
    plain = {"tokens": x, "queries": z, "values": values}
    copy, wrong, near, zero, still = x.copy(), x.copy(), x.copy(), x.copy(), z.copy()
    copy[0, 1], wrong[0, 2], near[0, 2], zero[1], still[1] = x[0, 0], x[0, 1], x[0, 1] * (1 + 1e-12), 0.0, 0.0
    kinds = {
        "copy of the optimal token": plain | {"tokens": copy},
        "copies of a wrong token": plain | {"tokens": wrong},
        "constraints that differ by 1e-12": plain | {"tokens": near},
        "a sequence of zeros": plain | {"tokens": zero},
        "a zero query": plain | {"queries": still},
        "a lead of 1e-9": plain | {"values": np.array([[1, 1 - 1e-9, 0.5], [0.2, 0, 1]])},
    }
    for name, arrays in kinds.items():
        data = TokenProblem(arrays["tokens"], [1, 1], [1.0], arrays["queries"], values=arrays["values"][:, :, None])
        for rule in (NormalizedGD(0.3), GradientDescent(1.0), Polyak(0.3, cap=1.0)):
            yield Case(name, data, rule, 8)
            wrong_start = -200.0 * data.constraints.combine(np.ones(len(data.constraints)))
            yield Case(f"{name}, saturated", data, rule, 8, wrong_start)


# What float64 cannot do: an output that is 0 by cancellation of 1e12, where its size matters; a step of order one beside
# ||W|| = 1e14; forces along nearly equal constraints that cancel to 1e-12.
REFUSED = {
    ("scores balanced at 1e12", GradientDescent): LOSSES,
    ("scores balanced at 1e12", Polyak): ["logistic"],
    ("start 1e+14", NormalizedGD): LOSSES,
    ("start 1e+14", Polyak): LOSSES,
    ("start 1e+18", NormalizedGD): LOSSES,
    ("start 1e+18", Polyak): LOSSES,
    ("constraints that differ by 1e-12, saturated", NormalizedGD): LOSSES,
    ("constraints that differ by 1e-12, saturated", Polyak): LOSSES,
}


def is_refused(case, loss):
    return loss in REFUSED.get((case.name, type(case.rule)), ())


@pytest.mark.parametrize(("case", "loss", "form"), cases(), ids=lambda x: getattr(x, "name", x))
def test_hostile_table(case, loss, form):
    """Each case is computed as in many digits, or refused where `REFUSED` says so: no number is silently wrong."""
    if not is_refused(case, loss):
        check(case.data, case.rule, case.steps, case.W0, loss=loss, form=form, rtol=1e-8)
        return
    with pytest.raises(LostStepError):
        train(case.data, case.rule, case.steps, case.W0, loss=loss, form=form, record=[case.steps])


def test_what_the_hostile_table_holds():
    """Its counts: cases, and refusals among them."""
    table = cases()
    assert (len(table), sum(is_refused(case, loss) for case, loss, _ in table)) == (448, 24)


@pytest.mark.parametrize("form", FORMS)
def test_raw_pixels_under_a_decoder_with_scores_in_the_hundreds(form):
    """Pixels of 0 to 16, a decoder that scores them in the hundreds: 2000 steps of .001 walk 2, as many digits say."""
    raw = digits((0, 1), 3, 4, seed=0)
    data = TokenProblem(16.0 * raw.tokens, raw.labels, 20.0 * np.random.default_rng(0).standard_normal(raw.d))
    assert data.tokens.max() == 16.0
    assert 300.0 < np.abs(data.scores).max() < 3000.0
    check(data, NormalizedGD(0.001), 25, form=form)
    run = train(data, NormalizedGD(0.001), 2000, form=form)
    assert run.path_length[-1] == pytest.approx(2.0, rel=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_pairwise_forces_are_the_equations_as_they_stand(loss):
    """To 250 digits, where 400 resolve the cancellation."""
    data = problem(SCORES)
    with mpmath.workdps(400):
        logits = np.vectorize(mpmath.mpf, otypes=[object])(300.0 * np.random.default_rng(0).standard_normal((2, 1, 3)))
        plain, (pairwise, gap) = exact.forces(data, logits, loss), exact.pairwise_forces(data, logits, loss)
        assert max(abs((a - b) / a) for a, b in zip(plain.flat, pairwise.flat, strict=True)) < mpmath.mpf(10) ** -250
        e = np.vectorize(mpmath.exp, otypes=[object])(logits)
        m = ((e / e.sum(axis=2, keepdims=True))[:, 0] * data.scores).sum(axis=1)
        value = {"exponential": lambda m: mpmath.exp(-m), "logistic": lambda m: mpmath.log(1 + mpmath.exp(-m))}[loss]
        excess = sum(value(x) - value(best) for x, best in zip(m, data.optimal_scores, strict=True)) / data.n
        assert abs(gap - excess) < gap * mpmath.mpf(10) ** -100


def test_uncapped_polyak_meets_saturated_wrong_tokens_and_its_advice_works():
    """Of 40 unseen problems, those whose step has no finite size: the sequence is named, and the cap is followed."""
    refused = {}
    for seed in range(40):
        try:
            train(gaussian(6, 5, 24, seed=seed, scores="gaussian"), Polyak(0.8), 300, record=[300])
        except UnboundedStepError as error:
            refused[seed] = str(error)
    assert list(refused) == [9, 15, 17, 20, 35]
    for seed, message in refused.items():
        assert re.search(r"the step is e\^[0-9.e+]{4,9}: the attention of sequence \d has saturated", message)
        cap = float(message.partition("cap=")[2].partition(")")[0])
        run = train(gaussian(6, 5, 24, seed=seed, scores="gaussian"), Polyak(0.8, cap=cap), 300)
        assert run.log_loss_gap[-1] < run.log_loss_gap[0]


# --- Chaos ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_below_the_edge_of_stability_runs_are_those_of_many_digits(seed):
    data = gaussian(3, 3, 8, seed=seed)
    check(data, NormalizedGD(0.5 * stability_threshold(solve_token_svm(data))), 100, rtol=1e-12)


def test_above_the_edge_errors_are_those_of_chaos():
    """At 4 h* two runs in eighty digits from starts 1e-15 apart are 1e-4 apart after fifty steps and as far as can be after
    a hundred; the engine's distance from them is no larger, and eighty digits differ from forty by nothing so far."""
    data = gaussian(3, 3, 8, seed=4)
    eta, record = 4.0 * stability_threshold(solve_token_svm(data)), [10, 30, 50]
    kick = data.constraints.combine(np.ones(len(data.constraints)))
    kick *= 1e-15 / np.linalg.norm(kick)
    run = train(data, NormalizedGD(eta), 50, record=record)
    forty, true = (exact.run(data, exact.normalized(eta), record, digits=digits).matrices for digits in (40, 80))
    kicked = exact.run(data, exact.normalized(eta), record, kick, digits=80).matrices
    growth = [np.linalg.norm(a - b) for a, b in zip(kicked, true, strict=True)]
    error = [np.linalg.norm(run.W(k + 1) - W) for k, W in enumerate(true)]
    assert growth[2] > 1e8 * 1e-15
    assert (np.array(error) < 100.0 * np.maximum(growth, 1e-15 * np.linalg.norm(true, axis=(1, 2)))).all()
    assert np.abs(forty - true).max() < 1e-15 * np.abs(true).max()


@pytest.mark.parametrize("form", [*FORMS, "reference"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "rule",
    [
        GradientDescent(1e300),
        NormalizedGD(1e200),
        Polyak(1e300),
        Polyak(1e300, cap=1e250),
        HeavyBall(1e300),
        Adam(1e300),
        Adam(1e200, eps=0.0),
    ],
    ids=repr,
)
def test_absurd_steps_are_refused(rule, loss, form):
    data = problem([[1.0, 0.0], [0.5, 0.0]])
    run, options = (train_with_moments, {}) if isinstance(rule, HeavyBall | Adam) else (train, {"form": form})
    with pytest.raises(UnboundedStepError, match=r"the step is e\^\d") as caught:
        run(data, rule, 5, loss=loss, **options)
    assert len(str(caught.value)) < 400
    advice = {
        Polyak: "give a smaller theta",
        Adam: "give the rule a shorter step",
        HeavyBall: "give the rule a shorter step",
    }
    if type(rule) in advice and getattr(rule, "cap", None) is None:
        assert advice[type(rule)] in str(caught.value)


def test_moments_refuse_what_float64_does_not_resolve():
    balanced = problem([[1e12, 0.0, 3e11], [5e11, -5e11, 0.0]])
    with pytest.raises(LostStepError, match="float64 resolves the outputs"):
        train_with_moments(balanced, HeavyBall(1e-12), 5)
    with pytest.raises(LostStepError, match="float64 resolves the outputs"):
        train_with_moments(problem(1e12 * np.array(SCORES)), Adam(0.1, eps=0.0), 5, loss="exponential")
    far = 1e18 * np.eye(4) / 2
    with pytest.raises(LostStepError, match="lost in the rounding of W"):
        train_with_moments(problem(SCORES), Adam(0.1, eps=0.0), 5, far)
    run = train_with_moments(problem(SCORES), HeavyBall(0.1), 5, far)
    assert run.path_length[-1] == 0.0
    np.testing.assert_array_equal(run.W(), far)


def test_moments_rest_where_there_is_no_force():
    data = TokenProblem(np.ones((1, 2, 3)), [1.0], [1.0], np.zeros((1, 1, 3)), values=np.array([[[1.0], [0.0]]]))
    for rule in (HeavyBall(1.0), Adam(1.0), Adam(1.0, eps=0.0)):
        np.testing.assert_array_equal(train_with_moments(data, rule, 5).W(), 0.0)


def test_orbits_refuse_steps_that_are_lost_beside_their_start():
    data = gaussian(3, 3, 12, seed=0)
    svm = solve_token_svm(data)
    with pytest.raises(LostStepError, match="lost in the rounding of W"):
        orbit(data, NormalizedGD(0.1), svm, 5, 5, 1e18 * svm.W)


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
    check(data, Polyak(0.5, cap=cap), 5, W0, form=form)


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
    W, u, path_W, path_u = exact.joint(data, steps, full=full, digits=DIGITS, **options)
    for ours, true in (
        (run.W(), W),
        (run.u(), u),
        (run.path_W[-1], path_W),
        (run.path_u[-1], path_u),
    ):
        assert np.linalg.norm(ours - true) <= 1e-8 * np.linalg.norm(true)
    assert mpmath.mp.dps == 15


@pytest.mark.parametrize(
    "options", [{"eta0": -5.0}, {"eta0": np.nan}, {"eta0": np.inf}, {"decay": np.nan}, {"decay": -1}]
)
def test_joint_steps_that_are_no_sizes_are_refused(options):
    with pytest.raises(ValueError, match=r"eta0 is|decay is"):
        train_joint(gaussian(2, 2, 4, seed=0), 5, **options)


@pytest.mark.parametrize("steps", [np.nan, np.inf, -1, 2.5, "5"])
def test_joint_counts_that_are_no_integers_are_refused(steps):
    with pytest.raises(InvalidProblemError, match="steps"):
        train_joint(gaussian(2, 2, 4, seed=0), steps)


@pytest.mark.parametrize("normalizer", ["separate", "full"])
def test_joint_steps_beyond_float64_are_refused(normalizer):
    data = gaussian(2, 2, 4, seed=0)
    with pytest.raises(UnboundedStepError, match=r"the step is e\^460.5, .* give the rule a shorter step"):
        train_joint(data, 5, eta0=1e200, normalizer=normalizer)
    with pytest.raises(LostStepError, match="lost in the rounding of W"):
        train_joint(data, 50, eta0=1.0, decay=40.0, normalizer=normalizer)


def test_joint_runs_do_not_see_what_tokens_have_in_common():
    """A common part of 1e6 cancels from the forces on W before they are formed, as many digits say."""
    rng = np.random.default_rng(4)
    data = Sequences(rng.standard_normal((3, 3, 5)) + 1e6, [1.0, 1.0, 1.0], rng.standard_normal((3, 5)))
    run = train_joint(data, 6, eta0=1e-6, decay=0.0)
    W, u, *_ = exact.joint(data, 6, eta0=1e-6, decay=0.0)
    assert np.linalg.norm(run.W() - W) <= 1e-8 * np.linalg.norm(W)
    assert np.linalg.norm(run.u() - u) <= 1e-8 * np.linalg.norm(u)
