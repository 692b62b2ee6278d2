"""Compiled kernels: the gradient's weights in log scale, and steps in coefficient form.

No exponential is formed that could under- or overflow, whatever ||W||, the scores and the lengths of the tokens; what is lost
is the rounding of margins and scores, and where it would decide, the run is refused (`RESOLVED`). Per row r = (sequence, query) let top be its
most attended token, g_t = gamma_top - gamma_t, x_t = a_t - a_top <= 0, and b_r = max_t (x_t + log|g_t|). Then

    D_r = gamma_top - m_r = e^{b_r} sum_t sign(g_t) e_t / S_r,   e_t = exp(x_t + log|g_t| - b_r) <= 1,   S_r = sum_t e^{x_t},

is e^{b_r} times a number of order one, without cancellation where the row attends to one token; and so is the weight of each
constraint in -grad L = sum_k p_k V_k,

    p_k = (1/n) w_r (-l'(m_i)) e^{b_r}/S_r (sign(g_k) e_k - e^{x_k} sum_t sign(g_t) e_t / S_r),

where tokens that score as the top one (g_k = 0) keep the second part alone. With log(-l'(m_i)) formed without underflow the
shared exponent c = max_k (log of the first factors + x_k + log|g_k| + log||V_k||) is the size of the largest force: every
e^-c p_k that matters is of order one. A constraint with V_k = 0 exerts no force, and has no say in c.

Tokens of a sequence that are equal have equal attention, and act together as one token with their mean score: the layout
gives each of them that mean. Their own forces, which would cancel to rounding, never arise.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from ..data.problem import TokenProblem
from ..model.attention import query_weights
from ..model.losses import Loss, log_loss_gap_of, log_mean, negative_slope
from ..types import Array

GRADIENT_DESCENT, NORMALIZED_GD, POLYAK = 0, 1, 2
LARGEST_FLOAT = float(np.finfo(float).max)

LOWEST = -746.0  # e^LOWEST is zero
SMALLEST_GAP = 1e-280  # of the loss, that is summed as it is
REFRESH = 256  # steps between recomputations of the margins from the coefficients, so that rounding cannot drift
RESOLVED = 1e12  # largest margin that a step may make, and largest ||W||/h: past it float64 leaves under four digits
HALF_ULP = 2.0**-53  # a step shorter than this share of ||W|| leaves W as it is
CANCELLED = 1e-8  # ||e^-c grad L||^2, of forces of order one, below which the Gram matrix no longer resolves it


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
        Whether the score gaps of the row are positive (a copy of the optimal token has none) and of comparable sizes.
    score_gap, log_gap, inverse_gap : arrays, shape (N,)
        gamma_{i,opt} - gamma_it of each constraint, of scores averaged over equal tokens; log and inverse of its size.
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
    largest_step : float
        The longest step whose change of every margin float64 resolves: 1e12/max ||V_k||.
    exponential : bool
    """

    start: Array
    sequence: Array
    weight: Array
    log_weight: Array
    plain: Array
    score_gap: Array
    log_gap: Array
    inverse_gap: Array
    length: Array
    log_length: Array
    unit: Array
    optimal_score: Array
    optimal_slope: Array
    offset: Array
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
    i, q = np.nonzero(problem.query_mask)
    start = np.concatenate([[0], np.cumsum(problem.mask.sum(axis=1)[i] - 1)])
    scores = merged_scores(problem)
    best = scores[np.arange(problem.n), problem.optimal]
    gap = best[c.sequence] - scores[c.sequence, c.token]
    weight = query_weights(problem)[i, q]
    least, most = np.full(problem.n, np.inf), np.zeros(problem.n)
    np.minimum.at(least, c.sequence, gap)
    np.maximum.at(most, c.sequence, gap)
    plain = (least > 1e-150 * most)[i]
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        log_length = log_lengths(problem)
        log_gap, inverse = (np.log(np.abs(gap)), np.minimum(1.0 / np.abs(gap), LARGEST_FLOAT))
        length, slope = np.exp(log_length), negative_slope(problem.optimal_scores, loss)
        largest = float(RESOLVED / length.max())
    return Layout(
        start, i, weight, np.log(weight / problem.n), plain, gap, log_gap, inverse, length, log_length, np.ones(len(gap)), best,
        slope, problem.optimal_scores - best, largest, loss == "exponential",
    )  # fmt: skip


