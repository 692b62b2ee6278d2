"""Cogradient descent: filters and sparse codes learned in turn, with a rule that holds filters back or kicks them.

Source: Zhuo, Zhang, Yang, Chen, Ye, Doermann, Guo, Ji, Cogradient Descent for Bilinear Optimization (CVPR 2020), arXiv
2006.09142, read in its abstract and in the published MATLAB code of its convolutional sparse coding. Signals b (runs, N, L) are sums of
circular convolutions of K filters d (runs, K, L), which live on their first `support` entries, with codes z (runs, N, K, L).
The law of the price is this book's; so is the last section, the same rule on attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import expit, softmax

from ..data.sequences import Sequences
from ..types import Array

Rule = Literal["none", "hold", "random hold", "kick", "random kick"]
Solver = Literal["admm", "proximal"]
RULES = ("none", "hold", "random hold", "kick", "random kick")
HELD = 0.99  # weight of the old value in the published rule
KICK = 0.1


@dataclass(frozen=True, eq=False)
class Learning:
    """Records of `learn_filters`; E epochs.

    Attributes
    ----------
    objective, psnr : arrays, shape (E + 1, runs)
        1/2 ||b - sum_k d_k * z_k||^2 + penalty ||z||_1, and 10 log10(max b^2/mean square error), after each epoch.
    admissible : array, shape (E + 1, runs)
        The objective with the filters projected: the rule and ADMM leave them off their support and longer than one.
    price : array, shape (E, runs)
        By how much the rule raises the objective, right after the filters' update.
    quadratic : array, shape (E, runs)
        1/2 ||sum_k delta_k * z_k||^2, delta the change that the rule makes: the price after an exact update.
    inside : array, shape (E, runs)
        Share of the entries touched by the rule that belong to the filters' support.
    """

    objective: Array
    psnr: Array
    admissible: Array
    price: Array
    quadratic: Array
    inside: Array


def planted_signals(
    runs: int, N: int, K: int, L: int, support: int, rng: np.random.Generator, noise: float = 0.05
) -> Array:
    """N signals of length L a run: K random filters of norm one, codes of which one in twenty is N(0, 1), and noise."""
    d = np.zeros((runs, K, L))
    d[:, :, :support] = rng.standard_normal((runs, K, support))
    d /= np.linalg.norm(d, axis=2, keepdims=True)
    z = rng.standard_normal((runs, N, K, L)) * (rng.random((runs, N, K, L)) < 0.05)
    return compose(d, z) + noise * rng.standard_normal((runs, N, L))


def compose(d: Array, z: Array) -> Array:
    """sum_k d_k * z_k, circular, shape (runs, N, L)."""
    return np.fft.irfft((np.fft.rfft(d)[:, None] * np.fft.rfft(z)).sum(axis=2), d.shape[-1])


def objective(b: Array, d: Array, z: Array, penalty: float) -> Array:
    """1/2 ||b - sum_k d_k * z_k||^2 + penalty ||z||_1 of each run."""
    return 0.5 * ((b - compose(d, z)) ** 2).sum(axis=(1, 2)) + penalty * np.abs(z).sum(axis=(1, 2, 3))


def project(d: Array, support: int) -> Array:
    """The filters cut to their support and, where longer than one, scaled to norm one."""
    cut = np.where(np.arange(d.shape[-1]) < support, d, 0.0)
    return cut / np.maximum(np.linalg.norm(cut, axis=-1, keepdims=True), 1.0)


def shrink(z: Array, level: float | Array) -> Array:
    """sign(z) (|z| - level)_+."""
    return np.sign(z) * np.maximum(np.abs(z) - level, 0.0)


def apply_rule(
    rule: Rule, new: Array, old: Array, score: Array, count: int, rng: np.random.Generator, held: float = HELD
) -> Array:
    """Change `count` entries of `new` (runs, ...): those of largest score, or random ones.

    Holding: (1 - held) new + held old. Kicking: new + 0.1 old. "none": new as it is.

    Raises
    ------
    ValueError
        If the rule is unknown or `count` exceeds the number of entries.
    """
    if rule not in RULES or not 0 <= count <= new[0].size:
        raise ValueError(
            f"rule is {rule!r} with {count} entries; it must be one of {', '.join(RULES)}, with 0 to {new[0].size} entries."
        )
    if rule == "none" or count == 0:
        return new
    key = rng.random(score.shape) if rule.startswith("random") else score
    chosen = np.argsort(-key.reshape(len(key), -1), axis=1)[:, :count]
    mark = np.zeros((len(new), new[0].size), dtype=bool)
    np.put_along_axis(mark, chosen, True, axis=1)
    changed = new + KICK * old if rule.endswith("kick") else (1.0 - held) * new + held * old
    return np.where(mark.reshape(new.shape), changed, new)


def filter_steps(b: Array, d: Array, z: Array, duals: list[Array], gamma: tuple[float, float], support: int) -> Array:
    """Ten ADMM steps on the filters, splitting data and constraint; the duals are changed in place."""
    zf = np.moveaxis(np.fft.rfft(z), -1, 1)  # runs, frequencies, N, K
    rho, adjoint = gamma[1] / gamma[0], np.conj(zf.swapaxes(2, 3))
    system = adjoint @ zf + rho * np.eye(zf.shape[3])
    for _ in range(10):
        v = [compose(d, z), d]
        u = [(b + gamma[0] * (v[0] - duals[0])) / (1.0 + gamma[0]), project(v[1] - duals[1], support)]
        for j in range(2):
            duals[j] -= v[j] - u[j]
        data = np.moveaxis(np.fft.rfft(u[0] + duals[0]), -1, 1)[..., None]
        prior = np.moveaxis(np.fft.rfft(u[1] + duals[1]), -1, 1)[..., None]
        d = np.fft.irfft(np.moveaxis(np.linalg.solve(system, adjoint @ data + rho * prior)[..., 0], 1, -1), d.shape[-1])
    return d


def code_steps(b: Array, d: Array, z: Array, duals: list[Array], gamma: tuple[float, float], penalty: float) -> Array:
    """Ten ADMM steps on the codes, splitting data and penalty; the duals are changed in place."""
    df = np.fft.rfft(d)[:, None]  # runs, 1, K, frequencies
    rho, power = gamma[1] / gamma[0], (np.abs(df) ** 2).sum(axis=2, keepdims=True)
    for _ in range(10):
        v = [compose(d, z), z]
        u = [(b + gamma[0] * (v[0] - duals[0])) / (1.0 + gamma[0]), shrink(v[1] - duals[1], penalty / gamma[1])]
        for j in range(2):
            duals[j] -= v[j] - u[j]
        right = np.conj(df) * np.fft.rfft(u[0] + duals[0])[:, :, None] + rho * np.fft.rfft(u[1] + duals[1])
        inner = (df * right).sum(axis=2, keepdims=True) / (rho + power)
        z = np.fft.irfft((right - np.conj(df) * inner) / rho, z.shape[-1])  # Sherman-Morrison, frequency by frequency
    return z


def filter_descent(b: Array, d: Array, z: Array, support: int) -> Array:
    """Ten projected gradient steps on the filters, of length one over the largest curvature."""
    zf = np.moveaxis(np.fft.rfft(z), -1, 1)
    length = _inverse(np.linalg.norm(zf, ord=2, axis=(2, 3)).max(axis=1)[:, None, None] ** 2)
    for _ in range(10):
        r = np.fft.rfft(compose(d, z) - b)[:, :, None]
        slope = np.fft.irfft((np.conj(np.fft.rfft(z)) * r).sum(axis=1), d.shape[-1])
        d = project(d - length * slope, support)
    return d


def code_descent(b: Array, d: Array, z: Array, penalty: float) -> Array:
    """Ten proximal gradient steps on the codes, of length one over the largest curvature."""
    df = np.fft.rfft(d)[:, None]
    length = _inverse((np.abs(df) ** 2).sum(axis=2).max(axis=(1, 2))[:, None, None, None])
    for _ in range(10):
        r = np.fft.rfft(compose(d, z) - b)[:, :, None]
        z = shrink(z - length * np.fft.irfft(np.conj(df) * r, z.shape[-1]), length * penalty)
    return z


def _inverse(curvature: Array) -> Array:
    """1/curvature; zero where the other factor has vanished and no step moves anything."""
    return np.divide(1.0, curvature, out=np.zeros(curvature.shape), where=curvature > 0.0)


def learn_filters(
    b: Array,
    K: int,
    support: int,
    rule: Rule,
    rng: np.random.Generator,
    *,
    solver: Solver = "admm",
    epochs: int = 20,
    penalty: float = 0.05,
) -> Learning:
    """Filters and codes in turn, with a rule after each update of the filters.

    In epoch i of E the rule touches a share (E - i)/(2E) of the entries of d, those where the sum of the codes over the
    signals is largest (for the random rules, any). An epoch in which neither half lowers the objective is undone. So the published
    code has it, with the solver "admm" and its heuristic constants; "proximal" never raises the objective by itself.

    Raises
    ------
    ValueError
        If the rule or the solver is unknown.
    """
    if solver not in ("admm", "proximal"):
        raise ValueError(f"solver is {solver!r}; it must be 'admm' or 'proximal'.")
    (runs, N, L), heuristic = b.shape, 60.0 * penalty / b.max()
    d = np.where(np.arange(L) < support, rng.standard_normal((runs, K, L)), 0.0)
    z = rng.standard_normal((runs, N, K, L))
    duals = [[np.zeros_like(b), np.zeros_like(d)], [np.zeros_like(b), np.zeros_like(z)]]
    best = objective(b, d, z, penalty)
    rows, extra = [(best, _psnr(b, d, z), objective(b, project(d, support), z, penalty))], []
    for i in range(1, epochs + 1):
        before = d, z
        if solver == "admm":
            d = filter_steps(b, d, z, duals[0], (heuristic / 5000.0, heuristic), support)
        else:
            d = filter_descent(b, d, z, support)
        half = objective(b, d, z, penalty)
        changed = apply_rule(rule, d, before[0], z.sum(axis=1), round((epochs - i) / (2 * epochs) * K * L), rng)
        extra.append(_price(b, d, changed, z, support))
        d = changed
        if solver == "admm":
            z = code_steps(b, d, z, duals[1], (heuristic / 500.0, heuristic), penalty)
        else:
            z = code_descent(b, d, z, penalty)
        value = objective(b, d, z, penalty)
        undo = (best <= half) & (best <= value)
        d, z = np.where(undo[:, None, None], before[0], d), np.where(undo[:, None, None, None], before[1], z)
        best = np.where(undo, best, np.minimum(half, value))
        admissible = objective(b, project(d, support), z, penalty)
        rows.append((objective(b, d, z, penalty), _psnr(b, d, z), admissible))
    return Learning(*(np.array(column) for column in (*zip(*rows, strict=True), *zip(*extra, strict=True))))


def exact_filters(b: Array, z: Array) -> Array:
    """argmin over d of ||b - sum_k d_k * z_k||, filters of full length, frequency by frequency; needs N >= K."""
    zf, bf = np.moveaxis(np.fft.rfft(z), -1, 1), np.moveaxis(np.fft.rfft(b), -1, 1)[..., None]
    adjoint = np.conj(zf.swapaxes(2, 3))
    return np.fft.irfft(np.moveaxis(np.linalg.solve(adjoint @ zf, adjoint @ bf)[..., 0], 1, -1), b.shape[-1])


def _psnr(b: Array, d: Array, z: Array) -> Array:
    return 10.0 * np.log10(b.max(axis=(1, 2)) ** 2 / ((b - compose(d, z)) ** 2).mean(axis=(1, 2)))


def _price(b: Array, d: Array, changed: Array, z: Array, support: int) -> tuple[Array, Array, Array]:
    delta = changed - d
    touched, there = delta != 0.0, np.arange(d.shape[-1]) < support
    count = touched.sum(axis=(1, 2))
    inside = (touched & there).sum(axis=(1, 2)) / np.where(count > 0, count, 1)
    return (
        objective(b, changed, z, 0.0) - objective(b, d, z, 0.0),
        0.5 * (compose(delta, z) ** 2).sum(axis=(1, 2)),
        inside,
    )


# --- On attention -----------------------------------------------------------------------------------------------------


def joint_gradients(data: Sequence[Sequences], W: Array, u: Array) -> tuple[Array, Array, Array]:
    """Gradients in W (P, d, d) and u (P, d) of the logistic loss of u' X' softmax(X W z), and the loss (P,).

    The P data sets have one shape, one query a sequence and no padding.
    """
    x, y = np.array([s.tokens for s in data]), np.array([s.labels for s in data])
    z = np.array([s.queries[:, 0] for s in data])
    s = softmax(np.einsum("pntd,pde,pne->pnt", x, W, z, optimize=True), axis=2)
    score = np.einsum("pntd,pd->pnt", x, u)
    seen = np.einsum("pnt,pntd->pnd", s, x)
    m = y * np.einsum("pnd,pd->pn", seen, u)
    slope = -y * expit(-m) / y.shape[1]
    force = slope[..., None] * s * (score - (s * score).sum(axis=2, keepdims=True))
    to_W = np.einsum("pnt,pntd,pne->pde", force, x, z, optimize=True)
    return to_W, np.einsum("pn,pnd->pd", slope, seen), np.logaddexp(0.0, -m).mean(axis=1)


def train_in_turn(
    data: Sequence[Sequences], rule: Rule, rng: np.random.Generator, *, epochs: int = 20, eta: float = 1.0
) -> tuple[Array, Array]:
    """W and u from zero, ten gradient steps on W, the rule on W with score |u_j| for its row j, ten steps on u.

    Returns
    -------
    loss : array, shape (epochs, P)
        After each epoch.
    ratio : array, shape (epochs, P)
        ||grad_W L||/||grad_u L|| there.
    """
    d = data[0].d
    W, u, rows = np.zeros((len(data), d, d)), np.zeros((len(data), d)), []
    for i in range(1, epochs + 1):
        before = W
        for _ in range(10):
            W = W - eta * joint_gradients(data, W, u)[0]
        score = np.repeat(np.abs(u)[:, :, None], d, axis=2)
        W = apply_rule(rule, W, before, score, round((epochs - i) / (2 * epochs) * d * d), rng)
        for _ in range(10):
            u = u - eta * joint_gradients(data, W, u)[1]
        to_W, to_u, loss = joint_gradients(data, W, u)
        rows.append((loss, np.linalg.norm(to_W, axis=(1, 2)) / np.linalg.norm(to_u, axis=1)))
    losses, ratios = np.array(rows).swapaxes(0, 1)
    return losses, ratios
