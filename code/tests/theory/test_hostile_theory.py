"""Theory and measures at hostile scales: equal to mpmath's numbers, or a typed error; never a wrong number.

The scales of tokens, queries and decoder go from 1e-150 to 1e150, scores are equal, nearly equal and huge, margins deep in
saturation on either side, shapes as small as they can be. The SVM of a rescaled problem is the rescaled SVM, so that nothing
here judges the solver.
"""

import itertools

import mpmath
import numpy as np
import pytest
from tokenmargin.data.problem import TokenProblem
from tokenmargin.data.synthetic import gaussian, orthogonal
from tokenmargin.errors import AssumptionError, FloatRangeError, NearTieWarning
from tokenmargin.margin.token_svm import TokenSVM, solve_token_svm
from tokenmargin.measures.geometry import gram_norm, normalized, root_of_form, unit_gram
from tokenmargin.model.weights import (
    entry_slack,
    gradient_weights,
    kappa,
    limit_weights,
    log_entry_slack,
    log_gradient_weights,
    log_kappa,
    log_limit_weights,
    log_negative_slope,
    score_gaps,
)
from tokenmargin.theory.conditions import conditions
from tokenmargin.theory.one_clock import largest_constraint
from tokenmargin.theory.residual import (
    alpha,
    contraction,
    curvatures,
    e_inf,
    log_alpha,
    polyak_threshold,
    proved_step,
    residual_limit,
    stability_threshold,
    transverse_operator,
)

LOSSES = ("logistic", "exponential")
SCALES = [1e-150, 1e-75, 1e-12, 1e-3, 1e3, 1e12, 1e75, 1e150]
number = np.vectorize(mpmath.mpf, otypes=[object])


@pytest.fixture(autouse=True)
def digits():
    with mpmath.workdps(80):
        yield


def rescaled(problem, *, tokens=1.0, queries=1.0, decoder=1.0):
    """The problem with tokens, queries and scores multiplied."""
    return TokenProblem(
        problem.tokens * tokens,
        problem.labels,
        problem.decoder * decoder,
        problem.queries * queries,
        values=problem.values,
    )


def rescaled_svm(problem, svm, size):
    """The SVM of constraints `size` times as large: the same margins, duals divided by size^2."""
    return TokenSVM(problem.constraints, svm.duals / size / size, svm.margins)


def one_sequence(scores):
    scores = np.array(scores)
    return TokenProblem(np.eye(len(scores))[None], np.ones(1), np.ones(1), values=scores[None, :, None])


def exact_parts(problem, margins, loss):
    """Slack m - gamma, p and q of each constraint in the equations' own words, by mpmath; lists of N."""
    c, gamma = problem.constraints, number(np.where(problem.mask, problem.scores, 0.0))
    e = {(i, q): {int(problem.optimal[i]): mpmath.mpf(1)} for i, q in np.argwhere(problem.query_mask)}
    for i, q, t, mu in zip(c.sequence, c.query, c.token, margins, strict=True):
        e[i, q][int(t)] = mpmath.exp(-mpmath.mpf(float(mu)))
    s = {row: {t: x / mpmath.fsum(w.values()) for t, x in w.items()} for row, w in e.items()}
    counts = problem.query_mask.sum(axis=1)
    opt = gamma[np.arange(problem.n), problem.optimal]
    short = [
        mpmath.fsum(s[i, q][t] * (opt[i] - gamma[i, t]) for q in range(problem.Q) if (i, q) in s for t in s[i, q])
        / int(counts[i])
        for i in range(problem.n)
    ]
    slacks, p, Q = [], [], []
    for i, q, t in zip(c.sequence, c.query, c.token, strict=True):
        slack = mpmath.fsum(s[i, q][r] * (gamma[i, r] - gamma[i, t]) for r in s[i, q])
        shared = exact_slope(opt[i] - short[i], loss) * slack / int(counts[i]) / problem.n
        slacks.append(slack)
        p.append(shared * s[i, q][int(t)])
        Q.append(shared * s[i, q][int(problem.optimal[i])])
    return slacks, p, Q


def exact_slope(m, loss):
    return mpmath.exp(-m) if loss == "exponential" else 1 / (1 + mpmath.exp(m))


