"""Least distance in rational arithmetic: the token SVM, or Farkas weights, of the floating-point data as they stand."""

from __future__ import annotations

import math
from dataclasses import dataclass

import flint
import mpmath
import numpy as np

from ..data.constraints import Constraints
from ..errors import SolverError
from ..types import Array

Integers = list[int]


WORK = 5e7  # sum of |passive set|^3 over the systems solved, about a minute
PRECISION = 256  # bits of the points between two vertices, which need only be positive


@dataclass(frozen=True, eq=False)
class ExactDistance:
    """The outcome: a solution, or a vanishing combination of the constraints.

    Attributes
    ----------
    feasible : bool
    duals, margins : arrays, shape (N,)
        lambda_k and <V_k, W_mm>, each rounded once; infinite beyond floating point, and the smallest float where a positive
        lambda_k is below it. Where infeasible, empty.
    W : array, shape (d, d)
        W_mm, rounded once: sums of lambda_k V_k in floating point cancel where the ||V_k|| differ. Where infeasible, empty.
    farkas : array, shape (N,)
        Weights >= 0 with sum 1 and sum_k farkas_k V_k = 0, proved without rounding, then rounded. Where feasible, empty.
    """

    feasible: bool
    duals: Array
    margins: Array
    W: Array
    farkas: Array


@dataclass(frozen=True, eq=False)
class _Rows:
    """V_k = 2^exponent_k left_k right_k' in integers; bound_k = 2^(max exponent - exponent_k) the right-hand sides."""

    left: list[Integers]
    right: list[Integers]
    exponent: Integers
    bound: Integers


def exact_least_distance(constraints: Constraints, start: Array) -> ExactDistance:
    """Solve min ||W|| s.t. <V_k, W> >= 1 by non-negative least squares in rational numbers.

    Lawson & Hanson's active set method on min ||sum x_k V_k||^2 + (1 - sum b_k x_k)^2, x >= 0, ends after finitely many
    steps. Its residual vanishes exactly when the problem is infeasible.

    Parameters
    ----------
    constraints : Constraints
        The differences are formed anew from the tokens, without rounding.
    start : array, shape (N,)
        A guess of the solution: its positive entries are the first passive set.

    Raises
    ------
    SolverError
        If the steps take more than about a minute.
    """
    rows = _rows(constraints)
    passive = _independent(rows, [int(k) for k in np.flatnonzero(start > 0.0)])
    x: dict[int, mpmath.mpf] = {}
    work = _Work()
    with mpmath.workprec(PRECISION):
        while True:
            passive, numerators, denominator = _least_squares(rows, passive, x, work)
            x = {k: mpmath.mpf(z) / denominator for k, z in zip(passive, numerators, strict=True)}
            rest = denominator - sum(rows.bound[k] * z for k, z in zip(passive, numerators, strict=True))
            W = _weighted(rows, passive, numerators)
            products = _products(rows, W)
            slope = [b * rest - m for b, m in zip(rows.bound, products, strict=True)]
            entering = [k for k, s in enumerate(slope) if s > 0]
            if not entering:
                return _outcome(rows, passive, numerators, rest, products, W)
            length = constraints.units.log_norms - math.log(2.0) * np.array(rows.exponent)
            passive = [*passive, max(entering, key=lambda k: math.log(slope[k]) - length[k])]
            x[passive[-1]] = mpmath.mpf(0)


@dataclass
class _Work:
    """What has been solved so far, and the end of patience."""

    done: int = 0

    def add(self, size: int) -> None:
        self.done += size**3
        if self.done > WORK:
            raise SolverError(f"exact arithmetic on {size} support vectors does not end in reasonable time.")


def combination(constraints: Constraints, weights: Array, exponent: int = 0) -> Array:
    """2^exponent sum_k weights_k V_k of the tokens, queries and weights as they stand: exact, then rounded once; shape (d, d)."""
    rows, chosen = _rows(constraints), np.flatnonzero(weights)
    parts = [_integers(weights[k : k + 1]) for k in chosen]
    powers = [e + rows.exponent[k] for (_, e), k in zip(parts, chosen, strict=True)]
    least = min(powers)
    factors = [v[0] << (e - least) for (v, _), e in zip(parts, powers, strict=True)]
    left = flint.fmpz_mat([[f * entry for entry in rows.left[k]] for f, k in zip(factors, chosen, strict=True)])
    total = (left.transpose() * flint.fmpz_mat([rows.right[k] for k in chosen])).tolist()
    return np.array([[_ratio(int(entry), 1, least + exponent) for entry in row] for row in total])


def _least_squares(
    rows: _Rows, passive: list[int], x: dict[int, mpmath.mpf], work: _Work
) -> tuple[list[int], Integers, int]:
    """Positive minimiser on (a subset of) the passive set, numerators over one positive denominator."""
    while True:
        work.add(len(passive))
        z, denominator = _solve(rows, passive)
        if all(value > 0 for value in z):
            return passive, z, denominator
        if not x:  # no point yet: the guess loses what it should not have held
            passive = [k for k, value in zip(passive, z, strict=True) if value > 0]
            continue
        aim = {k: mpmath.mpf(value) / denominator for k, value in zip(passive, z, strict=True)}
        steps = {k: x[k] / (x[k] - aim[k]) for k in passive if aim[k] <= 0}
        step = min(steps.values())
        for k in passive:
            x[k] += step * (aim[k] - x[k])
        passive = [k for k in passive if x[k] > 0 and steps.get(k) != step]


