"""A masked problem is the problem without its padding, whatever stands in the padding and wherever it lies.

Every room of the package is asked the same questions of a problem and of the same problem with padding strewn among its
tokens; and problems whose sequences differ in length are compared with their sequences one by one.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenmargin.data.problem import TokenProblem
from tokenmargin.data.sequences import Sequences
from tokenmargin.data.synthetic import gaussian
from tokenmargin.errors import UnboundedStepError
from tokenmargin.margin.token_svm import is_separable, solve_token_svm
from tokenmargin.measures.selection import selects
from tokenmargin.measures.trajectory import (
    direction_error,
    margin_component,
    residual_norm,
    residual_sizes,
    worst_off_attention,
)
from tokenmargin.model import attention
from tokenmargin.model.attention import infimum, loss_value, outputs
from tokenmargin.model.highprecision import gradient_direction, normalized_gd
from tokenmargin.model.weights import entry_slack, gradient_weights, kappa, limit_weights, score_gaps
from tokenmargin.studies.basins import outcome
from tokenmargin.studies.report import constants, summary, try_token_svm
from tokenmargin.theory.conditions import conditions
from tokenmargin.theory.one_clock import largest_constraint, one_clock_bound, sharp_order_bound
from tokenmargin.theory.rates import rates
from tokenmargin.theory.residual import alpha, e_inf, lambda_max, polyak_threshold, stability_threshold
from tokenmargin.training.from_file import from_npz
from tokenmargin.training.joint import train_joint
from tokenmargin.training.rules import GradientDescent, NormalizedGD, Polyak
from tokenmargin.training.starts import adversarial_start
from tokenmargin.training.train import train

RULES = [GradientDescent(2.0), NormalizedGD(0.2), NormalizedGD(0.4, 0.5), Polyak(0.5, cap=0.5)]
FORMS = ["gram", "matrix", "reference"]
GARBAGE = [0.0, 50.0, -1e6, np.nan, np.inf]
pytestmark = pytest.mark.filterwarnings("ignore:Degrees of freedom:RuntimeWarning")


def places(n, T, extra, seed):
    """Where each of T tokens goes among T + extra places, shape (n, T): in order, a choice for each sequence."""
    rng = np.random.default_rng(seed)
    return np.sort(np.argsort(rng.random((n, T + extra)), axis=1)[:, :T], axis=1)


def spread(array, place, width, garbage):
    """The (n, T, ·) array with its tokens at their places among `width`, garbage elsewhere."""
    n = len(place)
    wide = np.full((n, width, *array.shape[2:]), garbage)
    wide[np.arange(n)[:, None], place] = array
    return wide


def padded(problem, extra=2, garbage=50.0, seed=0):
    """The problem with padding strewn among its tokens (and among its queries, where these are the tokens), and the places."""
    n, T = problem.n, problem.T
    place = places(n, T, extra, seed)
    wide = {name: spread(getattr(problem, name), place, T + extra, garbage) for name in ("tokens", "values")}
    mask = spread(np.ones((n, T)), place, T + extra, 0.0) > 0
    queries = wide["tokens"] if problem.Q == T else problem.queries
    labels, decoder = problem.labels, problem.decoder
    return TokenProblem(wide["tokens"], labels, decoder, queries, mask, values=wide["values"]), place


def same(a, b, rtol=1e-9, atol=1e-11):
    np.testing.assert_allclose(b, a, rtol=rtol, atol=atol)


@st.composite
def twins(draw, d=40):
    """A problem, the same with padding, and the places of its tokens."""
    n, T = draw(st.integers(1, 4)), draw(st.integers(2, 4))
    Q = draw(st.sampled_from([1, T]))
    scores = draw(st.sampled_from(["equal", "gaussian"]))
    problem = gaussian(n, T, d, seed=draw(st.integers(0, 10**6)), scores=scores, Q=Q)
    extra, garbage = draw(st.integers(1, 3)), draw(st.sampled_from(GARBAGE))
    return problem, *padded(problem, extra, garbage, draw(st.integers(0, 10**6)))


def at_places(array, place, Q):
    """Entries (n, Q', T') of a padded problem at the existing queries and tokens, shape (n, Q, T)."""
    rows = np.arange(len(place))[:, None, None]
    queries = place[:, :, None] if Q > 1 else np.zeros((len(place), 1, 1), dtype=int)
    return array[..., rows, queries, place[:, None, :]]


@settings(max_examples=40, deadline=None)
@given(twins(), st.sampled_from(["logistic", "exponential"]), st.integers(0, 10**6))
def test_attention(pair, loss, seed):
    problem, other, place = pair
    W = np.random.default_rng(seed).standard_normal((problem.d, problem.d))
    s = attention.attention(other, W)
    same(attention.attention(problem, W), at_places(s, place, problem.Q))
    assert (np.where(other.mask[:, None, :], 0.0, s) == 0.0).all()
    for measure in (outputs, loss_value, attention.gradient):
        arguments = () if measure is outputs else (loss,)
        same(measure(problem, W, *arguments), measure(other, W, *arguments), atol=1e-13)
    assert infimum(other, loss) == pytest.approx(infimum(problem, loss), rel=1e-14)
    np.testing.assert_array_equal(place[np.arange(problem.n), problem.optimal], other.optimal)


@settings(max_examples=25, deadline=None)
@given(twins(), st.sampled_from(["gram", "working-set"]))
def test_svm(pair, method):
    problem, other, _ = pair
    svm, masked = (solve_token_svm(p, method=method) for p in (problem, other))
    same(svm.duals, masked.duals)
    same(svm.W, masked.W)
    assert len(masked.duals) == problem.n * problem.Q * (problem.T - 1)


@settings(max_examples=40, deadline=None)
@given(twins(d=16), st.sampled_from(RULES), st.sampled_from(FORMS), st.sampled_from(["logistic", "exponential"]))
def test_engine(pair, rule, form, loss):
    problem, other, place = pair
    steps = (
        6 if form == "reference" else 60
    )  # the plain formula soon loses its digits, by which Polyak's step is judged
    run, masked = (train(p, rule, steps, form=form, loss=loss) for p in (problem, other))
    for name in ("margins", "path_length", "effective_steps", "log_gradient_norm", "log_loss_gap", "norms"):
        same(getattr(run, name), getattr(masked, name), rtol=1e-8, atol=1e-9)
    same(run.W(), masked.W(), rtol=1e-8, atol=1e-9)
    there = at_places(masked.log_attention, place, problem.Q)
    same(run.log_attention, there, rtol=1e-8, atol=1e-9)
    same(worst_off_attention(run), worst_off_attention(masked), rtol=1e-7, atol=1e-9)
    assert selects(masked) == selects(run)


@settings(max_examples=40, deadline=None)
@given(twins(d=16), st.sampled_from([0.0, 1.0, 30.0, 1000.0]), st.sampled_from(["logistic", "exponential"]))
def test_uncapped_polyak(pair, size, loss):
    """From a saturated wrong token Polyak's step has no finite size: both twins refuse it, or take the same step.

    One step only: without a cap the steps near the edge of stability amplify rounding, twins or not.
    """
    problem, other, _ = pair
    W0 = size * np.random.default_rng(problem.n).standard_normal((problem.d, problem.d))
    ends = []
    for data in (problem, other):
        try:
            ends.append(train(data, Polyak(0.5), 1, W0, form="gram", loss=loss).path_length[-1])
        except UnboundedStepError:
            ends.append(np.inf)
    same(ends[0], ends[1], rtol=1e-8)


def test_many_digits():
    problem = gaussian(2, 3, 6, seed=3, scores="gaussian")
    other, _ = padded(problem)
    runs = [normalized_gd(p, 0.3, [0, 4], digits=40) for p in (problem, other)]
    for plain, masked in zip(*runs, strict=True):
        same(plain, masked, rtol=1e-13, atol=1e-15)
    W = np.random.default_rng(0).standard_normal((6, 6))
    directions = [gradient_direction(p, W, digits=40) for p in (problem, other)]
    same(*directions, rtol=1e-13, atol=1e-15)


@settings(max_examples=25, deadline=None)
@given(twins(d=60), st.sampled_from(["logistic", "exponential"]))
def test_theory(pair, loss):
    problem, other, _ = pair
    svm, masked = solve_token_svm(problem), solve_token_svm(other)
    mu = np.random.default_rng(0).standard_normal(len(svm.duals))
    assert largest_constraint(other) == largest_constraint(problem)
    same(score_gaps(problem), score_gaps(other))
    same(gradient_weights(problem, mu, loss), gradient_weights(other, mu, loss))
    same(limit_weights(problem, loss), limit_weights(other, loss))
    same(entry_slack(problem, mu), entry_slack(other, mu))
    same(kappa(problem, 9.0 + mu, loss), kappa(other, 9.0 + mu, loss))
    a, b = conditions(problem), conditions(other)
    assert (a.equal_scores, a.acute, a.entered, a.worst_sequence) == (
        b.equal_scores,
        b.acute,
        b.entered,
        b.worst_sequence,
    )
    same([a.score_spread, a.cosine, a.slack], [b.score_spread, b.cosine, b.slack])
    if svm.support.all():
        for constant in (alpha, e_inf):
            same(constant(problem, svm, loss), constant(other, masked, loss), rtol=1e-6, atol=1e-9)
        for rule in RULES:
            laws, others = (rates(p, s, rule, [1e3, 1e6], loss) for p, s in ((problem, svm), (other, masked)))
            same(laws.norm, others.norm, rtol=1e-6)
            same(laws.direction_error, others.direction_error, rtol=1e-6, atol=1e-9)
            same(laws.log_off_attention, others.log_off_attention, rtol=1e-6)


@pytest.mark.parametrize("Q", [1, 3])
@pytest.mark.parametrize("garbage", GARBAGE)
def test_bounds_thresholds_measures_and_report(Q, garbage):
    problem = gaussian(3, 3, 60, seed=2, Q=Q)
    other, place = padded(problem, garbage=garbage)
    svm, masked = (try_token_svm(p) for p in (problem, other))
    run, padded_run = (train(p, NormalizedGD(0.1), 400) for p in (problem, other))
    assert svm.support.all()
    for bound in ("along", "residual", "direction", "log_off_attention"):
        plain, wide = (getattr(one_clock_bound(r, s), bound) for r, s in ((run, svm), (padded_run, masked)))
        same(plain, wide, rtol=1e-7)
    same(sharp_order_bound(run, svm)[0], sharp_order_bound(padded_run, masked)[0], rtol=1e-7)
    for threshold in (lambda_max, stability_threshold, polyak_threshold):
        assert threshold(masked) == pytest.approx(threshold(svm), rel=1e-8)
    for measure in (direction_error, margin_component, residual_norm, residual_sizes):
        same(measure(run, svm), measure(padded_run, masked), rtol=1e-7, atol=1e-8)
    assert constants(other, masked) == pytest.approx(constants(problem, svm), rel=1e-7)
    plain, wide = summary(problem, svm, {"NGD": run}), summary(other, masked, {"NGD": padded_run})
    assert wide["optimal_tokens"] == place[np.arange(3), problem.optimal].tolist()
    assert wide["constraints"] == plain["constraints"]
    assert wide["conditions"] == pytest.approx(plain["conditions"], rel=1e-9, abs=1e-12)
    ends = [report["runs"]["NGD"] for report in (plain, wide)]
    for end in ends:
        end.pop("selected_tokens")
    assert ends[1] == pytest.approx(ends[0], rel=1e-7)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 3),
    st.sampled_from(GARBAGE),
    st.sampled_from(["separate", "full"]),
    st.sampled_from(["exponential", "logistic"]),
)
def test_joint_training(seed, extra, garbage, normalizer, loss):
    rng = np.random.default_rng(seed)
    X, Z = rng.standard_normal((4, 3, 9)), rng.standard_normal((4, 9))
    y = np.array([1.0, -1.0, 1.0, -1.0])
    place = places(4, 3, extra, seed)
    mask = spread(np.ones((4, 3)), place, 3 + extra, 0.0) > 0
    wide = spread(X, place, 3 + extra, garbage)
    options = {"normalizer": normalizer, "loss": loss}
    run, masked = (train_joint(data, 40, **options) for data in (Sequences(X, y, Z), Sequences(wide, y, Z, mask)))
    same(run.W(), masked.W(), atol=1e-9)
    same(run.u(), masked.u(), atol=1e-9)
    for name in ("log_loss", "norm_W", "norm_u"):
        same(getattr(run, name), getattr(masked, name), atol=1e-9)
    rows = np.arange(4)[:, None]
    same(run.log_attention, masked.log_attention[:, rows, place], atol=1e-9)
    same(run.scores, masked.scores[:, rows, place], atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(twins(d=12), st.integers(0, 10**6), st.sampled_from([1.0, 20.0]))
def test_basins(pair, seed, norm):
    problem, other, _ = pair
    starts = [adversarial_start(p, norm, np.random.default_rng(seed)) for p in (problem, other)]
    same(*starts)
    ends = [outcome(p, starts[0], length=60.0) for p in (problem, other)]
    assert ends[0][0] == ends[1][0]
    same(ends[0][1].margins[-1], ends[1][1].margins[-1], rtol=1e-6, atol=1e-6)
    assert is_separable(other) == is_separable(problem)


@pytest.mark.parametrize("garbage", [0.0, 50.0, np.nan])
@pytest.mark.parametrize("queries", ["none", "given", "tokens"])
@pytest.mark.parametrize("decoder", [False, True])
def test_files(tmp_path, garbage, queries, decoder):
    rng = np.random.default_rng(5)
    X, y = rng.standard_normal((4, 3, 30)), np.array([1, -1, 1, -1])
    place = places(4, 3, 2, 1)
    mask = spread(np.ones((4, 3)), place, 5, 0.0) > 0
    assert not mask[:, 0].all(), "some sequence begins with padding: the default query is its first existing token"
    files = []
    for tokens, extra in ((X, {}), (spread(X, place, 5, garbage), {"mask": mask})):
        more = {"none": {}, "given": {"queries": X[:, 2]}, "tokens": {"queries": tokens}}[queries]
        more |= {"decoder": np.linspace(-1, 1, 30)} if decoder else {}
        files.append(tmp_path / f"{len(files)}.npz")
        np.savez(files[-1], X=tokens, y=y, **extra, **more)
    problem, other = (from_npz(path, steps=30) for path in files)
    same(problem.decoder, other.decoder)
    assert len(other.constraints) == len(problem.constraints)
    W = rng.standard_normal((30, 30))
    same(attention.gradient(problem, W), attention.gradient(other, W), atol=1e-13)


@st.composite
def ragged(draw):
    """Sequences of different lengths as one masked problem, and each of them as a problem of its own."""
    seed, n = draw(st.integers(0, 10**6)), draw(st.integers(2, 4))
    full = draw(st.booleans())
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 5, size=n)
    tokens, decoder = rng.standard_normal((n, 5, 12)), rng.standard_normal(12)
    mask = np.arange(5) < lengths[:, None]
    labels = rng.choice([-1.0, 1.0], n)
    whole = TokenProblem(tokens, labels, decoder, tokens if full else None, mask)
    alone = []
    for i, length in enumerate(lengths):
        x = tokens[i : i + 1, :length]
        alone.append(TokenProblem(x, labels[i : i + 1], decoder, x if full else None))
    return whole, alone


@settings(max_examples=30, deadline=None)
@given(ragged(), st.integers(0, 10**6))
def test_sequences_of_different_lengths_one_by_one(pair, seed):
    whole, alone = pair
    W = np.random.default_rng(seed).standard_normal((12, 12))
    same(np.concatenate([outputs(p, W) for p in alone]), outputs(whole, W))
    same(np.mean([attention.gradient(p, W) for p in alone], axis=0), attention.gradient(whole, W), atol=1e-13)
    same(np.concatenate([p.constraints.margins(W) for p in alone]), whole.constraints.margins(W))
    assert largest_constraint(whole) == max(largest_constraint(p) for p in alone)


@settings(max_examples=20, deadline=None)
@given(ragged(), st.sampled_from(FORMS))
def test_steps_on_sequences_of_different_lengths(pair, form):
    whole, alone = pair
    W = np.zeros((12, 12))
    for _ in range(12):
        gradient = np.mean([attention.gradient(p, W) for p in alone], axis=0)
        W = W - 0.1 * gradient / np.linalg.norm(gradient)
    same(W, train(whole, NormalizedGD(0.1), 12, form=form).W(), atol=1e-9)


@settings(max_examples=15, deadline=None)
@given(ragged())
def test_svm_of_sequences_of_different_lengths(pair):
    whole, alone = pair
    svm = try_token_svm(whole)
    if isinstance(svm, Exception):
        assert svm.residual < 1e-7
        return
    parts = np.split(svm.duals, np.cumsum([len(p.constraints) for p in alone])[:-1])
    W = sum(p.constraints.combine(part) for p, part in zip(alone, parts, strict=True))
    same(W, svm.W)
    margins = np.concatenate([p.constraints.margins(W) for p in alone])
    assert margins.min() >= 1 - 1e-8
    assert (svm.duals * (margins - 1)).max() < 1e-7 * svm.norm**2
