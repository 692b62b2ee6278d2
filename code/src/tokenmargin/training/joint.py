"""Joint training of the key-query matrix W and the decoder u, from zero, by normalised steps.

Both move inside the span of the data, W = sum C_it x_it z_i' and u = sum b_it x_it, so a step costs three products with
n T x n T Gram matrices. Losses and attention weights are kept in log scale: a run continues exactly when L underflows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numba import njit
from numpy.typing import ArrayLike

from ..data.sequences import Sequences
from ..errors import InvalidProblemError
from ..model.losses import Loss, known_loss
from ..types import Array
from .trajectory import record_times

Normalizer = Literal["separate", "full"]


@dataclass(frozen=True, eq=False)
class JointTrajectory:
    """Records of a joint run; K records.

    Attributes
    ----------
    tokens : array, shape (n, T, d)
    queries : array, shape (n, d)
    iterations : int array, shape (K,)
    W_coefficients, u_coefficients : arrays, shape (K, n, T)
        W_t = sum C_it x_it z_i' and u_t = sum b_it x_it.
    log_attention : array, shape (K, n, T)
    scores : array, shape (K, n, T)
        gamma_it = y_i u_t' x_it.
    log_loss : array, shape (K,)
        log L(W_t, u_t); the infimum is 0.
    norm_W, norm_u : arrays, shape (K,)
    path_W, path_u : arrays, shape (K,)
        Lengths of the paths that W and u have walked.
    """

    tokens: Array
    queries: Array
    iterations: Array
    W_coefficients: Array
    u_coefficients: Array
    log_attention: Array
    scores: Array
    log_loss: Array
    norm_W: Array
    norm_u: Array
    path_W: Array
    path_u: Array

    def W(self, k: int = -1) -> Array:
        """W_t at record k, shape (d, d)."""
        return np.einsum("it,itd,ie->de", self.W_coefficients[k], self.tokens, self.queries)

    def u(self, k: int = -1) -> Array:
        """u_t at record k, shape (d,)."""
        return np.einsum("it,itd->d", self.u_coefficients[k], self.tokens)

    @property
    def attention(self) -> Array:
        """s_it, shape (K, n, T)."""
        return np.exp(self.log_attention)

    def log_off_attention(self, selection: ArrayLike) -> Array:
        """log(1 - s_{i,sel_i}) for a selection of shape (n,), exact to any depth; shape (K, n)."""
        selected = np.asarray(selection)[None, :, None] == np.arange(self.log_attention.shape[2])
        others = np.where(selected, -np.inf, self.log_attention)
        top = others.max(axis=2, keepdims=True)
        return top[..., 0] + np.log(np.exp(others - top).sum(axis=2))


def train_joint(
    sequences: Sequences,
    steps: int,
    *,
    eta0: float = 0.5,
    decay: float = 2 / 3,
    normalizer: Normalizer = "separate",
    loss: Loss = "exponential",
    record: ArrayLike | None = None,
) -> JointTrajectory:
    """Train W and u together from zero by normalised steps eta_t = eta0 (t+1)^-decay.

    Parameters
    ----------
    sequences : Sequences
        With one query each; `Sequences.mean_query` makes one of several. A token problem will do: its decoder is not read.
    steps : int
    normalizer : {"separate", "full"}
        "separate": each gradient is divided by its own norm. "full": both by the norm of the full gradient.
    loss : {"exponential", "logistic"}
    record : int array, optional
        Iterations to record; default log-spaced.

    Returns
    -------
    JointTrajectory

    Raises
    ------
    InvalidProblemError
        If sequences have several queries, or `steps` or `record` is out of range.

    Notes
    -----
    Where a gradient is exactly zero (that of W at the start, as u_0 = 0) its matrix stays.
    """
    known_loss(loss)
    if normalizer not in ("separate", "full"):
        raise ValueError(f"normalizer is {normalizer!r}; it must be 'separate' or 'full'.")
    if sequences.Q != 1:
        raise InvalidProblemError(
            f"the sequences have {sequences.Q} queries each; joint training reads one: pass sequences.mean_query()."
        )
    x, y, z, there = sequences.tokens, sequences.labels, sequences.queries[:, 0], sequences.mask
    n, T, d = x.shape
    flat = x.reshape(-1, d)
    token_gram = flat @ flat.T
    feature_gram = token_gram * np.repeat(np.repeat(z @ z.T, T, axis=0), T, axis=1)
    times = record_times(steps, record)
    state = [np.zeros(n * T) for _ in range(4)]  # C, b, logits, u'x
    walked, rows, paths = np.zeros(2), [], []
    for t0, t1 in zip([0, *times[:-1]], times, strict=True):
        walked = walked + _advance(
            feature_gram, token_gram, y, there.reshape(-1), T, *state, t0, t1,
            eta0, decay, normalizer == "full", loss == "exponential",
        )  # fmt: skip
        rows.append([array.reshape(n, T).copy() for array in state])
        paths.append(walked)
    C, b, logits, decoded = (np.array(column) for column in zip(*rows, strict=True))
    log_s = _log_softmax(np.where(there, logits, -np.inf))
    scores = y[:, None] * decoded
    norm_W = np.sqrt(np.maximum(0.0, np.einsum("kit,kit->k", C, logits)))
    norm_u = np.sqrt(np.maximum(0.0, np.einsum("kit,kit->k", b, decoded)))
    log_loss = _log_loss(np.einsum("kit,kit->ki", np.exp(log_s), scores), loss)
    return JointTrajectory(x, z, times, C, b, log_s, scores, log_loss, norm_W, norm_u, *np.array(paths).T)


def _log_softmax(a: Array) -> Array:
    shifted = a - a.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _log_loss(m: Array, loss: Loss) -> Array:
    """log of the mean loss of outputs m, shape (K, n) -> (K,)."""
    with np.errstate(over="ignore"):
        log_l = -m if loss == "exponential" else np.where(m > 30.0, -m, np.log(np.logaddexp(0.0, -np.minimum(m, 30.0))))
    top = log_l.max(axis=1)
    return top + np.log(np.exp(log_l - top[:, None]).mean(axis=1))


@njit(cache=True)
def _forces(y, there, T, logits, decoded, exponential, r, f):
    """Fill r with the weights of -grad_u and f with e^-c times those of -grad_W, up to one shared factor; return c."""
    n = len(y)
    m = np.zeros(n)
    top = np.zeros(n, dtype=np.int64)
    c = -np.inf
    for i in range(n):
        k = -1
        for j in range(i * T, (i + 1) * T):
            if there[j] and (k < 0 or logits[j] > logits[k]):
                k = j
        top[i] = k
        for j in range(i * T, (i + 1) * T):
            if there[j] and j != k:
                c = max(c, logits[j] - logits[k])
    lowest = np.inf
    for i in range(n):
        k, total, mixed = top[i], 0.0, 0.0
        for j in range(i * T, (i + 1) * T):
            r[j] = math.exp(logits[j] - logits[k]) if there[j] else 0.0
            total += r[j]
        for j in range(i * T, (i + 1) * T):
            r[j] /= total
            mixed += r[j] * (decoded[j] - decoded[k])
            f[j] = math.exp(logits[j] - logits[k] - c) / total if there[j] and j != k else 0.0
        drop = mixed  # m - gamma_top (times y), exact where the attention has saturated
        pull = 0.0
        for j in range(i * T, (i + 1) * T):
            f[j] *= y[i] * (decoded[j] - decoded[k] - drop)
            pull += f[j]
        f[k] = -pull
        m[i] = y[i] * (decoded[k] + mixed)
        lowest = min(lowest, m[i])
    for i in range(n):
        weight = math.exp(lowest - m[i])
        if not exponential:
            weight *= (1.0 + math.exp(-abs(lowest))) / (1.0 + math.exp(-abs(m[i])))
            if lowest < 0.0:
                weight *= math.exp(-lowest) if m[i] >= 0.0 else math.exp(m[i] - lowest)
        for j in range(i * T, (i + 1) * T):
            r[j] *= y[i] * weight
            f[j] *= weight
    return c


@njit(cache=True)
def _advance(
    feature_gram, token_gram, y, there, T, C, b, logits, decoded, t0, t1, eta0, decay, full, exponential
):  # fmt: skip
    """Take the joint steps t0..t1-1 in place; return the lengths of the paths of W and u."""
    walked = np.zeros(2)
    r, f = np.empty_like(b), np.empty_like(C)
    pull_r, pull_f = np.empty_like(b), np.empty_like(C)
    for t in range(t0, t1):
        c = _forces(y, there, T, logits, decoded, exponential, r, f)
        np.dot(feature_gram, f, pull_f)
        np.dot(token_gram, r, pull_r)
        norm_f, norm_r = math.sqrt(max(0.0, f @ pull_f)), math.sqrt(max(0.0, r @ pull_r))
        eta = eta0 * (t + 1.0) ** -decay
        if full:
            whole = math.hypot(norm_r, math.exp(c) * norm_f)
            size_r = eta / whole if whole > 0.0 else 0.0
            size_f = size_r * math.exp(c)
        else:
            size_r = eta / norm_r if norm_r > 0.0 else 0.0
            size_f = eta / norm_f if norm_f > 0.0 else 0.0
        for j in range(len(C)):
            C[j] += size_f * f[j]
            logits[j] += size_f * pull_f[j]
            b[j] += size_r * r[j]
            decoded[j] += size_r * pull_r[j]
        walked[0] += size_f * norm_f
        walked[1] += size_r * norm_r
    return walked
