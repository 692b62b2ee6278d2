"""The equations of `attention` in arithmetic of many digits (mpmath): what float64 is judged by.

`forces`, and with it `gradient_direction` and `normalized_gd`, has the equations as they stand: the digits alone resolve the
cancellation in gamma_t - m, so `digits` must exceed -log10(1 - s_opt) by as many figures as are wanted. `run` and `joint`
write gamma_t - m = sum_s s_s (gamma_t - gamma_s), an identity: the digits need only hold the logits and outputs themselves to
forty places (`enough_digits`), at any 1 - s_opt, which makes these quick enough for a map of many runs. A test holds the two
against each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mpmath
import numpy as np
from numpy.typing import ArrayLike

from ..data.problem import TokenProblem
from ..data.sequences import Sequences
from ..types import Array
from .attention import query_weights
from .losses import Loss, known_loss

_number = np.vectorize(mpmath.mpf, otypes=[object])
_exp = np.vectorize(mpmath.exp, otypes=[object])
_expm1 = np.vectorize(mpmath.expm1, otypes=[object])
_log1p = np.vectorize(mpmath.log1p, otypes=[object])


def forces(problem: TokenProblem, logits: Array, loss: Loss = "logistic") -> Array:
    """f_iqt = -(dL/da_iqt) from logits (n, Q, T) of mpmath numbers, as `attention.forces`; shape (n, Q, T)."""
    gamma, weight = (_number(np.where(problem.mask, problem.scores, 0.0)), _number(query_weights(problem)))
    e = np.where(problem.mask[:, None, :], _exp(logits), mpmath.mpf(0))
    s = e / e.sum(axis=2, keepdims=True)
    m_q = (s * gamma[:, None, :]).sum(axis=2)
    e_m = _exp(-(weight * m_q).sum(axis=1))
    slope = e_m / (1 + e_m) if known_loss(loss) == "logistic" else e_m
    return (slope[:, None] * weight)[:, :, None] * s * (gamma[:, None, :] - m_q[:, :, None]) / problem.n


def pairwise_forces(problem: TokenProblem, logits: Array, loss: Loss = "logistic") -> tuple[Array, Any]:
    """The same forces f_iqt, shape (n, Q, T), and the loss gap L - L*, by differences of scores: no figures are lost.

    The gap is the mean of l(m_i) - l(gamma_{i,opt}) = e^{-gamma_{i,opt}} (e^{delta_i} - 1), and log(1 + that/(1 + e^{-gamma_{i,opt}}))
    for the logistic loss, delta_i = gamma_{i,opt} - m_i.
    """
    gamma, weight = (_number(np.where(problem.mask, problem.scores, 0.0)), _number(query_weights(problem)))
    s, best = _shares(problem, logits), _number(problem.optimal_scores)
    ahead = ((gamma[:, :, None] - gamma[:, None, :])[:, None] * s[:, :, None, :]).sum(axis=3)  # gamma_t - m_iq
    delta = (weight * (s * (best[:, None] - gamma)[:, None, :]).sum(axis=2)).sum(axis=1)
    e_m, e_best, lost = _exp(delta - best), _exp(-best), _expm1(delta)
    logistic = known_loss(loss) == "logistic"
    slope = e_m / (1 + e_m) if logistic else e_m
    gap = _log1p(e_best * lost / (1 + e_best)) if logistic else e_best * lost
    return (slope[:, None] * weight)[:, :, None] * s * ahead / problem.n, gap.sum() / problem.n


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


def enough_digits(problem: TokenProblem, W0: ArrayLike | None = None) -> int:
    """Digits in which logits at W0 and scores, whose exponentials are taken, have forty places after the point."""
    score = float(np.abs(problem.scores[problem.mask]).max())
    start = 0.0 if W0 is None else float(np.linalg.norm(np.asarray(W0, dtype=float)))
    longest = float(problem.constraints.norms.max(initial=0.0))
    margin = np.log10(start) + np.log10(longest) if start * longest != 0.0 else 0.0
    return 40 + int(np.ceil(max(0.0, np.log10(score) if score > 0.0 else 0.0, margin)))


@dataclass(frozen=True)
class ExactRun:
    """Records of a run in many digits, rounded to float64; K records, whose fields are those of `Trajectory`.

    Attributes
    ----------
    matrices : array, shape (K, d, d)
    path_length, log_gradient_norm, log_loss_gap : arrays, shape (K,)
    log_off_attention : array, shape (K, n, Q)
        log(1 - s_iq,opt); nan for masked queries.
    """

    matrices: Array
    path_length: Array
    log_gradient_norm: Array
    log_loss_gap: Array
    log_off_attention: Array


def run(
    problem: TokenProblem,
    step: Callable[[int, Any, Any], Any],
    record: ArrayLike,
    W0: ArrayLike | None = None,
    loss: Loss = "logistic",
    *,
    digits: int | None = None,
) -> ExactRun:
    """Run W_{t+1} = W_t - h_t grad L/||grad L||, every operation in many digits.

    Parameters
    ----------
    step : callable
        h_t from t, ||grad L(W_t)|| and L(W_t) - L*, all but t mpmath numbers: `gradient_descent`, `normalized`, `polyak`.
    record : int array, shape (K,), increasing
        Iterations to record; the run ends at the last.
    W0 : array, shape (d, d), optional
        Start, read exactly; default zero.
    digits : int, optional
        Default `enough_digits`, for as long as W is not much larger than W0 and the scores.
    """
    rows, wanted = [], set(np.asarray(record).tolist())
    with mpmath.workdps(digits or enough_digits(problem, W0)):
        X, Z = _number(problem.tokens), _number(problem.queries)
        W = _number(np.zeros((problem.d, problem.d)) if W0 is None else np.asarray(W0, dtype=float))
        path = mpmath.mpf(0)
        for t in range(int(np.max(record)) + 1):
            turned = Z @ W.T
            a = np.stack([turned[i] @ X[i].T for i in range(problem.n)])
            f, gap = pairwise_forces(problem, a, loss)
            descent = sum((f[i] @ X[i]).T @ Z[i] for i in range(problem.n))
            norm = mpmath.sqrt((descent * descent).sum())
            if t in wanted:
                rows.append((np.asarray(W, dtype=float), float(path), _log(norm), _log(gap), _log_off(problem, a)))
            if norm > 0:
                h = mpmath.mpf(step(t, norm, gap))
                W, path = W + (h / norm) * descent, path + h
    return ExactRun(*(np.array(column) for column in zip(*rows, strict=True)))


def gradient_descent(eta: float) -> Callable:
    """h_t = eta ||grad L||."""
    return lambda t, norm, gap: mpmath.mpf(eta) * norm


def normalized(eta: float, decay: float = 0.0) -> Callable:
    """h_t = eta (t+1)^-decay."""
    return lambda t, norm, gap: mpmath.mpf(eta) * mpmath.mpf(t + 1) ** -mpmath.mpf(decay)


def polyak(theta: float, cap: float | None = None) -> Callable:
    """h_t = min(theta (L - L*)/||grad L||, cap)."""
    return lambda t, norm, gap: min(mpmath.mpf(theta) * gap / norm, mpmath.inf if cap is None else mpmath.mpf(cap))


def normalized_gd(
    problem: TokenProblem, eta: float, record: ArrayLike, loss: Loss = "logistic", *, digits: int
) -> tuple[Array, Array]:
    """Run W_{t+1} = W_t - eta grad L/||grad L|| from zero in coefficients of the features, every operation with
    `digits` decimal digits: as `run`, at a cost that does not depend on d.

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
    matrices, off, wanted = [], [], set(np.asarray(record).tolist())
    shape = (problem.n, problem.Q, problem.T)
    with mpmath.workdps(digits):
        gram = _exact_feature_gram(problem)
        C = _number(np.zeros(len(gram)))
        for t in range(int(np.max(record)) + 1):
            a = (gram @ C).reshape(shape)
            if t in wanted:
                matrices.append(_matrix(problem, np.asarray(C, dtype=float).reshape(shape)))
                off.append(_log_off(problem, a))
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


