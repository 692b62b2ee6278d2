"""The model in plain NumPy, as the equations read. This is the reference that the fast engine is tested against."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import softmax

from ..data.problem import TokenProblem
from ..types import Array
from .losses import Loss, negative_slope, pointwise_loss


def logits(problem: TokenProblem, W: ArrayLike) -> Array:
    """a_iqt(W) = x_it' W z_iq, shape (n, Q, T); -inf at masked tokens."""
    a = np.einsum("itd,de,iqe->iqt", problem.tokens, np.asarray(W, dtype=float), problem.queries, optimize=True)
    return np.where(problem.mask[:, None, :], a, -np.inf)


def attention(problem: TokenProblem, W: ArrayLike) -> Array:
    """s_iq = softmax(a_iq), shape (n, Q, T); zero at masked tokens."""
    return softmax(logits(problem, W), axis=2)


def query_weights(problem: TokenProblem) -> Array:
    """Weight of each query in its sequence's output, shape (n, Q): 1/Q, or 1/(number of existing queries)."""
    return problem.query_mask / problem.query_mask.sum(axis=1, keepdims=True)


def outputs(problem: TokenProblem, W: ArrayLike) -> Array:
    """m_i(W) = (1/Q) sum_q sum_t s_iqt gamma_it = y_i f(X_i), shape (n,)."""
    return np.einsum("iq,iq->i", query_weights(problem), query_outputs(problem, attention(problem, W)))


def query_outputs(problem: TokenProblem, s: Array) -> Array:
    """m_iq = sum_t s_iqt gamma_it for attention weights s of shape (n, Q, T); shape (n, Q)."""
    return np.einsum("iqt,it->iq", s, np.where(problem.mask, problem.scores, 0.0))


def loss_value(problem: TokenProblem, W: ArrayLike, loss: Loss = "logistic") -> float:
    """L(W) = (1/n) sum_i l(m_i)."""
    return float(pointwise_loss(outputs(problem, W), loss).mean())


def infimum(problem: TokenProblem, loss: Loss = "logistic") -> float:
    """L* = (1/n) sum_i l(gamma_{i,opt}), approached only as ||W|| -> infinity."""
    return float(pointwise_loss(problem.optimal_scores, loss).mean())


def forces(problem: TokenProblem, W: ArrayLike, loss: Loss = "logistic") -> Array:
    """f_iqt = -(dL/da_iqt) = (1/n) w_iq (-l'(m_i)) s_iqt (gamma_it - m_iq), shape (n, Q, T).

    The negative gradient is sum f_iqt Phi_iqt; the weight of constraint V_iqt in it is p_iqt = -f_iqt.
    """
    s = attention(problem, W)
    m_q = query_outputs(problem, s)
    weights = query_weights(problem)
    slope = negative_slope(np.einsum("iq,iq->i", weights, m_q), loss)
    gamma = np.where(problem.mask, problem.scores, 0.0)
    return (slope[:, None] * weights)[:, :, None] * s * (gamma[:, None, :] - m_q[:, :, None]) / problem.n


def gradient(problem: TokenProblem, W: ArrayLike, loss: Loss = "logistic") -> Array:
    """grad L(W) = -sum_iqt f_iqt x_it z_iq', shape (d, d)."""
    f = forces(problem, W, loss)
    return -np.einsum("iqt,itd,iqe->de", f, problem.tokens, problem.queries, optimize=True)
