"""What the solutions of all margin problems have in common: a margin, and a certificate that proves it."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from ..types import Array


class CertifiedMargin(Protocol):
    """A solution of a margin problem: `TokenSVM`, `MaxNormSVM`, `NormSVM` and `MaxMargin` are of this kind."""

    @property
    def margin(self) -> float:
        """The largest min_k <V_k, W> over the unit ball of the problem's norm."""

    def certificate(self) -> float:
        """The largest relative residual of optimality: zero exactly at a solution, NaN or above a tolerance when wrong."""


def primal_residual(margins: Array) -> float:
    """max_k (1 - <V_k, W>)_+, relative to each constraint's right-hand side, which is one."""
    return float(np.maximum(0.0, 1.0 - margins.min()))


def dual_residual(duals: Array) -> float:
    """max_k (-lambda_k)_+ / sum |lambda|."""
    scaled = _relative(duals)
    return float(np.maximum(0.0, -scaled.min()) / np.abs(scaled).sum())


def gap(duals: Array, margins: Array) -> float:
    """|1 - sum lambda/||W||^2| for W = sum lambda_k V_k, whose ||W||^2 is sum lambda_k <V_k, W>."""
    return float(abs(1.0 - _relative(duals).sum() / weighted(_relative(duals), margins)))


def weighted(duals: Array, margins: Array) -> float:
    """sum_k lambda_k <V_k, W> over the support: a slack margin may be infinite in floating point."""
    active = duals != 0.0
    return float(duals[active] @ margins[active])


def worst(*residuals: float) -> float:
    """The largest of the residuals; NaN when one of them is."""
    return float(np.max(residuals))


def _relative(duals: Array) -> Array:
    """The duals over the largest of them: sums that cannot overflow."""
    return duals / np.abs(duals).max()
