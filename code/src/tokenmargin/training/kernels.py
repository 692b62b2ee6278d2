"""Compiled kernels: the gradient's weights in log scale, and steps in coefficient form.

No exponential is formed that could under- or overflow, whatever ||W||, the scores and the lengths of the tokens; what is lost
is the rounding of margins and scores, and where it would decide, the run is refused (`RESOLVED`, `slope_error`). Per row
r = (sequence, query) let top be its most attended token, g_t = gamma_top - gamma_t, x_t = a_t - a_top <= 0, and b_r an
exponent with |g_t| e^{x_t - b_r} <= 1. Then

    D_r = gamma_top - m_r = e^{b_r} sum_t sign(g_t) e_t / S_r,   e_t = exp(x_t + log|g_t| - b_r) <= 1,   S_r = sum_t e^{x_t},

is e^{b_r} times a number of order one, without cancellation where the row attends to one token; and so is the weight of each
constraint in -grad L = sum_k p_k V_k,

    p_k = (1/n) w_r (-l'(m_i)) e^{b_r}/S_r (sign(g_k) e_k - e^{x_k} sum_t sign(g_t) e_t / S_r),

where tokens that score as the top one (g_k = 0) keep the second part alone. The slopes -l'(m_i) are known relative to the
largest, e^ref times a number of order one; with the largest force e^(c + ref), every e^-(c + ref) p_k that matters is of order
one, and so is the loss gap: a step that is a ratio of the two, as Polyak's, never sees ref, which at scores of 1e12 has lost
four decimals. A constraint with V_k = 0 exerts no force, and has no say in c.

Where the gaps of a row, and the lengths of its constraints, are of comparable sizes (`plain`), e_t is e^{x_t} times a ratio of
gaps that is known beforehand, and no logarithm is taken.

Tokens of a sequence that are equal have equal attention, and act together as one token with their mean score: the layout
gives each of them that mean. Their own forces, which would cancel to rounding, never arise.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from ..compilation import compiled
from ..data.problem import TokenProblem
from ..model.attention import query_weights
from ..model.losses import Loss, log_mean, negative_slope, relative_log_loss_gap
from ..model.weights import require_finite
from ..types import Array

GRADIENT_DESCENT, NORMALIZED_GD, POLYAK = 0, 1, 2

LOWEST = -746.0  # e^LOWEST is zero
COMPARABLE = 1e-60  # ratio of gaps, and of lengths, whose squares are far from underflow
SHALLOW = 500.0  # e^-SHALLOW times such ratios is a normal float
TAME = 300.0  # size of scores whose losses are normal floats, and so are the gaps between them
SMALLEST_GAP = 1e-280  # of the loss, that is summed as it is
REFRESH = 256  # steps between recomputations of the margins from the coefficients, so that rounding cannot drift
RESOLVED = 1e12  # largest margin that a step may make, and largest ||W||/h: past it float64 leaves under four digits
HALF_ULP = 2.0**-53  # a step shorter than this share of ||W|| leaves W as it is
NOTHING = np.empty((0, 2, 0))  # for `advance_gram` to keep
CANCELLED = 1e-8  # ||grad L||^2 beside the square of the sum of the forces that the Gram matrix still resolves
NO_DIRECTION = 1e-10  # share of the sum of all forces below which ||grad L|| is rounding in its seventh figure
SETTLED = 1e-17  # gamma_opt - m below which slopes are those of the optimal scores
COARSE = 1e6  # gamma_opt - m up to which outputs, hence logarithms of slopes, are known to 1e-10
SLOPES_KNOWN = 1e-9  # error of slopes, relative to the largest force, past which a step is refused
TAKEN, TOO_LONG_OR_SHORT, CANCELS, COARSE_SLOPES = 0, 1, 2, 3  # what became of a step

# For functions of a step that make no arrays: counting references to those that they are given costs half of a small step.
leaf = njit(_nrt=False, forceinline=True)  # type: ignore[call-overload]


class Layout(NamedTuple):
    """What the kernels read: constraints in rows grouped by (sequence, query).

    Attributes
    ----------
    start : int array, shape (R + 1,)
        Constraints start[r]..start[r+1] belong to row r.
    sequence : int array, shape (R,)
    weight : array, shape (R,)
        Share of row r in its sequence's output (1/Q).
    log_weight : array, shape (R,)
        log(w_r/n), plus the log of the row's `unit`.
    plain : bool array, shape (R,)
        Whether the row's score gaps are positive (a copy of the optimal token has none) and of comparable sizes, and the
        lengths of its constraints too; no row is where `unit` is not one.
    largest_gap, log_largest_gap, log_largest_length : arrays, shape (R,)
        Of each row.
    score_gap : array, shape (N,)
        gamma_{i,opt} - gamma_it of each constraint, of scores averaged over equal tokens.
    share : array, shape (N,)
        The same, divided by the row's largest.
    length, log_length : arrays, shape (N,)
        ||V_k|| in the row's unit.
    unit : array, shape (N,)
        Length in which the row's constraints are counted: p, Gram matrix and coefficients are those of V_k/unit_k. One,
        unless the lengths of the constraints differ by very many orders of magnitude.
    optimal_score : array, shape (n,)
        Of the optimal token, averaged over its copies.
    optimal_slope : array, shape (n,)
        -l'(gamma_{i,opt}); it may underflow.
    offset : array, shape (n,)
        gamma_{i,opt} minus that average: zero but where a copy of the optimal token has another value.
    tame : bool
        Whether the losses of the optimal scores are normal floats.
    largest_step : float
        The longest step whose change of every margin float64 resolves: 1e12/max ||V_k||.
    exponential : bool
    """

    start: Array
    sequence: Array
    weight: Array
    log_weight: Array
    plain: Array
    largest_gap: Array
    log_largest_gap: Array
    log_largest_length: Array
    score_gap: Array
    share: Array
    length: Array
    log_length: Array
    unit: Array
    optimal_score: Array
    optimal_slope: Array
    offset: Array
    tame: bool
    largest_step: float
    exponential: bool


class Rule(NamedTuple):
    """A step rule as the kernels read it.

    GRADIENT_DESCENT: a = log eta. NORMALIZED_GD: a = eta, b = decay. POLYAK: a = log theta, b = log cap (or +inf).
    reach: an upper bound of ||W|| where the kernel starts.
    """

    code: int
    a: float
    b: float
    reach: float = 0.0


def layout_of(problem: TokenProblem, loss: Loss) -> Layout:
    """The layout of a problem's optimal-token constraints."""
    c = problem.constraints
    i, q = map(np.ascontiguousarray, np.nonzero(problem.query_mask))  # of one type for the compiler, whatever n
    start = np.concatenate([[0], np.cumsum(problem.mask.sum(axis=1)[i] - 1)])
    scores = merged_scores(problem)
    best = scores[np.arange(problem.n), problem.optimal]
    with np.errstate(over="ignore"):
        gap = best[c.sequence] - scores[c.sequence, c.token]
    require_finite("the gap of two scores", gap, "divide the decoder by its norm")
    weight, rows = query_weights(problem)[i, q], np.repeat(np.arange(len(i)), np.diff(start))
    log_length = log_lengths(problem)
    most = np.maximum(extremes(np.abs(gap), rows, len(i))[1], 0.0)
    shortest, longest = extremes(log_length, rows, len(i))
    plain = (extremes(gap, rows, len(i))[0] > COMPARABLE * most) & (shortest > longest + math.log(COMPARABLE))
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        length, slope = np.exp(log_length), negative_slope(problem.optimal_scores, loss)
        share, log_most = np.where(most[rows] > 0.0, gap / most[rows], 0.0), np.log(most)
        largest = float(RESOLVED / length.max())
    return Layout(
        start, i, weight, np.log(weight / problem.n), plain, most, log_most, longest, gap, share, length, log_length,
        np.ones(len(gap)), best, slope, problem.optimal_scores - best, bool(np.abs(problem.optimal_scores).max() < TAME),
        largest, loss == "exponential",
    )  # fmt: skip


