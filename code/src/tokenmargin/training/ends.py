"""Margins alone, in one compiled call each: where runs from many starts end, and those of every step of one run."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ..data.problem import TokenProblem
from ..data.sequences import numbers
from ..errors import InvalidProblemError
from ..model.losses import Loss, known_loss
from ..types import Array
from .forms import GramState, require_margins, rule_code
from .kernels import NOTHING, TAKEN, advance_gram, advance_starts
from .rules import Step
from .train import train
from .trajectory import record_times, start_matrix


def end_margins(
    problem: TokenProblem,
    step: Step,
    times: ArrayLike,
    starts: ArrayLike,
    *,
    loss: Loss = "logistic",
    decided: float = np.inf,
) -> Array:
    """Margins at which runs from many starts end: those of `train(..., form="gram")`, in a fraction of its time for small N.

    Parameters
    ----------
    problem : TokenProblem
    step : Step
        Of another rule than the built-in ones each run is one of `train`.
    times : int array, shape (K,), or (S, K) where each start has its own
        Increasing; the last is the number of steps.
    starts : array, shape (S, d, d)
        The W_0.
    loss : {"logistic", "exponential"}
    decided : float
        A run ends early at the first of its times t > 0 at which all its margins exceed this.

    Returns
    -------
    array, shape (S, N)
        mu_k = <V_k, W> of the constraints at the end of each run.

    Raises
    ------
    TokenMarginError
        Of the same kinds as `train`.

    Examples
    --------
    >>> import numpy as np
    >>> import tokenmargin as tm
    >>> from tokenmargin.training.ends import end_margins
    >>> problem = tm.gaussian(5, 4, 100, seed=0)
    >>> mu = end_margins(problem, tm.NormalizedGD(0.1), [2000], np.zeros((1, 100, 100)))
    >>> bool((mu > 0.0).all())
    True
    """
    known_loss(loss)
    matrices = [start_matrix(problem, W0) for W0 in np.asarray(starts)]
    plans = _plans(times, len(matrices))

    def alone(s: int) -> Array:
        return train(
            problem, step, int(plans[s, -1]), matrices[s], loss=loss, record=plans[s], form="gram",
            stop=lambda mu: bool(mu.min() > decided),
        ).margins[-1]  # fmt: skip

    rule = rule_code(step)
    if rule is None or not matrices:
        return np.array([alone(s) for s in range(len(matrices))]).reshape(len(matrices), len(problem.constraints))
    state = GramState(problem, step, matrices[0], loss)
    mu0 = np.array([problem.constraints.margins(W0) for W0 in matrices])
    require_margins(mu0)
    reach = np.linalg.norm(matrices, axis=(1, 2))
    mu, done = advance_starts(state.gram, mu0, plans, float(decided), rule, reach, state.layout, NOTHING)
    for s in np.flatnonzero(~done):  # a step that wants another way, or an error
        mu[s] = alone(int(s))
    return mu


def margins_along(
    problem: TokenProblem, step: Step, steps: int, W0: ArrayLike | None = None, *, loss: Loss = "logistic"
) -> Array:
    """Margins mu_k = <V_k, W_t> before the first step and after each, shape (steps + 1, N): those of `train`, nothing else.

    Raises
    ------
    TokenMarginError
        Of the same kinds as `train`.
    """
    times, start, rule = record_times(steps, np.arange(steps + 1)), start_matrix(problem, W0), rule_code(step)
    if rule is not None:
        state = GramState(problem, step, start, known_loss(loss))
        kept = np.empty((steps, 2, len(state.mu)))
        C, mu = state.coefficients, state.mu.copy()
        rule = rule._replace(reach=state.start_norm)
        if advance_gram(state.gram, state.mu0, C, mu, 0, steps, rule, state.layout, kept)[1] == TAKEN:
            return np.concatenate([state.mu0[None], kept[:, 1]])
    return train(problem, step, steps, start, loss=loss, record=times, form="gram").margins


def _plans(times: ArrayLike, count: int) -> Array:
    """The times of each start, 0 before them, shape (S, K + 1)."""
    given = np.atleast_2d(numbers("times", times, (1, 2), f"(K,) or ({count}, K)"))
    whole = (given == np.floor(given)) & (given >= 0.0) & (given < 2.0**53)
    if not (given.size and len(given) in (1, count) and whole.all() and (np.diff(given, axis=1) >= 0.0).all()):
        raise InvalidProblemError(
            f"times has shape {given.shape}: give increasing integers >= 0, (K,) or one row for each of the {count} starts."
        )
    plans = np.zeros((count, given.shape[1] + 1), dtype=int)
    plans[:, 1:] = given
    return plans
