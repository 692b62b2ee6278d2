"""Just beyond the edge: the two points between which the residual alternates, to second order in the size of the alternation.

A two-cycle R_inf + x, R_inf + x' of a constant effective step has x = A xi + y, x' = -A xi + y up to O(A^3), with xi the unit
eigenvector of the largest curvature, and (flip theorem), for a = <V_k, xi> and moments under the weights p_k = rho^2 lambda_k,

    h/h* - 1 = (A^2/2) (2 (V_4 + kappa_2^2)/(3 kappa_2) + r kappa_2^2/rho^2) + O(A^4),   <V_k, y> = (A^2/2) (a_k^2 - kappa_2),

kappa_2 = Var a, V_4 = Var a^2; r = 1 for a prescribed step. Polyak's rule has the same with theta/theta* and r = 2: its step
shrinks as the residual leaves its rest point.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..data.problem import TokenProblem
from ..errors import AssumptionError
from ..margin.token_svm import TokenSVM
from ..measures.geometry import unit_gram
from ..model.losses import Loss
from ..training.rules import NormalizedGD, Polyak, Step
from ..types import Array
from .residual import active_gram, require_all_support, require_modes, residual_limit

SIMPLE = 1e-6  # the largest curvature must exceed the second by this share of itself


@dataclass(frozen=True, eq=False)
class Flip:
    """The two-cycle born at the edge, in coefficients on the constraints; all arrays of shape (N,).

    Attributes
    ----------
    gram : array, shape (N, N)
        Gram matrix of the constraints.
    rest : array
        R_inf = sum_k rest_k V_k.
    direction : array
        xi, of norm one.
    shift : array
        y/A^2: the mean of the two points moves by A^2 times it.
    growth : float
        b > 0 in h/h* - 1 = b A^2: the cycle exists beyond the edge alone, and is stable there.
    """

    gram: Array
    rest: Array
    direction: Array
    shift: Array
    growth: float

    def amplitude(self, ratio: ArrayLike) -> Array:
        """A = sqrt((ratio - 1)/growth), to leading order, at the step ratio h/h* or theta/theta*; zero up to the edge."""
        return np.sqrt(np.maximum(np.asarray(ratio, dtype=float) - 1.0, 0.0) / self.growth)

    def branches(self, ratio: ArrayLike) -> Array:
        """Norms of the two points R_inf +- A xi + A^2 shift, shape (2, *ratio.shape)."""
        A = self.amplitude(ratio)[..., None]
        points = np.stack([self.rest + sign * A * self.direction + A**2 * self.shift for sign in (1.0, -1.0)])
        return np.sqrt(np.einsum("...k,kl,...l->...", points, self.gram, points))


def flip(problem: TokenProblem, svm: TokenSVM, step: Step, loss: Loss = "logistic") -> Flip:
    """The flip of normalized GD with a constant step, or of Polyak's rule, computed from the data (flip theorem).

    Parameters
    ----------
    step : NormalizedGD or Polyak
        Only its kind matters: the answer is a function of the step over its threshold.

    Raises
    ------
    AssumptionError
        Where `e_inf` refuses, if the largest curvature is not simple (so for orthogonal constraints: the flip is then not of
        one mode), or if the rule has no constant step in the limit.

    Examples
    --------
    >>> import tokenmargin as tm
    >>> from tokenmargin.theory.flip import flip
    >>> problem = tm.gaussian(5, 4, 100, seed=0)
    >>> fork = flip(problem, tm.solve_token_svm(problem), tm.NormalizedGD(1.0))
    >>> round(float(fork.amplitude(1.01)), 4)
    0.1699
    """
    require_all_support(svm)
    spring = _spring(step)
    gram, norms = unit_gram(svm.constraints)
    x, curvature = _critical_mode(svm)
    p = svm.duals / svm.duals.sum()
    a = norms * (gram @ (norms * x))
    # <V_k, y> = (a_k^2 - kappa_2)/2, solved in unit constraints
    kappa = float(p @ a**2)
    shift = np.linalg.solve(gram, (a**2 - kappa) / (2.0 * norms)) / norms
    fourth = float(p @ (a**2 - kappa) ** 2)
    growth = (fourth + kappa**2) / (3.0 * kappa) + 0.5 * spring * kappa * curvature
    whole = norms[:, None] * gram * norms
    return Flip(whole, residual_limit(problem, svm, loss), x, shift, growth)


def _spring(step: Step) -> float:
    """r of the module's formula: how fast the rule's multiplier of grad phi falls with its square, in units of 1/(2 rho^2)."""
    if isinstance(step, NormalizedGD) and step.decay == 0.0:
        return 1.0
    if isinstance(step, Polyak) and step.cap is None:
        return 2.0
    raise AssumptionError(
        f"the flip is known for NormalizedGD with a constant step and for Polyak without a cap, not for {step!r}."
    )


def _critical_mode(svm: TokenSVM) -> tuple[Array, float]:
    """Coefficients x, shape (N,), of the unit eigenvector xi = sum_k x_k V_k of the largest curvature, and that curvature."""
    values = require_modes(svm)
    if len(values) > 1 and not values[-1] - values[-2] > SIMPLE * values[-1]:
        raise AssumptionError(
            f"the two largest curvatures are {values[-2]:.9g} and {values[-1]:.9g}: the flip theorem needs a simple one, which "
            "generic data have. Perturb the tokens."
        )
    gram, norms, duals = active_gram(svm)
    root = np.sqrt(duals) * norms
    w = np.sqrt(duals / duals.sum())
    operator = root[:, None] * gram * root
    top = np.linalg.eigh(operator - np.outer(w, w))[1][:, -1]
    x = np.sqrt(duals) * top  # sum_k sqrt(lambda_k) top_k V_k is an eigenvector of H, across W_mm as w'top = 0
    return x / np.sqrt(top @ operator @ top), float(values[-1])
