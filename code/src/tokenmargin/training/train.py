"""Training: `train(problem, step, steps)` runs a step rule in log scale and returns a `Trajectory`."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike
from tqdm import tqdm

from ..data.problem import TokenProblem
from ..model.losses import Loss, known_loss
from ..types import Array
from .cost import Form, cheaper_form
from .forms import GramState, MatrixState, ReferenceState, State
from .rules import Step
from .trajectory import Trajectory, record_times, start_matrix


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

    Examples
    --------
    >>> import tokenmargin as tm
    >>> problem = tm.gaussian(5, 4, 100, seed=0)
    >>> run = tm.train(problem, tm.NormalizedGD(0.1), 2000)
    >>> bool((run.selection[:, 0] == problem.optimal).all())
    True
    """
    known_loss(loss)
    times = record_times(steps, record)
    start = start_matrix(problem, W0)
    form = cheaper_form(problem, step) if form == "auto" else form
    kinds: dict[str, type[State]] = {"gram": GramState, "matrix": MatrixState, "reference": ReferenceState}
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
        problem, step, loss, times[: len(rows)], coefficients, matrices, start, margins, path, h, log_norm, log_gap
    )
