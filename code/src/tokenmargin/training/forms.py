"""Three forms of the same step: coefficients with the Gram matrix, W itself, and the equations as they stand."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np

from ..data.constraints import Constraints
from ..data.problem import TokenProblem
from ..errors import InvalidProblemError, TokenMarginError, UnboundedStepError
from ..model.attention import gradient, infimum, loss_value
from ..model.losses import Loss
from ..types import Array
from .kernels import (
    COARSE_SLOPES,
    GRADIENT_DESCENT,
    HALF_ULP,
    NO_DIRECTION,
    NORMALIZED_GD,
    NOTHING,
    POLYAK,
    RESOLVED,
    SLOPES_KNOWN,
    TAKEN,
    TOO_LONG_OR_SHORT,
    Rule,
    advance_gram,
    in_units,
    layout_of,
    weights_and_gap,
)
from .rules import GradientDescent, NormalizedGD, Polyak, Step, coarse_slopes, lost_gradient, lost_step, unbounded_step

SATURATED = 10.0  # logits by which a wrong token leads the optimal one whose attention is then said to be lost
MODERATE = 1e70  # lengths of constraints within 1e-70..1e70 are counted as they are


class State(ABC):
    """Common to the forms: bookkeeping of the path length and of what a record holds.

    A form keeps `mu`, the margins (N,) at the present W, and knows its own `direction`, `move` and `snapshot`.
    """

    mu: Array
    exact = True  # refuses a prescribed step that rounding would lose

    def __init__(self, problem: TokenProblem, step: Step, W0: Array, loss: Loss):
        self.problem, self.step, self.loss = problem, step, loss
        self.path = 0.0
        self.start_norm = float(np.linalg.norm(W0))
        self.layout = layout_of(problem, loss)
        self.p = np.zeros(len(problem.constraints))
        self.setup(W0)
        require_margins(self.mu)

    def weights(self) -> tuple[float, float, float, tuple[float, ...]]:
        """Fill p with e^-(c + ref) p_k at the present margins; return c, ref, log(loss gap) - ref, errors of slopes by rule."""
        return weights_and_gap(self.mu, self.layout, self.p)

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

    @property
    def reach(self) -> float:
        """An upper bound of ||W||."""
        return self.start_norm + self.path

    def advance(self, t0: int, t1: int) -> None:
        """Take the steps t0..t1-1."""
        for t in range(t0, t1):
            if not self.take(t):
                return

    def take(self, t: int) -> bool:
        """Take one step; False where W stays, and with it every later step."""
        c, ref, gap, errors = self.weights()
        direction, norm = self.direction()
        if norm == 0.0:
            return False
        log_norm = c + math.log(norm)
        if not isinstance(self.step, Polyak):
            log_norm, gap = log_norm + ref, gap + ref  # a ratio of the two does not need it
        try:
            h = self.step.effective_step(t, log_norm, gap)
        except UnboundedStepError:
            if not isinstance(self.step, Polyak):
                raise
            raise self.refusal(t, math.log(self.step.theta) + gap - log_norm) from None
        if not h >= 0.0:
            raise ValueError(f"at iteration {t} the rule {self.step!r} gives the step {h}; it must be a number >= 0.")
        prescribed = self.exact and isinstance(self.step, NormalizedGD | Polyak)
        if h > self.layout.largest_step:
            raise self.refusal(t, math.log(h) if h < math.inf else log_norm + math.log(getattr(self.step, "eta", 1.0)))
        if prescribed and h * RESOLVED < self.reach:
            raise lost_step(t, h, self.reach, self.step)
        if prescribed and norm < NO_DIRECTION * float(np.abs(self.p) @ self.layout.length):
            raise lost_gradient(t)
        if h <= HALF_ULP * self.reach:
            return not isinstance(self.step, GradientDescent)  # not taken, hence not counted
        if errors[self.kind_of(h)] > SLOPES_KNOWN:
            raise coarse_slopes(t, errors[self.kind_of(h)])
        self.move(direction, h / norm)
        self.path += h
        return True

    def kind_of(self, h: float) -> int:
        """The kind of rule that took a step of length h: at its cap, Polyak's is of prescribed length."""
        if isinstance(self.step, NormalizedGD) or (isinstance(self.step, Polyak) and h == self.step.cap):
            return NORMALIZED_GD
        return POLYAK if isinstance(self.step, Polyak) else GRADIENT_DESCENT

    def refusal(self, t: int, log_h: float) -> TokenMarginError:
        """The error for a step that the kernel or a rule would not take at the present margins."""
        if log_h <= math.log(self.layout.largest_step):
            return lost_step(t, math.exp(log_h), self.reach, self.step)
        wrong = int(self.problem.constraints.sequence[self.mu.argmin()]) if self.mu.min() < -SATURATED else None
        return unbounded_step(t, log_h, self.layout.largest_step / RESOLVED, wrong, self.step)

    def record(self, t: int) -> tuple:
        c, ref, gap, errors = self.weights()
        _, norm = self.direction()
        log_norm = c + math.log(norm) if norm > 0.0 else -math.inf
        if self.exact and norm < NO_DIRECTION * float(np.abs(self.p) @ self.layout.length):
            log_norm = math.nan
        common = 0.0 if isinstance(self.step, Polyak) else ref
        h = self._step_or_nan(t, log_norm + common, gap + common) if norm > 0.0 else 0.0
        logs = (known(value + ref, errors[GRADIENT_DESCENT]) for value in (log_norm, gap))
        return self.snapshot(), self.mu.copy(), self.path, h, *logs

    def _step_or_nan(self, t: int, log_norm: float, log_gap: float) -> float:
        """h_t; not a number where no step can be taken, unless that is so at the start."""
        try:
            h = self.step.effective_step(t, log_norm, log_gap)
        except TokenMarginError:
            h = math.inf
        return h if h <= self.layout.largest_step else math.nan


