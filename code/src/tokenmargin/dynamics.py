"""Training: `train(problem, step, steps)` runs a step rule exactly to any ||W|| and returns a `Trajectory`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from tqdm import tqdm

from . import engine
from .attention import Loss, _known, gradient, infimum, loss_value
from .problem import BLOCK, Constraints, InvalidProblemError, TokenProblem
from .steps import GradientDescent, NormalizedGD, Polyak, Step, unbounded_step

Array = np.ndarray
Form = Literal["auto", "gram", "matrix", "reference"]
GRAM_BYTES = 1 << 30  # largest constraint Gram matrix that the coefficient form may hold


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
        log ||grad L(W_t)||_F and log(L(W_t) - L*).
    """

    problem: TokenProblem
    step: Step
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
        return self.W0 + self.problem.constraints.combine(self.coefficients[k])

    @cached_property
    def norms(self) -> Array:
        """||W_t||_F, shape (K,)."""
        return np.array([np.linalg.norm(self.W(k)) for k in range(len(self))])

    @property
    def logits(self) -> Array:
        """a_iqt(W_t), shape (K, n, Q, T); -inf at masked tokens."""
        from .attention import logits

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


def train(
    problem: TokenProblem,
    step: Step,
    steps: int,
    W0: ArrayLike | None = None,
    *,
    loss: Loss = "logistic",
    record: ArrayLike | None = None,
    form: Form = "auto",
    progress: bool = False,
    stop: Callable[[Array], bool] | None = None,
) -> Trajectory:
    """Train W by a step rule: W_{t+1} = W_t - h_t grad L(W_t)/||grad L(W_t)||.

    Parameters
    ----------
    problem : TokenProblem
    step : Step
        GradientDescent, NormalizedGD, Polyak, or any object with `effective_step`.
    steps : int
        Number of steps, >= 0.
    W0 : array, shape (d, d), optional
        Start, default zero.
    loss : {"logistic", "exponential"}
    record : int array, optional
        Iterations to record, within 0..steps; default log-spaced. 0 and `steps` are always recorded.
    form : {"auto", "gram", "matrix", "reference"}
        "gram": coefficients with the N x N constraint Gram matrix, compiled; cost N^2 a step. "matrix": W itself with
        matrix-free logits and gradient; cost n Q d (d + T) a step. "reference": the equations of `attention`, in
        float64 without log scale. "auto": the cheaper of the first two that fits in memory.
    progress : bool
        Show a progress bar where a person waits.
    stop : callable, optional
        Called with the margins (N,) at each record; training ends early where it returns True.

    Returns
    -------
    Trajectory

    Raises
    ------
    UnboundedStepError
        If Polyak's step without a cap has no finite size.
    InvalidProblemError
        If W0 is not a finite (d, d) matrix, or `record` or `steps` is out of range.
    """
    _known(loss)
    times = _record_times(steps, record)
    start = _start(problem, W0)
    form = _choose(problem, step) if form == "auto" else form
    kinds = {"gram": _GramState, "matrix": _MatrixState, "reference": _ReferenceState}
    if form not in kinds:
        raise ValueError(f"form is {form!r}; it must be 'auto', 'gram', 'matrix' or 'reference'.")
    state = kinds[form](problem, step, start, loss)
    rows = [state.record(0)]
    for t0, t1 in tqdm(list(pairwise(times)), disable=not progress, leave=False):
        state.advance(int(t0), int(t1))
        rows.append(state.record(int(t1)))
        if stop is not None and stop(rows[-1][1]):
            break
    weights, margins, path, h, log_norm, log_gap = (np.array(column) for column in zip(*rows, strict=True))
    coefficients, matrices = (weights, None) if form == "gram" else (None, weights)
    return Trajectory(
        problem,
        step,
        loss,
        times[: len(rows)],
        coefficients,
        matrices,
        start,
        margins,
        path,
        h,
        log_norm,
        log_gap,
    )


def cost_per_step(problem: TokenProblem) -> dict[str, float]:
    """Multiply-adds of one step in each form: {"gram": N^2, "matrix": 2 n Q d (d + T)}."""
    N, rows = len(problem.constraints), int(problem.query_mask.sum())
    return {"gram": float(N) ** 2, "matrix": 2.0 * rows * problem.d * (problem.d + problem.T)}