def joint(
    sequences: Sequences,
    steps: int,
    *,
    eta0: float,
    decay: float,
    full: bool = False,
    loss: Loss = "exponential",
    digits: int = 60,
) -> tuple[Array, Array, float, float]:
    """W, u and the lengths of their paths after `steps` joint steps from zero (one query each), in many digits.

    `full`: both gradients are divided by the norm of the full gradient.
    """
    with mpmath.workdps(digits):
        X, y, Z = (_number(sequences.tokens), _number(sequences.labels), _number(sequences.queries[:, 0]))
        d, n = sequences.d, sequences.n
        W, u, paths = (_number(np.zeros((d, d))), _number(np.zeros(d)), [mpmath.mpf(0), mpmath.mpf(0)])
        for t in range(steps):
            g_W, g_u = _number(np.zeros((d, d))), _number(np.zeros(d))
            for i in range(n):
                there = sequences.mask[i]
                e = np.where(there, _exp(X[i] @ (W @ Z[i])), mpmath.mpf(0))
                s, score = e / e.sum(), y[i] * (X[i] @ u)
                ahead = (score[:, None] - score[None, :]) @ s  # score - s'score
                e_m = mpmath.exp(-(s @ score))
                slope = (e_m / (1 + e_m) if known_loss(loss) == "logistic" else e_m) / n
                g_u = g_u + slope * y[i] * (s @ X[i])
                g_W = g_W + slope * np.outer((s * ahead) @ X[i], Z[i])
            norms = [mpmath.sqrt((g * g).sum()) for g in (g_W, g_u)]
            both = mpmath.sqrt(norms[0] ** 2 + norms[1] ** 2)
            h = mpmath.mpf(eta0) * mpmath.mpf(t + 1) ** -mpmath.mpf(decay)
            sizes = [h / (both if full else norm) if norm > 0 else mpmath.mpf(0) for norm in norms]
            W, u = W + sizes[0] * g_W, u + sizes[1] * g_u
            paths = [path + size * norm for path, size, norm in zip(paths, sizes, norms, strict=True)]
        return (np.asarray(W, dtype=float), np.asarray(u, dtype=float), float(paths[0]), float(paths[1]))


def _log(x: Any) -> float:
    return float(mpmath.log(x)) if x > 0 else -np.inf


def _shares(problem: TokenProblem, logits: Array) -> Array:
    e = np.where(problem.mask[:, None, :], _exp(logits), mpmath.mpf(0))
    return e / e.sum(axis=2, keepdims=True)


def _log_off(problem: TokenProblem, logits: Array) -> Array:
    others = np.arange(problem.T) != problem.optimal[:, None, None]
    share = np.where(others, _shares(problem, logits), 0).sum(axis=2)
    return np.where(problem.query_mask, np.vectorize(_log, otypes=[float])(share), np.nan)
