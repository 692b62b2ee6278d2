"""Heavy-ball momentum on the normalised gradient: the same residual, a faster clock, another edge."""

from __future__ import annotations

import numpy as np

from ..margin.token_svm import TokenSVM
from ..training.moments import require_share
from ..training.rules import require_positive
from .residual import require_modes, stability_threshold


def momentum_threshold(svm: TokenSVM, beta: float) -> float:
    """(1 + beta) h*: the longest eta at which the residual's rest R_inf is linearly stable under `NormalizedHeavyBall` (momentum theorem).

    Raises
    ------
    AssumptionError
        Where `stability_threshold` refuses.
    """
    require_share("beta", beta)
    return (1.0 + beta) * stability_threshold(svm)


def momentum_growth(svm: TokenSVM, eta: float, beta: float) -> float:
    """Factor a step by which a small distance from R_inf changes in the end: the largest root, in size, over the curvatures omega, of

    z^2 - (1 + beta - eta rho omega) z + beta = 0.

    Raises
    ------
    AssumptionError
        Where `stability_threshold` refuses.
    """
    require_positive("eta", eta)
    require_share("beta", beta)
    middle = 1.0 + beta - eta * svm.margin * require_modes(svm)
    discriminant = np.sqrt(middle.astype(complex) ** 2 - 4.0 * beta)
    return float(np.abs(np.array([middle + discriminant, middle - discriminant]) / 2.0).max())
