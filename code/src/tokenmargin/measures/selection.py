"""Which tokens a run selects, the token SVM of that selection, and how well it reads."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from ..data.problem import TokenProblem
from ..margin.token_svm import TokenSVM, solve_token_svm
from ..model.attention import logits, outputs
from ..training.trajectory import Trajectory
from ..types import Array


def selects(trajectory: Trajectory, selection: ArrayLike | None = None) -> bool:
    """Whether at the last record every query attends most to the selected (default: optimal) token."""
    wanted = trajectory.problem.optimal if selection is None else np.asarray(selection)
    agree = trajectory.selection == wanted[:, None]
    return bool(agree[trajectory.problem.query_mask].all())


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


def accuracies(problem: TokenProblem, W: Array) -> tuple[float, float]:
    """Shares of images that W reads rightly, (prediction, token choice); Q = 1.

    A prediction is right where the output has the label's sign, m_i > 0; a choice where the most attended token is the one
    of best score under the true label. On the training images the second is the share of optimal tokens selected.
    """
    chosen = logits(problem, W)[:, 0].argmax(axis=1)
    return float((outputs(problem, W) > 0.0).mean()), float((chosen == problem.optimal).mean())
