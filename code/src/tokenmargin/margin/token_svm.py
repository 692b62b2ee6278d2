"""The token SVM: W_mm = argmin ||W||_F subject to <V_k, W> >= 1, its duals, and a certificate of the solution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ..data.constraints import Constraints, Units
from ..data.problem import TokenProblem
from ..errors import InfeasibleSVMError, SolverError
from ..types import Array
from .certificate import dual_residual, gap, primal_residual, weighted, worst
from .exact import exact_least_distance
from .farkas import is_proof, relative_margin_bound
from .least_distance import hull_weights, nonnegative_qp, square_root

Method = Literal["auto", "gram", "working-set", "cvxpy"]


Answer = tuple[
    Array | None, Array
]  # duals of the scaled problem, or None; and weights that may make the hull reach zero

FEASIBILITY = 1e-7  # below this distance of the hull of the V_k/||V_k|| from zero, exact arithmetic decides


OWN_SHARE = 1e-9  # a constraint whose own weight gives less than this share of its margin is no support vector


HELD = 1e305  # duals between 1/HELD and HELD are floats, and so are their sums


ROUNDING = 1e-12  # relative size of a combination that floating point cannot tell from zero


FEW = 300  # up to this many constraints the whole Gram matrix is used


EXACT = 200  # up to this many constraints of positive weight rational arithmetic decides (about a second)


BLOCK = 500  # violated constraints that enter the working set in one round


@dataclass(frozen=True, eq=False)
class TokenSVM:
    """Solution of the token SVM, W_mm = sum_k lambda_k V_k with lambda >= 0.

    Attributes
    ----------
    constraints : Constraints
        The N constraints of the token selection.
    duals : array, shape (N,)
        lambda. Their sum is ||W_mm||_F^2 = 1/rho^2.
    margins : array, shape (N,)
        <V_k, W_mm>, >= 1 with equality on the support vectors. Where the ||V_k|| differ by so many orders that no
        floating-point W resolves them, they are those of the exact W_mm.
    rounded : array, shape (d, d), optional
        W_mm rounded once, where rational arithmetic has solved the problem.
    """

    constraints: Constraints
    duals: Array
    margins: Array
    rounded: Array | None = None

    @cached_property
    def W(self) -> Array:
        """W_mm as a matrix, shape (d, d)."""
        return self.constraints.combine(self.duals) if self.rounded is None else self.rounded

    @property
    def norm(self) -> float:
        """||W_mm||_F."""
        size = np.abs(self.duals).max()
        return float(np.sqrt(size) * np.sqrt(weighted(self.duals / size, self.margins)))

    @property
    def margin(self) -> float:
        """rho = 1/||W_mm||_F."""
        return 1.0 / self.norm

    @cached_property
    def support(self) -> Array:
        """Mask of the support vectors, shape (N,): lambda_k ||V_k||^2 > 1e-9.

        lambda_k ||V_k||^2 is what constraint k's own weight gives to its margin <V_k, W_mm> = 1. It has no unit, and on
        sequences that do not meet it stays the same whatever the size of each one's tokens; the duals themselves go as
        ||V_k||^-2.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log(self.duals) + 2.0 * self.constraints.units.log_norms
        return logs > np.log(OWN_SHARE)

    def primal_residual(self) -> float:
        """max_k (1 - <V_k, W_mm>)_+ : how far the worst constraint is violated."""
        return primal_residual(self.margins)

    def dual_residual(self) -> float:
        """max_k (-lambda_k)_+ / sum |lambda|: stationarity W = sum lambda_k V_k holds by construction."""
        return dual_residual(self.duals)

    def gap(self) -> float:
        """|(1/2)||W||^2 - (sum lambda - (1/2)||W||^2)| / ||W||^2 = |1 - sum lambda/||W||^2|, the relative duality gap."""
        return gap(self.duals, self.margins)

    def certificate(self) -> float:
        """The largest of the three residuals; zero exactly at the solution, NaN if one of them is."""
        return worst(self.primal_residual(), self.dual_residual(), self.gap())