def _outcome(
    rows: _Rows, passive: list[int], z: Integers, rest: int, products: Integers, W: flint.fmpz_mat
) -> ExactDistance:
    N, top = len(rows.bound), max(rows.exponent)
    if rest == 0:
        weights = [value * rows.bound[k] for k, value in zip(passive, z, strict=True)]  # of V_k, up to a factor
        farkas = np.zeros(N)
        farkas[passive] = [_ratio(w, sum(weights)) for w in weights]
        return ExactDistance(False, np.empty(0), np.empty(0), np.empty((0, 0)), farkas)
    duals = np.zeros(N)
    rounded = [_ratio(value, rest, -top - rows.exponent[k]) for k, value in zip(passive, z, strict=True)]
    duals[passive] = np.maximum(rounded, np.nextafter(0.0, 1.0))  # of the passive set none is zero
    margins = np.array([_ratio(m, rest * b) for m, b in zip(products, rows.bound, strict=True)])
    rounded_W = np.array([[_ratio(int(entry), rest, -top) for entry in row] for row in W.tolist()])
    return ExactDistance(True, duals, margins, rounded_W, np.empty(0))


def _rows(constraints: Constraints) -> _Rows:
    i = constraints.sequence
    pairs = zip(constraints.tokens[i, constraints.selection[i]], constraints.tokens[i, constraints.token], strict=True)
    left = [_difference(a, b) for a, b in pairs]
    right = [_integers(z) for z in constraints.query_vector]
    exponent = [e + f for (_, e), (_, f) in zip(left, right, strict=True)]
    top = max(exponent)
    return _Rows([v for v, _ in left], [v for v, _ in right], exponent, [1 << (top - e) for e in exponent])


def _difference(a: Array, b: Array) -> tuple[Integers, int]:
    both, exponent = _integers(np.concatenate([a, b]))
    return [p - q for p, q in zip(both[: len(a)], both[len(a) :], strict=True)], exponent


def _integers(vector: Array) -> tuple[Integers, int]:
    """Integers v and e with vector = 2^e v, exactly."""
    mantissa, exponent = np.frexp(vector)
    exponent = exponent.astype(int) - 53
    least = int(exponent[mantissa != 0.0].min()) if mantissa.any() else 0
    shifts = np.maximum(exponent - least, 0).tolist()
    whole = np.ldexp(mantissa, 53).astype(np.int64).tolist()
    return [m << shift for m, shift in zip(whole, shifts, strict=True)], least


def _normal_matrix(rows: _Rows, chosen: list[int]) -> flint.fmpz_mat:
    """<V_k, V_l> + b_k b_l of the chosen constraints."""
    left, right = (flint.fmpz_mat([side[k] for k in chosen]) for side in (rows.left, rows.right))
    entries = zip((left * left.transpose()).entries(), (right * right.transpose()).entries(), strict=True)
    bounds = [rows.bound[k] * rows.bound[m] for k in chosen for m in chosen]
    size = len(chosen)
    return flint.fmpz_mat(size, size, [a * b + c for (a, b), c in zip(entries, bounds, strict=True)])


def _independent(rows: _Rows, chosen: list[int]) -> list[int]:
    """The first of the chosen whose rows (V_k, b_k) are linearly independent: pivots of their Gram matrix."""
    if not chosen:
        return []
    matrix = _normal_matrix(rows, chosen)
    if matrix.rank() == len(chosen):
        return chosen
    reduced, _, rank = matrix.rref()
    return [chosen[next(c for c in range(len(chosen)) if reduced[r, c] != 0)] for r in range(rank)]


def _solve(rows: _Rows, passive: list[int]) -> tuple[Integers, int]:
    if not passive:
        return [], 1
    right = flint.fmpq_mat(flint.fmpz_mat(len(passive), 1, [rows.bound[k] for k in passive]))
    solution = flint.fmpq_mat(_normal_matrix(rows, passive)).solve(right, algorithm="dixon")  # type: ignore[call-arg]
    numerators, denominator = solution.numer_denom()
    return [int(value) for value in numerators.entries()], int(denominator)


def _weighted(rows: _Rows, passive: list[int], z: Integers) -> flint.fmpz_mat:
    """sum_l z_l left_l right_l', shape (d, d)."""
    if not passive:
        return flint.fmpz_mat(len(rows.left[0]), len(rows.right[0]))
    weighted = [[value * entry for entry in rows.left[k]] for k, value in zip(passive, z, strict=True)]
    return flint.fmpz_mat(weighted).transpose() * flint.fmpz_mat([rows.right[k] for k in passive])


def _products(rows: _Rows, W: flint.fmpz_mat) -> Integers:
    """<left_k right_k', W> for all k."""
    turned = (flint.fmpz_mat(rows.left) * W).tolist()
    return [int(sum(a * b for a, b in zip(*pair, strict=True))) for pair in zip(turned, rows.right, strict=True)]


def _ratio(numerator: int, denominator: int, exponent: int = 0) -> float:
    """numerator/denominator 2^exponent, rounded once."""
    if exponent >= 0:
        numerator <<= exponent
    else:
        denominator <<= -exponent
    try:
        return numerator / denominator
    except OverflowError:
        return math.inf if numerator > 0 else -math.inf