def extremes(values: Array, rows: Array, count: int) -> tuple[Array, Array]:
    """Smallest and largest value of each row, shape (count,); inf and -inf in a row without any."""
    least, most = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(least, rows, values)
    np.maximum.at(most, rows, values)
    return least, most


def in_units(layout: Layout) -> Layout:
    """The same, each row's constraints counted in the length of its longest."""
    rows = np.repeat(np.arange(len(layout.sequence)), np.diff(layout.start))
    log_unit = np.where(np.isfinite(layout.log_largest_length), layout.log_largest_length, 0.0)
    log_length = layout.log_length - log_unit[rows]
    return layout._replace(
        plain=np.zeros_like(layout.plain),  # the sum of a plain row's loss gap knows no units
        log_weight=layout.log_weight + log_unit,
        log_largest_length=layout.log_largest_length - log_unit,
        length=np.exp(log_length),
        log_length=log_length,
        unit=np.exp(log_unit)[rows],
    )


def merged_scores(problem: TokenProblem) -> Array:
    """Scores averaged over equal tokens of a sequence, shape (n, T): they have one attention, and act as one token."""
    scores, x, mask = problem.scores.copy(), problem.tokens, problem.mask
    with np.errstate(over="ignore", invalid="ignore"):
        key = np.einsum("itd,d->it", x, np.sqrt(np.arange(2.0, problem.d + 2.0)))  # equal tokens have equal keys
        key = np.sort(np.where(mask, key, np.nan), axis=1)
        candidates = ((key[:, 1:] == key[:, :-1]) | ~np.isfinite(key[:, 1:]) & mask.all(axis=1, keepdims=True)).any(
            axis=1
        )
    for i in np.flatnonzero(candidates):
        equal = (x[i][:, None] == x[i][None]).all(axis=2) & mask[i]
        repeated = mask[i] & (equal.sum(axis=1) > 1)
        count = equal[repeated].sum(axis=1)
        scores[i, repeated] = np.where(equal[repeated], scores[i] / count[:, None], 0.0).sum(axis=1)
    return scores