def exact_limit(problem, svm, loss):
    """log(alpha), e_inf and the coefficients of R_inf by mpmath, from the tokens and duals as they are."""
    c, N = problem.constraints, len(problem.constraints)
    x, z, lam = number(problem.tokens), number(problem.queries), number(svm.duals)
    a = [x[i, problem.optimal[i]] - x[i, t] for i, t in zip(c.sequence, c.token, strict=True)]
    b = [z[i, q] for i, q in zip(c.sequence, c.query, strict=True)]
    gram = mpmath.matrix(N, N)
    for k, j in itertools.product(range(N), repeat=2):
        gram[k, j] = (a[k] @ a[j]) * (b[k] @ b[j])
    gamma, counts = number(problem.scores), problem.query_mask.sum(axis=1)
    ratios = []
    for i, t, dual in zip(c.sequence, c.token, lam, strict=True):
        best = gamma[i, problem.optimal[i]]
        q = exact_slope(best, loss) * (best - gamma[i, t]) / int(counts[i]) / problem.n
        ratios.append(mpmath.log(q / dual))
    share = lam / (lam @ number(svm.margins))
    level = mpmath.fsum(share * np.array(ratios))
    right = mpmath.matrix([r - level for r in ratios])
    r = mpmath.lu_solve(gram, right)
    return level, mpmath.sqrt((r.T * right)[0]), r


def agree(value, exact, rel=1e-9):
    assert abs(mpmath.mpf(float(value)) - exact) <= rel * abs(exact), (value, exact)


def logs_agree(log, exact, scale=1.0):
    """A logarithm against that of |exact|: to 1e-12, relative where it is large, plus the rounding of scores of that scale."""
    if exact == 0:
        assert log == -np.inf
        return
    truth = mpmath.log(abs(exact))
    assert abs(mpmath.mpf(float(log)) - truth) <= 1e-12 * max(1, abs(truth)) + 1e-14 * abs(scale), (log, truth)


# --- Weights and the entry condition ------------------------------------------------------------------------------


