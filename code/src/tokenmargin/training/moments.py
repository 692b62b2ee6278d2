"""Heavy-ball momentum and Adam, exact where the gradient underflows.

Both rules keep moments of the gradient. The gradient is known as e^c times a matrix G of order one (`kernels`), so a moment
is kept in the same way, as e^u times a matrix, and u follows c downwards: nothing underflows, whatever ||W||.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import ArrayLike

from ..compilation import compiled
from ..data.problem import TokenProblem
from ..model.losses import Loss, known_loss
from ..types import Array
from .forms import known, require_margins
from .kernels import GRADIENT_DESCENT, HALF_ULP, RESOLVED, SLOPES_KNOWN, Layout, layout_of, weights_and_gap
from .rules import coarse_slopes, exp_or_inf, lost_step, require_positive, unbounded_step
from .trajectory import Trajectory, record_times, start_matrix


@dataclass
class Moment:
    """An exponential sum of gradients, m_t = beta m_{t-1} + e^c G, kept as e^scale * array.

    scale is the larger of c and scale + log(beta), so that both factors are at most one: the array stays of order one.
    """

    beta: float
    array: Array
    scale: float = -math.inf

    def add(self, G: Array, c: float) -> None:
        """m <- beta m + e^c G."""
        faded = self.scale + math.log(self.beta) if self.beta > 0.0 else -math.inf
        scale = max(c, faded)
        if scale == -math.inf:
            return  # no gradient yet
        self.array = math.exp(faded - scale) * self.array + math.exp(c - scale) * G
        self.scale = scale


@dataclass(frozen=True)
class HeavyBall:
    """W_{t+1} = W_t - eta grad L(W_t) + beta (W_t - W_{t-1}), W_{-1} = W_0: Polyak's heavy ball (1964).

    Equally W_{t+1} = W_t + eta m_t with m_t = beta m_{t-1} - grad L(W_t). With beta = 0 it is gradient descent.

    Parameters
    ----------
    eta : float
        Step-size, > 0.
    beta : float
        Momentum, in [0, 1).
    """

    eta: float
    beta: float = 0.9

    def __post_init__(self) -> None:
        require_positive("eta", self.eta)
        require_share("beta", self.beta)

    def moves(self, *shape: int):
        """A function (G, c) -> W_{t+1} - W_t that remembers its calls; e^c G = -grad L(W_t), G of this shape, (d, d) for W."""
        m = Moment(self.beta, np.zeros(shape))

        def move(G: Array, c: float) -> Array:
            m.add(G, c)
            return exp_or_inf(math.log(self.eta) + m.scale) * m.array

        return move


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba 2015, algorithm 1), entry by entry, with g_t = grad L(W_t), t = 0, 1, …:

    m_t = beta1 m_{t-1} + (1 - beta1) g_t,    v_t = beta2 v_{t-1} + (1 - beta2) g_t^2,
    W_{t+1} = W_t - eta mhat_t / (sqrt(vhat_t) + eps),   mhat_t = m_t/(1 - beta1^{t+1}),  vhat_t = v_t/(1 - beta2^{t+1}).

    Parameters
    ----------
    eta : float
        Step-size, > 0: where the gradient changes slowly every entry of W moves by about eta.
    beta1, beta2 : float
        In [0, 1).
    eps : float
        >= 0. With 0 the rule does not see a constant factor of the loss; an entry whose gradient has always been exactly
        zero (0/0) does not move.

    Warnings
    --------
    In units of the gradient's scale e^c, eps is eps e^-c. Here the gradient tends to zero, so that any eps > 0 ends by
    dwarfing it, and Adam becomes gradient descent with momentum and step-size eta/eps.
    """

    eta: float
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        require_positive("eta", self.eta)
        require_share("beta1", self.beta1)
        require_share("beta2", self.beta2)
        if not (math.isfinite(self.eps) and self.eps >= 0.0):
            raise ValueError(f"eps is {self.eps}; it must be a finite number >= 0.")

    def moves(self, *shape: int):
        """A function (G, c) -> W_{t+1} - W_t that remembers its calls; e^c G = -grad L(W_t), G of this shape, (d, d) for W."""
        m, v = (Moment(self.beta1, np.zeros(shape)), Moment(self.beta2, np.zeros(shape)))
        log_eps = math.log(self.eps) if self.eps > 0.0 else -math.inf
        steps = count(1)

        def move(G: Array, c: float) -> Array:
            t = next(steps)
            m.add(G, c)
            v.add(G**2, 2.0 * c)
            numerator = (1.0 - self.beta1) / (1.0 - self.beta1**t) * m.array
            root = np.sqrt((1.0 - self.beta2) / (1.0 - self.beta2**t) * v.array)
            unit = max(0.5 * v.scale, log_eps)  # of the denominator: e^unit times an array of order one
            if unit == -math.inf:
                return np.zeros(shape)  # no gradient yet
            denominator = math.exp(0.5 * v.scale - unit) * root + math.exp(log_eps - unit)
            ratio = np.divide(numerator, denominator, out=np.zeros(shape), where=denominator > 0.0)
            return self.eta * math.exp(m.scale - unit) * ratio

        return move


