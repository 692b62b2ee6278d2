"""The records of a training run, and when they are taken."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..data.problem import TokenProblem
from ..data.sequences import numbers
from ..errors import InvalidProblemError
from ..model.losses import Loss
from ..types import Array


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The recorded iterates of one training run; K records.

    Attributes
    ----------
    problem, step, loss
        What was run.
    iterations : int array, shape (K,)
        t of each record; 0 is the start.
    coefficients : array, shape (K, N), or None
        C with W_t = W_0 + sum_k C_tk V_k (coefficient form; V the constraints of the optimal tokens).
    matrices : array, shape (K, d, d), or None
        W_t (matrix form).
    W0 : array, shape (d, d)
    margins : array, shape (K, N)
        mu_k(W_t) = a_{i,opt} - a_it.
    path_length : array, shape (K,)
        S_t = h_0 + ... + h_{t-1}.
    effective_steps : array, shape (K,)
        h_t, the length of the step taken from W_t.
    log_gradient_norm, log_loss_gap : arrays, shape (K,)
        log ||grad L(W_t)||_F and log(L(W_t) - L*); nan where outputs or forces cancel to rounding.
    """

    problem: TokenProblem
    step: Any
    loss: Loss
    iterations: Array
    coefficients: Array | None
    matrices: Array | None
    W0: Array
    margins: Array
    path_length: Array
    effective_steps: Array
    log_gradient_norm: Array
    log_loss_gap: Array

    def __len__(self) -> int:
        return len(self.iterations)

    def W(self, k: int = -1) -> Array:
        """W_t at record k (default the last), shape (d, d)."""
        if self.matrices is not None:
            return self.matrices[k]
        assert self.coefficients is not None  # one of the two stands for W
        return self.W0 + self.problem.constraints.combine(self.coefficients[k])

    @cached_property
    def norms(self) -> Array:
        """||W_t||_F, shape (K,)."""
        return np.array([np.linalg.norm(self.W(k)) for k in range(len(self))])

    @property
    def logits(self) -> Array:
        """a_iqt(W_t), shape (K, n, Q, T); -inf at masked tokens."""
        from ..model.attention import logits

        return np.stack([logits(self.problem, self.W(k)) for k in range(len(self))])

    @cached_property
    def log_attention(self) -> Array:
        """log s_iqt, shape (K, n, Q, T), exact for weights far below the smallest float; -inf where masked."""
        a = np.full((len(self), self.problem.n, self.problem.Q, self.problem.T), -np.inf)
        i, q = np.nonzero(self.problem.query_mask)
        a[:, i, q, self.problem.optimal[i]] = 0.0
        c = self.problem.constraints
        a[:, c.sequence, c.query, c.token] = -self.margins
        top = a.max(axis=3, keepdims=True)
        top[np.isneginf(top)] = 0.0
        shifted = a - top
        total = np.exp(shifted).sum(axis=3, keepdims=True)
        return shifted - np.log(np.where(total > 0.0, total, 1.0))  # a masked query has no weights: -inf throughout

    @property
    def attention(self) -> Array:
        """s_iqt, shape (K, n, Q, T)."""
        return np.exp(self.log_attention)

    @cached_property
    def log_off_attention(self) -> Array:
        """log(1 - s_iq,opt), shape (K, n, Q): the sparsification, exact to any depth; nan for masked queries."""
        log_s = self.log_attention.copy()
        np.put_along_axis(log_s, self.problem.optimal[None, :, None, None], -np.inf, axis=3)
        top = log_s.max(axis=3)
        top[np.isneginf(top)] = 0.0
        with np.errstate(divide="ignore"):
            off = top + np.log(np.exp(log_s - top[..., None]).sum(axis=3))
        return np.where(self.problem.query_mask, off, np.nan)

    @property
    def selection(self) -> Array:
        """The most attended token at the last record, shape (n, Q)."""
        return np.argmax(self.log_attention[-1], axis=2)


def log_spaced(steps: int, count: int = 120) -> Array:
    """0, then about `count` integers spaced evenly in log up to `steps`, both ends included."""
    return np.unique(np.concatenate([[0], np.round(np.geomspace(1, max(1, steps), count)).astype(int), [steps]]))


def record_times(steps: int, record: ArrayLike | None) -> Array:
    """The iterations to record, 0 and `steps` among them; refused in words where they are not integers within 0..steps."""
    count = numbers("steps", steps, (0,), "one integer")
    if not (np.isfinite(count) and count == np.floor(count) and count >= 0):
        raise InvalidProblemError(f"steps is {steps}; it must be an integer >= 0.")
    steps = int(count)
    if record is None:
        return log_spaced(steps) if steps else np.array([0])
    given = numbers("record", record, (0, 1), "(K,)").ravel()
    if not ((given == np.floor(given)) & (given >= 0) & (given <= steps)).all():
        raise InvalidProblemError(f"record must hold integers within 0..{steps}.")
    return np.unique(np.concatenate([[0, steps], given])).astype(int)


def start_matrix(problem: TokenProblem, W0: ArrayLike | None) -> Array:
    """W0 as a float array of its own, default zero; refused in words where it is not a finite (d, d) matrix of numbers."""
    if W0 is None:
        return np.zeros((problem.d, problem.d))
    W0 = numbers("W0", W0, (2,), f"({problem.d}, {problem.d})")
    if W0.shape != (problem.d, problem.d) or not np.isfinite(W0).all():
        raise InvalidProblemError(
            f"W0 has shape {W0.shape}; expected a finite matrix of shape ({problem.d}, {problem.d})."
        )
    return W0