def solve_token_svm(
    problem: TokenProblem,
    selection: ArrayLike | None = None,
    *,
    method: Method = "auto",
    tolerance: float = 1e-9,
) -> TokenSVM:
    """Solve the token SVM of a token selection.

    Parameters
    ----------
    problem : TokenProblem
    selection : int array, shape (n,), optional
        The tokens to separate from the others; default the optimal tokens.
    method : {"auto", "gram", "working-set", "cvxpy"}
        "gram": least-distance programming by non-negative least squares on the whole N x N Gram matrix.
        "working-set": the same problem by constraint generation; only the Gram matrix of the working set is formed, all
        other margins are matrix-free, N d^2 a round. "cvxpy": an independent primal solve in a d x d variable, for
        checking. "auto": "gram" for few constraints, "working-set" for many.
    tolerance : float
        Largest certificate accepted.

    Returns
    -------
    TokenSVM

    Raises
    ------
    InfeasibleSVMError
        If no W separates the tokens; carries Farkas weights and names the sequences involved.
    SolverError
        If the certificate exceeds `tolerance`.

    Notes
    -----
    Each V_k is scaled to norm one, <V_k/||V_k||, W> >= 1/||V_k||, so that no answer depends on units or on one sequence's
    scale. Where rounding could decide, the problem is solved in rational arithmetic (`exact`), if it is small enough.
    Sources: Lawson & Hanson, Solving Least Squares Problems (1974), chapter 23 (least-distance programming); Kim & Park,
    Fast nonnegative matrix factorization, SIAM J. Sci. Comput. 33 (2011) (block principal pivoting).

    Examples
    --------
    >>> import tokenmargin as tm
    >>> problem = tm.gaussian(5, 4, 100, seed=0)
    >>> svm = tm.solve_token_svm(problem)
    >>> bool(abs(svm.margins.min() - 1.0) < 1e-9), bool(svm.certificate() < 1e-9)
    (True, True)
    """
    constraints = problem.constraints if selection is None else problem.constraints_of(selection)
    return solve_constraints(constraints, method=method, tolerance=tolerance)


def is_separable(problem: TokenProblem | Constraints, selection: ArrayLike | None = None) -> bool:
    """Whether some W separates the selected (default: optimal) tokens of all sequences from the others.

    Of constraints: whether some W has <V_k, W> > 0 for all k. The answer does not depend on the sizes of the V_k.
    """
    if isinstance(problem, TokenProblem):
        problem = problem.constraints if selection is None else problem.constraints_of(selection)
    try:
        refuse_zero(problem)
        _decide(problem, _Scaled(problem.units, np.ones(len(problem))), _default_method(problem), np.inf)
    except InfeasibleSVMError:
        return False
    return True


def solve_constraints(constraints: Constraints, *, method: Method = "auto", tolerance: float = 1e-9) -> TokenSVM:
    """argmin ||W||_F subject to <V_k, W> >= 1 for given constraints; see `solve_token_svm`."""
    if method not in ("auto", *SOLVERS):
        raise ValueError(f"method is {method!r}; it must be one of 'auto', {', '.join(map(repr, SOLVERS))}.")
    refuse_zero(constraints)
    scaled = _Scaled.of(constraints.units)
    if scaled.bounds.min() < 1e-290:
        raise _beyond_floats(constraints)
    svm = _decide(constraints, scaled, _default_method(constraints) if method == "auto" else method, tolerance)
    if not _fits_floats(svm):
        raise _beyond_floats(constraints)
    if not svm.certificate() <= tolerance:
        raise SolverError(
            f"the token SVM's certificate is {svm.certificate():.1e}, above the tolerance {tolerance:.1e} (primal "
            f"{svm.primal_residual():.1e}, dual {svm.dual_residual():.1e}, gap {svm.gap():.1e}): the constraints are "
            f"nearly dependent, or {_sizes(constraints)}. Rescale the tokens, or accept a larger tolerance knowingly."
        )
    return svm


