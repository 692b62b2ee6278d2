"""The gradient as a combination of constraints: -grad L = sum_k p_k V_k, its weights p and q, and the entry condition (E).

All is formed from logarithms and without cancellation: with the tokens of a sequence sorted by score,

    m_iq - gamma_it = sum over better tokens s_s (gamma_s - gamma_t) - sum over worse tokens s_s (gamma_t - gamma_s),

and each sum is one of products of a partial sum of attention with the drop from one score to the next, all >= 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ..data.problem import TokenProblem
from ..errors import FloatRangeError
from ..types import Array
from .attention import query_weights
from .losses import Loss, known_loss

SMALLEST = float(np.nextafter(0.0, 1.0))


def score_gaps(problem: TokenProblem) -> Array:
    """gamma_{i,opt} - gamma_it of each constraint, shape (N,).

    Raises
    ------
    FloatRangeError
        If a gap is beyond the largest float.
    """
    c = problem.constraints
    with np.errstate(over="ignore", invalid="ignore"):
        gaps = problem.optimal_scores[c.sequence] - problem.scores[c.sequence, c.token]
    return require_finite("the gap of two scores", gaps, "divide the decoder by its norm")


def log_score_gaps(problem: TokenProblem) -> Array:
    """log(gamma_{i,opt} - gamma_it) of each constraint, shape (N,)."""
    c = problem.constraints
    return _log_difference(problem.optimal_scores[c.sequence], problem.scores[c.sequence, c.token])


def log_negative_slope(m: ArrayLike, loss: Loss = "logistic") -> Array:
    """log(-l'(m)): -log(1 + e^m) (logistic) or -m (exponential), for any finite m."""
    m = np.asarray(m, dtype=float)
    return -np.logaddexp(0.0, m) if known_loss(loss) == "logistic" else -m


def log_limit_weights(problem: TokenProblem, loss: Loss = "logistic") -> Array:
    """log q_k at infinity, q_k = (1/n) w_iq (-l'(gamma_{i,opt})) (gamma_{i,opt} - gamma_it), shape (N,)."""
    c = problem.constraints
    slope = log_negative_slope(problem.optimal_scores, loss)
    weight = query_weights(problem)[c.sequence, c.query]
    log_q = slope[c.sequence] + np.log(weight) + log_score_gaps(problem) - np.log(problem.n)
    return require_finite("log q", log_q, "the scores must be finite")


def limit_weights(problem: TokenProblem, loss: Loss = "logistic") -> Array:
    """q_k at infinity: (1/n) w_iq (-l'(gamma_{i,opt})) (gamma_{i,opt} - gamma_it), shape (N,).

    Raises
    ------
    FloatRangeError
        If a weight is no normal float (scores beyond about 700): `log_limit_weights` has its logarithm.
    """
    return exponential("q", log_limit_weights(problem, loss), "use `log_limit_weights`")


def log_gradient_weights(
    problem: TokenProblem, margins: ArrayLike, loss: Loss = "logistic"
) -> tuple[Array, Array, Array]:
    """Signs of the weights, log|p_k| and log|q_k| at margins mu, each of shape (N,): -grad L = sum_k p_k V_k.

    p_k = (1/n) w_iq (-l'(m_i)) s_iqt (m_iq - gamma_it) and q_k = p_k e^{mu_k}. A sign is that of m_iq - gamma_it.
    """
    c, log_s = problem.constraints, _log_attention(problem, margins)
    weight = query_weights(problem)
    sign, log_slack, log_short = _slack(problem, log_s)
    with np.errstate(over="ignore"):
        m = problem.optimal_scores - (weight * np.exp(np.where(weight > 0.0, log_short, -np.inf))).sum(axis=1)
    slope = log_negative_slope(require_finite("an output m", m, "divide the decoder by its norm"), loss)
    shared = slope[c.sequence] + np.log(weight[c.sequence, c.query]) + log_slack - np.log(problem.n)
    log_p = shared + log_s[c.sequence, c.query, c.token]
    log_q = shared + log_s[c.sequence, c.query, problem.optimal[c.sequence]]
    return sign, log_p, log_q


def gradient_weights(problem: TokenProblem, margins: ArrayLike, loss: Loss = "logistic") -> tuple[Array, Array]:
    """p_k and q_k = p_k e^{mu_k} at margins mu, each of shape (N,): -grad L = sum_k p_k V_k.

    q_k = (1/n) w_iq (-l'(m_i)) s_{iq,opt} (m_iq - gamma_it). Exact to rounding as long as they are normal floats; below, p
    (at large margins) and q round to zero, and `log_gradient_weights` goes on.

    Raises
    ------
    FloatRangeError
        If a weight is beyond the largest float.
    """
    sign, log_p, log_q = log_gradient_weights(problem, margins, loss)
    with np.errstate(over="ignore"):
        p, q = sign * np.exp(log_p), sign * np.exp(log_q)
    for weight in (p, q):
        require_finite("a gradient weight", weight, "use `log_gradient_weights`")
    return p, q


def log_kappa(problem: TokenProblem, margins: ArrayLike, loss: Loss = "logistic") -> float:
    """log kappa(W) = max log q - min log q; infinite where the entry condition (E) fails."""
    sign, _, log_q = log_gradient_weights(problem, margins, loss)
    return float(log_q.max() - log_q.min()) if (sign > 0.0).all() else np.inf


def kappa(problem: TokenProblem, margins: ArrayLike, loss: Loss = "logistic") -> float:
    """kappa(W) = max q / min q; infinite where the entry condition (E) fails, or where it exceeds the largest float."""
    with np.errstate(over="ignore"):
        return float(np.exp(log_kappa(problem, margins, loss)))


def log_entry_slack(problem: TokenProblem, margins: ArrayLike) -> tuple[Array, Array]:
    """Sign and logarithm of |m_iq - gamma_it| of each constraint, shapes (N,): (E) holds where all signs are positive."""
    return _slack(problem, _log_attention(problem, margins))[:2]


def entry_slack(problem: TokenProblem, margins: ArrayLike) -> Array:
    """m_iq - gamma_it of each constraint, shape (N,): (E) holds where all are positive.

    A slack below the smallest float is returned as that float with its sign, so that the signs are those of (E).

    Raises
    ------
    FloatRangeError
        If a slack is beyond the largest float.
    """
    sign, log_slack = log_entry_slack(problem, margins)
    with np.errstate(over="ignore"):
        slack = sign * np.maximum(np.exp(log_slack), SMALLEST)
    return require_finite("a slack m - gamma", slack, "divide the decoder by its norm")


def require_finite(name: str, values: Array, advice: str) -> Array:
    """The values, once all are finite."""
    if not np.isfinite(values).all():
        raise FloatRangeError(f"{name} is no finite number: {advice}.")
    return values


def exponential(name: str, logarithm: ArrayLike, advice: str) -> Array:
    """e^logarithm where all results are normal floats; else an error that names the number and gives the advice."""
    logs = np.asarray(logarithm, dtype=float)
    info = np.finfo(float)
    fits = (logs > np.log(info.tiny)) & (logs < np.log(info.max))
    if not fits.all():
        worst = logs[~fits].flat[0]
        raise FloatRangeError(f"{name} = e^{worst:.6g} is outside the range of floats: {advice}.")
    return np.exp(logs)


def _log_difference(larger: Array, smaller: Array) -> Array:
    """log(larger - smaller) of floats, -inf where equal, also where the difference itself overflows."""
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        difference = larger - smaller
        halves = np.log(larger / 2.0 - smaller / 2.0) + np.log(2.0)
        return np.where(np.isinf(difference), halves, np.log(difference))


def _log_attention(problem: TokenProblem, margins: ArrayLike) -> Array:
    """log s_iqt at margins of shape (N,), shape (n, Q, T); -inf at masked tokens."""
    c = problem.constraints
    mu = require_finite(
        "a margin <V_k, W>", np.asarray(margins, dtype=float), "W must be finite, and its products with V_k"
    )
    a = np.full((problem.n, problem.Q, problem.T), -np.inf)
    a[np.arange(problem.n), :, problem.optimal] = 0.0
    a[c.sequence, c.query, c.token] = -mu
    with np.errstate(over="ignore"):  # a token 1e308 below the top has no attention
        a -= a.max(axis=2, keepdims=True)
    return a - np.log(np.exp(a).sum(axis=2, keepdims=True))


def _slack(problem: TokenProblem, log_s: Array) -> tuple[Array, Array, Array]:
    """Sign and log |m_iq - gamma_it| of each constraint, shapes (N,), and log(gamma_{i,opt} - m_iq), shape (n, Q)."""
    c, order = problem.constraints, np.argsort(-problem.scores, axis=1, kind="stable")
    g = np.take_along_axis(problem.scores, order, axis=1)
    drop = np.where(np.isneginf(g[:, 1:]), -np.inf, _log_difference(g[:, :-1], g[:, 1:]))[:, None, :]
    ranked = np.take_along_axis(log_s, order[:, None, :], axis=2)
    head = np.logaddexp.accumulate(ranked[:, :, :-1], axis=2)
    tail = np.logaddexp.accumulate(ranked[:, :, :0:-1], axis=2)[:, :, ::-1]
    above, below = np.full((2, *log_s.shape), -np.inf)
    above[:, :, 1:] = np.logaddexp.accumulate(head + drop, axis=2)
    below[:, :, :-1] = np.logaddexp.accumulate((tail + drop)[:, :, ::-1], axis=2)[:, :, ::-1]
    rank = np.argsort(order, axis=1)[c.sequence, c.token]
    better, worse = above[c.sequence, c.query, rank], below[c.sequence, c.query, rank]
    if not np.isfinite(better).all() or np.isnan(worse).any():
        raise FloatRangeError("a slack m - gamma is not a number: the scores must be finite.")
    larger, smaller = np.maximum(better, worse), np.minimum(better, worse)
    with np.errstate(divide="ignore"):
        log_slack = larger + np.log(-np.expm1(smaller - larger))
    return np.sign(better - worse), log_slack, below[:, :, 0]
