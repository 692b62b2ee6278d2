"""Three forms of the same step: coefficients with the Gram matrix, W itself, and the equations as they stand."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np

from ..data.constraints import Constraints
from ..data.problem import TokenProblem
from ..model.attention import gradient, infimum, loss_value
from ..model.losses import Loss
from ..types import Array
from .kernels import GRADIENT_DESCENT, NORMALIZED_GD, POLYAK, Rule, advance_gram, layout_of, scaled_weights
from .rules import GradientDescent, NormalizedGD, Polyak, Step, unbounded_step


class State(ABC):
    """Common to the forms: bookkeeping of the path length and of what a record holds.

    A form keeps `mu`, the margins (N,) at the present W, and knows its own `direction`, `move` and `snapshot`.
    """

    mu: Array

    def __init__(self, problem: TokenProblem, step: Step, W0: Array, loss: Loss):
        self.problem, self.step, self.loss = problem, step, loss
        self.path = 0.0
        self.layout = layout_of(problem, loss)
        self.p = np.empty(len(problem.constraints))
        self.setup(W0)

    def weights(self) -> tuple[float, float]:
        """Fill p with e^-c p_k at the present margins; return (c, log loss gap)."""
        return scaled_weights(self.mu, self.layout, self.p)

    @abstractmethod
    def setup(self, W0: Array) -> None:
        """Start at W0."""

    @abstractmethod
    def direction(self) -> tuple[Array, float]:
        """e^-c times -grad L, or what it does to the margins, and its Frobenius norm."""

    @abstractmethod
    def move(self, direction: Array, size: float) -> None:
        """W <- W + size e^-c (-grad L)."""

    @abstractmethod
    def snapshot(self) -> Array:
        """A copy of what stands for W in a record."""

    def advance(self, t0: int, t1: int) -> None:
        """Take the steps t0..t1-1."""
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


class GramState(State):
    """W = W0 + sum C_k V_k; margins move by the Gram matrix."""

    def setup(self, W0: Array) -> None:
        self.gram = np.ascontiguousarray(self.problem.constraints.gram)
        self.mu0 = self.problem.constraints.margins(W0)
        self.mu = self.mu0.copy()
        self.coefficients = np.zeros_like(self.mu)

    def advance(self, t0: int, t1: int) -> None:
        rule = rule_code(self.step)
        if rule is None:
            return super().advance(t0, t1)
        path, log_step, failed = advance_gram(
            self.gram, self.mu0, self.coefficients, self.mu, t0, t1, rule, self.layout
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


class MatrixState(State):
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


class ReferenceState(State):
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


def rule_code(step: Step) -> Rule | None:
    """A built-in rule as the compiled kernel reads it; None for any other."""
    if type(step) is GradientDescent:
        return Rule(GRADIENT_DESCENT, float(step.eta), 0.0)
    if type(step) is NormalizedGD:
        return Rule(NORMALIZED_GD, float(step.eta), float(step.decay))
    if type(step) is Polyak:
        return Rule(POLYAK, float(step.theta), math.inf if step.cap is None else math.log(step.cap))
    return None


def _flat_index(problem: TokenProblem, constraints: Constraints) -> Array:
    """Position of each constraint in a flattened (n, Q, T) array."""
    return (constraints.sequence * problem.Q + constraints.query) * problem.T + constraints.token