def numbers_held(problem: TokenProblem) -> dict[str, float]:
    """Numbers of 8 bytes that a run of each form holds at its peak, the problem's own arrays and the records left out.

    {"gram": N^2 + N min(N, 256) + 2 N d + 2 d^2, "matrix": 13 n Q T + n Q d + 6 d^2}: the Gram matrix, the block of rows
    that is being formed and the constraints' vectors; or a dozen arrays as long as the constraints (their indices,
    margins, weights, logits), the queries turned by W, and W, its start, its copy and its gradient.
    """
    N, rows, d = len(problem.constraints), problem.n * problem.Q, problem.d
    gram = N * (N + min(N, BLOCK) + 2.0 * d) + 2.0 * d * d
    return {"gram": gram, "matrix": rows * (13.0 * problem.T + d) + 6.0 * d * d}


def gram_share(problem: TokenProblem) -> float:
    """Expected time of a Gram step over that of a matrix step; "auto" takes the Gram form up to 1, where it fits in memory.

    Calibrated on one core: a multiply-add of the matrix form takes 0.7 of one of the Gram form, and the calls of a matrix
    step as long as 1.2e5 of them.
    """
    cost = cost_per_step(problem)
    return cost["gram"] / (0.7 * cost["matrix"] + 1.2e5)


def _choose(problem: TokenProblem, step: Step) -> Form:
    fits = 8.0 * cost_per_step(problem)["gram"] <= GRAM_BYTES
    return "gram" if fits and gram_share(problem) <= 1.0 else "matrix"


class _State:
    """Common to the forms: bookkeeping of the path length and of what a record holds."""

    def __init__(self, problem: TokenProblem, step: Step, W0: Array, loss: Loss):
        self.problem, self.step, self.loss = problem, step, loss
        self.path = 0.0
        self.layout = engine.Layout.of(problem, loss)
        self.p = np.empty(len(problem.constraints))
        self.setup(W0)

    def weights(self) -> tuple[float, float]:
        """Fill p with e^-c p_k at the present margins; return (c, log loss gap)."""
        return engine.scaled_weights(self.mu, *self.layout.arrays(), self.p)

    def advance(self, t0: int, t1: int) -> None:
        for t in range(t0, t1):
            c, log_gap = self.weights()
            direction, norm = self.direction()
            if norm == 0.0:
                return
            h = self.step.effective_step(t, c + math.log(norm), log_gap)
            self.move(direction, h / norm)
            self.path += h

    def record(self, t: int) -> tuple:
        c, log_gap = self.weights()
        _, norm = self.direction()
        log_norm = c + math.log(norm) if norm > 0.0 else -math.inf
        h = self._step_or_nan(t, log_norm, log_gap) if norm > 0.0 else 0.0
        return self.snapshot(), self.mu.copy(), self.path, h, log_norm, log_gap

    def _step_or_nan(self, t: int, log_norm: float, log_gap: float) -> float:
        try:
            return self.step.effective_step(t, log_norm, log_gap)
        except Exception:
            if t == 0:
                raise
            return math.nan


class _GramState(_State):
    """W = W0 + sum C_k V_k; margins move by the Gram matrix."""

    def setup(self, W0: Array) -> None:
        self.gram = np.ascontiguousarray(self.problem.constraints.gram)
        self.mu0 = self.problem.constraints.margins(W0)
        self.mu = self.mu0.copy()
        self.coefficients = np.zeros_like(self.mu)

    def advance(self, t0: int, t1: int) -> None:
        code = rule_code(self.step)
        if code is None:
            return super().advance(t0, t1)
        path, log_step, failed = engine.advance(
            self.gram, self.mu0, self.coefficients, self.mu, t0, t1, *code, *self.layout.arrays()
        )
        if failed >= 0:
            raise unbounded_step(failed, log_step)
        self.path += path

    def direction(self) -> tuple[Array, float]:
        force = self.gram @ self.p
        return force, math.sqrt(max(0.0, float(self.p @ force)))

    def move(self, direction: Array, size: float) -> None:
        self.coefficients += size * self.p
        self.mu += size * direction

    def snapshot(self) -> Array:
        return self.coefficients.copy()