def in_units(layout: Layout) -> Layout:
    """The same, each row's constraints counted in the length of its longest."""
    rows = np.repeat(np.arange(len(layout.sequence)), np.diff(layout.start))
    log_unit = np.full(len(layout.sequence), -np.inf)
    np.maximum.at(log_unit, rows, layout.log_length)
    log_unit = np.where(np.isfinite(log_unit), log_unit, 0.0)
    log_length = layout.log_length - log_unit[rows]
    return layout._replace(
        log_weight=layout.log_weight + log_unit,
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
    for i, t in enumerate(problem.optimal):  # one sequence at a time: the differences are not held
        difference[i] = log_norm(x[i, t] - x[i])
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


@njit(inline="always")
def top_token(mu, first, last):
    """The most attended token of a row: its constraint, or -1 for the optimal token; and its mu (0 for the optimal)."""
    low, top = 0.0, -1
    for k in range(first, last):
        if mu[k] < low:
            low, top = mu[k], k
    return low, top


@njit(inline="always")
def log_forces(mu, log_gap, log_length, first, last, p):
    """Fill p with x_k + log|g_k| in a row led by its optimal token; return b_r and the largest log-force times length."""
    b = most = -np.inf
    for k in range(first, last):
        p[k] = log_gap[k] - mu[k]
        b = max(b, p[k])
        most = max(most, p[k] + log_length[k])
    return b, most


@njit(inline="always")
def share_out(score_gap, inverse_gap, first, last, b, scale, p):
    """Turn the exponents p of such a row into the bracket of p_k above, divided by S_r; return e^-b_r D_r."""
    S, D = 1.0, 0.0
    if scale == 0.0:  # off-attention below the smallest float: S = 1, m_r = gamma_top
        for k in range(first, last):
            p[k] = math.exp(p[k] - b)
            D += p[k]
        return D
    for k in range(first, last):
        p[k] = math.exp(p[k] - b)
        S += p[k] * scale * inverse_gap[k]
        D += p[k]
    inverse = 1.0 / S
    D *= inverse
    for k in range(first, last):
        p[k] *= (1.0 - scale * inverse_gap[k] * D) * inverse
    return D


@njit(cache=True)
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


@njit(inline="always")
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


@njit(cache=True)
def fill_weights(
    mu, start, sequence, weight, log_weight, plain, score_gap, log_gap, inverse_gap, log_length, best, exponential,
    p, row, per,
):  # fmt: skip
    """Fill p with e^-c p_k and return c.

    The layout's arrays come one by one: taking them out of it at each step costs as much as the exponentials.

    row : array, shape (3, R)
        Filled with b_r, e^-b_r D_r and the largest log-force times length of each row.
    per : array, shape (3, n)
        Filled with gamma_opt - m_i, and with log_slope and factor of `slopes`.
    """
    short, log_slope, factor = per[0], per[1], per[2]
    for i in range(len(short)):
        short[i] = 0.0
    for r in range(len(start) - 1):
        first, last = start[r], start[r + 1]
        low, top = top_token(mu, first, last)
        if top < 0 and plain[r]:
            b, most = log_forces(mu, log_gap, log_length, first, last, p)
            scale = math.exp(b) if b > LOWEST else 0.0
            D = share_out(score_gap, inverse_gap, first, last, b, scale, p)
        else:
            b, most, D = led_by_another(mu, score_gap, log_length, first, last, low, top, p)
            scale = math.exp(b) if b > LOWEST else 0.0
        row[0, r], row[1, r], row[2, r] = b, D, most + log_weight[r]
        short[sequence[r]] += weight[r] * (scale * D + (score_gap[top] if top >= 0 else 0.0))
    ref = slopes(best, short, exponential, log_slope, factor)
    c = -np.inf
    for r in range(len(start) - 1):
        c = max(c, row[2, r] + log_slope[sequence[r]])
    for r in range(len(start) - 1):
        i, size = sequence[r], 0.0  # rows whose constraints all vanish exert no force
        if row[2, r] > -np.inf:
            size = math.exp(row[0, r] + log_weight[r] + log_slope[i] - c) * factor[i]
        for k in range(start[r], start[r + 1]):
            p[k] *= size
    return c + ref


@njit(cache=True)
def log_loss_gap(layout, row, per):
    """log(L - L*) of what `fill_weights` left behind."""
    n, short, optimal, offset = (len(layout.offset), per[0], layout.optimal_score, layout.offset)
    total = 0.0
    for i in range(n):
        u = math.expm1(short[i] + offset[i]) * layout.optimal_slope[i]
        total += u if layout.exponential else math.log1p(u)
    if SMALLEST_GAP < total < 1.0 / SMALLEST_GAP:
        return math.log(total / n)
    logs = np.full(n, -np.inf)  # log(gamma_opt - m_i), where that underflows; then of the loss gaps
    for r in range(len(layout.sequence)):
        i, D = layout.sequence[r], row[1, r]
        if short[i] + offset[i] < 1e-305 and D > 0.0:
            term = row[0, r] + math.log(layout.weight[r] * D)
            high, low = max(logs[i], term), min(logs[i], term)
            logs[i] = high + math.log1p(math.exp(low - high))
    for i in range(n):
        delta = short[i] + offset[i]
        log_delta = math.log(delta) if delta >= 1e-305 else logs[i]
        logs[i] = log_loss_gap_of(delta, log_delta, optimal[i] + offset[i], layout.exponential)
    return log_mean(logs)


@njit(cache=True)
def scaled_weights(mu, layout, p):
    """Fill p with e^-c p_k, the weights of the constraints in -grad L = sum p_k V_k; return (c, log(L - L*))."""
    n, rows = len(layout.optimal_score), len(layout.sequence)
    row, per = np.empty((3, rows)), np.empty((3, n))
    c = fill_weights(
        mu, layout.start, layout.sequence, layout.weight, layout.log_weight, layout.plain, layout.score_gap, layout.log_gap,
        layout.inverse_gap, layout.log_length, layout.optimal_score, layout.exponential,
        p, row, per,
    )  # fmt: skip
    return c, log_loss_gap(layout, row, per)


@njit(cache=True)
def gram_times(gram, p, out):
    """out = gram @ p for a symmetric gram; plain loops beat the call of a library for small N."""
    if len(p) > 48:
        np.dot(gram, p, out)
        return
    for k in range(len(p)):
        total = 0.0
        for j in range(len(p)):
            total += gram[k, j] * p[j]
        out[k] = total


@njit(cache=True)
def log_step(code, a, b, t, c, norm, log_gap):
    """log h_t of a rule (code, a, b) where ||grad L|| = e^c norm."""
    if code == NORMALIZED_GD:
        return math.log(a) - b * math.log(t + 1.0)
    log_h = a + log_gap - c - math.log(norm)
    return a + c + math.log(norm) if code == GRADIENT_DESCENT else min(log_h, b)


@njit(cache=True)
def advance_gram(gram, mu0, coefficients, mu, t0, t1, rule, layout):
    """Take the steps t0..t1-1 in place; return (path length, 0.0, -1).

    Where a step cannot be taken: (path, log step, t); the log step is nan where the gradient cancels beyond what the Gram
    matrix resolves.
    """
    code, a, b, reach = rule
    N, unit, largest_step = len(mu), layout.unit, layout.largest_step
    start, sequence, weight, log_weight, plain = (
        layout.start, layout.sequence, layout.weight, layout.log_weight, layout.plain
    )  # fmt: skip
    score_gap, log_gap, inverse_gap, log_length = (
        layout.score_gap,
        layout.log_gap,
        layout.inverse_gap,
        layout.log_length,
    )
    best, exponential = layout.optimal_score, layout.exponential
    p, force = np.empty(N), np.empty(N)  # force: <V_k, -grad L> e^-c, in the row's unit
    row, per = np.empty((3, len(layout.sequence))), np.empty((3, len(layout.offset)))
    path = 0.0
    for t in range(t0, t1):
        c = fill_weights(
            mu, start, sequence, weight, log_weight, plain, score_gap, log_gap, inverse_gap, log_length, best, exponential,
            p, row, per,
        )  # fmt: skip
        gram_times(gram, p, force)
        if c == -np.inf:
            break  # exactly zero gradient: every rule stays
        square = 0.0
        for k in range(N):
            square += p[k] * force[k]
        if not square > CANCELLED:
            return path, np.nan, t
        norm = math.sqrt(square)
        excess = log_loss_gap(layout, row, per) if code == POLYAK else 0.0
        if code == NORMALIZED_GD:
            h = a if b == 0.0 else a * (t + 1.0) ** -b
        else:
            log_h = log_step(code, a, b, t, c, norm, excess)
            h = math.exp(log_h) if log_h < 700.0 else np.inf
        if code == GRADIENT_DESCENT and h < HALF_ULP * (reach + path):
            break  # W + h is W: the path counts what is taken, and all later steps are this one
        lost = code != GRADIENT_DESCENT and h * RESOLVED < reach + path
        if lost or not h <= largest_step:
            return path, log_step(code, a, b, t, c, norm, excess), t
        size = h / norm
        path += h
        for k in range(N):
            coefficients[k] += size * p[k]
            mu[k] += size * unit[k] * force[k]
        if (t + 1) % REFRESH == 0:
            gram_times(gram, coefficients, force)
            for k in range(N):
                mu[k] = mu0[k] + unit[k] * force[k]
    return path, 0.0, -1
