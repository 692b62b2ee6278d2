"""Which tokens a run ends on: with a fixed decoder from starts of any size, and jointly with the decoder from zero."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from scipy.integrate import quad
from scipy.special import ndtr

from ..data.problem import TokenProblem
from ..data.synthetic import Scores, gaussian, orthogonal, signal_plus_noise
from ..margin.token_svm import TokenSVM, is_separable, solve_token_svm
from ..measures.trajectory import direction_error, residual_norm
from ..model.weights import entry_slack
from ..theory.residual import e_inf
from ..training.ends import end_margins
from ..training.joint import train_joint
from ..training.rules import NormalizedGD, Step
from ..training.starts import random_start
from ..training.train import train
from ..training.trajectory import Trajectory
from ..types import Array

Outcome = Literal["optimal", "other", "infeasible"]


def outcome(
    problem: TokenProblem, W0: Array, *, eta: float = 0.5, length: float = 500.0, decided: float = 12.0
) -> tuple[Outcome, Trajectory]:
    """Where normalised gradient descent from W_0 ends.

    Parameters
    ----------
    problem : TokenProblem
    W0 : array, shape (d, d)
    eta : float
        Step length.
    length : float
        Path length after which a run that has not reached the optimal tokens is taken to end elsewhere.
    decided : float
        A run stops early once every optimal token leads by this much in the logits.

    Returns
    -------
    fate : {"optimal", "other", "infeasible"}
        "infeasible" if no W separates the optimal tokens, so that no run could have reached them.
    trajectory : Trajectory
    """
    record = looks(length, eta)
    trajectory = train(
        problem, NormalizedGD(eta), record[-1], W0, record=record, form="gram", stop=lambda mu: mu.min() > decided
    )
    if trajectory.margins[-1].min() > 0.0:
        return "optimal", trajectory
    return "other" if is_separable(problem) else "infeasible", trajectory


def looks(length: float, eta: float) -> Array:
    """The times at which a run of this path length is looked at: twenty, evenly spaced, after the start."""
    return np.round(np.linspace(0, int(np.ceil(length / eta)), 21)).astype(int)


def selected_share(
    n: int, T: int, d: int, scores: Scores, norm: float, seed: int, runs: int, patience: float = 1.0
) -> dict[str, int]:
    """How many of `runs` Gaussian problems with random starts of norm `norm` reach their optimal tokens.

    Run r draws its problem and its start from a seed of its own, made of (seed, d, r); the norm only scales the start. A run
    has the path length max(200, 20 norm), times `patience`, in which to arrive.

    Returns
    -------
    dict
        Counts "optimal", "other", "infeasible"; they add up to `runs`.
    """
    counts = selected_shares(n, T, d, scores, (norm,), seed, runs, patience)
    return {fate: int(counts[fate][0]) for fate in get_args(Outcome)}


def selected_shares(
    n: int, T: int, d: int, scores: Scores, norms: Sequence[float], seed: int, runs: int, patience: float = 1.0
) -> dict[str, Array]:
    """`selected_share` for several norms at once: each problem is made once, and its starts run in one compiled call.

    Returns
    -------
    dict
        "norm", and the counts "optimal", "other", "infeasible"; each of shape (len(norms),).
    """
    sizes, eta, decided = np.array(norms, dtype=float), 0.5, 12.0
    times = np.array([looks(patience * max(200.0, 20.0 * norm), eta) for norm in sizes])
    counts = {fate: np.zeros(len(sizes), dtype=int) for fate in get_args(Outcome)}
    for r in range(runs):
        seeds = np.random.SeedSequence([seed, d, r]).generate_state(2)
        problem = gaussian(n, T, d, seed=int(seeds[0]), scores=scores)
        starts = random_start(problem, sizes[:, None, None], np.random.default_rng(seeds[1]))
        arrived = end_margins(problem, NormalizedGD(eta), times, starts, decided=decided).min(axis=1) > 0.0
        counts["optimal"] += arrived
        if not arrived.all():
            counts["other" if is_separable(problem) else "infeasible"] += ~arrived
    return {"norm": sizes, **counts}


def entered_start(problem: TokenProblem, svm: TokenSVM, norm: float, rng: np.random.Generator) -> Array:
    """A random start of norm `norm`, moved along W_mm by multiples of W_mm/4 until (E) holds and no further."""
    W0 = random_start(problem, norm, rng)
    while entry_slack(problem, svm.constraints.margins(W0)).min() <= 0.0:
        W0 = W0 + 0.25 * svm.W
    return W0


def off_span(svm: TokenSVM, W: Array) -> float:
    """Norm of the part of W orthogonal to every constraint V_k; no step ever changes it."""
    c = svm.constraints
    coefficients = np.linalg.lstsq(c.gram, c.margins(W), rcond=1e-12)[0]
    return float(np.linalg.norm(W - c.combine(coefficients)))


@lru_cache(maxsize=32)
def _acute(n: int, T: int, seed: int) -> tuple[TokenProblem, TokenSVM, float]:
    """An orthogonal problem in d = n T + 4, its token SVM, and e_inf: the same for all starts and rules."""
    data = orthogonal(n, T, n * T + 4, seed=seed)
    svm = solve_token_svm(data)
    return data, svm, e_inf(data, svm)


def arrival(
    rule: Step, problem: int, kind: Callable[..., Array], norm: float, start: int, n: int, T: int, steps: int
) -> dict[str, float]:
    """How a run stands after `steps` steps, beside what is predicted for it, under (A) and (S).

    Parameters
    ----------
    rule : Step
    problem, start : int
        Seeds of the orthogonal problem (d = n T + 4) and of the start.
    kind : callable
        `random_start` or `adversarial_start`.
    norm : float
        ||W_0||.
    n, T, steps : int

    Returns
    -------
    dict
        "reached" (all optimal tokens selected), "error" (direction error), "residual" (e_t), "size_of_W" (||W_t||) and
        "predicted", the limit sqrt(e_inf^2 + ||off-span part of W_0||^2) of e_t: the part of W_0 off the span of the
        constraints stays for ever, the rest follows the sharp-constant theorem.
    """
    data, svm, limit = _acute(n, T, problem)
    W0 = kind(data, norm, np.random.default_rng([problem, start, int(100 * norm)]))
    trajectory = train(data, rule, steps, W0, record=[steps], form="gram")
    return {
        "reached": bool(trajectory.margins[-1].min() > 0.0),
        "error": direction_error(trajectory, svm)[-1],
        "residual": residual_norm(trajectory, svm)[-1],
        "size_of_W": trajectory.norms[-1],
        "predicted": float(np.hypot(limit, off_span(svm, W0))),
    }


def signal_ratio(n: int, T: int, d: int, noise: float) -> float:
    """r = sqrt(n d/T)/noise^2: the signal's lead in the first scores of `signal_plus_noise` over their spread.

    The decoder's first step is along sum_i y_i x_i1 + ... + y_i x_iT. In T times this direction the signal token leads by n,
    and all tokens have a Gaussian part of deviation noise^2 sqrt(n T/d) (signal of norm one, d large).
    """
    return float(np.sqrt(n * d / T) / noise**2)


def first_choice(ratio: float, T: int) -> float:
    """P(r + g_1 > max(g_2, ..., g_T)) for independent standard normal g: the share of sequences whose signal token scores best.

    At r = 0 it is chance, 1/T.
    """
    share = quad(lambda g: np.exp(-0.5 * g * g) * ndtr(ratio + g) ** (T - 1), -12.0, 12.0, epsabs=1e-10)[0]
    return float(share / np.sqrt(2.0 * np.pi))


def on_signal(
    n: int, T: int, d: int, noise: float, seed: int, steps: int = 1000, eta0: float = 0.5, decay: float = 2 / 3
) -> dict[str, float]:
    """One data set of `signal_plus_noise` trained jointly: what its sequences end on.

    Returns
    -------
    dict
        "first": share of sequences whose signal token scores best after the decoder's first step; "share": share that
        attends most to its signal token after `steps` steps; "fit": -log L then.
    """
    data = signal_plus_noise(n, T, d, seed=seed, noise=noise)
    record = np.array([1, steps])
    run = train_joint(data, steps, eta0=eta0, decay=decay, record=record)
    return {
        "first": float(np.mean(run.scores[1].argmax(axis=1) == data.optimal)),
        "share": float(np.mean(run.log_attention[-1].argmax(axis=1) == data.optimal)),
        "fit": float(-run.log_loss[-1]),
    }