def train_with_moments(
    problem: TokenProblem,
    rule: HeavyBall | Adam,
    steps: int,
    W0: ArrayLike | None = None,
    *,
    loss: Loss = "logistic",
    record: ArrayLike | None = None,
) -> Trajectory:
    """Train W by heavy-ball momentum or Adam.

    Parameters
    ----------
    problem : TokenProblem
    rule : HeavyBall or Adam
    steps : int
    W0 : array, shape (d, d), optional
        Start, default zero; the moments start at zero.
    loss : {"logistic", "exponential"}
    record : int array, optional
        Iterations to record; default log-spaced. 0 and `steps` are always recorded.

    Returns
    -------
    Trajectory
        In matrix form. The steps are not along the gradient: `effective_steps` is h_t = ||W_{t+1} - W_t||_F, and
        `path_length` the sum of these. The theorems on one clock are about gradient directions and do not apply.

    Raises
    ------
    InvalidProblemError
        If W0 is not a finite (d, d) matrix, or `record` or `steps` is out of range.
    UnboundedStepError
        If a step makes margins that float64 cannot resolve.
    LostStepError
        If float64 does not resolve the slopes, or a step of Adam without eps beside ||W||. Other steps that are too short to
        change W are not taken, and not counted.
    """
    known_loss(loss)
    times = record_times(steps, record)
    start = start_matrix(problem, W0)
    W, move, path = start.copy(), rule.moves(problem.d, problem.d), 0.0
    layout, constraints = layout_of(problem, loss), problem.constraints
    queries = constraints.query_vector[layout.start[:-1]]  # of each row, (sequence, query)
    mu, G = np.empty(len(constraints)), np.empty_like(W)
    wanted, rows, start_norm = set(times.tolist()), [], float(np.linalg.norm(start))
    for t in range(int(steps) + 1):
        c, log_gap, error = _scaled_descent(W, constraints.difference, queries, layout, mu, G)
        if t == 0:
            require_margins(mu)
        with np.errstate(over="ignore", invalid="ignore"):
            change = move(G, c)
            h = float(np.linalg.norm(change))
        taken = _require_step(rule, t, h, start_norm + path, c, error, layout)
        if t in wanted:
            norm = np.linalg.norm(G)
            log_norm = c + math.log(norm) if norm > 0.0 else -math.inf
            rows.append((W.copy(), mu.copy(), path, h, known(log_norm, error), known(log_gap, error)))
        if taken:
            W += change
            path += h
    matrices, *columns = (np.array(column) for column in zip(*rows, strict=True))
    return Trajectory(problem, rule, loss, times, None, matrices, start, *columns)


def _require_step(
    rule: HeavyBall | Adam, t: int, h: float, reach: float, c: float, error: float, layout: Layout
) -> bool:
    """Whether a step of length h changes W, ||W|| <= reach; refused where float64 does not resolve it or its margins.

    c: logarithm of the size of the gradient.
    """
    if not h <= layout.largest_step:
        log_h = math.log(h) if h < math.inf else math.log(rule.eta) + (c if isinstance(rule, HeavyBall) else 0.0)
        raise unbounded_step(t, log_h, layout.largest_step / RESOLVED, step=rule)
    if h == 0.0:
        return False
    if isinstance(rule, Adam) and rule.eps == 0.0 and h * RESOLVED < reach:
        raise lost_step(t, h, reach)
    if h < HALF_ULP * reach:
        return False
    if isinstance(rule, Adam):  # which compares the gradients of different times
        error += 2.0**-52 * abs(c)
    if error > SLOPES_KNOWN:
        raise coarse_slopes(t, error)
    return True


@compiled
def _scaled_descent(W, difference, queries, layout, mu, G):
    """Fill mu with the margins and G with e^-c times -grad L at W; return c, log(L - L*) and `slope_error`. queries: one for
    each row."""
    start = layout.start
    rows, d = queries.shape
    turned = np.dot(queries, W.T)  # W z_r
    for r in range(rows):
        for k in range(start[r], start[r + 1]):
            total = 0.0
            for a in range(d):
                total += difference[k, a] * turned[r, a]
            mu[k] = total
    p = np.empty_like(mu)
    c, ref, gap, errors = weights_and_gap(mu, layout, p)
    pulled = np.zeros((rows, d))  # sum_k p_k (x_opt - x_k) of each row
    for r in range(rows):
        for k in range(start[r], start[r + 1]):
            for a in range(d):
                pulled[r, a] += p[k] * difference[k, a]
    np.dot(pulled.T, queries, G)  # an assignment to G[:] takes seconds to compile
    return c + ref, gap + ref, errors[GRADIENT_DESCENT]


def require_share(name: str, value: float) -> None:
    if not 0.0 <= value < 1.0:
        raise ValueError(f"{name} is {value}; it must lie in [0, 1).")
