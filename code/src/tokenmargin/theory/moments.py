"""The rate at which Adam sparsifies."""

from __future__ import annotations

import math

from scipy.optimize import brentq

from ..training.moments import Adam
from ..training.rules import require_positive


def adam_rate(rule: Adam, margin: float) -> float:
    """The rate r at which Adam with eps = 0 makes e^{-mu} decay, e^{-r t}, in the max norm's direction.

    Where the entries of the gradient decay exactly as e^{-r t} with signs that stay, Adam's ratio mhat/sqrt(vhat) tends to

        f(r) = (1 - beta1)/(1 - beta1 e^r) * sqrt((1 - beta2 e^{2r})/(1 - beta2)),

    so each entry of W moves by eta f(r) and the margins grow by margin * eta * f(r) a step, which must be r. For beta1 <= beta2
    f falls from 1 at r = 0 to 0 at log(1/beta2)/2 (the logarithm of f has the derivative b/(1 - b) - c/(1 - c) with b = beta1 e^r
    <= c = beta2 e^{2r}), so that there is one solution, below both eta * margin and log(1/beta2)/2. For beta2 < beta1 <
    sqrt(beta2) there can be three.

    Parameters
    ----------
    rule : Adam
        With beta1 <= beta2, 0 < beta2; eps is taken for zero.
    margin : float
        The max-norm margin, `MaxNormSVM.margin`, > 0.

    Raises
    ------
    ValueError
        If beta1 > beta2: the first moment's memory is longer than the second's, and the rate need not be unique.
    """
    if not rule.beta2 > 0.0 or rule.beta1 > rule.beta2:
        raise ValueError(f"beta1 is {rule.beta1} and beta2 {rule.beta2}: the law needs beta1 <= beta2 and 0 < beta2.")
    require_positive("margin", margin)
    b1, log_b2 = rule.beta1, math.log(rule.beta2)

    def excess(r: float) -> float:
        second = math.expm1(2.0 * r + log_b2) / math.expm1(log_b2)  # (1 - beta2 e^2r)/(1 - beta2), exactly 0 at the end
        return r - rule.eta * margin * (1.0 - b1) / (1.0 - b1 * math.exp(r)) * math.sqrt(second)

    return float(brentq(excess, 0.0, -0.5 * log_b2, xtol=1e-15))
