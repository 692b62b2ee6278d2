"""Normalised gradient descent on random minibatches of sequences, in coefficient form, exact where the gradient underflows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..data.problem import TokenProblem
from ..model.losses import Loss, known_loss
from ..types import Array
from .kernels import Layout, layout_of, scaled_weights
from .rules import require_positive
from .trajectory import Trajectory, record_times, start_matrix


@dataclass(frozen=True)
class MinibatchNGD:
    """W_{t+1} = W_t - eta grad L_B/||grad L_B||, L_B the loss of `batch` sequences drawn anew without replacement at each step."""

    eta: float
    batch: int

    def __post_init__(self) -> None:
        require_positive("eta", self.eta)
        if not (isinstance(self.batch, int | np.integer) and self.batch >= 1):
            raise ValueError(f"batch is {self.batch!r}; it must be a positive integer.")


def train_minibatch(
    problem: TokenProblem,
    rule: MinibatchNGD,
    steps: int,
    *,
    seed: int,
    loss: Loss = "logistic",
    record: ArrayLike | None = None,
) -> Trajectory:
    """Train W from zero by normalised gradient descent on minibatches.

    Parameters
    ----------
    seed : int
        Of the generator that draws the batches.
    record : int array, optional
        Iterations to record, default log-spaced. 0 and `steps` are always recorded.

    Returns
    -------
    Trajectory
        In coefficient form; `log_gradient_norm` and `log_loss_gap` are those of the whole loss. Its rule has no
        `effective_step`: the theorems on one clock are about the whole gradient.

    Raises
    ------
    ValueError
        If the batch is larger than the number of sequences.
    """
    known_loss(loss)
    if rule.batch > problem.n:
        raise ValueError(f"batch is {rule.batch}; there are {problem.n} sequences: choose at most so many.")
    times = record_times(steps, record)
    c, layout, rng = problem.constraints, layout_of(problem, loss), np.random.default_rng(seed)
    C, mu, p = np.zeros((3, len(c)))
    parts = _Parts(problem, loss)
    wanted, rows = set(times.tolist()), []
    for t in range(int(times[-1]) + 1):
        if t in wanted:
            log_scale, log_gap = scaled_weights(mu, layout, p)
            rows.append((C.copy(), mu.copy(), log_scale + 0.5 * np.log(p @ c.gram @ p), log_gap))
        index, part, force = parts[tuple(np.sort(rng.permutation(problem.n)[: rule.batch]))]
        scaled_weights(mu[index], part, force)
        change = c.gram[:, index] @ force
        size = rule.eta / np.sqrt(force @ change[index])
        C[index] += size * force
        mu += size * change
    coefficients, margins, log_norm, gap = (np.array(column) for column in zip(*rows, strict=True))
    path, h = rule.eta * times, np.full(len(times), rule.eta)
    zero = start_matrix(problem, None)
    return Trajectory(problem, rule, loss, times, coefficients, None, zero, margins, path, h, log_norm, gap)


class _Parts(dict):
    """By batch: its constraints, their layout, in whose own log-scale the batch's gradient is formed, and room for the weights."""

    def __init__(self, problem: TokenProblem, loss: Loss):
        super().__init__()
        self.problem, self.loss = problem, loss

    def __missing__(self, batch: tuple[int, ...]) -> tuple[Array, Layout, Array]:
        index = np.flatnonzero(np.isin(self.problem.constraints.sequence, batch))
        self[batch] = index, layout_of(self.problem.subset(list(batch)), self.loss), np.empty(len(index))
        return self[batch]