def log_lengths(problem: TokenProblem) -> Array:
    """log ||V_k||_F, shape (N,), of lengths that need not be representable themselves; -inf where V_k = 0."""
    c, x = problem.constraints, problem.tokens
    difference = np.empty((problem.n, problem.T))
    at_once = max(1, 512 // x[0].size)  # sequences: the differences are not held
    for i in range(0, problem.n, at_once):
        some = x[i : i + at_once]
        best = some[np.arange(len(some)), problem.optimal[i : i + at_once], None]
        difference[i : i + at_once] = log_norm((best - some).reshape(-1, problem.d)).reshape(len(some), -1)
    query = log_norm(problem.queries.reshape(-1, problem.d))
    return difference[c.sequence, c.token] + query[c.sequence * problem.Q + c.query]


def log_norm(vectors: Array) -> Array:
    """log of the norm of each row, without under- or overflow; -inf where it is zero."""
    largest = np.maximum(vectors.max(axis=1), -vectors.min(axis=1))
    with np.errstate(divide="ignore"):
        if (((largest > 1e-140) & (largest < 1e140)) | (largest == 0.0)).all():
            return 0.5 * np.log(np.einsum("kd,kd->k", vectors, vectors))
        scaled = vectors / np.where(largest > 0.0, largest, 1.0)[:, None]
        return np.log(largest) + np.log(np.maximum(np.linalg.norm(scaled, axis=1), 1.0))


@leaf
def exp_or_zero(x):
    """e^x; where that underflows zero, which the library's exponential takes many times as long to say."""
    return math.exp(x) if x > LOWEST else 0.0


@leaf
def least_margin(mu, first, last):
    """The least margin of a row and its constraint: negative where that token is attended to more than the optimal one."""
    least, at = np.inf, -1
    for k in range(first, last):
        if mu[k] < least:
            least, at = mu[k], k
    return least, at


@leaf
def led_by_optimal(mu, share, first, last, least, scale, p):
    """Fill p with the bracket of p_k above, over S_r, in a plain row led by its optimal token; return e^-b_r D_r.

    e^b_r = scale times the largest gap, scale = e^-least.
    """
    S, D = 0.0, 0.0
    for k in range(first, last):
        p[k] = math.exp(least - mu[k])
        S += p[k]
        D += p[k] * share[k]
    inverse = 1.0 / (1.0 + scale * S)
    D *= inverse
    drop = scale * D
    for k in range(first, last):
        p[k] *= (share[k] - drop) * inverse
    return D


@leaf
def led_by_wrong(mu, share, length, first, last, least, top, p):
    """The same in a plain row led by token `top`, not too far; e^b_r is the largest gap. Return D_r and the largest force."""
    lead, optimal = share[top], math.exp(least)
    S, D, force = optimal, -optimal * lead, 0.0
    for k in range(first, last):
        p[k] = math.exp(least - mu[k])
        S += p[k]
        D += p[k] * (share[k] - lead)
    inverse = 1.0 / S
    D *= inverse
    for k in range(first, last):
        p[k] *= (share[k] - lead - D) * inverse
        force = max(force, abs(p[k]) * length[k])
    return D, force


@njit(_nrt=False)  # type: ignore[call-overload]
def led_by_another(mu, score_gap, log_length, first, last, low, top, p):
    """Both for a row led by a wrong token, or in which some g_k are not positive: (b_r, log-force times length, e^-b_r D_r)."""
    lead = 0.0 if top < 0 else score_gap[top]
    b = low + math.log(abs(lead)) if lead != 0.0 else -np.inf
    most, even = -np.inf, log_length[top] if top >= 0 else -np.inf
    for k in range(first, last):
        g, p[k] = score_gap[k] - lead, low - mu[k]
        if g == 0.0:
            even = max(even, p[k] + log_length[k])
        else:
            p[k] += math.log(abs(g))
            b, most = max(b, p[k]), max(most, p[k] + log_length[k])
    if b == -np.inf:
        return b, b, 0.0
    optimal = math.exp(low) if top >= 0 else 0.0  # the optimal token, which has no constraint, where another leads
    S, D = 1.0 + optimal, 0.0
    if top >= 0 and lead != 0.0:
        D -= math.copysign(math.exp(low + math.log(abs(lead)) - b), lead)
    for k in range(first, last):
        g = score_gap[k] - lead
        S += math.exp(low - mu[k]) if k != top else 0.0
        p[k] = math.exp(p[k]) if g == 0.0 else math.copysign(math.exp(p[k] - b), g)
        D += p[k] if g != 0.0 else 0.0
    D /= S
    for k in range(first, last):
        share = math.exp(low - mu[k])
        p[k] = ((p[k] if score_gap[k] != lead else 0.0) - share * D) / S
    return b, max(most, b + even), D


@leaf
def slopes(gamma, short, exponential, log_slope, factor):
    """-l'(m_i) = factor_i e^(log_slope_i + ref), m_i = gamma_i - short_i; factor_i is in [1/2, 1]. Fill both, return ref.

    Differences of the m_i are formed before those of the losses are: scores far from zero keep their digits.
    """
    star = 0
    for i in range(len(gamma)):
        if gamma[i] - short[i] < gamma[star] - short[star]:
            star = i
    least = gamma[star] - short[star]
    for i in range(len(gamma)):
        m = gamma[i] - short[i]
        if exponential or least > 0.0:
            log_slope[i] = (short[i] - short[star]) - (gamma[i] - gamma[star])
        else:
            log_slope[i] = min(0.0, -m)
        factor[i] = 1.0 if exponential else 1.0 / (1.0 + math.exp(-abs(m)))
    return -least if exponential or least > 0.0 else 0.0


@leaf
def fill_weights(
    mu, start, sequence, weight, log_weight, plain, largest_gap, log_largest_gap, log_largest_length, score_gap, share, length,
    log_length, best, exponential, p, row, per, ref, settled,
):  # fmt: skip
    """Fill p with e^-(c + ref) p_k; return c, ref, the largest gamma_opt - m_i, and whether all rows are plain and led by
    their optimal tokens.

    The layout's arrays come one by one: taking them out of it at each step costs as much as the exponentials.

    row : array, shape (4, R)
        Filled with b_r, e^-b_r D_r, the largest log-force times length and the factor of the bracket of each row.
    per : array, shape (3, n)
        Filled with gamma_opt - m_i, and with log_slope and factor of `slopes`.
    settled : bool
        Whether `per` and ref come from such small gamma_opt - m_i that the slopes are those of the optimal scores.
    """
    short, log_slope, factor = per[0], per[1], per[2]
    led = True
    for i in range(len(short)):
        short[i] = 0.0
    for r in range(len(start) - 1):
        first, last = start[r], start[r + 1]
        least, top = least_margin(mu, first, last)
        if least >= 0.0 and plain[r]:
            scale = exp_or_zero(-least)
            D = led_by_optimal(mu, share, first, last, least, scale, p)
            b, delta = log_largest_gap[r] - least, scale * largest_gap[r] * D
            most = b + log_largest_length[r]
        elif least > -SHALLOW and plain[r]:
            D, force = led_by_wrong(mu, share, length, first, last, least, top, p)
            b, delta, led = log_largest_gap[r], largest_gap[r] * (share[top] + D), False
            most = b + math.log(force) if force > 0.0 else -np.inf
        else:
            top, led = top if least < 0.0 else -1, False
            b, most, D = led_by_another(mu, score_gap, log_length, first, last, min(least, 0.0), top, p)
            delta = exp_or_zero(b) * D + (score_gap[top] if top >= 0 else 0.0)
        row[0, r], row[1, r], row[2, r] = b, D, most + log_weight[r]
        short[sequence[r]] += weight[r] * delta
    largest = 0.0
    for i in range(len(short)):
        largest = max(largest, short[i])
    if not (settled and largest < SETTLED):
        ref = slopes(best, short, exponential, log_slope, factor)
    return scale_rows(start, sequence, log_weight, log_slope, factor, row, p), ref, largest, led


@leaf
def scale_rows(start, sequence, log_weight, log_slope, factor, row, p):
    """Multiply the brackets of each row by what stands before them, relative to the largest force e^c; return c."""
    c = -np.inf
    for r in range(len(start) - 1):
        c = max(c, row[2, r] + log_slope[sequence[r]])
    for r in range(len(start) - 1):
        i, size = sequence[r], 0.0  # rows whose constraints all vanish exert no force
        if row[2, r] > -np.inf:
            size = exp_or_zero(row[0, r] + log_weight[r] + log_slope[i] - c) * factor[i]
        row[3, r] = size
        for k in range(start[r], start[r + 1]):
            p[k] *= size
    return c


@leaf
def summed_gap(row, per, sequence, optimal_slope, offset, tame, exponential, c, ref, largest, led):
    """log(L - L*) - ref of what `fill_weights` left behind, summed as it is; nan where `log_gaps` are needed."""
    n, total = len(offset), 0.0
    if led and largest < SETTLED:  # gamma_opt - m_i times the slopes, which are those of the optimal scores
        for r in range(len(sequence)):
            total += row[1, r] * row[3, r]
        return c + math.log(total) if total > 0.0 else -np.inf
    if not (tame and largest < TAME):
        return np.nan
    for i in range(n):
        u = math.expm1(per[0, i] + offset[i]) * optimal_slope[i]
        total += u if exponential else math.log1p(u)
    return math.log(total / n) - ref if total > SMALLEST_GAP else np.nan


@compiled
def relative_loss_gap(layout, row, per, c, ref, largest, led):
    """log(L - L*) - ref of what `fill_weights` left behind."""
    gap = summed_gap(
        row, per, layout.sequence, layout.optimal_slope, layout.offset, layout.tame, layout.exponential, c, ref, largest, led,
    )  # fmt: skip
    return log_mean(log_gaps(layout, row, per, ref)) if math.isnan(gap) else gap


@compiled
def log_gaps(layout, row, per, ref):
    """log(l(m_i) - l(gamma_i)) - ref of each sequence, shape (n,)."""
    n, short, offset, sequence = len(layout.offset), per[0], layout.offset, layout.sequence
    logs = np.full(n, -np.inf)  # log(gamma_opt - m_i), where that underflows; then of the loss gaps
    for r in range(len(sequence)):
        i, D = sequence[r], row[1, r]
        if short[i] + offset[i] < 1e-305 and D > 0.0:
            term = row[0, r] + math.log(layout.weight[r] * D)
            high, low = max(logs[i], term), min(logs[i], term)
            logs[i] = high + math.log1p(math.exp(low - high))
    for i in range(n):
        delta = short[i] + offset[i]
        log_delta = math.log(delta) if delta >= 1e-305 else logs[i]
        logs[i] = relative_log_loss_gap(
            delta, log_delta, layout.optimal_score[i] + offset[i], per[1, i], ref, layout.exponential
        )
    return logs


@compiled
def weights_and_gap(mu, layout, p):
    """Fill p with e^-(c + ref) p_k; return c, ref, log(L - L*) - ref, and `slope_error` for gradient descent, for steps of
    prescribed length and for Polyak's."""
    row, per = np.empty((4, len(layout.sequence))), np.empty((3, len(layout.offset)))
    c, ref, largest, led = fill_weights(
        mu, layout.start, layout.sequence, layout.weight, layout.log_weight, layout.plain, layout.largest_gap,
        layout.log_largest_gap, layout.log_largest_length, layout.score_gap, layout.share, layout.length, layout.log_length,
        layout.optimal_score, layout.exponential, p, row, per, 0.0, False,
    )  # fmt: skip
    gap = relative_loss_gap(layout, row, per, c, ref, largest, led)
    errors = np.zeros(3)
    if largest > COARSE:
        for code in range(3):  # GRADIENT_DESCENT, NORMALIZED_GD, POLYAK
            errors[code] = slope_error(code, layout, row, per, c, ref)
    return c, ref, gap, (errors[0], errors[1], errors[2])


@compiled
def scaled_weights(mu, layout, p):
    """Fill p with e^-c p_k, the weights of the constraints in -grad L = sum p_k V_k; return (c, log(L - L*))."""
    c, ref, gap, _ = weights_and_gap(mu, layout, p)
    return c + ref, gap + ref


@compiled
def slope_error(code, layout, row, per, c, ref):
    """Rounding of the outputs as a step of this rule sees it, relative to the step.

    An output is known to 2^-52 (gamma_opt - m), and log(-l'(m)) to as much times its own slope in m. What all sequences have
    in common changes no direction, and where slopes and losses are exponentials it does not change Polyak's step either.
    """
    n, short, log_slope = len(layout.offset), per[0], per[1]
    share, error = np.zeros(n), np.empty(n)
    for r in range(len(layout.sequence)):
        i = layout.sequence[r]
        share[i] = max(share[i], math.exp(row[2, r] + log_slope[i] - c))
    if code == POLYAK:
        gaps = log_gaps(layout, row, per, ref)
        share = np.maximum(share, np.exp(gaps - gaps.max()))
    for i in range(n):
        error[i] = output_error(layout.optimal_score[i], short[i], layout.exponential)
    common = code == NORMALIZED_GD or (code == POLYAK and (layout.exponential or ref < -37.0))
    return seen_error(share, error, common)


@compiled
def output_error(gamma, short, exponential):
    """Rounding of log(-l'(m)) at m = gamma - short, where short is known to 2^-52 of itself."""
    return 2.0**-52 * abs(short) * (1.0 if exponential else math.exp(min(0.0, gamma - short)))


@compiled
def seen_error(share, error, common):
    """sum share_i error_i over sequences; with `common`, errors relative to that of the largest share."""
    first = np.argmax(share)
    total = 0.0
    for i in range(len(share)):
        if not common:
            total += share[i] * error[i]
        elif i != first:
            total += share[i] * (error[i] + error[first])
    return total


@leaf
def few_times(gram, p, out):
    """out = gram @ p for a symmetric gram, in plain loops.

    Four rows at a time, which the processor adds to several entries of `out` at once; each sum keeps its order.
    """
    N = len(p)
    for k in range(N):
        out[k] = 0.0
    for j in range(0, N - 3, 4):
        a, b, c, d = p[j], p[j + 1], p[j + 2], p[j + 3]
        for k in range(N):
            out[k] = (((out[k] + gram[j, k] * a) + gram[j + 1, k] * b) + gram[j + 2, k] * c) + gram[j + 3, k] * d
    for j in range(N - N % 4, N):
        for k in range(N):
            out[k] += gram[j, k] * p[j]


@compiled
def gram_times(gram, p, out):
    """out = gram @ p for a symmetric gram; plain loops beat the call of a library for small N."""
    if len(p) > 48:
        np.dot(gram, p, out)
    else:
        few_times(gram, p, out)


@leaf
def cancels(square, p, length):
    """Whether the forces p_k V_k, each at most of length one, cancel beyond what their Gram matrix resolves."""
    if square > CANCELLED * len(p) ** 2:
        return False
    total = 0.0
    for k in range(len(p)):
        total += abs(p[k]) * length[k]
    return not square > CANCELLED * total**2


@leaf
def step_length(code, a, b, t, c, ref, norm, gap):
    """h_t of a rule (code, a, b) where ||grad L|| = e^(c + ref) norm and L - L* = e^(gap + ref); and its logarithm, where the
    rule has one."""
    if code == NORMALIZED_GD:
        return (a if b == 0.0 else a * (t + 1.0) ** -b), 0.0
    log_h = a + (c + ref) + math.log(norm) if code == GRADIENT_DESCENT else min(a + (gap - c) - math.log(norm), b)
    return (math.exp(log_h) if log_h < 700.0 else np.inf), log_h


@leaf
def product(p, force):
    """sum_k p_k force_k."""
    total = 0.0
    for k in range(len(p)):
        total += p[k] * force[k]
    return total


@leaf
def move(size, p, force, unit, coefficients, mu):
    """Add size p to the coefficients, and what it does to the margins."""
    for k in range(len(p)):
        coefficients[k] += size * p[k]
        mu[k] += size * unit[k] * force[k]


@leaf
def keep(kept, j, coefficients, mu):
    """Copy both to kept_j, if it is there."""
    if j < len(kept):
        for k in range(len(mu)):
            kept[j, 0, k], kept[j, 1, k] = coefficients[k], mu[k]


@compiled
def advance_gram(gram, mu0, coefficients, mu, t0, t1, rule, layout, kept):
    """Take the steps t0..t1-1 in place; return (path length, TAKEN, -1, 0.0).

    Where a step cannot be taken: (path, why, t, log step): TOO_LONG_OR_SHORT, CANCELS (the gradient cancels beyond what the
    Gram matrix resolves), or COARSE_SLOPES (`slope_error`, which then stands for the log step).

    kept : array, shape (K, 2, N)
        Filled with coefficients and margins after each of the first K steps.
    """
    code, a, b, reach = rule
    N, unit, largest_step = len(mu), layout.unit, layout.largest_step
    start, sequence, weight, log_weight, plain = (
        layout.start, layout.sequence, layout.weight, layout.log_weight, layout.plain
    )  # fmt: skip
    largest_gap, log_largest_gap, log_largest_length, score_gap, share, length, log_length = (
        layout.largest_gap, layout.log_largest_gap, layout.log_largest_length, layout.score_gap, layout.share, layout.length,
        layout.log_length,
    )  # fmt: skip
    best, exponential = layout.optimal_score, layout.exponential
    optimal_slope, offset, tame = layout.optimal_slope, layout.offset, layout.tame
    p, force = np.empty(N), np.empty(N)  # force: <V_k, -grad L> e^-(c + ref), in the row's unit
    row, per = np.empty((4, len(layout.sequence))), np.empty((3, len(layout.offset)))
    path, gap, ref, largest = 0.0, 0.0, 0.0, np.inf
    t = t0
    for t in range(t0, t1):
        c, ref, largest, led = fill_weights(
            mu, start, sequence, weight, log_weight, plain, largest_gap, log_largest_gap, log_largest_length, score_gap, share,
            length, log_length, best, exponential, p, row, per, ref, largest < SETTLED,
        )  # fmt: skip
        gram_times(gram, p, force)
        if c == -np.inf:
            break  # exactly zero gradient: every rule stays
        square = product(p, force)
        if cancels(square, p, length):
            return path, CANCELS, t, np.nan
        norm = math.sqrt(square)
        if code == POLYAK:
            gap = summed_gap(row, per, sequence, optimal_slope, offset, tame, exponential, c, ref, largest, led)
            if math.isnan(gap):
                gap = log_mean(log_gaps(layout, row, per, ref))
        h, log_h = step_length(code, a, b, t, c, ref, norm, gap)
        if code == GRADIENT_DESCENT and h <= HALF_ULP * (reach + path):
            break  # W + h is W: the path counts what is taken, and all later steps are this one
        if not h <= largest_step or (code != GRADIENT_DESCENT and h * RESOLVED < reach + path):
            return path, TOO_LONG_OR_SHORT, t, math.log(h) if code == NORMALIZED_GD else log_h
        if largest > COARSE:
            error = slope_error(NORMALIZED_GD if code == POLYAK and log_h == b else code, layout, row, per, c, ref)
            if error > SLOPES_KNOWN:
                return path, COARSE_SLOPES, t, error
        path += h
        move(h / norm, p, force, unit, coefficients, mu)
        if (t + 1) % REFRESH == 0:
            gram_times(gram, coefficients, force)
            for k in range(N):
                mu[k] = mu0[k] + unit[k] * force[k]
        keep(kept, t - t0, coefficients, mu)
    for j in range(t - t0, len(kept)):  # nothing moves any more
        keep(kept, j, coefficients, mu)
    return path, TAKEN, -1, 0.0


@compiled
def advance_starts(gram, mu0, times, decided, rule, reach, layout, kept):
    """Runs from margins mu0, shape (S, N), through the times of each, shape (S, K), the first of which is 0; each ended at
    its first later time at which all its margins exceed `decided`.

    Returns
    -------
    mu : array, shape (S, N)
        Where they end.
    done : bool array, shape (S,)
        Whether all steps were taken: otherwise mu is not the end, and `advance_gram` says why.
    """
    mu, done = mu0.copy(), np.zeros(len(mu0), dtype=np.bool_)
    for s in range(len(mu0)):
        C, length = np.zeros(mu.shape[1]), reach[s]
        for j in range(times.shape[1] - 1):
            first, last = times[s, j], times[s, j + 1]
            path, why, _, _ = advance_gram(gram, mu0[s], C, mu[s], first, last, Rule(*rule[:3], length), layout, kept)
            length += path
            done[s] = why == TAKEN and (last == times[s, -1] or (last > 0 and mu[s].min() > decided))
            if done[s] or why != TAKEN:
                break
    return mu, done