@dataclass(frozen=True, eq=False)
class _Scaled:
    """min ||W|| s.t. <U_k, W> >= b_k: the token SVM with ||U_k|| = 1, b_k = min_l ||V_l||/||V_k|| and W = W_mm min_l ||V_l||."""

    units: Units
    bounds: Array

    @classmethod
    def of(cls, units: Units) -> _Scaled:
        return cls(units, units.relative_bounds)

    def svm(self, constraints: Constraints, y: Array) -> TokenSVM:
        """The token SVM of duals y of the scaled problem: lambda_k = y_k/(||V_k|| min_l ||V_l||)."""
        units, least = self.units, int(np.argmin(self.units.log_norms))
        with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
            duals = np.ldexp(y / (units.mantissa * units.mantissa[least]), -(units.exponent + units.exponent[least]))
            duals[(y > 0.0) & (duals == 0.0)] = np.nan  # a weight that is lost is not zero
            return TokenSVM(constraints, duals, units.margins(units.combine(y)) / self.bounds)

    def certificate(self, y: Array) -> float:
        """The certificate of that token SVM, from numbers that cannot overflow."""
        products = self.units.margins(self.units.combine(y))
        with np.errstate(invalid="ignore", divide="ignore"):
            return worst(primal_residual(products / self.bounds), abs(1.0 - self.bounds @ y / (y @ products)))

    def rounding(self, y: Array) -> float:
        """Size of the rounding errors of <V_k, W>, relative to the one that it must reach."""
        return float(np.finfo(float).eps * np.linalg.norm(self.units.combine(y)) / self.bounds.min())


def _default_method(constraints: Constraints) -> str:
    return "gram" if len(constraints) <= FEW else "working-set"


def _decide(constraints: Constraints, scaled: _Scaled, method: str, tolerance: float) -> TokenSVM:
    """A solver's answer where floating point proves it, else that of rational arithmetic, else the best there is."""
    y, weights = SOLVERS[method](scaled)
    if y is not None and (method == "cvxpy" or (scaled.certificate(y) <= tolerance and scaled.rounding(y) <= 1e-9)):
        return scaled.svm(constraints, y)
    start = _vertex(scaled, weights if y is None else weights + y)
    if (start > 0.0).sum() <= EXACT:
        try:
            exact = exact_least_distance(constraints, start)
        except SolverError as error:
            raise SolverError(f"{error} Rescale the tokens ({_sizes(constraints)}), or use fewer sequences.") from None
        if not exact.feasible:
            raise _infeasible(constraints, exact.farkas)
        if method == "cvxpy":
            raise SolverError("cvxpy calls a feasible problem infeasible: rescale the tokens or use method='gram'.")
        return TokenSVM(constraints, exact.duals, exact.margins, exact.W)
    if y is not None and scaled.rounding(y) <= 1e-4:
        return scaled.svm(constraints, y)
    farkas = _of_unscaled(constraints, start)
    if relative_margin_bound(constraints, farkas) <= ROUNDING:
        raise _infeasible(constraints, farkas, is_proof(constraints, farkas))
    raise SolverError(
        f"the token SVM is too close to infeasible for floating point and too large for exact arithmetic: "
        f"{_sizes(constraints)}. Rescale the tokens, use a larger d, or fewer sequences."
    )


def _vertex(scaled: _Scaled, weights: Array) -> Array:
    """Least-distance weights by a QR factor of the U_k: independent, and accurate.

    Of many constraints, those of positive weight alone.
    """
    few = len(weights) <= 2 * FEW
    chosen = np.arange(len(weights)) if few else np.flatnonzero(weights > 0.0)
    U = np.einsum("kd,ke->kde", scaled.units.difference[chosen], scaled.units.query_vector[chosen])
    x = np.zeros(len(weights))
    x[chosen] = hull_weights(np.asarray(np.linalg.qr(U.reshape(len(chosen), -1).T, mode="r")), scaled.bounds[chosen])
    return x


def _duals_by_ldp(scaled: _Scaled) -> Answer:
    """Least-distance programming with the whole Gram matrix R'R: non-negative least squares on R, then its dual."""
    gram, bounds = scaled.units.gram, scaled.bounds
    root = square_root(gram)
    x = hull_weights(root, bounds)
    products = gram @ x
    if not products.min() > FEASIBILITY * np.sqrt(np.maximum(0.0, x @ products)):  # not separated beyond doubt
        weights = hull_weights(root, np.ones(len(gram)))
        if not _vanishing(scaled.units, weights) > ROUNDING:
            return None, weights
    else:
        weights = x
    residual = 1.0 - bounds @ x
    start = x / residual if residual > 0.0 else x
    return nonnegative_qp(gram, bounds, start), weights


