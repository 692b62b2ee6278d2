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

from ..compilation import compiled
from ..data.sequences import Sequences
from ..errors import InvalidProblemError, LostStepError
from ..model.losses import Loss, known_loss
from ..types import Array
from .kernels import (
    CANCELLED,
    CANCELS,
    COARSE,
    COARSE_SLOPES,
    NO_DIRECTION,
    RESOLVED,
    SLOPES_KNOWN,
    TAKEN,
    TOO_LONG_OR_SHORT,
    exp_or_zero,
    log_norm,
    output_error,
    seen_error,
    slopes,
)
from .rules import NormalizedGD, coarse_slopes, lost_gradient, lost_step, require_positive, unbounded_step
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
        If sequences have several queries, products of tokens overflow, or `steps` or `record` is out of range.
    UnboundedStepError
        If a step makes logits or scores that float64 cannot resolve.
    LostStepError
        If a step is lost in the rounding of W or u, a gradient cancels to rounding, or float64 does not resolve the slopes.

    Notes
    -----
    Where a gradient is exactly zero (that of W at the start, as u_0 = 0) its matrix stays.

    Examples
    --------
    >>> import tokenmargin as tm
    >>> problem = tm.gaussian(5, 4, 100, seed=0)
    >>> run = tm.train_joint(problem, 500)
    >>> bool(run.log_loss[-1] < run.log_loss[0]), run.u().shape
    (True, (100,))
    """
    known_loss(loss)
    require_positive("eta0", eta0)
    if normalizer not in ("separate", "full"):
        raise ValueError(f"normalizer is {normalizer!r}; it must be 'separate' or 'full'.")
    if sequences.Q != 1:
        raise InvalidProblemError(
            f"the sequences have {sequences.Q} queries each; joint training reads one: pass sequences.mean_query()."
        )
    if not 0.0 <= decay < np.inf:
        raise ValueError(f"decay is {decay}; it must be a finite number >= 0.")
    x, y, z, there = (sequences.tokens, sequences.labels, sequences.queries[:, 0], sequences.mask)
    n, T, d = x.shape
    flat = x.reshape(-1, d)
    with np.errstate(over="ignore", invalid="ignore"):
        centred = _centred(x, there).reshape(-1, d)
        token_gram = flat @ flat.T
        feature_gram = (centred @ centred.T) * np.repeat(np.repeat(z @ z.T, T, axis=0), T, axis=1)
    if not (np.isfinite(feature_gram).all() and np.isfinite(token_gram).all()):
        raise InvalidProblemError("products of tokens are beyond floating point: scale the tokens and queries.")
    log_token = log_norm(flat)
    log_length = log_norm(centred).reshape(n, T).max(axis=1) + log_norm(z)
    _require_resolved(eta0, max(log_token.max(), log_length.max()))
    twin = _twins(sequences)
    times = record_times(steps, record)
    state = [np.zeros(n * T) for _ in range(4)]  # C, b, logits, u'x
    walked, rows, paths = np.zeros(2), [], []
    for t0, t1 in zip([0, *times[:-1]], times, strict=True):
        walked, why, t, size = _advance(
            feature_gram, token_gram, y, there.reshape(-1), T, log_token, log_length, twin, flat, centred, z, *state, walked,
            t0, t1, eta0, decay, normalizer == "full", loss == "exponential",
        )  # fmt: skip
        if why != TAKEN:
            raise _refusal(why, t, size, walked)
        rows.append([array.reshape(n, T).copy() for array in state])
        paths.append(walked)
    C, b, logits, decoded = (np.array(column) for column in zip(*rows, strict=True))
    log_s = _log_softmax(np.where(there, logits, -np.inf))
    scores = y[:, None] * decoded
    norm_W = np.sqrt(np.maximum(0.0, np.einsum("kit,kit->k", C, logits)))
    norm_u = np.sqrt(np.maximum(0.0, np.einsum("kit,kit->k", b, decoded)))
    log_loss = _log_loss(np.einsum("kit,kit->ki", np.exp(log_s), scores), loss)
    return JointTrajectory(x, z, times, C, b, log_s, scores, log_loss, norm_W, norm_u, *np.array(paths).T)


def _centred(x: Array, there: Array) -> Array:
    """Tokens less the mean of their sequence: what is common to them moves no attention, and would cancel to rounding."""
    weight = there / there.sum(axis=1, keepdims=True)
    return np.where(there[:, :, None], x - (weight[:, None, :] @ x), 0.0)


def _require_resolved(eta0: float, log_length: float) -> None:
    """Refuse a first step, the longest, that changes logits or scores by more than float64 resolves."""
    if np.log(eta0) + log_length > np.log(RESOLVED):
        raise unbounded_step(0, float(np.log(eta0)), float(np.exp(-log_length)), step=NormalizedGD(eta0))


def _refusal(why: int, t: int, size: float, walked: Array) -> LostStepError:
    """The error for a step that was not taken."""
    if why == COARSE_SLOPES:
        return coarse_slopes(t, size)
    return lost_gradient(t) if why == CANCELS else lost_step(t, size, float(walked.max()))


def _log_softmax(a: Array) -> Array:
    shifted = a - a.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _log_loss(m: Array, loss: Loss) -> Array:
    """log of the mean loss of outputs m, shape (K, n) -> (K,)."""
    with np.errstate(over="ignore"):
        log_l = -m if loss == "exponential" else np.where(m > 30.0, -m, np.log(np.logaddexp(0.0, -np.minimum(m, 30.0))))
    top = log_l.max(axis=1)
    return top + np.log(np.exp(log_l - top[:, None]).mean(axis=1))


@njit(inline="always")
def _attend(first, last, there, logits, score, e):
    """The top token k of a sequence, the exponent b of the most attended token that scores otherwise, S, e^-b times
    (output - top score), and the largest term of that.

    Fill e with e^(a_j - a_k), times e^-b where the score is not the top token's.
    """
    k, b = -1, -np.inf
    for j in range(first, last):
        if there[j] and (k < 0 or logits[j] > logits[k]):
            k = j
    for j in range(first, last):
        if there[j] and score[j] != score[k]:
            b = max(b, logits[j] - logits[k])
    scale = exp_or_zero(b)
    S, mixed, most = 0.0, 0.0, 0.0
    for j in range(first, last):
        if not there[j]:
            e[j] = 0.0
        elif score[j] == score[k]:
            e[j] = exp_or_zero(logits[j] - logits[k])
            S += e[j]
        else:
            e[j] = exp_or_zero(logits[j] - logits[k] - b)
            S += scale * e[j]
            term = e[j] * (score[j] - score[k])
            mixed += term
            most = max(most, abs(term))
    return k, b, scale, S, mixed / S, most


@compiled
def _forces(y, there, T, logits, decoded, log_token, log_length, exponential, work, rows, r, f):
    """Fill r with e^-c_r times the weights of -grad_u, f with e^-c_f times those of -grad_W; return c_r, c_f and
    the error of the slopes relative to one another.

    log_token : array, shape (n T,)
        log ||x_it||, -inf where it is zero: such a token exerts no force on u.
    log_length : array, shape (n,)
        log(||z_i|| max_t ||x_it||), by which the sequences' forces on W are compared.
    work, rows : tuple of two float arrays of n T and an integer one of n, and of nine float arrays of n
        Written over.
    """
    n, coarse = len(y), False
    score, e, top = work
    b, scale, S, mixed, most, lead, short, log_slope, factor = rows
    for i in range(n):
        first, last = i * T, (i + 1) * T
        for j in range(first, last):
            score[j] = y[i] * decoded[j]
        k, b[i], scale[i], S[i], mixed[i], most[i] = _attend(first, last, there, logits, score, e)
        top[i], lead[i], short[i] = k, score[k], -scale[i] * mixed[i]
        coarse = coarse or abs(short[i]) > COARSE
    slopes(lead, short, exponential, log_slope, factor)
    c_r = c_f = -np.inf
    for i in range(n):
        if most[i] > 0.0:
            c_f = max(c_f, log_slope[i] + b[i] + math.log(most[i]) + log_length[i])
        for j in range(i * T, (i + 1) * T):
            if there[j]:
                c_r = max(c_r, log_slope[i] + (logits[j] - logits[top[i]]) + log_token[j])
    for i in range(n):
        first, last = i * T, (i + 1) * T
        k, size = top[i], 0.0
        if most[i] > 0.0 and log_length[i] > -np.inf:
            size = exp_or_zero(log_slope[i] + b[i] - c_f) * factor[i] / S[i]
        _pull_W(first, last, k, score, e, size, scale[i] * mixed[i], mixed[i], f)
        _pull_u(
            first, last, k, there, logits, score, e, log_slope[i] - c_r, b[i], y[i] * factor[i] / S[i], log_token, r
        )
    if not coarse:
        return c_r, c_f, 0.0
    error = np.empty(n)
    for i in range(n):
        error[i] = output_error(lead[i], short[i], exponential)
    return c_r, c_f, seen_error(np.exp(log_slope), error, True)


@njit(inline="always")
def _pull_W(first, last, k, score, e, size, drop, mixed, f):
    """f_j = size e_j (gamma_j - m), sums of zero in each sequence; drop = m - gamma_k."""
    pull = 0.0
    for j in range(first, last):
        f[j] = size * e[j] * (score[j] - score[k] - drop if score[j] != score[k] else -mixed)
        pull += f[j] if j != k else 0.0
    f[k] = -pull


@njit(inline="always")
def _pull_u(first, last, k, there, logits, score, e, exponent, b, sign, log_token, r):
    """r_j = sign e^(exponent + a_j - a_k) for the tokens that are not zero."""
    far = exponent > 600.0  # the tokens that are not zero are far behind one that is
    same, other = (0.0, 0.0) if far else (exp_or_zero(exponent), exp_or_zero(exponent + b))
    for j in range(first, last):
        if not there[j] or log_token[j] == -np.inf:
            r[j] = 0.0
        elif far:
            r[j] = sign * exp_or_zero(exponent + (logits[j] - logits[k]))
        else:
            r[j] = sign * e[j] * (same if score[j] == score[k] else other)


@compiled
def _norms(r, f, pull_r, pull_f, log_token, log_length, T, flat, centred, z):
    """||sum r_j x_j|| and ||sum f_it x_it z_i'||, from their Gram matrices or, where these cancel, from the entries; -1 where
    rounding is all that is left."""
    d, squares, norms = z.shape[1], (r @ pull_r, f @ pull_f), np.empty(2)
    for kind in range(2):
        norms[kind], total = math.sqrt(max(0.0, squares[kind])), 0.0
        if squares[kind] > CANCELLED * len(r) ** 2:  # each force is at most of length one
            continue
        for j in range(len(r)):
            total += abs(r[j]) * math.exp(log_token[j]) if kind == 0 else abs(f[j]) * math.exp(log_length[j // T])
        if squares[kind] > CANCELLED * total**2 or total == 0.0:
            continue
        entries = np.zeros((d, d if kind else 1))
        for j in range(len(r)):
            for a in range(d):
                if kind == 0:
                    entries[a, 0] += r[j] * flat[j, a]
                else:
                    entries[a] += f[j] * centred[j, a] * z[j // T]
        norms[kind] = math.sqrt(np.sum(entries**2))
        if norms[kind] < NO_DIRECTION * total:
            norms[kind] = -1.0
    return norms[0], norms[1]


@njit(inline="always")
def _sizes(eta, c_r, c_f, norm_r, norm_f, full):
    """Multiples of r and of f that make the step: each of length eta, or both together."""
    if not full:
        return (eta / norm_r if norm_r > 0.0 else 0.0), (eta / norm_f if norm_f > 0.0 else 0.0)
    c = max(c_r, c_f)
    part_r, part_f = (math.exp(c_r - c), math.exp(c_f - c)) if c > -np.inf else (0.0, 0.0)
    whole = math.hypot(part_r * norm_r, part_f * norm_f)
    return (eta * part_r / whole, eta * part_f / whole) if whole > 0.0 else (0.0, 0.0)


@compiled
def _advance(
    feature_gram, token_gram, y, there, T, log_token, log_length, twin, flat, centred, z, C, b, logits, decoded, walked, t0, t1,
    eta0, decay, full, exponential,
):  # fmt: skip
    """Take the joint steps t0..t1-1 in place; return the lengths of the paths of W and u, TAKEN, -1, 0.

    Where a step cannot be taken: (paths, why, t, its length or the error of its slopes).
    """
    walked = walked.copy()
    r, f = np.empty_like(b), np.empty_like(C)
    pull_r, pull_f = np.empty_like(b), np.empty_like(C)
    n = len(y)
    work = (np.empty(n * T), np.empty(n * T), np.empty(n, dtype=np.int64))
    one = np.empty((9, n))
    rows = (one[0], one[1], one[2], one[3], one[4], one[5], one[6], one[7], one[8])
    for t in range(t0, t1):
        c_r, c_f, error = _forces(y, there, T, logits, decoded, log_token, log_length, exponential, work, rows, r, f)
        np.dot(feature_gram, f, pull_f)
        np.dot(token_gram, r, pull_r)
        norm_r, norm_f = _norms(r, f, pull_r, pull_f, log_token, log_length, T, flat, centred, z)
        eta = eta0 * (t + 1.0) ** -decay
        if min(norm_r, norm_f) < 0.0:
            return walked, CANCELS, t, eta
        if eta * RESOLVED < walked.max():
            return walked, TOO_LONG_OR_SHORT, t, eta
        if error > SLOPES_KNOWN:
            return walked, COARSE_SLOPES, t, error
        size_r, size_f = _sizes(eta, c_r, c_f, norm_r, norm_f, full)
        for j in range(len(C)):
            C[j] += size_f * f[j]
            logits[j] += size_f * pull_f[j]
            b[j] += size_r * r[j]
            decoded[j] += size_r * pull_r[j]
        for j in range(len(C)):  # equal tokens have equal logits and scores, to the last digit
            logits[j], decoded[j] = logits[twin[j]], decoded[twin[j]]
        walked[0] += size_f * norm_f
        walked[1] += size_r * norm_r
    return walked, TAKEN, -1, 0.0


def _twins(sequences: Sequences) -> Array:
    """For each of the n T tokens the first of its sequence that equals it, as an index into all."""
    x, first = (sequences.tokens, np.arange(sequences.n * sequences.T).reshape(sequences.n, sequences.T))
    for t in range(sequences.T - 1, 0, -1):
        for s in range(t):
            same = (x[:, t] == x[:, s]).all(axis=1) & sequences.mask[:, t] & sequences.mask[:, s]
            first[:, t] = np.where(same, np.minimum(first[:, t], first[:, s]), first[:, t])
    return first.reshape(-1)
