"""Compiled kernels: the gradient's weights in log scale, and steps in coefficient form.

The arithmetic is exact at any ||W||. Per query let k = argmax_t a_t. With one shared c = max of (a_t - a_k) <= 0 over all
queries and tokens t with gamma_t != gamma_k, and e_t = exp(a_t - a_k - c), the attention of such a token is
s_t = e^c e_t / S, S = sum_{gamma_t = gamma_k} e^(a_t - a_k) + e^c sum e_t, and

    gamma_k - m = e^c sum_{gamma_t != gamma_k} e_t (gamma_k - gamma_t) / S

is e^c times a number of order one, without cancellation where all queries attend to their optimal token. So is the whole
gradient; normalised rules never need e^c itself.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from ..data.problem import TokenProblem
from ..model.attention import query_weights
from ..model.losses import Loss, loss_gap_ratio
from ..model.weights import score_gaps
from ..types import Array

GRADIENT_DESCENT, NORMALIZED_GD, POLYAK = 0, 1, 2


REFRESH = 256  # steps between recomputations of the margins from the coefficients, so that rounding cannot drift


class Layout(NamedTuple):
    """What the kernels read: constraints in rows grouped by (sequence, query).

    Attributes
    ----------
    start : int array, shape (R + 1,)
        Constraints start[r]..start[r+1] belong to row r.
    sequence : int array, shape (R,)
    weight : array, shape (R,)
        Share of row r in its sequence's output (1/Q).
    score_gap : array, shape (N,)
        gamma_{i,opt} - gamma_it > 0 of each constraint.
    optimal_score : array, shape (n,)
    exponential : bool
    """

    start: Array
    sequence: Array
    weight: Array
    score_gap: Array
    optimal_score: Array
    exponential: bool


class Rule(NamedTuple):
    """A step rule as the kernels read it.

    GRADIENT_DESCENT: a = eta. NORMALIZED_GD: a = eta, b = decay. POLYAK: a = theta, b = log cap (or +inf).
    """

    code: int
    a: float
    b: float


def layout_of(problem: TokenProblem, loss: Loss) -> Layout:
    """The layout of a problem's optimal-token constraints."""
    i, q = np.nonzero(problem.query_mask)
    start = np.concatenate([[0], np.cumsum(problem.mask.sum(axis=1)[i] - 1)])
    optimal_score = problem.optimal_scores.copy()
    return Layout(start, i, query_weights(problem)[i, q], score_gaps(problem), optimal_score, loss == "exponential")


@njit(cache=True)
def top_token(mu, start, r):
    """The most attended token of row r: its constraint, or -1 for the optimal token; and its mu (0 for the optimal)."""
    low, top = 0.0, -1
    for k in range(start[r], start[r + 1]):
        if mu[k] < low:
            low, top = mu[k], k
    return low, top


@njit(cache=True)
def shared_exponent(mu, layout):
    """c = max of (a_t - a_top) over rows and tokens t whose score differs from that of the row's top token.

    Tokens that score as the top one, exactly, exert no force of their own: with them c could be of order one while all
    forces underflow.
    """
    start, score_gap = layout.start, layout.score_gap
    c = -np.inf
    for r in range(len(start) - 1):
        low, top = top_token(mu, start, r)
        if top >= 0:
            c = max(c, low)  # the optimal token
        for k in range(start[r], start[r + 1]):
            if top < 0 or score_gap[k] != score_gap[top]:
                c = max(c, low - mu[k])
    return c


@njit(cache=True)
def scaled_weights(mu, layout, p):
    """Fill p with e^-c p_k, the weights of the constraints in -grad L = sum p_k V_k; return (c, log(L - L*))."""
    start, sequence, weight, score_gap, optimal_score, exponential = layout
    n = len(optimal_score)
    c = shared_exponent(mu, layout)
    ec = math.exp(c)
    short = np.zeros(n)  # sum_q weight (gamma_opt - gamma_top): zero where every query attends to the optimal token
    scaled = np.zeros(n)  # e^-c sum_q weight (gamma_top - m_q)
    for r in range(len(start) - 1):
        low, top = top_token(mu, start, r)
        gap_top = 0.0 if top < 0 else score_gap[top]
        same, total, drop = (
            1.0,
            0.0,
            0.0,
        )  # sums of e^(a_t - a_top): of the top token's score, and e^-c times the others'
        for k in range(start[r], start[r + 1]):
            if score_gap[k] == gap_top:
                p[k] = math.exp(low - mu[k])
                same += p[k] if k != top else 0.0
            else:
                p[k] = math.exp(low - mu[k] - c)
                total += p[k]
                drop += p[k] * (score_gap[k] - gap_top)
        if top >= 0:
            e_opt = math.exp(low - c)
            total += e_opt
            drop -= e_opt * gap_top
        S = same + ec * total
        drop /= S
        for k in range(start[r], start[r + 1]):
            if score_gap[k] == gap_top:
                p[k] *= -weight[r] * drop / S
            else:
                p[k] *= weight[r] / S * (score_gap[k] - gap_top - ec * drop)
        short[sequence[r]] += weight[r] * gap_top
        scaled[sequence[r]] += weight[r] * drop
    saturated = short.max() == 0.0
    loss_gap = 0.0
    for i in range(n):
        delta = short[i] + ec * scaled[i]
        ratio = loss_gap_ratio(delta, optimal_score[i], exponential)
        loss_gap += ratio * (scaled[i] if saturated else delta)
        m = optimal_score[i] - delta
        short[i] = (math.exp(-m) if exponential else 1.0 / (1.0 + math.exp(m))) / n
    for r in range(len(start) - 1):
        for k in range(start[r], start[r + 1]):
            p[k] *= short[sequence[r]]
    log_gap = math.log(loss_gap / n) if loss_gap > 0.0 else -np.inf
    return c, log_gap + (c if saturated else 0.0)


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
def advance_gram(gram, mu0, coefficients, mu, t0, t1, rule, layout):
    """Take the steps t0..t1-1 in place; return (path length, 0.0, -1) or (path, log step, t) where Polyak's step blows up."""
    code, a, b = rule
    p = np.empty_like(mu)
    force = np.empty_like(mu)  # <V_k, -grad L> e^-c
    path = 0.0
    for t in range(t0, t1):
        c, log_gap = scaled_weights(mu, layout, p)
        gram_times(gram, p, force)
        square = 0.0
        for k in range(len(p)):
            square += p[k] * force[k]
        if not square > 0.0:
            break  # exactly zero gradient: every rule stays
        norm = math.sqrt(square)
        if code == GRADIENT_DESCENT:
            h = a * math.exp(c) * norm
        elif code == NORMALIZED_GD:
            h = a if b == 0.0 else a * (t + 1.0) ** -b
        else:
            log_h = min(math.log(a) + log_gap - c - math.log(norm), b)
            if log_h > 230.25850929940458:
                return path, log_h, t
            h = math.exp(log_h)
        size = h / norm
        path += h
        for k in range(len(p)):
            coefficients[k] += size * p[k]
            mu[k] += size * force[k]
        if (t + 1) % REFRESH == 0:
            gram_times(gram, coefficients, force)
            for k in range(len(p)):
                mu[k] = mu0[k] + force[k]
    return path, 0.0, -1
