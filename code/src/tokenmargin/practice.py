"""What practitioners train with: heavy-ball momentum and Adam, exact where the gradient underflows; what a run settles on.

Both rules keep moments of the gradient. The gradient is known as e^c times a matrix G of order one (`engine`), so a moment
is kept in the same way, as e^u times a matrix, and u follows c downwards: nothing underflows, whatever ||W||.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import count

import numpy as np
from numba import njit
from numpy.typing import ArrayLike
from scipy.optimize import brentq, linprog
from scipy.special import logsumexp

from .attention import Loss, _known
from .dynamics import Trajectory, _record_times, _start
from .engine import Layout, scaled_weights
from .errors import InfeasibleSVMError, SolverError
from .problem import Constraints, TokenProblem
from .steps import _positive
from .svm import TokenSVM, solve_token_svm

Array = np.ndarray


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
        _positive("eta", self.eta)
        _share("beta", self.beta)

    def moves(self, d: int):
        """A function (G, c) -> W_{t+1} - W_t that remembers its calls; e^c G = -grad L(W_t), G of shape (d, d)."""
        m = Moment(self.beta, np.zeros((d, d)))

        def move(G: Array, c: float) -> Array:
            m.add(G, c)
            return self.eta * math.exp(m.scale) * m.array

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
        _positive("eta", self.eta)
        _share("beta1", self.beta1)
        _share("beta2", self.beta2)
        if not (math.isfinite(self.eps) and self.eps >= 0.0):
            raise ValueError(f"eps is {self.eps}; it must be a finite number >= 0.")

    def moves(self, d: int):
        """A function (G, c) -> W_{t+1} - W_t that remembers its calls; e^c G = -grad L(W_t), G of shape (d, d)."""
        m, v = Moment(self.beta1, np.zeros((d, d))), Moment(self.beta2, np.zeros((d, d)))
        log_eps = math.log(self.eps) if self.eps > 0.0 else -math.inf
        steps = count(1)

        def move(G: Array, c: float) -> Array:
            t = next(steps)
            m.add(G, c)
            v.add(G**2, 2.0 * c)
            numerator = (1.0 - self.beta1) / (1.0 - self.beta1**t) * m.array
            root = np.sqrt((1.0 - self.beta2) / (1.0 - self.beta2**t) * v.array)
            unit = max(0.5 * v.scale, log_eps)  # of the denominator: e^unit times an array of order one
            denominator = math.exp(0.5 * v.scale - unit) * root + math.exp(log_eps - unit)
            ratio = np.divide(numerator, denominator, out=np.zeros((d, d)), where=denominator > 0.0)
            return self.eta * math.exp(m.scale - unit) * ratio

        return move


def train_practice(
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
    """
    _known(loss)
    times = _record_times(steps, record)
    start = _start(problem, W0)
    W, move, path = start.copy(), rule.moves(problem.d), 0.0
    layout, constraints = Layout.of(problem, loss).arrays(), problem.constraints
    queries = constraints.query_vector[layout[0][:-1]]  # of each row, (sequence, query)
    mu, G = np.empty(len(constraints)), np.empty_like(W)
    wanted, rows = set(times.tolist()), []
    for t in range(int(steps) + 1):
        c, log_gap = _scaled_descent(W, constraints.difference, queries, layout, mu, G)
        change = move(G, c)
        h = math.sqrt(np.vdot(change, change))
        if t in wanted:
            norm = np.linalg.norm(G)
            log_norm = c + math.log(norm) if norm > 0.0 else -math.inf
            rows.append((W.copy(), mu.copy(), path, h, log_norm, log_gap))
        W += change
        path += h
    matrices, *columns = (np.array(column) for column in zip(*rows, strict=True))
    return Trajectory(problem, rule, loss, times, None, matrices, start, *columns)


