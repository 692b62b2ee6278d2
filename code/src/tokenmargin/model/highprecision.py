"""The equations of `attention` as they stand, in arithmetic of many digits (mpmath): what float64 is judged by.

Slow, and without any rearrangement: the digits alone resolve the cancellation in gamma_opt - m, so `digits` must
exceed -log10(1 - s_opt) by as many figures as are wanted.
"""

from __future__ import annotations

import mpmath
import numpy as np
from numpy.typing import ArrayLike

from ..data.problem import TokenProblem
from ..types import Array
from .attention import query_weights
from .losses import Loss, known_loss

_number = np.vectorize(mpmath.mpf, otypes=[object])


_exp = np.vectorize(mpmath.exp, otypes=[object])


def forces(problem: TokenProblem, logits: Array, loss: Loss = "logistic") -> Array:
    """f_iqt = -(dL/da_iqt) from logits (n, Q, T) of mpmath numbers, as `attention.forces`; shape (n, Q, T)."""
    gamma, weight = _number(np.where(problem.mask, problem.scores, 0.0)), _number(query_weights(problem))
    e = np.where(problem.mask[:, None, :], _exp(logits), mpmath.mpf(0))
    s = e / e.sum(axis=2, keepdims=True)
    m_q = (s * gamma[:, None, :]).sum(axis=2)
    e_m = _exp(-(weight * m_q).sum(axis=1))
    slope = e_m / (1 + e_m) if known_loss(loss) == "logistic" else e_m
    return (slope[:, None] * weight)[:, :, None] * s * (gamma[:, None, :] - m_q[:, :, None]) / problem.n


def gradient_direction(problem: TokenProblem, W: ArrayLike, loss: Loss = "logistic", *, digits: int) -> Array:
    """grad L(W)/||grad L(W)||_F rounded to float64, shape (d, d).

    Parameters
    ----------
    W : array, shape (d, d)
        Read exactly, as the float64 numbers it holds.
    digits : int
        Decimal digits of the arithmetic.
    """
    with mpmath.workdps(digits):
        X, Z = _number(problem.tokens), _number(problem.queries)
        turned = Z @ _number(W).T
        f = forces(problem, np.stack([turned[i] @ X[i].T for i in range(problem.n)]), loss)
        G = -sum((f[i] @ X[i]).T @ Z[i] for i in range(problem.n))
        return np.asarray(G / mpmath.sqrt((G * G).sum()), dtype=float)


def normalized_gd(
    problem: TokenProblem, eta: float, record: ArrayLike, loss: Loss = "logistic", *, digits: int
) -> tuple[Array, Array]:
    """Run W_{t+1} = W_t - eta grad L/||grad L|| from zero, every operation with `digits` decimal digits.

    Parameters
    ----------
    record : int array, shape (K,), increasing
        Iterations to record; the run ends at the last.

    Returns
    -------
    matrices : array, shape (K, d, d)
        W_t rounded to float64.
    log_off_attention : array, shape (K, n, Q)
        log(1 - s_iq,opt); nan for masked queries.
    """
    matrices, off = [], []
    shape = (problem.n, problem.Q, problem.T)
    others = np.arange(problem.T) != problem.optimal[:, None, None]
    with mpmath.workdps(digits):
        gram = _exact_feature_gram(problem)
        C = _number(np.zeros(len(gram)))
        for t in range(int(np.max(record)) + 1):
            a = (gram @ C).reshape(shape)
            if t in record:
                matrices.append(_matrix(problem, np.asarray(C, dtype=float).reshape(shape)))
                e = np.where(problem.mask[:, None, :], _exp(a), mpmath.mpf(0))
                share = np.where(others, e, 0).sum(axis=2) / e.sum(axis=2)
                log_share = np.vectorize(lambda x: float(mpmath.log(x)))(share)
                off.append(np.where(problem.query_mask, log_share, np.nan))
            f = forces(problem, a, loss).reshape(-1)
            C = C + (mpmath.mpf(eta) / mpmath.sqrt(f @ (gram @ f))) * f
    return np.array(matrices), np.array(off)


def _exact_feature_gram(problem: TokenProblem) -> Array:
    """`TokenProblem.feature_gram` in the working precision."""
    x = _number(np.repeat(problem.tokens[:, None], problem.Q, axis=1).reshape(-1, problem.d))
    z = _number(np.repeat(problem.queries[:, :, None], problem.T, axis=2).reshape(-1, problem.d))
    return (x @ x.T) * (z @ z.T)


def _matrix(problem: TokenProblem, C: Array) -> Array:
    """sum_iqt C_iqt x_it z_iq', shape (d, d)."""
    return np.einsum("iqt,itd,iqe->de", C, problem.tokens, problem.queries, optimize=True)