class _MatrixState(_State):
    """W itself; logits and gradient by two products with the tokens and one with the queries."""

    def setup(self, W0: Array) -> None:
        self.W = W0.copy()
        self.queries = self.problem.queries.reshape(-1, self.problem.d)  # one product with W, not n small ones
        self.flat = _flat_index(self.problem, self.problem.constraints)
        self.buffer = np.zeros((self.problem.n, self.problem.Q, self.problem.T))
        self.rows = np.arange(self.problem.n)
        self.refresh()

    def refresh(self) -> None:
        """mu = a_opt - a_t at W."""
        turned = (self.queries @ self.W.T).reshape(self.problem.queries.shape)
        a = turned @ self.problem.tokens.transpose(0, 2, 1)
        mu = a[self.rows, :, self.problem.optimal][:, :, None] - a
        self.mu = mu.reshape(-1)[self.flat]

    def direction(self) -> tuple[Array, float]:
        self.buffer.reshape(-1)[self.flat] = -self.p
        self.buffer[self.rows, :, self.problem.optimal] = 0.0
        self.buffer[self.rows, :, self.problem.optimal] = -self.buffer.sum(axis=2)
        pulled = self.buffer @ self.problem.tokens  # (n, Q, d): sum_t f_iqt x_it
        direction = pulled.reshape(-1, self.problem.d).T @ self.queries
        return direction, float(np.linalg.norm(direction))

    def move(self, direction: Array, size: float) -> None:
        self.W += size * direction
        self.refresh()

    def snapshot(self) -> Array:
        return self.W.copy()


class _ReferenceState(_State):
    """The equations of `attention` as they stand: float64, no log scale. Stalls where 1 - s_opt rounds to zero."""

    def setup(self, W0: Array) -> None:
        self.W = W0.copy()
        self.mu = self.problem.constraints.margins(W0)

    def weights(self) -> tuple[float, float]:
        gap = loss_value(self.problem, self.W, self.loss) - infimum(self.problem, self.loss)
        return 0.0, math.log(gap) if gap > 0.0 else -math.inf

    def direction(self) -> tuple[Array, float]:
        descent = -gradient(self.problem, self.W, self.loss)
        return descent, float(np.linalg.norm(descent))

    def move(self, direction: Array, size: float) -> None:
        self.W = self.W + size * direction
        self.mu = self.problem.constraints.margins(self.W)

    def snapshot(self) -> Array:
        return self.W.copy()


def rule_code(step: Step) -> tuple[int, float, float] | None:
    """(rule, a, b) of the compiled kernel for a built-in rule; None for any other."""
    if type(step) is GradientDescent:
        return engine.GRADIENT_DESCENT, float(step.eta), 0.0
    if type(step) is NormalizedGD:
        return engine.NORMALIZED_GD, float(step.eta), float(step.decay)
    if type(step) is Polyak:
        return engine.POLYAK, float(step.theta), math.inf if step.cap is None else math.log(step.cap)
    return None


def _flat_index(problem: TokenProblem, constraints: Constraints) -> Array:
    """Position of each constraint in a flattened (n, Q, T) array."""
    return (constraints.sequence * problem.Q + constraints.query) * problem.T + constraints.token


def _record_times(steps: int, record: ArrayLike | None) -> Array:
    if int(steps) != steps or steps < 0:
        raise InvalidProblemError(f"steps is {steps}; it must be an integer >= 0.")
    if record is None:
        return log_spaced(int(steps)) if steps else np.array([0])
    times = np.unique(np.concatenate([[0, steps], np.asarray(record).ravel()]))
    if not np.issubdtype(np.asarray(record).dtype, np.integer) or times[0] < 0 or times[-1] > steps:
        raise InvalidProblemError(f"record must hold integers within 0..{steps}.")
    return times.astype(int)


def _start(problem: TokenProblem, W0: ArrayLike | None) -> Array:
    if W0 is None:
        return np.zeros((problem.d, problem.d))
    W0 = np.array(W0, dtype=float)
    if W0.shape != (problem.d, problem.d) or not np.isfinite(W0).all():
        raise InvalidProblemError(
            f"W0 has shape {W0.shape}; expected a finite matrix of shape ({problem.d}, {problem.d})."
        )
    return W0
