"""Tokens that no W separates: the part of the constraints that can still be separated, and the rest, which cannot be moved."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import flint
import numpy as np
from scipy.optimize import linprog

from ..data.constraints import Constraints
from ..data.problem import TokenProblem
from ..errors import AssumptionError, SolverError
from ..margin.least_distance import square_root
from ..margin.token_svm import solve_constraints
from ..measures.geometry import unit_factors
from ..model.attention import query_weights
from ..model.losses import Loss, pointwise_loss
from ..model.weights import log_limit_weights
from ..training.trajectory import Trajectory
from ..types import Array

EXACT = 120  # up to this many constraints the splitting is proved in rational arithmetic (seconds)
ROUNDING = 1e-9  # relative size below which floating point takes a number of the unproved splitting for zero


@dataclass(frozen=True, eq=False)
class Splitting:
    """The constraints of a token selection, split into the separable part and the rest (splitting theorem).

    Attributes
    ----------
    constraints : Constraints
    separable : bool array, shape (N,)
        The constraints k for which some W has <V_k, W> > 0 and <V_l, W> >= 0 for all l.
    weights : array, shape (N,)
        Farkas weights w >= 0 with sum w_k V_k = 0, positive exactly on the rest; they add up to one (zero where all is separable).
    coefficients : array, shape (N,)
        c with W_sep = sum c_k V_k, the shortest W with <V_k, W> >= 1 on the separable part and = 0 on the rest.
    duals : array, shape (N,)
        lambda_k >= 0 of the separable part, zero on the rest; their sum is ||W_sep||^2.
    proved : bool
        Whether rational arithmetic has proved the splitting of the floating-point data as they stand; else it rests on
        residuals of at most 1e-9.
    """

    constraints: Constraints
    separable: Array
    weights: Array
    coefficients: Array
    duals: Array
    proved: bool

    @property
    def norm(self) -> float:
        """||W_sep||_F; zero where nothing can be separated."""
        return float(np.sqrt(self.duals.sum()))

    @property
    def margin(self) -> float:
        """rho_sep = 1/||W_sep||_F, the distance from zero to the hull of the separable constraints off the rest's span.

        Raises
        ------
        AssumptionError
            If nothing can be separated.
        """
        if not self.separable.any():
            raise AssumptionError("no constraint can be separated: there is no W_sep, and no margin.")
        return 1.0 / self.norm

    @cached_property
    def W(self) -> Array:
        """W_sep as a matrix, shape (d, d)."""
        return self.constraints.combine(self.coefficients)

    @property
    def sequences(self) -> Array:
        """The sequences with a constraint in the rest, shape (m,)."""
        return np.unique(self.constraints.sequence[~self.separable])


def split(problem: TokenProblem | Constraints) -> Splitting:
    """Split the constraints of the optimal tokens, or given ones, into the separable part and the rest.

    One linear program gives both certificates: max sum t_k subject to <V_k, W> >= t_k and 0 <= t_k <= 1, whose duals are Farkas
    weights >= 1 on the rest and zero on the separable part. Where all can be separated W_sep is W_mm.

    Raises
    ------
    SolverError
        If rounding could decide and the problem is too large for rational arithmetic, or the program fails.

    Examples
    --------
    >>> import numpy as np
    >>> from tokenmargin.data.constraints import Constraints
    >>> parts = split(Constraints.of_vectors([[1.0, 0.0], [-1.0, 0.0], [1.0, 2.0]]))
    >>> parts.separable.tolist(), parts.weights.tolist(), np.round(parts.W.ravel(), 9).tolist(), parts.proved
    ([False, False, True], [0.5, 0.5, 0.0], [0.0, 0.5], True)
    """
    c = problem.constraints if isinstance(problem, TokenProblem) else problem
    root, norms = _coordinates(c)
    separable, y = _linear_program(root)
    x, duals = _separating(root, norms, separable)
    proved = len(c) <= EXACT
    weights = _prove(c, separable, y, x) if proved else _within_rounding(root, separable, y, x)
    nonzero = norms > 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = np.where(weights > 0.0, np.where(nonzero, weights / norms, 1.0), 0.0)
        coefficients = np.where(nonzero, x / norms, 0.0)
    return Splitting(c, separable, scaled / max(scaled.sum(), np.finfo(float).tiny), coefficients, duals, proved)


def loss_gap_floor(problem: TokenProblem, splitting: Splitting, loss: Loss = "logistic") -> float:
    """A number below L(W) - L* at every W, zero where all can be separated (theorem on training without a margin).

    At every W some constraint of the rest has a margin <= 0, and its token t at least the attention of the optimal one, so that
    m_iq <= max((gamma_{i,opt} + gamma_it)/2, second best score): the floor is the least of what that costs.
    """
    c, off = problem.constraints, ~splitting.separable
    if not off.any():
        return 0.0
    i = c.sequence[off]
    best = problem.optimal_scores[i]
    reached = np.maximum((best + problem.scores[i, c.token[off]]) / 2.0, problem.second_scores[i])
    m = best - query_weights(problem)[i, c.query[off]] * (best - reached)
    return float((pointwise_loss(m, loss) - pointwise_loss(best, loss)).min() / problem.n)


def separable_component(trajectory: Trajectory, splitting: Splitting) -> Array:
    """c_t = <W_t, W_sep>/||W_sep||, shape (K,)."""
    along = np.array([np.vdot(trajectory.W(k), splitting.W) for k in range(len(trajectory))])
    return along * splitting.margin


def separable_error(trajectory: Trajectory, splitting: Splitting) -> Array:
    """||W_t/||W_t|| - W_sep/||W_sep|| ||_F, shape (K,); nan where W_t = 0."""
    target = splitting.W * splitting.margin
    with np.errstate(invalid="ignore"):
        units = [trajectory.W(k) / size for k, size in enumerate(trajectory.norms)]
    return np.array([np.linalg.norm(unit - target) for unit in units])


def separable_residual(
    problem: TokenProblem, splitting: Splitting, W_rest: Array | None = None, loss: Loss = "logistic"
) -> float:
    """Norm of the residual's limit off W_sep and off the rest's span: the sharp constant of the separable part.

    The constraints are those of the separable part, projected off the span of the rest, and their weights at infinity
    q_k e^{-<V_k, W_rest>}, as the rest has stopped at W_rest (in its span; default zero).

    Raises
    ------
    AssumptionError
        If some separable constraint has no weight in W_sep, or they are dependent off the rest's span.
    """
    on = splitting.separable
    share = splitting.duals[on]
    if not (share > ROUNDING * share.max(initial=0.0)).all() or not on.any():
        raise AssumptionError("some separable constraint has no weight in W_sep: the sharp constant needs all of them.")
    c = problem.constraints
    root, norms = _coordinates(c)
    vectors = _off_span(root[:, on], root[:, ~on]) * norms[on]
    if np.linalg.matrix_rank(vectors) < on.sum():
        raise AssumptionError(
            "the separable constraints are dependent off the span of the rest: the limit is not unique."
        )
    log_q = log_limit_weights(problem, loss)[on] - (0.0 if W_rest is None else c.margins(W_rest)[on])
    ratio = log_q - np.log(share)
    return float(np.linalg.norm(np.linalg.lstsq(vectors.T, ratio - share @ ratio / share.sum(), rcond=None)[0]))


def _off_span(vectors: Array, others: Array) -> Array:
    """The columns of `vectors` less their projections onto the span of the columns of `others`."""
    span = _basis(others)[0]
    return vectors - span @ (span.T @ vectors)


def _basis(vectors: Array) -> tuple[Array, Array]:
    """An orthonormal basis E of the columns' span, and the matrix that takes E'v to the shortest coefficients of v."""
    left, sizes, right = np.linalg.svd(vectors, full_matrices=False)
    kept = sizes > ROUNDING * max(1.0, sizes.max(initial=0.0))  # of columns of norm one or zero
    return left[:, kept], right[kept].T / sizes[kept]


def _coordinates(c: Constraints) -> tuple[Array, Array]:
    """The V_k/||V_k|| in an orthonormal basis of their span, shape (r, N), zero where V_k is, and the ||V_k||, shape (N,)."""
    left, right, norms = unit_factors(c)
    if c.tokens.shape[2] * c.queries.shape[2] >= len(c):
        return np.where(norms > 0.0, square_root((left @ left.T) * (right @ right.T)), 0.0), norms
    vectors = np.einsum("kd,ke->kde", left, right).reshape(len(c), -1)
    values, axes = np.linalg.eigh(vectors.T @ vectors)
    return (vectors @ axes[:, values > len(c) * np.finfo(float).eps * values[-1]]).T, norms


def _linear_program(root: Array) -> tuple[Array, Array]:
    """The separable part, shape (N,), of unit constraints root[:, k], and the duals of the linear program."""
    r, N = root.shape
    program = linprog(
        np.concatenate([np.zeros(r), -np.ones(N)]),
        A_ub=np.hstack([-root.T, np.eye(N)]),
        b_ub=np.zeros(N),
        bounds=[(None, None)] * r + [(0.0, 1.0)] * N,
        method="highs-ds",
    )
    if program.status != 0:
        raise SolverError(f"the linear program of the splitting stopped: {program.message} Rescale the tokens.")
    y = -program.ineqlin.marginals
    return program.x[r:] > 0.5, y


def _separating(root: Array, norms: Array, separable: Array) -> tuple[Array, Array]:
    """x with W_sep = sum x_k V_k/||V_k||, and the duals lambda_k, shapes (N,): the token SVM off the span of the rest."""
    x, duals = np.zeros(len(norms)), np.zeros(len(norms))
    if not separable.any():
        return x, duals
    on, off = root[:, separable], root[:, ~separable]
    span, inverse = _basis(off)
    shadow = span.T @ on
    svm = solve_constraints(Constraints.of_vectors(((on - span @ shadow) * norms[separable]).T))
    duals[separable] = svm.duals
    x[separable] = svm.duals * norms[separable]
    x[~separable] = -inverse @ (shadow @ x[separable])
    return x, duals


def _prove(c: Constraints, separable: Array, y: Array, x: Array) -> Array:
    """Weights of the V_k/||V_k|| that prove the rest, once rational arithmetic has proved both parts.

    The rest: a vector of the null space of its Gram matrix, near y, whose entries are all positive. The separable part: x with
    the entries of the rest solved for, so that all <V_k, W> vanish there, and are positive elsewhere.
    """
    gram, norms = _integer_gram(c)
    on, off = np.flatnonzero(separable), np.flatnonzero(~separable)
    weights = np.zeros(len(c))
    reduced, denominator, rank = _minor(gram, off, off).rref()
    pivots = [next(j for j in range(len(off)) if reduced[i, j] != 0) for i in range(rank)]
    free = [j for j in range(len(off)) if j not in set(pivots)]
    null = {j: Fraction(y[off[j]] / norms[off[j]]) for j in free}
    for i, p in enumerate(pivots):
        total = sum((Fraction(int(reduced[i, j])) * null[j] for j in free), Fraction(0))
        null[p] = -total / Fraction(int(denominator))
    if not all(value > 0 for value in null.values()):
        raise SolverError(
            "the linear program and rational arithmetic disagree: some constraints cancel up to rounding only. If they are meant to "
            "cancel, round the tokens to fewer binary digits."
        )
    for j, value in null.items():
        weights[off[j]] = float(value) * norms[off[j]]
    if len(on):
        _prove_separable(gram, on, off, pivots, x / norms)
    return weights


def _prove_separable(gram: flint.fmpz_mat, on: Array, off: Array, pivots: list[int], x: Array) -> None:
    """Refuse unless sum_on x_k V_k, less its projection onto the span of the rest, has all products > 0 on the separable part."""
    size = max(float(np.abs(x[on]).max()), np.finfo(float).tiny)
    start = flint.fmpz_mat(len(on), 1, [round(Fraction(value / size) * 2**60) for value in x[on]])
    base = [int(off[p]) for p in pivots]
    products = flint.fmpq_mat(_minor(gram, on, on) * start)
    if base:
        right = flint.fmpq_mat(_minor(gram, base, on) * start)
        inner = flint.fmpq_mat(_minor(gram, base, base)).solve(right)
        products -= flint.fmpq_mat(_minor(gram, on, base)) * inner
    if not all(entry > 0 for entry in products.entries()):
        raise SolverError("the linear program's separable part is not one in rational arithmetic: rescale the tokens.")


def _integer_gram(c: Constraints) -> tuple[flint.fmpz_mat, Array]:
    """<V_k, V_l>/(s_k s_l) in integers, with the powers of two s_k that make it so, and ||V_k||/s_k."""
    left, right = [], []
    for i, t, z in zip(c.sequence, c.token, c.query_vector, strict=True):
        pair = zip(c.tokens[i, c.selection[i]], c.tokens[i, t], strict=True)
        left.append(_integers([Fraction(float(a)) - Fraction(float(b)) for a, b in pair]))
        right.append(_integers([Fraction(float(a)) for a in z]))
    a, b = flint.fmpz_mat(left), flint.fmpz_mat(right)
    entries = zip((a * a.transpose()).entries(), (b * b.transpose()).entries(), strict=True)
    gram = flint.fmpz_mat(len(c), len(c), [p * q for p, q in entries])
    return gram, np.array([float(gram[k, k]) ** 0.5 or 1.0 for k in range(len(c))])


def _integers(row: list[Fraction]) -> list[int]:
    """The row over its largest power of two: coprime integers, or zeros."""
    denominator = max(value.denominator for value in row)
    return [int(value * denominator) for value in row]


def _minor(gram: flint.fmpz_mat, rows: Array | list[int], columns: Array | list[int]) -> flint.fmpz_mat:
    return flint.fmpz_mat(len(rows), len(columns), [gram[int(i), int(j)] for i in rows for j in columns])


def _within_rounding(root: Array, separable: Array, y: Array, x: Array) -> Array:
    """The weights y of the rest, once floating point finds both certificates beyond doubt."""
    weights = np.where(separable, 0.0, y)
    vanishing = np.linalg.norm(root @ weights) / max(weights.sum(), 1.0)
    products = root.T @ (root @ x)
    least = products[separable].min() if separable.any() else np.inf
    leak = np.abs(products[~separable]).max() if not separable.all() else 0.0
    if not (vanishing <= ROUNDING and least > 0.0 and leak <= ROUNDING * least):
        raise SolverError(
            f"the splitting of {len(y)} constraints cannot be told from rounding (weights vanish to {vanishing:.1e}, margins of the "
            f"rest to {leak:.1e} of {least:.1e}), and they are too many for rational arithmetic: use fewer sequences."
        )
    return weights
