"""The step rules on any differentiable function of a vector: the same objects that train W, with gradients from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ..errors import UnboundedStepError
from ..types import Array
from .moments import Adam, HeavyBall
from .rules import Step

Oracle = Callable[[Array, int], tuple[float, Array]]  # f_t(w) and its gradient, from w and the iteration t


class Iterate(NamedTuple):
    """One iterate of `descend`.

    Attributes
    ----------
    t : int
    w : array, shape (p,)
        w_t.
    value, gradient_norm : float
        f_t(w_t) and ||grad f_t(w_t)||; f_t is the loss of the batch of iteration t, or one function throughout.
    length : float
        ||w_{t+1} - w_t||.
    """

    t: int
    w: Array
    value: float
    gradient_norm: float
    length: float


def descend(
    oracle: Oracle, w0: ArrayLike, rule: Step | HeavyBall | Adam, steps: int, *, infimum: float = 0.0
) -> Iterator[Iterate]:
    """Iterates t = 0, 1, …, steps of w_{t+1} = w_t - h_t g_t/||g_t||, g_t = grad f_t(w_t), with h_t as the rule says.

    Adam and the heavy ball make their own move of g_t.

    Parameters
    ----------
    oracle : function (w, t) -> (value, gradient)
    w0 : array, shape (p,)
    rule : a rule of `training.rules`, HeavyBall or Adam
    steps : int
    infimum : float
        f*, which Polyak's step subtracts.

    Raises
    ------
    UnboundedStepError
        If a value or a gradient is not finite, or a value is below the infimum.

    Examples
    --------
    >>> import numpy as np
    >>> from tokenmargin.training.descent import descend
    >>> from tokenmargin.training.rules import Polyak
    >>> *_, last = descend(lambda w, t: (0.5 * float(w @ w), w), np.ones(3), Polyak(), 20)
    >>> round(float(np.linalg.norm(last.w) * 2**20), 6)
    1.732051
    """
    w = np.array(w0, dtype=float)
    move = _moves(rule, w.shape)
    for t in range(steps + 1):
        value, gradient = oracle(w, t)
        norm = float(np.linalg.norm(gradient))
        if not (math.isfinite(norm) and infimum <= value < math.inf):
            raise UnboundedStepError(
                f"at iteration {t} the value is {value:.4g}, its infimum {infimum:.4g} and the norm of its gradient {norm:.4g}: "
                "give the rule a shorter step, or the infimum of the function."
            )
        change = move(t, value - infimum, norm, gradient)
        yield Iterate(t, w.copy(), value, norm, float(np.linalg.norm(change)))
        w += change


def _moves(rule: Step | HeavyBall | Adam, shape: tuple[int, ...]) -> Callable[[int, float, float, Array], Array]:
    """w_{t+1} - w_t as a function of t, f_t(w_t) - f*, ||g_t|| and g_t."""
    if isinstance(rule, HeavyBall | Adam):
        own = rule.moves(*shape)
        return lambda t, gap, norm, g: own(-g, 0.0)
    step: Step = rule

    def along_gradient(t: int, gap: float, norm: float, g: Array) -> Array:
        if norm == 0.0:
            return np.zeros(shape)
        h = step.effective_step(t, math.log(norm), math.log(gap) if gap > 0.0 else -math.inf)
        return -h / norm * g

    return along_gradient
