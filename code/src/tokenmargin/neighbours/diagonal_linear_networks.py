"""Diagonal linear networks w = u^D - v^D: the limit of gradient flow, basis pursuit, and the l1 token SVM of attention.

Source: Wind, Antun, Hansen, Implicit regularization in AI meets generalized hardness of approximation in optimization
(2023), arXiv 2307.07410, read in its abstract and in the official code of its figures. The laws are derived on the page.
D >= 2 is the depth, q = D/(D - 2), and every entry starts at u = v = alpha: a number, or an array of shape (N,).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import solve_ivp
from scipy.linalg import null_space, qr, solve_triangular
from scipy.optimize import brentq, linprog

from ..data.problem import TokenProblem
from ..errors import SolverError
from ..margin.token_svm import solve_token_svm
from ..training.kernels import layout_of, scaled_weights
from ..types import Array

SUPPORT = 1e-9  # entries of an l1 minimiser below this times the largest are taken for zero


@dataclass(frozen=True, eq=False)
class L1Minimiser:
    """w (N,), its norm sum c_i |w_i|, the duals (M,), and the worst of the residuals of optimality."""

    w: Array
    norm: float
    duals: Array
    certificate: float


def l1_minimiser(
    A: Array, b: Array, *, weights: ArrayLike = 1.0, at_least: bool = False, tolerance: float = 1e-9
) -> L1Minimiser:
    """argmin sum c_i |w_i| subject to A w = b (basis pursuit) or A w >= b, by linear programming, with a certificate.

    Parameters
    ----------
    A : array, shape (M, N)
    b : array, shape (M,), not zero
    weights : float or array, shape (N,)
        The c_i > 0.
    at_least : bool
        Whether the constraints are A w >= b.
    tolerance : float
        Largest certificate accepted: the worst of primal violation, dual violation and duality gap, all relative. The
        dual is max b'lambda subject to |A_i'lambda| <= c_i, with lambda >= 0 where the constraints are inequalities.

    Raises
    ------
    SolverError
        If no w satisfies the constraints, or the certificate exceeds `tolerance`.
    """
    c = np.broadcast_to(np.asarray(weights, dtype=float), A.shape[1:])
    rows = {"A_ub": -np.hstack([A, -A]), "b_ub": -b} if at_least else {"A_eq": np.hstack([A, -A]), "b_eq": b}
    found = linprog(np.concatenate([c, c]), **rows, method="highs")
    if found.x is None:
        raise SolverError(f"no l1 minimiser: {found.message} Use fewer rows or more columns in A.")
    w = found.x[: A.shape[1]] - found.x[A.shape[1] :]
    duals = -found.ineqlin.marginals if at_least else found.eqlin.marginals
    norm, slack = float(c @ np.abs(w)), A @ w - b
    primal = (-slack if at_least else np.abs(slack)).max() / np.abs(b).max()
    dual = (np.abs(A.T @ duals) / c).max() - 1.0
    sign = -duals.min() / np.abs(duals).max() if at_least else 0.0
    certificate = float(np.max([primal, dual, sign, abs(norm - b @ duals) / norm]))
    if not certificate <= tolerance:
        raise SolverError(f"the l1 minimiser's certificate is {certificate:.1e} > {tolerance:.1e}: rescale A and b.")
    return L1Minimiser(w, norm, duals, certificate)


def network(g: Array, D: float, alpha: ArrayLike) -> tuple[Array, Array]:
    """w and dw/dg where the gradients of the flow have summed to g = A'nu; nan where no flow leads.

    With z = (alpha/max alpha)^(D-2) g: w = 2 alpha^2 sinh z for D = 2, and for D > 2
    w = alpha^D ((1 - z)^-q - (1 + z)^-q) on |z| < 1. The unit of nu is so chosen.
    """
    alpha = np.broadcast_to(np.asarray(alpha, dtype=float), g.shape)
    if not D >= 2 or not (alpha > 0).all():
        raise ValueError(f"the depth is D = {D} and the least start {alpha.min()}: choose D >= 2 and alpha > 0.")
    if D == 2:
        return 2 * alpha**2 * np.sinh(g), 2 * alpha**2 * np.cosh(g)
    q, pace = D / (D - 2), (alpha / alpha.max()) ** (D - 2)
    z = np.where(np.abs(pace * g) < 1, pace * g, np.nan)
    w = 2 * alpha**D * (1 - z * z) ** (-q / 2) * np.sinh(q * np.arctanh(z))  # no cancellation at small z
    return w, q * pace * alpha**D * ((1 - z) ** (-q - 1) + (1 + z) ** (-q - 1))


def flow_limit(A: Array, y: Array, D: float, alpha: ArrayLike, tolerance: float = 1e-9) -> Array:
    """Where gradient flow on ||A w - y||^2 ends, solved directly: w = network(A'nu) with A w = y; shape (N,).

    Parameters
    ----------
    A : array, shape (M, N), of full row rank
    y : array, shape (M,)
    D : float
        Depth, at least 2.
    alpha : float or array, shape (N,)
        The start of u and of v.
    tolerance : float
        Largest residual accepted, relative to the terms of A w.

    Raises
    ------
    SolverError
        If the rows of A are dependent, or Newton's method ends above `tolerance`.
    ValueError
        If D < 2, or a start is not positive.
    """
    nu = _newton(lambda nu: A.T @ nu, A, y, D, alpha, np.zeros(len(y)), tolerance)
    return network(A.T @ nu, D, alpha)[0]


def _newton(summed: Callable, A: Array, y: ArrayLike, D: float, alpha: ArrayLike, nu: Array, tolerance: float) -> Array:
    """The one root of A network(summed(nu)) = y by Newton steps, halved until the residual does not grow.

    Far from the root it may stay the same to the last digit; near the root that ends the iteration.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # a step out of the domain is nan or inf, and is halved
        w, slope = network(summed(nu), D, alpha)
        residual, moves = np.linalg.norm(A @ w - y), True
        for _ in range(200):
            R = qr((A * np.sqrt(slope)).T, mode="r", check_finite=False)[0][: len(A)]  # R'R = A diag(slope) A'
            step, previous = _solve_gram(R, A @ w - y), residual
            while moves := bool((nu - step != nu).any()):
                trial, trial_slope = network(summed(nu - step), D, alpha)
                if np.linalg.norm(A @ trial - y) <= residual:
                    break
                step = step / 2
            if not moves:
                break
            nu, w, slope = nu - step, trial, trial_slope
            residual = np.linalg.norm(A @ w - y)
            if residual == previous and residual <= tolerance * np.linalg.norm(np.abs(A) @ np.abs(w)):
                break
    if not residual <= tolerance * np.linalg.norm(np.abs(A) @ np.abs(w)):
        raise SolverError(f"the root of A w = y is missed by {residual:.1e}: use a larger alpha or better scaled rows.")
    return nu


def _solve_gram(R: Array, r: Array) -> Array:
    try:
        return solve_triangular(R, solve_triangular(R, r, trans=1, check_finite=False), check_finite=False)
    except np.linalg.LinAlgError:
        raise SolverError("the rows of A are dependent: remove those that follow from others.") from None


def gradient_flow(A: Array, y: Array, D: float, alpha: float, accuracy: float = 1e-10) -> Array:
    """The flow itself, du/dt = -D u^(D-1) A'(A w - y), dv/dt its mirror image, integrated to its end; shape (N,)."""

    def velocity(t: float, parameters: Array) -> Array:
        u, v = parameters.reshape(2, -1)
        pull = D * (A.T @ (y - A @ (u**D - v**D)))
        return np.concatenate([u ** (D - 1) * pull, -(v ** (D - 1)) * pull])

    end, start = 1e6 * alpha ** (2 - D), np.full(2 * A.shape[1], float(alpha))
    path = solve_ivp(velocity, (0.0, end), start, method="Radau", rtol=accuracy, atol=accuracy * alpha)
    if not path.success:
        raise SolverError(f"the flow was not integrated: {path.message} Use a larger alpha or a larger `accuracy`.")
    u, v = path.y[:, -1].reshape(2, -1)
    return u**D - v**D


def least_ratio(A: Array, w: Array) -> tuple[float, Array]:
    """r = min over lambda of max_(j off the support) |A_j'lambda|, where A_S'lambda = sign w_S; and such a lambda.

    w is the only l1 minimiser, with independent columns on its support S, if and only if r < 1.
    """
    on = np.abs(w) > SUPPORT * np.abs(w).max()
    off, cost = A[:, ~on].T, np.append(np.zeros(len(A)), 1.0)
    ones, fixed = np.ones((len(off), 1)), np.hstack([A[:, on].T, np.zeros((on.sum(), 1))])
    bounds = np.vstack([np.hstack([off, -ones]), np.hstack([-off, -ones])])
    found = linprog(cost, bounds, np.zeros(2 * len(off)), fixed, np.sign(w[on]), bounds=(None, None), method="highs")
    if found.x is None:
        raise SolverError(f"w is not an l1 minimiser, no dual certifies it: {found.message}")
    return float(found.x[-1]), found.x[:-1]


def first_order(A: Array, w: Array, dual: Array, D: float, alpha: float) -> Array:
    """The law for w(alpha) - w at small alpha, w the only l1 minimiser, `dual` of `least_ratio`; shape (N,).

    On the support S z is what |w_S| asks for; off it A w(alpha) = y asks for N'A_J w_J(alpha) = 0, N a basis of the
    vectors orthogonal to A_S; and the entries of the support make up for w_J. Its relative error is of the order of itself.
    """
    on = np.abs(w) > SUPPORT * np.abs(w).max()
    size = np.abs(w[on]) / alpha**D
    reached = np.sign(w[on]) * (np.log(size) if D == 2 else 1 - size ** (2 / D - 1))
    scale = np.abs(reached).mean()
    nu = scale * dual
    nu = nu + np.linalg.lstsq(A[:, on].T, reached - A[:, on].T @ nu)[0]
    N = null_space(A[:, on].T)
    if N.shape[1]:
        beta = _newton(lambda b: A[:, ~on].T @ (nu + N @ b), N.T @ A[:, ~on], 0.0, D, alpha, np.zeros(N.shape[1]), 1e-9)
        nu = nu + N @ beta
    law = np.zeros(len(w))
    law[~on] = network(A[:, ~on].T @ nu, D, alpha)[0]
    law[on] = -np.linalg.lstsq(A[:, on], A[:, ~on] @ law[~on])[0]
    return law


def most_even(w: Array, n: Array, D: float) -> Array:
    """On the segment w + s n of nonnegative l1 minimisers: greatest entropy (D = 2) or greatest sum w_i^(2/D) (D > 2)."""
    low, high = (-w[n > 0] / n[n > 0]).max(), (-w[n < 0] / n[n < 0]).min()

    def slope(s: float) -> float:
        inside = (w + s * n)[n != 0]
        return n[n != 0] @ (-np.log(inside) if D == 2 else inside ** (2 / D - 1))

    edge = 1e-12 * (high - low)
    return w + brentq(slope, low + edge, high - edge, xtol=1e-15) * n


def knee(x: float, D: float) -> float:
    """w_2 on A = [1, 1 - eps], y = 1 as eps -> 0 with x = alpha^(D-2)/eps: (a + 1/x)^-q where a^-q + (a + 1/x)^-q = 1."""
    if not (D > 2 and x > 0):
        raise ValueError(f"the knee is asked for at depth D = {D} and x = {x}: it needs D > 2 and x > 0.")
    q = D / (D - 2)
    a = brentq(lambda a: a**-q + (a + 1 / x) ** -q - 1, 1.0, 2 ** (1 / q), xtol=1e-15)
    return (a + 1 / x) ** -q


def constraint_matrix(problem: TokenProblem) -> Array:
    """The constraints of the optimal tokens as rows vec V_k, shape (N, d^2)."""
    c = problem.constraints
    return np.einsum("kd,ke->kde", c.difference, c.query_vector).reshape(len(c), -1)


def l1_token_svm(problem: TokenProblem) -> L1Minimiser:
    """argmin sum |W_ij| subject to <V_k, W> >= 1; W as a vector of length d^2. Errors as of `solve_token_svm`."""
    solve_token_svm(problem)  # whether it is feasible does not depend on the norm
    V = constraint_matrix(problem)
    return l1_minimiser(V, np.ones(len(V)), at_least=True)


def relative_l1_margin(W: Array, V: Array, svm: L1Minimiser) -> Array:
    """(min_k <V_k, W>/sum |W_ij|) over its largest possible value 1/||W_svm||_1: at most 1; W (..., d^2), not zero."""
    return (W @ V.T).min(axis=-1) * svm.norm / np.abs(W).sum(axis=-1)


def train_squares(problem: TokenProblem, eta: float, alpha: float, times: Array) -> Array:
    """Normalized GD on attention with W = U o U - V o V from U = V = alpha; W at the increasing `times`, (K, d^2).

    The step of (U, V) has length `eta`; its direction, (U o G, -V o G) with G = -grad L(W), is exact at any ||W||.
    """
    V_k, layout = constraint_matrix(problem), layout_of(problem, "logistic")
    U = V = np.full(problem.d**2, float(alpha))
    weights, kept, wanted = np.empty(len(V_k)), [], set(np.asarray(times).tolist())
    for t in range(int(times[-1]) + 1):
        W = U * U - V * V
        if t in wanted:
            kept.append(W)
        scaled_weights(V_k @ W, layout, weights)
        G = weights @ V_k
        size = eta / np.sqrt((U * U + V * V) @ (G * G))
        U, V = U * (1 + size * G), V * (1 - size * G)
    return np.array(kept)
