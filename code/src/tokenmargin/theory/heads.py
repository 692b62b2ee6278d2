"""Several heads: where they go together, how a small difference between them moves, and when they take turns.

All is said in terms of the problem and the token SVM of one head. Heads that start equal stay equal, and take the steps of one
head under another step-size. Differences D^j between them with sum_j D^j = 0 leave outputs, loss and gradient norm as they are
to first order, so each moves by the same linear map along the run of one head, whose step is h_t,

    D_{t+1} = D_t + (h_t/||grad L||) (1/n) sum_i (-l'(m_i)) Hess m_i(W_t)[D_t].
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from ..data.problem import TokenProblem
from ..errors import AssumptionError
from ..margin.token_svm import TokenSVM
from ..model.weights import log_gradient_weights
from ..training.rules import GradientDescent, NormalizedGD, Polyak, Step
from ..training.trajectory import Trajectory
from ..types import Array
from .residual import curvatures


def one_head_rule(step: Step, heads: int) -> Step:
    """The rule under which one head takes the steps of J equal ones (theorem on equal heads).

    GD: eta/J. NGD: eta/sqrt(J), as each head takes an equal part of the length. Polyak: the same theta; a cap, which is a
    length, over sqrt(J). Where the heads' outputs are summed, the one head is read by J times the decoder.

    Raises
    ------
    AssumptionError
        If the rule is none of the three.
    """
    if isinstance(step, GradientDescent):
        return GradientDescent(step.eta / heads)
    if isinstance(step, NormalizedGD):
        return NormalizedGD(step.eta / math.sqrt(heads), step.decay)
    if isinstance(step, Polyak):
        return Polyak(step.theta, None if step.cap is None else step.cap / math.sqrt(heads))
    raise AssumptionError(f"no scaling is known for {step!r}: use GradientDescent, NormalizedGD or Polyak.")


def linearised_difference(run: Trajectory, start: ArrayLike) -> Array:
    """A small difference D_t between heads along the run of one head, as coefficients on the constraints, shape (K, N).

    Parameters
    ----------
    run : Trajectory
        One head's, under `one_head_rule`, with every iteration recorded.
    start : array, shape (N,)
        D_0 = sum_k start_k V_k.

    Raises
    ------
    AssumptionError
        If an iteration is not recorded (each step needs its own gradient), or the start does not have one number a constraint.

    Notes
    -----
    (1/n) sum_i (-l'(m_i)) Hess m_i[D] = sum_k r_k V_k with r_k = -p_k nu_k + p_k sum_l s_l nu_l + s_k sum_l p_l nu_l: p_k the
    weights of -grad L, s_k the attention to the token of V_k, nu_k = <V_k, D>, sums over the constraints of the same (i, q).
    """
    if not np.array_equal(run.iterations, np.arange(len(run))):
        raise AssumptionError("the run must record every iteration: train with record=np.arange(steps + 1).")
    c, gram = run.problem.constraints, run.problem.constraints.gram
    coefficients = np.array(start, dtype=float)
    if coefficients.shape != (len(c),):
        raise AssumptionError(
            f"start has shape {coefficients.shape}; give one coefficient for each of {len(c)} constraints."
        )
    s = run.attention[:, c.sequence, c.query, c.token]
    rows = [coefficients]
    for t in range(len(run) - 1):
        sign, log_p, _ = log_gradient_weights(run.problem, run.margins[t], run.loss)
        with np.errstate(under="ignore"):
            p = sign * np.exp(log_p - run.log_gradient_norm[t])
        rows.append(rows[-1] + run.effective_steps[t] * _pull(run.problem, p, s[t], gram @ rows[-1]))
    return np.array(rows)


def _pull(problem: TokenProblem, p: Array, s: Array, nu: Array) -> Array:
    """-p_k nu_k + p_k sum_l s_l nu_l + s_k sum_l p_l nu_l, sums over the constraints of the same (i, q)."""
    c = problem.constraints
    row = c.sequence * problem.Q + c.query
    mean, slope = (np.bincount(row, weight * nu)[row] for weight in (s, p))
    return p * (mean - nu) + s * slope


def heads_curvatures(svm: TokenSVM, heads: int) -> Array:
    """Curvatures of the residual of J heads, ascending, from the token SVM of one head (theorem on taking turns).

    The heads' mean has those of one head. Each of J - 1 differences has them too, and the eigenvalue one of a lead along W_mm.

    Raises
    ------
    AssumptionError
        Where `theory.residual.curvatures` refuses.
    """
    return np.sort(np.concatenate([np.tile(curvatures(svm), heads), np.ones(heads - 1)]))


def turns_threshold(svm: TokenSVM, heads: int) -> float:
    """2 sqrt(J) ||W_mm||/max(1, lambda_max(H)): constant effective steps of J >= 2 heads below it are stable.

    Under (A) the maximum is one. Polyak's threshold is this over sqrt(J) ||W_mm||.

    Raises
    ------
    AssumptionError
        For fewer than two heads, or where `theory.residual.curvatures` refuses.
    """
    if heads < 2:
        raise AssumptionError("one head takes no turns: give heads >= 2, or use `stability_threshold`.")
    return 2.0 * math.sqrt(heads) * svm.norm / float(heads_curvatures(svm, heads)[-1])


def lead_of_turns(svm: TokenSVM, step: Step) -> float:
    """The lead x = rho |c^1 - c^2| that two heads exchange at every step, zero up to the edge (theorem on taking turns).

    A constant step h: h/(2 sqrt(2) ||W_mm||) = x sqrt(cosh x)/(2 sinh(x/2)). Polyak's: theta/2 = x/tanh(x).

    Raises
    ------
    AssumptionError
        If the rule's steps are not constant in the limit, or Polyak's has a cap.
    """
    if isinstance(step, NormalizedGD) and step.decay == 0.0:
        ratio, most, turning = step.eta * svm.margin / math.sqrt(8.0), math.sqrt(2.0), _constant
    elif isinstance(step, Polyak) and step.cap is None:
        ratio, most, turning = step.theta / 2.0, 1.0, _polyak
    else:
        raise AssumptionError(
            f"{step!r} has no constant step: use NormalizedGD without decay, or Polyak without a cap."
        )
    if ratio <= 1.0:
        return 0.0
    return float(brentq(lambda x: (turning(x) if x > 0.0 else 1.0) - ratio, 0.0, most * ratio, xtol=1e-14))


def _constant(x: float) -> float:
    """x sqrt(cosh x)/(2 sinh(x/2)) = x sqrt(1/2 + 1/(4 sinh(x/2)^2))."""
    with np.errstate(over="ignore"):
        return float(x * np.sqrt(0.5 + 0.25 / np.sinh(x / 2.0) ** 2))


def _polyak(x: float) -> float:
    return float(x / np.tanh(x))
