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
from .kernels import log_norm, slopes
from .rules import require_positive
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
    x, y, z, there = (sequences.tokens, sequences.labels, sequences.queries[:, 0], sequences.mask)
    n, T, d = x.shape
    flat = x.reshape(-1, d)
    with np.errstate(over="ignore", invalid="ignore"):
        token_gram = flat @ flat.T
        feature_gram = token_gram * np.repeat(np.repeat(z @ z.T, T, axis=0), T, axis=1)
    if not (np.isfinite(feature_gram).all() and np.isfinite(token_gram).all()):
        raise InvalidProblemError("products of tokens are beyond floating point: scale the tokens and queries.")
    log_token = log_norm(flat)
    log_length = log_token.reshape(n, T).max(axis=1) + log_norm(z)
    twin = _twins(sequences)
    times = record_times(steps, record)
    state = [np.zeros(n * T) for _ in range(4)]  # C, b, logits, u'x
    walked, rows, paths = np.zeros(2), [], []
    for t0, t1 in zip([0, *times[:-1]], times, strict=True):
        walked = walked + _advance(  # type: ignore[call-arg]
            feature_gram, token_gram, y, there.reshape(-1), T, log_token, log_length, twin, *state, t0, t1,
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
def _attend(first, last, there, logits, score, e):
    """Fill e with e_j of `kernels` for one sequence; return its top token, b, S and e^-b times (output - top score)."""
    k = -1
    for j in range(first, last):
        if there[j] and (k < 0 or logits[j] > logits[k]):
            k = j
    b, S = -np.inf, 0.0
    for j in range(first, last):
        e[j] = 0.0
        if there[j]:
            S += math.exp(logits[j] - logits[k])
            if score[j] != score[k]:
                e[j] = logits[j] - logits[k] + math.log(abs(score[j] - score[k]))
                b = max(b, e[j])
    mixed = 0.0
    for j in range(first, last):
        if there[j] and score[j] != score[k]:
            e[j] = math.copysign(math.exp(e[j] - b), score[j] - score[k])
            mixed += e[j]
    return k, b, S, mixed / S


@njit(cache=True)
def _forces(y, there, T, logits, decoded, log_token, log_length, exponential, r, f):
    """Fill r with e^-c_r times the weights of -grad_u, f with e^-c_f times those of -grad_W; return (c_r, c_f).

    log_token : array, shape (n T,)
        log ||x_it||, -inf where it is zero: such a token exerts no force on u.
    log_length : array, shape (n,)
        log(||z_i|| max_t ||x_it||), by which the sequences' forces on W are compared.
    """
    n = len(y)
    score = decoded * np.repeat(y, T)
    top, b, S, mixed, lead = (np.empty(n, dtype=np.int64), np.empty(n), np.empty(n), np.empty(n), np.empty(n))
    for i in range(n):
        top[i], b[i], S[i], mixed[i] = _attend(i * T, (i + 1) * T, there, logits, score, f)
        lead[i] = score[top[i]]
    log_slope, factor = np.empty(n), np.empty(n)
    slopes(lead, -np.exp(b) * mixed, exponential, log_slope, factor)
    c_r = c_f = -np.inf
    for i in range(n):
        c_f = max(c_f, log_slope[i] + b[i] + log_length[i])
        for j in range(i * T, (i + 1) * T):
            if there[j]:
                c_r = max(c_r, log_slope[i] + logits[j] - logits[top[i]] + log_token[j])
    for i in range(n):
        k, pull, size = top[i], 0.0, 0.0
        if b[i] + log_length[i] > -np.inf:
            size = math.exp(log_slope[i] + b[i] - c_f) * factor[i] / S[i]
        for j in range(i * T, (i + 1) * T):
            share = math.exp(logits[j] - logits[k]) if there[j] else 0.0
            f[j] = size * (f[j] - share * mixed[i]) if j != k else 0.0
            pull += f[j]
            acts = there[j] and log_token[j] > -np.inf
            r[j] = y[i] * factor[i] / S[i] * math.exp(log_slope[i] + logits[j] - logits[k] - c_r) if acts else 0.0
        f[k] = -pull
    return c_r, c_f


@njit(cache=True)
def _advance(
    feature_gram, token_gram, y, there, T, log_token, log_length, twin, C, b, logits, decoded, t0, t1, eta0, decay, full,
    exponential,
):  # fmt: skip
    """Take the joint steps t0..t1-1 in place; return the lengths of the paths of W and u."""
    walked = np.zeros(2)
    r, f = np.empty_like(b), np.empty_like(C)
    pull_r, pull_f = np.empty_like(b), np.empty_like(C)
    for t in range(t0, t1):
        c_r, c_f = _forces(y, there, T, logits, decoded, log_token, log_length, exponential, r, f)
        np.dot(feature_gram, f, pull_f)
        np.dot(token_gram, r, pull_r)
        norm_f, norm_r = (math.sqrt(max(0.0, f @ pull_f)), math.sqrt(max(0.0, r @ pull_r)))
        eta = eta0 * (t + 1.0) ** -decay
        if full:
            c = max(c_r, c_f)
            part_r, part_f = (math.exp(c_r - c), math.exp(c_f - c)) if c > -np.inf else (0.0, 0.0)
            whole = math.hypot(part_r * norm_r, part_f * norm_f)
            size_r = eta * part_r / whole if whole > 0.0 else 0.0
            size_f = eta * part_f / whole if whole > 0.0 else 0.0
        else:
            size_r = eta / norm_r if norm_r > 0.0 else 0.0
            size_f = eta / norm_f if norm_f > 0.0 else 0.0
        for j in range(len(C)):
            C[j] += size_f * f[j]
            logits[j] += size_f * pull_f[j]
            b[j] += size_r * r[j]
            decoded[j] += size_r * pull_r[j]
        for j in range(len(C)):  # equal tokens have equal logits and scores, to the last digit
            logits[j], decoded[j] = logits[twin[j]], decoded[twin[j]]
        walked[0] += size_f * norm_f
        walked[1] += size_r * norm_r
    return walked


def _twins(sequences: Sequences) -> Array:
    """For each of the n T tokens the first of its sequence that equals it, as an index into all."""
    x, first = (sequences.tokens, np.arange(sequences.n * sequences.T).reshape(sequences.n, sequences.T))
    for t in range(sequences.T - 1, 0, -1):
        for s in range(t):
            same = (x[:, t] == x[:, s]).all(axis=1) & sequences.mask[:, t] & sequences.mask[:, s]
            first[:, t] = np.where(same, np.minimum(first[:, t], first[:, s]), first[:, t])
    return first.reshape(-1)