def _duals_by_working_set(scaled: _Scaled) -> Answer:
    """Duals by constraint generation, in two passes over min (1/2) x'(Gram + shift 11')x - b'x, x >= 0.

    With shift 1 and b = 1 this is least-distance programming, bounded whether or not the token SVM is feasible: it
    decides, and gives the Farkas weights or a start. With shift 0 it is the token SVM's dual, solved to full precision.
    """
    N = len(scaled.bounds)
    first = np.zeros(N, dtype=bool)
    first[np.linspace(0, N - 1, min(N, BLOCK)).astype(int)] = True
    x = _generate(scaled.units, np.ones(N), np.zeros(N), first, shift=1.0)
    distance = _vanishing(scaled.units, x)
    if not distance > FEASIBILITY:
        return None, x
    start = x * (1.0 + distance**2) / distance**2  # = x/(1 - sum x) at the solution
    return _generate(scaled.units, scaled.bounds, start, start > 0.0, shift=0.0), x


def _generate(units: Units, bounds: Array, x: Array, working: Array, *, shift: float, rounds: int = 500) -> Array:
    """Solve on the working set; let the most violated constraints in, the inactive ones out; until none is violated.

    Each round lowers the objective and the sets are finitely many, so the rounds end.
    """
    for _ in range(rounds):
        index = np.flatnonzero(working)
        difference, query = units.difference[index], units.query_vector[index]
        gram = (difference @ difference.T) * (query @ query.T) + shift
        x = x.copy()
        x[index] = nonnegative_qp(gram, bounds[index], x[index])
        W = units.combine(x)
        slope = units.margins(W) + shift * x.sum() - bounds
        tolerance = 1e-10 * bounds + 1e-14 * np.linalg.norm(W) if shift == 0.0 else FEASIBILITY**2 * 1e-2 + 1e-12
        violated = np.flatnonzero((slope < -tolerance) & ~working)
        if violated.size == 0:
            return x
        worst_first = violated[np.argsort(slope[violated])[:BLOCK]]
        working = x > 0.0
        working[worst_first] = True
    raise SolverError(f"constraint generation did not end in {rounds} rounds: rescale the tokens.")