@njit(cache=True)
def _scaled_descent(W, difference, queries, layout, mu, G):
    """Fill mu with the margins and G with e^-c times -grad L at W; return (c, log(L - L*)). queries: one for each row."""
    start = layout[0]
    rows, d = queries.shape
    turned = np.dot(queries, W.T)  # W z_r
    for r in range(rows):
        for k in range(start[r], start[r + 1]):
            total = 0.0
            for a in range(d):
                total += difference[k, a] * turned[r, a]
            mu[k] = total
    p = np.empty_like(mu)
    c, log_gap = scaled_weights(mu, *layout, p)
    pulled = np.zeros((rows, d))  # sum_k p_k (x_opt - x_k) of each row
    for r in range(rows):
        for k in range(start[r], start[r + 1]):
            for a in range(d):
                pulled[r, a] += p[k] * difference[k, a]
    G[:] = np.dot(pulled.T, queries)
    return c, log_gap


@dataclass(frozen=True, eq=False)
class MaxNormSVM:
    """W of largest margin min_k <V_k, W> among all with max_ij |W_ij| <= 1, and the weights that prove it.

    Attributes
    ----------
    constraints : Constraints
    W : array, shape (d, d)
        max_ij |W_ij| = 1. The maximiser need not be unique; the margin is.
    weights : array, shape (N,)
        >= 0 with sum 1: every W in the box has min_k <V_k, W> <= sum_k weights_k <V_k, W> <= ||sum_k weights_k V_k||_1.
    """

    constraints: Constraints
    W: Array
    weights: Array

    @cached_property
    def margin(self) -> float:
        """min_k <V_k, W>: a lower bound of the best margin."""
        return float(self.constraints.margins(self.W).min())

    @cached_property
    def bound(self) -> float:
        """||sum_k weights_k V_k||_1, sum of absolute entries: an upper bound of the best margin."""
        return float(np.abs(self.constraints.combine(self.weights)).sum())

    def certificate(self) -> float:
        """(bound - margin)/bound, plus what W exceeds the box by; zero exactly at a solution."""
        return (self.bound - self.margin) / self.bound + max(0.0, float(np.abs(self.W).max()) - 1.0)


def solve_max_norm_svm(
    problem: TokenProblem, selection: ArrayLike | None = None, *, tolerance: float = 1e-7
) -> MaxNormSVM:
    """The token SVM of the max norm: maximise min_k <V_k, W> subject to max_ij |W_ij| <= 1, a linear program (HiGHS).

    Scaled to margin one, its solution is argmin max_ij |W_ij| subject to <V_k, W> >= 1 for all k.

    Parameters
    ----------
    problem : TokenProblem
    selection : int array, shape (n,), optional
        The tokens to separate from the others; default the optimal tokens.
    tolerance : float
        Largest certificate accepted.

    Raises
    ------
    InfeasibleSVMError
        If no W has positive margin (`svm.solve_token_svm` gives the Farkas weights).
    SolverError
        If the certificate exceeds `tolerance`.
    """
    c, d = problem.constraints if selection is None else problem.constraints_of(selection), problem.d
    V = np.einsum("kd,ke->kde", c.difference, c.query_vector).reshape(len(c), d * d)
    rows = np.column_stack([-V, np.ones(len(c))])  # gamma - <V_k, W> <= 0
    goal = np.zeros(d * d + 1)
    goal[-1] = -1.0
    bounds = [(-1.0, 1.0)] * (d * d) + [(None, None)]
    found = linprog(goal, A_ub=rows, b_ub=np.zeros(len(c)), bounds=bounds, method="highs")
    if found.status != 0:
        raise SolverError(f"the linear program of the max-norm SVM was not solved: {found.message}")
    weights = np.maximum(0.0, -found.ineqlin.marginals)
    svm = MaxNormSVM(c, found.x[:-1].reshape(d, d), weights / weights.sum())
    if svm.margin <= tolerance * c.norms.max():
        raise InfeasibleSVMError(
            "no matrix W separates the selected tokens: the largest margin under max |W_ij| <= 1 is "
            f"{svm.margin:.1e}. Use fewer sequences or a larger d.",
            svm.weights,
            float(np.linalg.norm(c.combine(svm.weights)) / c.norms.max()),
            tuple(int(i) for i in np.unique(c.sequence[svm.weights > 1e-6])),
        )
    if svm.certificate() > tolerance:
        raise SolverError(f"the max-norm SVM's certificate is {svm.certificate():.1e}, above {tolerance:.1e}.")
    return svm


