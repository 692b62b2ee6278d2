"""Every error of `TokenProblem`, its scores and optimal tokens, and masks through the whole package."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tokenmargin.data.problem import TokenProblem
from tokenmargin.data.synthetic import gaussian
from tokenmargin.errors import InvalidProblemError, NearTieWarning, TiedTokensError, TokenMarginError
from tokenmargin.margin.token_svm import solve_token_svm
from tokenmargin.model.attention import attention, gradient, loss_value, outputs
from tokenmargin.model.weights import kappa
from tokenmargin.theory.conditions import conditions
from tokenmargin.theory.one_clock import largest_constraint
from tokenmargin.theory.residual import e_inf, stability_threshold
from tokenmargin.training.rules import NormalizedGD
from tokenmargin.training.train import train

rng = np.random.default_rng(0)
X = rng.standard_normal((4, 3, 5))
Y = np.array([1.0, -1.0, 1.0, -1.0])
U = rng.standard_normal(5)


def with_entry(array, index, value):
    array = np.array(array, dtype=float)
    array[index] = value
    return array


SHORT_MASK = np.ones((4, 3), dtype=bool)
SHORT_MASK[2, 1:] = False

BAD = {
    "tokens of two axes": ({"tokens": X[0]}, "tokens has 2 axes, shape (3, 5); reshape it to (n, T, d)."),
    "tokens of text": ({"tokens": [[["a"]]]}, "tokens has type <U1; give real numbers"),
    "no sequence": ({"tokens": X[:0], "labels": Y[:0]}, "tokens has shape (0, 3, 5): give at least one sequence and one coordinate."),
    "one token": ({"tokens": X[:, :1]}, "tokens has T = 1: attention chooses among at least two tokens: add tokens to each sequence."),
    "nan": ({"tokens": with_entry(X, (1, 2, 3), np.nan)}, "tokens holds 1 NaN or infinite value(s), the first at index (1, 2, 3): clean them, or add a mask"),
    "infinity": ({"decoder": with_entry(U, 4, np.inf)}, "decoder holds 1 NaN or infinite value(s), the first at index (4,)"),
    "labels of two axes": ({"labels": Y[:, None]}, "labels has 2 axes, shape (4, 1); reshape it to (n,)."),
    "too few labels": ({"labels": Y[:3]}, "labels has shape (3,); give one label for each of the 4 sequences, shape (4,)."),
    "labels 0 and 1": ({"labels": [0, 1, 0, 1]}, "labels must be -1 or +1; sequence(s) 0, 2 have 0: map your two classes to -1 and +1."),
    "decoder of another d": ({"decoder": U[:3]}, "decoder has shape (3,); it reads vectors of dimension 5: give (5,)."),
    "values of another n": ({"values": X[:2]}, "values has shape (2, 3, 5); give (4, 3, v) to go with the tokens."),
    "queries of another d": ({"queries": X[:, 0, :2]}, "queries has shape (4, 2); give (4, 5) or (4, Q, 5) to go with the tokens."),
    "queries of one axis": ({"queries": U}, "queries has 1 axes, shape (5,); reshape it to (n, d) or (n, Q, d)."),
    "mask of numbers": ({"mask": np.full((4, 3), 0.5)}, "mask has type float64 or values other than 0 and 1; give bool, True where a token exists."),
    "tokens of complex numbers": ({"tokens": X + 0j}, "tokens has type complex128; give real numbers"),
    "tokens of dates": ({"tokens": np.full((4, 3, 5), np.datetime64("2020-01-01"))}, "give real numbers"),
    "labels of text": ({"labels": ["a", "b", "a", "b"]}, "labels has type <U1; give -1 and +1."),
    "mask of another shape": ({"mask": np.ones((4, 2), dtype=bool)}, "mask has shape (4, 2); give (4, 3), True where a token exists."),
    "mask leaves one token": ({"mask": SHORT_MASK}, "mask leaves fewer than two tokens in sequence(s) 2: drop them or unmask tokens."),
    "no query": ({"query_mask": np.zeros((4, 1), dtype=bool)}, "query_mask leaves no query in sequence(s) 0, 1, 2, 3: drop them or unmask a query."),
}  # fmt: skip


@pytest.mark.parametrize(("change", "text"), BAD.values(), ids=BAD.keys())
def test_every_bad_array_is_named(change, text):
    with pytest.raises(InvalidProblemError, match=re.escape(text)) as caught:
        TokenProblem(**({"tokens": X, "labels": Y, "decoder": U} | change))
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, TokenMarginError)


# --- Types: every argument in every type is the same problem, or refused by its name --------------------------------

WHOLE = np.random.default_rng(1).integers(-8, 9, (3, 3, 4)).astype(float)
ARGUMENTS = {
    "tokens": WHOLE,
    "labels": np.array([-1.0, 1.0, 1.0]),
    "decoder": np.array([1.0, 2.0, -3.0, 5.0]),
    "queries": WHOLE[:, 1] + 1.0,
    "mask": np.arange(3) < np.array([[2], [3], [3]]),
    "query_mask": np.ones((3, 1), dtype=bool),
    "values": WHOLE + 0.5,
}
SAME = {
    "list": np.ndarray.tolist,
    "Fortran order": np.asfortranarray,
    "every second row": lambda a: np.repeat(a, 2, axis=0)[::2],
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "float16": lambda a: a.astype(np.float16),
    "long double": lambda a: a.astype(np.longdouble),
}
OTHER = {
    "text": lambda a: a.astype(str),
    "bytes": lambda a: a.astype("S8"),
    "objects": lambda a: a.astype(object),
    "complex": lambda a: a + 0j,
    "dates": lambda a: np.zeros(a.shape, "datetime64[s]"),
    "durations": lambda a: np.zeros(a.shape, "timedelta64[s]"),
    "records": lambda a: np.zeros(a.shape, [("x", float)]),
    "a masked array": lambda a: np.ma.masked_array(a, mask=np.zeros(a.shape, dtype=bool)),
    "beyond float64": lambda a: [10**400] * len(a),
    "long double beyond float64": lambda a: a.astype(np.longdouble) * np.longdouble("1e4000") + np.longdouble("1e4000"),
    "rows of different lengths": lambda a: [[1.0], [1.0, 2.0], [3.0]],
    "a scalar": lambda a: 1.0,
    "nothing": lambda a: np.empty(0),
    "a set": lambda a: {1.0, 2.0},
}


@pytest.mark.parametrize("argument", ARGUMENTS)
@pytest.mark.parametrize("convert", SAME.values(), ids=SAME)
def test_arrays_in_other_types_are_the_same_problem(convert, argument):
    plain, given = TokenProblem(**ARGUMENTS), TokenProblem(**ARGUMENTS | {argument: convert(ARGUMENTS[argument])})
    for name in ARGUMENTS:
        array = getattr(given, name)
        assert type(array) is np.ndarray
        assert array.dtype in (np.dtype(float), np.dtype(bool))
        np.testing.assert_array_equal(array, getattr(plain, name))


@pytest.mark.parametrize("argument", ARGUMENTS)
@pytest.mark.parametrize("convert", OTHER.values(), ids=OTHER)
def test_arrays_of_no_real_numbers_are_refused_by_name(convert, argument):
    with pytest.raises(InvalidProblemError, match=f"^(the array of )?{argument} "):
        TokenProblem(**ARGUMENTS | {argument: convert(ARGUMENTS[argument])})


def test_a_memory_map_is_read_and_kept_as_a_plain_array(tmp_path):
    stored = np.memmap(tmp_path / "tokens", dtype=float, mode="w+", shape=WHOLE.shape)
    stored[...] = WHOLE
    problem = TokenProblem(**ARGUMENTS | {"tokens": stored})
    assert type(problem.tokens) is np.ndarray
    assert not np.shares_memory(problem.tokens, stored)


def test_labels_and_names_of_different_lengths_are_refused():
    for name in ("labels", "names"):
        with pytest.raises(InvalidProblemError, match=f"^{name} is not an array of"):
            TokenProblem(**ARGUMENTS | {name: [[1], [1, 2], [1]]})


# --- Scores at the edges of floating point ---------------------------------------------------------------------------


def scored(scores, decoder=1.0):
    return TokenProblem(np.eye(len(scores))[None], [1], [decoder], values=np.array(scores)[None, :, None])


@pytest.mark.parametrize("scores", [(1.5e308, -1.5e308), (1e300, 3e299, -1e300), (1e-300, 3e-301, -1e-300)])
def test_scores_near_the_ends_of_floats_warn_of_nothing(scores):
    assert scored(scores).optimal.tolist() == [0]


def test_scores_beyond_the_largest_float_are_refused():
    with pytest.raises(
        InvalidProblemError, match=r"scores .* the first at index \(0, 0\): divide the decoder by its size"
    ):
        scored((1.5e308, 0.0), 2.0)


def test_scores_that_underflow_are_no_scores():
    with pytest.raises(TiedTokensError, match=r"all its scores .* underflow to zero\. Give a decoder of larger norm"):
        scored((1e-200, 2e-200), 1e-200)
    with pytest.warns(NearTieWarning, match=r"sequence\(s\) 0 leads by less"):
        scored((1e-162, 2e-162), 1e-160)


# --- Ties -------------------------------------------------------------------------------------------------------------


def test_ties_name_their_sequences():
    """Different tokens of the same best score: the decoder is the one who cannot tell them apart."""
    tokens = np.array([[[1.0, 0.0], [1.0, 5.0]], [[1.0, 0.0], [2.0, 0.0]]])
    many = tokens[np.r_[np.zeros(30, dtype=int), 1]]
    with pytest.raises(TiedTokensError, match=r"not unique in sequence\(s\) 0: two tokens share") as caught:
        TokenProblem(tokens, [1, 1], [1.0, 0.0])
    assert caught.value.sequences == (0,)
    with pytest.raises(TiedTokensError, match=r"0, 1, 2, 3, 4, 5, 6, 7, 8, 9, … \(30 in all\)"):
        TokenProblem(many, np.ones(31), [1.0, 0.0])


@pytest.mark.parametrize("seed", range(10))
def test_copies_of_the_best_token_are_found_whatever_rounding_makes_of_their_scores(seed):
    rng = np.random.default_rng(seed)
    tokens, u = rng.standard_normal((6, 7, 33)), rng.standard_normal(33)
    best = np.argmax(tokens @ u, axis=1)
    tokens[2, (best[2] + 3) % 7] = tokens[2, best[2]]
    with pytest.raises(TiedTokensError, match=r"tokens \d and \d of sequence 2 are equal, and score best") as caught:
        TokenProblem(tokens, np.ones(6), u)
    assert caught.value.sequences == (2,)


def test_zero_copies_are_taken_for_padding():
    tokens = np.array([[[-1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]])
    with pytest.raises(
        TiedTokensError, match=r"tokens 1 and 2 of sequence 0 are equal.*Zero tokens: are they padding\? Give a mask"
    ):
        TokenProblem(tokens, [1], [1.0, 0.0])


def test_a_near_tie_warns_and_names_its_sequence():
    tokens = np.array([[[1.0], [2.0]], [[1.0], [1.0 + 1e-14]]])
    with pytest.warns(NearTieWarning, match=r"sequence\(s\) 1 leads by less than"):
        TokenProblem(tokens, [1, 1], [1.0])


def test_a_tie_among_other_tokens_is_allowed():
    problem = TokenProblem([[[1.0], [0.0], [0.0]]], [1], [1.0])
    assert problem.optimal.tolist() == [0]


@pytest.mark.parametrize(
    ("selection", "text"),
    [
        ([0, 1], "give one integer token index for each of 4 sequences"),
        ([0.0, 1.0, 2.0, 0.0], "give one integer token index"),
        ([0, 1, 2, 3], "selection names a token that does not exist; every index must lie in 0..2 and be unmasked."),
        ([-1, 0, 0, 0], "selection names a token that does not exist"),
    ],
)
def test_bad_selections(selection, text):
    with pytest.raises(InvalidProblemError, match=re.escape(text)):
        TokenProblem(X, Y, U).constraints_of(selection)


def test_a_masked_token_cannot_be_selected():
    mask = np.ones((4, 3), dtype=bool)
    mask[0, 2] = False
    with pytest.raises(InvalidProblemError, match="be unmasked"):
        TokenProblem(X, Y, U, mask=mask).constraints_of([2, 0, 0, 0])


def test_arrays_are_copied_and_frozen():
    tokens = X.copy()
    problem = TokenProblem(tokens, Y, U)
    tokens[:] = 0.0
    np.testing.assert_array_equal(problem.tokens, X)
    with pytest.raises(ValueError, match="read-only"):
        problem.tokens[0, 0, 0] = 1.0


reals = st.floats(-5, 5, allow_nan=False, width=32)
shapes = st.tuples(st.integers(1, 4), st.integers(2, 4), st.integers(1, 4))


@settings(max_examples=80, deadline=None)
@given(data=st.data(), shape=shapes)
def test_scores_and_constraints_are_what_their_formulas_say(data, shape):
    n, T, d = shape
    tokens = data.draw(hnp.arrays(float, shape, elements=reals))
    labels = data.draw(hnp.arrays(float, n, elements=st.sampled_from([-1.0, 1.0])))
    decoder = data.draw(hnp.arrays(float, d, elements=reals))
    scores = np.array([[labels[i] * (tokens[i, t] @ decoder) for t in range(T)] for i in range(n)])
    best = np.sort(scores, axis=1)
    if (best[:, -1] - best[:, -2]).min() <= 1e-9:
        if (best[:, -1] == best[:, -2]).any() and not decoder.any():
            with pytest.raises(TiedTokensError):
                TokenProblem(tokens, labels, decoder)
        return
    problem = TokenProblem(tokens, labels, decoder)
    np.testing.assert_allclose(problem.scores, scores, atol=1e-12)
    np.testing.assert_array_equal(problem.optimal, scores.argmax(axis=1))
    np.testing.assert_allclose(problem.second_scores, best[:, -2], atol=1e-12)
    c = problem.constraints
    assert len(c) == n * (T - 1)
    V = np.einsum("kd,ke->kde", c.difference, c.query_vector)
    np.testing.assert_allclose(c.gram, np.einsum("kde,lde->kl", V, V), atol=1e-9)
    np.testing.assert_allclose(c.norms, np.sqrt(np.diag(c.gram)), atol=1e-9)
    W = np.arange(d * d, dtype=float).reshape(d, d)
    np.testing.assert_allclose(c.margins(W), np.einsum("kde,de->k", V, W), atol=1e-9)
    np.testing.assert_allclose(c.combine(np.ones(len(c))), V.sum(axis=0), atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), shape=shapes, value=st.sampled_from([np.nan, np.inf, -np.inf]))
def test_one_bad_number_anywhere_is_found(data, shape, value):
    tokens = np.ones(shape)
    where = tuple(data.draw(st.integers(0, size - 1)) for size in shape)
    tokens[where] = value
    with pytest.raises(InvalidProblemError, match=re.escape(f"the first at index {where}")):
        TokenProblem(tokens, np.ones(shape[0]), np.ones(shape[2]))


# --- Masks: a padded problem is the problem without its padding -------------------------------------------------------


def padded(problem, extra=2):
    """The same sequences followed by masked tokens of large entries."""
    n, T, d = problem.tokens.shape
    tokens = np.concatenate([problem.tokens, np.full((n, extra, d), 50.0)], axis=1)
    values = np.concatenate([problem.values, np.full((n, extra, problem.values.shape[2]), 50.0)], axis=1)
    mask = np.broadcast_to(np.arange(T + extra) < T, (n, T + extra))
    return TokenProblem(tokens, problem.labels, problem.decoder, problem.queries, mask=mask, values=values)


@pytest.fixture(params=["equal", "gaussian"])
def pair(request):
    problem = gaussian(4, 3, 60, seed=1, scores=request.param)
    return problem, padded(problem)


def test_masked_problem_has_the_same_scores_and_loss(pair):
    problem, other = pair
    W = np.random.default_rng(1).standard_normal((60, 60))
    np.testing.assert_array_equal(other.optimal, problem.optimal)
    np.testing.assert_array_equal(other.second_scores, problem.second_scores)
    np.testing.assert_allclose(attention(other, W)[:, :, :3], attention(problem, W), rtol=1e-12)
    assert attention(other, W)[:, :, 3:].max() == 0.0
    assert loss_value(other, W) == pytest.approx(loss_value(problem, W), rel=1e-13)
    np.testing.assert_allclose(gradient(other, W), gradient(problem, W), atol=1e-14)


@pytest.mark.parametrize("form", ["gram", "matrix", "reference"])
def test_masked_problem_has_the_same_trajectory(pair, form):
    runs = [train(p, NormalizedGD(0.1), 200, form=form) for p in pair]
    np.testing.assert_allclose(runs[1].margins, runs[0].margins, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(runs[1].log_loss_gap, runs[0].log_loss_gap, rtol=1e-9)
    assert np.isneginf(runs[1].log_attention[:, :, :, 3:]).all()


def test_masked_problem_has_the_same_theory(pair):
    problem, other = pair
    svms = [solve_token_svm(p) for p in pair]
    assert e_inf(other, svms[1]) == pytest.approx(e_inf(problem, svms[0]), rel=1e-10)
    assert stability_threshold(svms[1]) == pytest.approx(stability_threshold(svms[0]), rel=1e-10)
    assert largest_constraint(other) == largest_constraint(problem)
    zero = np.zeros(len(problem.constraints))
    assert kappa(other, zero) == pytest.approx(kappa(problem, zero), rel=1e-12)
    a, b = conditions(problem), conditions(other)
    assert (a.equal_scores, a.acute, a.entered) == (b.equal_scores, b.acute, b.entered)
    assert b.cosine == pytest.approx(a.cosine, rel=1e-12)
    assert b.slack == pytest.approx(a.slack, rel=1e-12)


def test_sequences_of_different_length_in_full_self_attention():
    short, long = gaussian(1, 2, 30, seed=2), gaussian(1, 4, 30, seed=3)
    tokens = np.zeros((2, 4, 30))
    tokens[0, :2], tokens[1] = short.tokens[0], long.tokens[0]
    values = np.zeros((2, 4, 1))
    values[0, :2], values[1] = short.values[0], long.values[0]
    mask = np.array([[True, True, False, False], [True] * 4])
    labels = np.concatenate([short.labels, long.labels])
    both = TokenProblem(tokens, labels, [1.0], mask=mask, values=values).self_attention()
    assert both.query_mask.tolist() == mask.tolist()
    assert len(both.constraints) == 2 * 1 + 4 * 3
    W = np.random.default_rng(4).standard_normal((30, 30))
    alone = [outputs(p.self_attention(), W)[0] for p in (short, long)]
    np.testing.assert_allclose(outputs(both, W), alone, rtol=1e-12)


def test_subset_keeps_masks_and_values():
    problem = padded(gaussian(4, 3, 10, seed=5, scores="gaussian"))
    part = problem.subset([2, 0])
    np.testing.assert_array_equal(part.mask, problem.mask[[2, 0]])
    np.testing.assert_array_equal(part.scores, problem.scores[[2, 0]])
    with_other = problem.with_decoder(-problem.decoder)
    np.testing.assert_array_equal(with_other.labels, problem.labels)
    assert (with_other.optimal != problem.optimal).all()