SCORES = {
    "two": (1.0, 0.0),
    "equal": (1.0, 0.25, 0.25, 0.25),
    "nearly equal": (1.0, 0.5 + 5e-14, 0.5),
    "last bit": (1.0, np.nextafter(0.5, 1.0), 0.5),
    "near tie below": (1.0, 0.999, 0.0),
    "huge": (760.0, 310.0, -90.0),
    "larger": (1e6, 0.0, -3e5),
    "tiny": (1e-150, 5e-151, 0.0),
    "smallest": (1e-300, 3e-301, -1e-300),
}
MARGINS = {
    "zero": (0.0, 0.0, 0.0),
    "won": (40.0, 60.0, 50.0),
    "far won": (1e4, 3e4, 2e4),
    "lost": (-40.0, -20.0, -30.0),
    "lost by 650": (-650.0, -650.0, -650.0),
    "far lost": (-3e4, -1e4, -2e4),
    "mixed": (-700.0, 900.0, 12.0),
    "runner-up leads": (-8.0, -7.0, 3.0),
    "out of sight": (1e15, -1e15, 5e14),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("mu", MARGINS.values(), ids=MARGINS)
@pytest.mark.parametrize("scores", SCORES.values(), ids=SCORES)
def test_weights_and_slack_of_one_sequence(scores, mu, loss):
    problem, mu = one_sequence(scores), np.array(mu[: len(scores) - 1])
    slack, p, q = exact_parts(problem, mu, loss)
    sign, log_p, log_q = log_gradient_weights(problem, mu, loss)
    log_slack = log_entry_slack(problem, mu)[1]
    for k in range(len(mu)):
        assert sign[k] == mpmath.sign(slack[k])
        logs_agree(log_slack[k], slack[k])
        logs_agree(log_p[k], p[k], max(map(abs, scores)))
        logs_agree(log_q[k], q[k], max(map(abs, scores)))
    assert ((entry_slack(problem, mu) > 0.0) == (sign > 0.0)).all()
    if all(x > 0 for x in slack):
        logs = [mpmath.log(x) for x in q]
        assert abs(mpmath.mpf(log_kappa(problem, mu, loss)) - (max(logs) - min(logs))) < 1e-8
    else:
        assert kappa(problem, mu, loss) == np.inf


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("size", [0.0, 1.0, 30.0, 700.0])
@pytest.mark.parametrize("Q", [1, 3])
def test_weights_of_several_sequences_and_queries(Q, size, loss):
    problem = gaussian(3, 3, 10, seed=1, scores="gaussian", Q=Q)
    mu = size * np.random.default_rng(0).standard_normal(len(problem.constraints))
    slack, p, q = exact_parts(problem, mu, loss)
    for value, exact in zip(entry_slack(problem, mu), slack, strict=True):
        if abs(exact) > 1e-300:
            agree(value, exact, 1e-10)
        else:
            assert 0.0 < abs(value) < 1e-299
            assert np.sign(value) == mpmath.sign(exact)
    for value, exact in zip(np.ravel(gradient_weights(problem, mu, loss)), p + q, strict=True):
        if abs(exact) > 1e-300:
            agree(value, exact, 1e-9)
        else:
            assert abs(value) < 1e-299


def test_the_weights_of_a_saturated_wrong_token():
    """p was -6.5e-15 at margins -650, by cancellation; kappa infinite."""
    problem, mu = one_sequence((1.0, 0.5, 0.5)), np.full(2, -650.0)
    p = gradient_weights(problem, mu)[0]
    assert p == pytest.approx(np.full(2, np.exp(-650.0) / (1.0 + np.exp(0.5)) / 8.0), rel=1e-10)
    assert kappa(problem, mu) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("m", [1e-300, -1e-300, 1.0, 700.0, 800.0, 1e6, 1e300, -1e300, -800.0])
def test_log_slopes(m):
    assert log_negative_slope(m, "exponential") == -m
    exact = -mpmath.mpf(max(m, 0.0)) - mpmath.log1p(mpmath.exp(-abs(mpmath.mpf(m))) if abs(m) < 1e9 else 0)
    if m < -700.0:
        assert 0.0 >= log_negative_slope(m) >= -1e-300
    else:
        agree(log_negative_slope(m), exact, 1e-14)


@pytest.mark.parametrize("factor", [1e-300, 1e-12, 1.0, 760.0, 1e5, 1e300])
@pytest.mark.parametrize("loss", LOSSES)
def test_limit_weights_and_constants_at_any_size_of_scores(factor, loss):
    problem = rescaled(gaussian(3, 3, 40, seed=5, scores="gaussian"), decoder=factor)
    svm = solve_token_svm(gaussian(3, 3, 40, seed=5, scores="gaussian"))
    svm = TokenSVM(problem.constraints, svm.duals, svm.margins)
    level, size, r = exact_limit(problem, svm, loss)
    c = problem.constraints
    for k, log_q in enumerate(log_limit_weights(problem, loss)):
        gamma = number(problem.scores[c.sequence[k]])
        best = gamma[problem.optimal[c.sequence[k]]]
        log_slope = -best if loss == "exponential" else -mpmath.log1p(mpmath.exp(best)) if best < 1e9 else -best
        exact = log_slope + mpmath.log((best - gamma[c.token[k]]) / problem.n)
        agree(log_q, exact, 1e-12)
    agree(log_alpha(problem, svm, loss), level, 1e-11)
    agree(e_inf(problem, svm, loss), size, 1e-9)
    for value, exact in zip(residual_limit(problem, svm, loss), r, strict=True):
        assert abs(value - exact) <= 1e-9 * max(abs(x) for x in r)
    if abs(level) < 700.0:
        agree(alpha(problem, svm, loss), mpmath.exp(level), 1e-10)
    else:
        with pytest.raises(FloatRangeError, match="log_alpha"):
            alpha(problem, svm, loss)
    if factor == 1e300:
        with pytest.raises(FloatRangeError, match="log_limit_weights"):
            limit_weights(problem, loss)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_margins_that_are_no_numbers_are_refused(bad):
    problem = one_sequence((1.0, 0.0))
    for function in (entry_slack, gradient_weights, kappa):
        with pytest.raises(FloatRangeError, match="margin"):
            function(problem, np.array([bad]))


def test_weights_and_gaps_beyond_floats_are_refused():
    with pytest.raises(FloatRangeError, match="log_gradient_weights"):
        gradient_weights(one_sequence((-800.0, -900.0)), np.zeros(1), "exponential")
    wide = one_sequence((1.5e308, -1.5e308))
    for refused in (score_gaps, conditions, lambda p: entry_slack(p, np.full(1, 50.0))):
        with pytest.raises(FloatRangeError):
            refused(wide)
    assert log_entry_slack(wide, np.zeros(1))[1] == pytest.approx(np.log(1.5e308), rel=1e-15)


# --- Conditions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", SCALES)
def test_conditions_do_not_depend_on_units(scale):
    for problem in (orthogonal(3, 3, 9, seed=0), gaussian(3, 3, 9, seed=0, scores="gaussian")):
        plain = conditions(problem)
        for other in (
            rescaled(problem, tokens=scale),
            rescaled(problem, queries=scale),
            rescaled(problem, tokens=scale, queries=scale),
            rescaled(problem, decoder=scale),
        ):
            found = conditions(other)
            assert (found.equal_scores, found.acute, found.entered) == (plain.equal_scores, plain.acute, plain.entered)
            assert found.cosine == pytest.approx(plain.cosine, rel=1e-12, abs=1e-15)
            assert found.relative_spread == pytest.approx(plain.relative_spread, rel=1e-12)
        assert conditions(rescaled(problem, decoder=scale)).slack == pytest.approx(scale * plain.slack, rel=1e-12)


def test_a_small_decoder_does_not_make_scores_equal():
    problem = gaussian(3, 3, 9, seed=0, scores="gaussian")
    assert not conditions(rescaled(problem, decoder=1e-13)).equal_scores


def test_rounding_of_the_products_counts_as_zero_spread_and_a_small_true_spread_does_not():
    """The off-scores 0.1 + 0.2 - 0.3 and 0 differ by rounding alone; 1e-10 of the gap is more than rounding."""
    values = np.array([[[1.0, 0.0, 0.0], [0.1, 0.2, -0.3], [0.0, 0.0, 0.0]]])
    assert conditions(TokenProblem(np.eye(3)[None], np.ones(1), np.ones(3), values=values)).equal_scores
    assert not conditions(one_sequence((1.0, 1e-10, 0.0))).equal_scores
    assert not conditions(one_sequence((1.0, 1.0 - 1e-9, 1.0 - 2e-9))).equal_scores


# --- Residual and thresholds --------------------------------------------------------------------------------------


@pytest.mark.parametrize("Q", [1, 3])
@pytest.mark.parametrize("scale", SCALES)
def test_constants_have_the_units_that_they_should(scale, Q):
    """With constraints s times as large: e_inf, h*, the proved step go as 1/s; curvatures, theta*, contraction do not change."""
    problem = gaussian(3, 3, 40, seed=3, scores="gaussian", Q=Q)
    svm = solve_token_svm(problem)
    for sizes in ({"tokens": scale}, {"queries": scale}):
        other = rescaled(problem, **sizes)
        big = rescaled_svm(other, svm, scale)
        assert largest_constraint(other) == pytest.approx(scale * largest_constraint(problem), rel=1e-12)
        assert e_inf(other, big) * scale == pytest.approx(e_inf(problem, svm), rel=1e-10)
        assert curvatures(big) == pytest.approx(curvatures(svm), rel=1e-9)
        assert polyak_threshold(big) == pytest.approx(polyak_threshold(svm), rel=1e-10)
        for length in (stability_threshold, proved_step):
            assert length(big) * scale == pytest.approx(length(svm), rel=1e-10)
        half = 0.5 * stability_threshold(svm)
        assert contraction(big, half / scale) == pytest.approx(contraction(svm, half), rel=1e-10)
        assert transverse_operator(big) == pytest.approx(transverse_operator(svm), rel=1e-8, abs=1e-10)


@pytest.mark.parametrize("scale", SCALES)
def test_the_residual_at_hostile_scales_against_many_digits(scale):
    problem = gaussian(2, 3, 20, seed=4, scores="gaussian")
    svm = solve_token_svm(problem)
    other = rescaled(problem, tokens=scale)
    big = rescaled_svm(other, svm, scale)
    level, size, _ = exact_limit(other, big, "logistic")
    agree(log_alpha(other, big), level, 1e-12)
    agree(e_inf(other, big), size, 1e-10)


@pytest.mark.parametrize("scale", [1e-160, 1e160])
def test_constraints_whose_norms_no_float_holds_are_refused(scale):
    problem = gaussian(2, 3, 20, seed=4)
    other = rescaled(problem, tokens=scale, queries=scale)
    with pytest.raises(FloatRangeError, match="outside the range of floats"):
        largest_constraint(other)
    duals = np.full(4, 1.0 if scale > 1.0 else np.inf)  # those of the SVM are no floats either
    with pytest.raises(FloatRangeError, match="outside the range of floats"):
        curvatures(TokenSVM(other.constraints, duals, np.ones(4)))


def test_one_sequence_of_small_tokens_changes_no_curvature():
    """Orthogonal sequences, one 1e-4 times as large: its duals are 1e8 times as large, the curvatures stay one."""
    problem = orthogonal(3, 2, 6, seed=0)
    size = np.array([1.0, 1e-4, 1.0])[:, None, None]
    other = TokenProblem(problem.tokens * size, problem.labels, np.ones(1), problem.queries, values=problem.values)
    c = other.constraints
    svm = TokenSVM(c, 1.0 / c.norms**2, np.ones(3))
    assert curvatures(svm) == pytest.approx(np.ones(2), rel=1e-9)
    level, size, _ = exact_limit(other, svm, "logistic")
    agree(e_inf(other, svm), size, 1e-10)
    agree(log_alpha(other, svm), level, 1e-12)


def three_tokens(gaps, duals):
    """Tokens (2, 0), (2, 1), (2, -1), each against 0, with the query e_1: three dependent constraints of rank two."""
    tokens = np.zeros((3, 2, 2))
    tokens[:, 0] = [[2.0, 0.0], [2.0, 1.0], [2.0, -1.0]]
    values = np.stack([np.array(gaps), np.zeros(3)], axis=1)[:, :, None]
    problem = TokenProblem(tokens, np.ones(3), np.ones(1), np.tile([1.0, 0.0], (3, 1)), values=values)
    return problem, TokenSVM(problem.constraints, np.array(duals), np.ones(3))


THRESHOLDS = [
    proved_step,
    stability_threshold,
    polyak_threshold,
    curvatures,
    transverse_operator,
    lambda s: contraction(s, 1.0),
]


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_thresholds_refuse_duals_that_are_not_unique(threshold, scale):
    """The proved step was inf there, although the residual oscillates for h > 6."""
    problem, one = three_tokens((1.0, 1.0, 1.0), (0.25, 0.0, 0.0))
    scaled_problem = rescaled(problem, tokens=scale)
    assert pytest.approx(np.array([[0.5, 0.0], [0.0, 0.0]])) == one.W
    with pytest.raises(AssumptionError, match="strict complementarity"):
        threshold(rescaled_svm(scaled_problem, one, scale))
    _, other = three_tokens((1.0, 1.0, 1.0), (0.15, 0.05, 0.05))
    assert pytest.approx(one.W) == other.W
    with pytest.raises(AssumptionError, match="linearly dependent"):
        threshold(rescaled_svm(scaled_problem, other, scale))


def test_the_solved_svm_of_dependent_constraints_has_no_thresholds():
    problem, _ = three_tokens((0.95, 0.025 * np.exp(4.0), 0.025 * np.exp(-4.0)), np.ones(3))
    with pytest.raises(AssumptionError, match=r"strict complementarity|linearly dependent"):
        stability_threshold(solve_token_svm(problem))


def test_copies_of_a_support_token_are_named():
    rng = np.random.default_rng(0)
    x, scores = rng.standard_normal((3, 4, 60)), np.tile([1.0, 0.5, 0.25, 0.0], (3, 1))
    x[1, 3] = x[1, 1]
    problem = TokenProblem(x, np.ones(3), np.ones(1), values=scores[:, :, None])
    svm = solve_token_svm(problem)
    with pytest.raises(AssumptionError, match=r"tokens 1 and 3 of sequence 1 are equal: keep one, or mask one"):
        curvatures(svm)
    shared = np.where(
        problem.constraints.sequence == 1, svm.duals[problem.constraints.sequence == 1].sum() / 3, svm.duals
    )
    with pytest.raises(AssumptionError, match=r"linearly dependent .* tokens 1 and 3 of sequence 1 are equal"):
        curvatures(TokenSVM(problem.constraints, shared, np.ones(len(shared))))


@pytest.mark.parametrize("angle", [1e-1, 1e-3, 1e-4])
def test_nearly_dependent_constraints_are_right_or_refused(angle):
    """Two unit constraints at a small angle: lambda = 1/(1 + cos), one curvature (1 - cos)/(1 + cos), D^2 = 2 - 2 cos."""
    tokens, z = np.zeros((2, 2, 3)), np.tile([0.0, 0.0, 1.0], (2, 1))
    tokens[:, 0] = [[1.0, 0.0, 0.0], [np.cos(angle), np.sin(angle), 0.0]]
    problem = TokenProblem(tokens, np.ones(2), np.ones(1), z, values=np.array([[[2.0], [0.0]], [[1.0], [0.0]]]))
    svm = TokenSVM(problem.constraints, np.full(2, 1.0 / (1.0 + np.cos(angle))), np.ones(2))
    exact = mpmath.tan(mpmath.mpf(angle) / 2) ** 2
    agree(curvatures(svm)[0], exact, 1e-6)
    agree(proved_step(svm), 2 * svm.margin / mpmath.sin(mpmath.mpf(angle) / 2) ** 2, 1e-6)
    agree(e_inf(problem, svm), exact_limit(problem, svm, "logistic")[1], 1e-6)
    tokens = tokens.copy()
    tokens[1, 0] = [1.0, 1e-7, 0.0]
    closer = TokenProblem(tokens, np.ones(2), np.ones(1), z, values=problem.values)
    with pytest.raises(AssumptionError, match="linearly dependent"):
        e_inf(closer, TokenSVM(closer.constraints, np.full(2, 0.5), np.ones(2)))


@pytest.mark.parametrize("scale", [1e-100, 1.0, 1e100])
def test_the_smallest_problem(scale):
    """n = T/2 = d = 1: one constraint, no residual, no threshold."""
    problem = TokenProblem(np.array([[[scale], [-scale]]]), np.ones(1), np.array([1.0 / scale]), np.ones((1, 1)))
    svm = TokenSVM(problem.constraints, np.array([0.25 / scale / scale]), np.ones(1))
    assert e_inf(problem, svm) == 0.0
    assert proved_step(svm) == np.inf
    assert len(curvatures(svm)) == 0
    with pytest.raises(AssumptionError, match="no finite threshold"):
        stability_threshold(svm)
    found = conditions(problem)
    assert found.equal_scores
    assert found.acute
    assert found.slack == pytest.approx(1.0)


def test_a_near_tie_warns_and_its_slack_is_right():
    with pytest.warns(NearTieWarning):
        problem = one_sequence((1.0, 1.0 - 1e-15, 0.0))
    for mu in MARGINS.values():
        slack = exact_parts(problem, np.array(mu[:2]), "logistic")[0]
        for log, sign, exact in zip(*log_entry_slack(problem, np.array(mu[:2]))[::-1], slack, strict=True):
            logs_agree(log, exact)
            assert sign == mpmath.sign(exact)


# --- Norms without units ------------------------------------------------------------------------------------------


def test_normalized_rows_at_any_scale():
    rows = np.array([[3.0, 4.0], [3e-200, 4e-200], [3e200, 4e200], [0.0, 0.0], [5e-324, 0.0]])
    unit, norms = normalized(rows)
    assert unit == pytest.approx(np.array([[0.6, 0.8]] * 3 + [[0.0, 0.0], [1.0, 0.0]]), rel=1e-15)
    assert norms == pytest.approx([5.0, 5e-200, 5e200, 0.0, 5e-324], rel=1e-14, abs=0.0)
    with pytest.raises(FloatRangeError):
        normalized(np.array([[np.inf, 0.0]]))


def test_norms_in_a_gram_matrix_clip_rounding_alone():
    c = gaussian(2, 3, 20, seed=0).constraints
    cosines, norms = unit_gram(c)
    x = np.random.default_rng(0).standard_normal((3, len(c)))
    expected = [np.linalg.norm(c.combine(row)) for row in x]
    assert gram_norm(c.gram, x) == pytest.approx(expected, rel=1e-12)
    assert gram_norm(cosines, x * norms) == pytest.approx(expected, rel=1e-12)
    assert gram_norm(np.ones((2, 2)), np.array([1.0, -1.0])) == 0.0
    assert root_of_form(-1e-17, 1.0, 2) == 0.0
    for form, scale in ((np.nan, 1.0), (-1e-10, 1.0), (np.inf, np.inf), (-1e-34, 1e-20), (1.0, np.nan)):
        with pytest.raises(FloatRangeError):
            root_of_form(form, scale, 2)
