"""The gradient as a combination of constraints: -grad L = sum_k p_k V_k, its weights p and q, and the entry condition (E)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ..data.problem import TokenProblem
from ..types import Array
from .attention import query_weights
from .losses import Loss, negative_slope


def score_gaps(problem: TokenProblem) -> Array:
    """gamma_{i,opt} - gamma_it of each constraint, shape (N,)."""
    c = problem.constraints
    return problem.optimal_scores[c.sequence] - problem.scores[c.sequence, c.token]


def gradient_weights(problem: TokenProblem, margins: ArrayLike, loss: Loss = "logistic") -> tuple[Array, Array]:
    """p_k and q_k = p_k e^{mu_k} at margins mu, each of shape (N,): -grad L = sum_k p_k V_k.

    q_k = (1/n) w_iq (-l'(m_i)) s_{iq,opt} (m_iq - gamma_it), formed without p's underflow.
    """
    mu = np.asarray(margins, dtype=float)
    c = problem.constraints
    row = c.sequence * problem.Q + c.query
    rows = problem.n * problem.Q
    share = np.exp(-np.logaddexp(0.0, _log_sum_exp(-mu, row, rows)))  # s_opt of each row
    short = share * np.bincount(row, np.exp(np.minimum(-mu, 700.0)) * score_gaps(problem), rows)  # gamma_opt - m_iq
    query_weight = query_weights(problem).reshape(-1)
    m = problem.optimal_scores - (query_weight * short).reshape(problem.n, problem.Q).sum(axis=1)
    slope = negative_slope(m, loss)
    q = slope[c.sequence] * query_weight[row] * share[row] * (score_gaps(problem) - short[row]) / problem.n
    return q * np.exp(np.minimum(-mu, 700.0)), q


def limit_weights(problem: TokenProblem, loss: Loss = "logistic") -> Array:
    """q_k at infinity: (1/n) w_iq (-l'(gamma_{i,opt})) (gamma_{i,opt} - gamma_it), shape (N,)."""
    c = problem.constraints
    slope = negative_slope(problem.optimal_scores, loss)
    return slope[c.sequence] * query_weights(problem)[c.sequence, c.query] * score_gaps(problem) / problem.n


def kappa(problem: TokenProblem, margins: ArrayLike, loss: Loss = "logistic") -> float:
    """kappa(W) = max q / min q; infinite where the entry condition (E) fails."""
    q = gradient_weights(problem, margins, loss)[1]
    return float(q.max() / q.min()) if q.min() > 0.0 else np.inf


def entry_slack(problem: TokenProblem, margins: ArrayLike) -> Array:
    """m_iq - gamma_it of each constraint, shape (N,): (E) holds where all are positive."""
    mu = np.asarray(margins, dtype=float)
    c = problem.constraints
    row = c.sequence * problem.Q + c.query
    rows = problem.n * problem.Q
    share = np.exp(-np.logaddexp(0.0, _log_sum_exp(-mu, row, rows)))
    gaps = score_gaps(problem)
    off = np.exp(-mu - np.logaddexp(0.0, _log_sum_exp(-mu, row, rows))[row])  # s_t
    short = np.bincount(row, off * gaps, rows)
    least, largest = np.full(rows, np.inf), np.zeros(rows)
    np.minimum.at(least, row, gaps)
    np.maximum.at(largest, row, gaps)
    equal = largest - np.minimum(least, largest) <= 1e-12 * largest
    exact = share[row] * gaps  # m - gamma_t under equal off-scores, without cancellation
    return np.where(equal[row], exact, gaps - short[row])


def _log_sum_exp(values: Array, row: Array, rows: int) -> Array:
    top = np.full(rows, -np.inf)
    np.maximum.at(top, row, values)
    safe = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return safe + np.log(np.bincount(row, np.exp(values - safe[row]), rows))
