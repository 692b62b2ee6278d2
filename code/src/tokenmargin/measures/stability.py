"""Where a step rule loses stability: the threshold of the edge theorem located by experiment, without the theory's help."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from ..data.problem import TokenProblem
from ..errors import TokenMarginError
from ..margin.token_svm import TokenSVM
from ..model.losses import Loss
from ..training.forms import rule_code
from ..training.kernels import CANCELS, COARSE_SLOPES, TAKEN, advance_gram, layout_of
from ..training.rules import NormalizedGD, Step, coarse_slopes, lost_gradient, lost_step, unbounded_step
from ..training.train import train
from ..training.trajectory import Trajectory
from ..types import Array
from .geometry import gram_norm, root_of_form

AT_ONCE = 2000  # steps of an orbit that are held


def settle(problem: TokenProblem, eta: float, steps: int = 5000, *, loss: Loss = "logistic") -> Array:
    """W after a run of normalized GD of short step `eta` from zero: its residual has come to rest; shape (d, d)."""
    return train(problem, NormalizedGD(eta), steps, loss=loss, record=np.array([steps])).W()


def alternation(trajectory: Trajectory, k: int) -> float:
    """||W_{t+2} - 2 W_{t+1} + W_t||_F at records k, k+1, k+2: zero at rest, large where the steps flip back and forth."""
    if trajectory.coefficients is None:
        W = [trajectory.W(j) for j in (k, k + 1, k + 2)]
        return float(np.linalg.norm(W[2] - 2.0 * W[1] + W[0]))
    c = trajectory.coefficients[k : k + 3]
    return float(gram_norm(trajectory.problem.constraints.gram, c[2] - 2.0 * c[1] + c[0]))


def is_unstable(
    problem: TokenProblem,
    step: Step,
    W: Array,
    *,
    seed: int,
    size: float = 1e-5,
    window: tuple[int, int] = (300, 2300),
    loss: Loss = "logistic",
) -> bool:
    """Whether a random kick of norm `size` to the settled W grows into an alternation of the steps.

    Parameters
    ----------
    W : array, shape (d, d)
        Where to start: a settled iterate of large norm (`settle`).
    seed : int
        Of the kick, a Gaussian combination of the constraints.
    window : (int, int)
        Times at which the alternation is compared; the first leaves the other modes time to die.

    Notes
    -----
    An alternation that ends a thousand times below the kick has died, one that ends a thousand times above it has grown;
    in between, where the threshold is near and growth is slow, the end of the window is compared with its beginning.
    """
    rng = np.random.default_rng(seed)
    kick = problem.constraints.combine(rng.standard_normal(len(problem.constraints)))
    record = np.array([t + j for t in window for j in range(3)])
    start = W + size * kick / np.linalg.norm(kick)
    run = train(problem, step, window[1] + 2, start, loss=loss, record=record, form="gram")
    first, last = (alternation(run, int(np.flatnonzero(run.iterations == t)[0])) for t in window)
    return last > 1e3 * size or (last > first and last > 1e-3 * size)


def locate_threshold(
    unstable: Callable[[float], bool], low: float, high: float, *, tolerance: float = 1e-3
) -> tuple[float, float]:
    """Bisect (in log scale) for the size at which `unstable` turns true; return a bracket of relative width `tolerance`.

    Raises
    ------
    ValueError
        If `low` is already unstable or `high` still stable.
    """
    if unstable(low) or not unstable(high):
        raise ValueError(f"the bracket ({low}, {high}) must go from a stable size to an unstable one: widen it.")
    while high > low * (1.0 + tolerance):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if unstable(middle) else (middle, high)
    return low, high


def orbit(
    problem: TokenProblem,
    step: Step,
    svm: TokenSVM,
    skip: int,
    keep: int,
    W0: ArrayLike | None = None,
    *,
    loss: Loss = "logistic",
) -> Array:
    """e_t = ||R_t||_F at each of the steps skip + 1, ..., skip + keep, shape (keep,): compiled, for millions of steps.

    Parameters
    ----------
    step : Step
        One of the built-in rules.
    W0 : array, shape (d, d), optional
        Start, default zero. It must lie in the span of the constraints for its part of e_t to be counted.

    Raises
    ------
    FloatRangeError
        If a squared norm is not a finite number.
    UnboundedStepError
        If a step makes margins that float64 cannot resolve.
    LostStepError
        If the gradient cancels to rounding, or a step is lost in the rounding of W.
    """
    gram = np.ascontiguousarray(problem.constraints.gram)
    C = np.zeros(len(gram)) if W0 is None else np.linalg.lstsq(gram, problem.constraints.margins(W0), rcond=None)[0]
    mu0, mu = np.zeros(len(gram)), gram @ C
    rule = rule_code(step)
    if rule is None:
        raise ValueError(
            f"step is {step!r}; orbits are compiled for the built-in rules: use `train` with every step recorded."
        )
    layout = layout_of(problem, loss)
    rule = rule._replace(reach=float(gram_norm(gram, C)))
    sizes = [np.empty(0)]
    for first, last in pairwise([0, *range(skip, skip + keep, AT_ONCE), skip + keep]):
        kept = np.empty((last - first if last > skip else 0, 2, len(gram)))
        path, why, failed, log_step = advance_gram(gram, mu0, C, mu, first, last, rule, layout, kept)
        if why != TAKEN:
            raise _refused(why, failed, log_step, step, layout.largest_step, float(gram_norm(gram, C)))
        rule = rule._replace(reach=rule.reach + path)
        sizes.append(_off_ray(kept[:, 0], kept[:, 1], svm.duals, gram @ svm.duals))
    return np.concatenate(sizes)


def _off_ray(C: Array, mu: Array, duals: Array, v: Array) -> Array:
    """||W - c What||_F, shape (K,), of W = sum C_k V_k with margins mu, both (K, N); v are the margins of sum_k duals_k V_k."""
    along = (C @ v) / (duals @ v)
    ray, its_margins = np.outer(along, duals), np.outer(along, v)
    form = np.einsum("kn,kn->k", C - ray, mu - its_margins)
    scale = np.einsum("kn,kn->k", np.abs(C) + np.abs(ray), np.abs(mu) + np.abs(its_margins))
    return root_of_form(form, scale, len(v))


def _refused(why: int, t: int, log_step: float, step: Step, largest: float, norm: float) -> TokenMarginError:
    """The error for a step that the kernel did not take."""
    if why == CANCELS:
        return lost_gradient(t)
    if why == COARSE_SLOPES:
        return coarse_slopes(t, log_step)
    if log_step <= math.log(largest):
        return lost_step(t, math.exp(log_step), norm, step)
    return unbounded_step(t, log_step, step=step)