def _duals_by_cvxpy(scaled: _Scaled) -> Answer:
    """min ||W||_F^2/2 subject to <U_k, W> >= b_k in a d x d variable, by Clarabel; the duals of the constraints."""
    import cvxpy as cp

    left, right = scaled.units.difference, scaled.units.query_vector
    U = np.einsum("kd,ke->kde", left, right).reshape(len(left), -1)
    w = cp.Variable(U.shape[1])
    bound = U @ w >= scaled.bounds
    program = cp.Problem(cp.Minimize(cp.sum_squares(w) / 2), [bound])
    try:
        program.solve(solver=cp.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
    except cp.SolverError as error:
        raise SolverError(f"cvxpy could not solve the token SVM: {error}") from error
    if program.status in (cp.INFEASIBLE, cp.INFEASIBLE_INACCURATE):
        return None, np.maximum(bound.dual_value, 0.0)
    if program.status not in (cp.OPTIMAL, cp.OPTIMAL_INACCURATE):
        raise SolverError(f"cvxpy stopped with status {program.status!r}: rescale the tokens or use method='gram'.")
    y = np.maximum(bound.dual_value, 0.0)
    return y, y


SOLVERS: dict[str, Callable[[_Scaled], Answer]] = {
    "gram": _duals_by_ldp,
    "working-set": _duals_by_working_set,
    "cvxpy": _duals_by_cvxpy,
}


def refuse_zero(constraints: Constraints) -> None:
    """Refuse constraints 0 >= 1, and differences beyond floating point, in words that say where they come from.

    Raises
    ------
    InfeasibleSVMError
        If a query is zero or an unselected token equals the selected one.
    SolverError
        If a difference of tokens overflows.
    """
    c = constraints
    if not (np.isfinite(c.difference).all() and np.isfinite(c.units.difference).all()):
        raise SolverError("a difference of two tokens exceeds floating point: divide the tokens by their size.")
    equal, silent = ~c.difference.any(axis=1), ~c.query_vector.any(axis=1)
    if not (equal | silent).any():
        return
    words = [_zero_words(c, int(k)) for k in np.flatnonzero(equal | silent)]
    words = list(dict.fromkeys(words))
    weights = (equal | silent) / (equal | silent).sum()
    raise InfeasibleSVMError(
        "no matrix W separates the selected tokens: " + "; ".join(words[:5]) + ("; …" if len(words) > 5 else "."),
        weights,
        0.0,
        tuple(int(i) for i in np.unique(c.sequence[equal | silent])),
    )


def _zero_words(c: Constraints, k: int) -> str:
    i, t, s = int(c.sequence[k]), int(c.token[k]), int(c.selection[c.sequence[k]])
    if c.difference[k].any():
        first = "" if c.tokens[i, 0].any() else " (the default query is the first token, which is zero)"
        return f"the query of sequence {i} is zero{first}: give another query"
    return f"tokens {min(s, t)} and {max(s, t)} of sequence {i} are equal: no W tells them apart: keep one, or mask one"


def _vanishing(units: Units, weights: Array) -> float:
    """||sum_k w_k U_k||_F/sum_k w_k of weights w >= 0; NaN where all are zero."""
    with np.errstate(invalid="ignore"):
        return float(np.linalg.norm(units.combine(weights)) / weights.sum())


def _of_unscaled(constraints: Constraints, weights: Array) -> Array:
    """Weights of the V_k, with sum one, from weights of the V_k/||V_k||."""
    with np.errstate(divide="ignore", under="ignore"):
        logs = np.log(weights) - constraints.units.log_norms
        shares = np.exp(logs - logs.max())
    return shares / shares.sum()


def _infeasible(constraints: Constraints, farkas: Array, proved: bool = True) -> InfeasibleSVMError:
    logs = constraints.units.log_norms
    with np.errstate(under="ignore"):
        relative = farkas * np.exp(logs - logs[farkas > 0.0].max())  # of the V_k/||V_k||, up to a factor
    relative = np.where(farkas > 0.0, relative, 0.0) / relative[farkas > 0.0].sum()
    distance = relative_margin_bound(constraints, farkas)
    sequences = tuple(int(i) for i in np.unique(constraints.sequence[relative > 1e-6]))
    shown = ", ".join(map(str, sequences[:10])) + (", …" if len(sequences) > 10 else "")
    return InfeasibleSVMError(
        f"no matrix W separates the selected tokens: a convex combination of the constraints of sequence(s) {shown} "
        f"vanishes ({'proved; ' if proved else ''}relative norm {distance:.1e}, and no W has a larger relative margin). Use a larger "
        "d, fewer sequences, or another selection.",
        farkas,
        distance,
        sequences,
        proved,
    )


def _fits_floats(svm: TokenSVM) -> bool:
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        held = np.isfinite(svm.W).all() and np.isfinite(svm.margins).all()
    positive = svm.duals[svm.duals != 0.0]
    return bool(held and ((positive > 1.0 / HELD) & (positive < HELD)).all())


def _beyond_floats(constraints: Constraints) -> SolverError:
    logs = constraints.units.log_norms / np.log(2.0)
    advice = "Rescale the tokens of these sequences to norms near one."
    if np.ptp(logs) < 400.0:  # lambda_k goes as ||V_k||^-2: one factor brings all into reach
        k = round(float(logs.min() + logs.max()) / 4.0)
        advice = f"Divide tokens and queries by 2^{k}: exact, and W_mm is then 4^{k} times as large."
    return SolverError(f"the weights lambda_k of the token SVM exceed floating point: {_sizes(constraints)}. {advice}")


def _sizes(constraints: Constraints) -> str:
    """The range of the ||V_k||, and the sequences at its ends, as a phrase."""
    logs = constraints.units.log_norms / np.log(10.0)
    least, most = int(np.argmin(logs)), int(np.argmax(logs))
    ends = [int(constraints.sequence[k]) for k in (least, most)]
    return f"the norms ||V_k|| range from 10^{logs[least]:.1f} (sequence {ends[0]}) to 10^{logs[most]:.1f} (sequence {ends[1]})"
