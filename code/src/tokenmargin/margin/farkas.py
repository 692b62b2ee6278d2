"""What weights that nearly cancel the constraints prove: an upper bound of every margin, and often that there is none.

Write nu_k = ||V_k|| and let w >= 0 be floating-point weights. Both statements are checked on the data as they stand.

*Bound.* For every W, min_k <V_k/nu_k, W> sum_k w_k nu_k <= sum_k w_k <V_k, W> <= ||sum_k w_k V_k|| ||W||. So no W has a relative
margin min_k <V_k/nu_k, W>/||W|| above r = ||sum_k w_k V_k||/sum_k w_k nu_k, which integer arithmetic evaluates.

*Proof.* Let the constraints of positive weight have D coordinates that are not zero in all of them, let D of these
constraints, as columns of B, be linearly independent, and e = sum_k w_k V_k. Then the weights w - B^-1 e of those D, and w of
the others, cancel exactly; if |B^-1 e| < w they are positive, and by Farkas no W has <V_k, W> > 0 for all k.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import qr

from ..data.constraints import Constraints
from ..types import Array
from .exact import combination

MOST = 1500  # coordinates up to which the proof is tried (seconds)
SAFE = 1.0 + 1e-10  # covers the rounding of the sums below


def relative_margin_bound(constraints: Constraints, weights: Array) -> float:
    """r of the bound, rounded up; weights of shape (N,), >= 0, of the V_k."""
    _, left, right, scaled, remainder = _combined(constraints, weights)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return float(SAFE * np.linalg.norm(remainder) / (scaled @ norms))


def is_proof(constraints: Constraints, weights: Array) -> bool:
    """Whether weights near the given ones are proved to cancel the constraints; shape (N,), >= 0, of the V_k."""
    chosen, left, right, scaled, remainder = _combined(constraints, weights)
    alive = np.outer(left.any(axis=0), right.any(axis=0)).ravel()
    D = int(alive.sum())
    if D > MOST or len(chosen) <= D:
        return False
    columns = np.einsum("kd,ke->dek", left, right).reshape(len(alive), -1)[alive]
    basis = qr(columns, mode="r", pivoting=True)[1][:D]
    B = columns[:, basis]
    X = np.linalg.inv(B)
    rounding = (D + 8) * np.finfo(float).eps * (np.abs(X) @ np.abs(B)) + 1e-300  # of the product, and of B itself
    q = SAFE * float((np.abs(np.eye(D) - X @ B) + rounding).sum(axis=1).max())
    if not q < 1.0:
        return False
    change = SAFE * np.abs(X) @ np.abs(remainder.ravel()[alive]) / (1.0 - q)
    return bool((change.max() < scaled[basis]).all())


def _combined(constraints: Constraints, weights: Array) -> tuple[Array, Array, Array, Array, Array]:
    """The constraints of positive weight as V_k = 2^e_k left_k right_k' with entries near one, their weights 2^e_k w_k up to a
    power of two that makes the largest near one, and sum_k w_k V_k up to the same power, rounded once."""
    chosen = np.flatnonzero(weights > 0.0)
    sides, exponent = [], np.frexp(weights[chosen])[1].astype(int)
    for side in (constraints.difference[chosen], constraints.query_vector[chosen]):
        power = np.frexp(np.abs(side).max(axis=1))[1].astype(int)
        sides.append(np.ldexp(side, -power[:, None]))
        exponent = exponent + power
    scaled = np.ldexp(np.frexp(weights[chosen])[0], exponent - exponent.max())
    return chosen, *sides, scaled, combination(constraints, weights, -int(exponent.max()))