def max_norm_margin(trajectory: Trajectory, svm: MaxNormSVM) -> Array:
    """min_k <V_k, W_t> / max_ij |W_t,ij| over the SVM's constraints at each record, shape (K,); nan where W_t = 0."""
    iterates = [trajectory.W(k) for k in range(len(trajectory))]
    least = np.array([svm.constraints.margins(W).min() for W in iterates])
    size = np.array([np.abs(W).max() for W in iterates])
    return np.divide(least, size, out=np.full(len(size), np.nan), where=size > 0.0)


def adam_rate(rule: Adam, margin: float) -> float:
    """The rate r at which Adam with eps = 0 makes e^{-mu} decay, e^{-r t}, in the max norm's direction.

    Where the entries of the gradient decay exactly as e^{-r t} with signs that stay, Adam's ratio mhat/sqrt(vhat) tends to

        f(r) = (1 - beta1)/(1 - beta1 e^r) * sqrt((1 - beta2 e^{2r})/(1 - beta2)),

    so each entry of W moves by eta f(r) and the margins grow by margin * eta * f(r) a step, which must be r. The solution
    lies below eta * margin for memory that matters little, and always below log(1/beta2)/2, where f vanishes.

    Parameters
    ----------
    rule : Adam
        With beta1 < sqrt(beta2), 0 < beta2; eps is taken for zero.
    margin : float
        The max-norm margin, `MaxNormSVM.margin`, > 0.

    Raises
    ------
    ValueError
        If beta1 >= sqrt(beta2): the first moment's memory is longer than the second's.
    """
    if not rule.beta1 < math.sqrt(rule.beta2):
        raise ValueError(f"beta1 is {rule.beta1} and beta2 {rule.beta2}: the law needs beta1 < sqrt(beta2).")
    _positive("margin", margin)
    b1, b2 = rule.beta1, rule.beta2

    def excess(r: float) -> float:
        ratio = (1.0 - b1) / (1.0 - b1 * math.exp(r)) * math.sqrt(max(0.0, 1.0 - b2 * math.exp(2.0 * r)) / (1.0 - b2))
        return r - rule.eta * margin * ratio

    return float(brentq(excess, 0.0, -0.5 * math.log(b2), xtol=1e-15))


# --- What a run settles on ------------------------------------------------------------------------------------------


def settled_svm(trajectory: Trajectory, *, tolerance: float = 1e-6) -> TokenSVM:
    """The token SVM of the tokens most attended to at the last record (Q = 1), W_mm(alpha) of that selection alpha.

    Raises
    ------
    InfeasibleSVMError
        If no W puts all of them first: the run has not settled, or some sequences still compete.
    """
    return solve_token_svm(trajectory.problem, trajectory.selection[:, 0], tolerance=tolerance)


def is_locally_optimal(problem: TokenProblem, svm: TokenSVM) -> bool:
    """Whether every support vector of W_mm(alpha) is a token of lower score than the selected one of its sequence.

    These are the token choices to which gradient methods can converge locally (Tarzanagh, Li, Thrampoulidis & Oymak 2023).
    """
    c = svm.constraints
    gap = problem.scores[c.sequence, c.selection[c.sequence]] - problem.scores[c.sequence, c.token]
    return bool((gap[svm.support] > 0.0).all())


def worst_off_selection(trajectory: Trajectory, selection: ArrayLike) -> Array:
    """max_i log(1 - s_{i,alpha_i}) of a token selection alpha of shape (n,) at each record, shape (K,), to any depth."""
    log_s = trajectory.log_attention[:, :, 0].copy()
    log_s[:, np.arange(trajectory.problem.n), np.asarray(selection)] = -np.inf
    return logsumexp(log_s, axis=2).max(axis=1)


def _share(name: str, value: float) -> None:
    if not 0.0 <= value < 1.0:
        raise ValueError(f"{name} is {value}; it must lie in [0, 1).")