class GramState(State):
    """W = W0 + sum C_k V_k; margins move by the Gram matrix."""

    def setup(self, W0: Array) -> None:
        constraints = self.problem.constraints
        length = self.layout.length[self.layout.length > 0.0]
        if ((length > 1.0 / MODERATE) & (length < MODERATE)).all():
            self.gram = np.ascontiguousarray(constraints.gram)
        else:
            self.layout = in_units(self.layout)
            self.gram = unit_gram(constraints, self.layout.unit)
        self.mu0 = constraints.margins(W0)
        self.mu = self.mu0.copy()
        self.coefficients = np.zeros_like(self.mu)

    def advance(self, t0: int, t1: int) -> None:
        rule = rule_code(self.step)
        if rule is None:
            return super().advance(t0, t1)
        while t0 < t1:
            rule = rule._replace(reach=self.reach)
            path, why, failed, log_step = advance_gram(
                self.gram, self.mu0, self.coefficients, self.mu, t0, t1, rule, self.layout, NOTHING
            )
            self.path += path
            if why == TAKEN:
                return
            if why == TOO_LONG_OR_SHORT:
                raise self.refusal(failed, log_step)
            if why == COARSE_SLOPES:
                raise coarse_slopes(failed, log_step)
            if not self.take(failed):  # the Gram matrix does not resolve this gradient: its entries do
                return
            t0 = failed + 1

    def direction(self) -> tuple[Array, float]:
        return self.gram @ self.p, self.norm_of_descent()

    def norm_of_descent(self) -> float:
        """||sum p_k V_k||, from the Gram matrix or, where that cancels, from the entries."""
        square = float(self.p @ (self.gram @ self.p))
        if square > 1e-8 * float(np.abs(self.p) @ self.layout.length) ** 2:
            return math.sqrt(square)
        c = self.problem.constraints
        return float(np.linalg.norm((c.difference * (self.p / self.layout.unit)[:, None]).T @ c.query_vector))

    def move(self, direction: Array, size: float) -> None:
        self.coefficients += size * self.p
        self.mu += size * self.layout.unit * direction

    def snapshot(self) -> Array:
        return self.coefficients / self.layout.unit


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

    exact = False

    def setup(self, W0: Array) -> None:
        self.W = W0.copy()
        self.mu = self.problem.constraints.margins(W0)

    def weights(self) -> tuple[float, float, float, tuple[float, ...]]:
        gap = loss_value(self.problem, self.W, self.loss) - infimum(self.problem, self.loss)
        return 0.0, 0.0, math.log(gap) if gap > 0.0 else -math.inf, (0.0, 0.0, 0.0)

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
        return Rule(GRADIENT_DESCENT, math.log(step.eta), 0.0)
    if type(step) is NormalizedGD:
        return Rule(NORMALIZED_GD, float(step.eta), float(step.decay))
    if type(step) is Polyak:
        return Rule(POLYAK, math.log(step.theta), math.inf if step.cap is None else math.log(step.cap))
    return None


def unit_gram(constraints: Constraints, unit: Array) -> Array:
    """Gram matrix of V_k/unit_k, shape (N, N), where that of V_k would under- or overflow."""
    pair = np.maximum(np.abs(constraints.query_vector).max(axis=1, keepdims=True), np.finfo(float).tiny)
    queries = constraints.query_vector / pair
    difference = constraints.difference / (unit[:, None] / pair)
    return (difference @ difference.T) * (queries @ queries.T)


def known(logarithm: float, error: float) -> float:
    """A logarithm of the loss gap or of its gradient; not a number where rounding of the outputs is more than `SLOPES_KNOWN`."""
    return logarithm if error <= SLOPES_KNOWN * max(1.0, abs(logarithm)) else math.nan


def require_margins(mu: Array) -> None:
    if not np.isfinite(mu).all():
        raise InvalidProblemError(
            "the margins at W0 are not finite numbers: the tokens, the queries or W0 are too large for float64. Scale the "
            "tokens, or start from a smaller W0."
        )


def _flat_index(problem: TokenProblem, constraints: Constraints) -> Array:
    """Position of each constraint in a flattened (n, Q, T) array."""
    return (constraints.sequence * problem.Q + constraints.query) * problem.T + constraints.token
