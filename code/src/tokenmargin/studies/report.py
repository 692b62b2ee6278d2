"""One report on a token problem: which conditions hold, the margin, the constants, and what training did."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..data.problem import TokenProblem
from ..errors import AssumptionError, FloatRangeError, InfeasibleSVMError, SolverError
from ..margin.token_svm import TokenSVM, solve_token_svm
from ..measures.selection import selects
from ..measures.trajectory import direction_error, worst_off_attention
from ..model.losses import Loss
from ..theory.conditions import conditions
from ..theory.infeasible import Splitting, loss_gap_floor, separable_error, split
from ..theory.one_clock import largest_constraint
from ..theory.residual import e_inf, polyak_threshold, require_all_support, stability_threshold
from ..training.trajectory import Trajectory


def try_token_svm(problem: TokenProblem) -> TokenSVM | InfeasibleSVMError:
    """The token SVM, or the error that carries the Farkas weights."""
    try:
        return solve_token_svm(problem)
    except InfeasibleSVMError as error:
        return error


def constants(problem: TokenProblem, svm: TokenSVM, loss: Loss = "logistic") -> dict[str, float | None]:
    """rho, ||W_mm||, B, and, where their assumptions hold and floats reach, e_inf, h* and theta* (else None)."""
    found: dict[str, float | None] = {"rho": svm.margin, "norm": svm.norm, "B": largest_constraint(problem)}
    laws = {
        "e_inf": lambda: e_inf(problem, svm, loss),
        "h_star": lambda: stability_threshold(svm),
        "theta_star": lambda: polyak_threshold(svm),
    }
    for name, law in laws.items():
        try:
            require_all_support(svm)
            found[name] = law()
        except (AssumptionError, FloatRangeError):
            found[name] = None
    return found


def summary(
    problem: TokenProblem,
    svm: TokenSVM | InfeasibleSVMError,
    runs: Mapping[str, Trajectory],
    loss: Loss = "logistic",
) -> dict:
    """Everything above and the runs' ends, as plain numbers, texts and lists that JSON can hold.

    Parameters
    ----------
    svm : TokenSVM or InfeasibleSVMError
        From `try_token_svm`.
    runs : mapping of str to Trajectory
        By name of the rule.
    """
    holds = conditions(problem)
    parts = None if isinstance(svm, TokenSVM) else try_split(problem)
    report = {
        "shape": {"n": problem.n, "T": problem.T, "d": problem.d, "Q": problem.Q},
        "constraints": len(problem.constraints),
        "optimal_tokens": problem.optimal.tolist(),
        "decoder": problem.decoder.tolist(),
        "conditions": {
            "equal_scores": holds.equal_scores,
            "acute": holds.acute,
            "entered_at_zero": holds.entered,
            "score_spread": holds.score_spread,
            "relative_spread": _number(holds.relative_spread),
            "least_cosine": holds.cosine,
            "least_slack": holds.slack,
        },
        "feasible": isinstance(svm, TokenSVM),
    }
    if isinstance(svm, TokenSVM):
        report["token_svm"] = {
            **constants(problem, svm, loss),
            "support_vectors": int(svm.support.sum()),
            "certificate": svm.certificate(),
        }
    else:
        report["infeasible"] = {
            "sequences": list(svm.sequences),
            "residual": svm.residual,
            **without_margin(problem, parts, loss),
        }
    report["runs"] = {name: run_end(run, svm, parts) for name, run in runs.items()}
    return report


def try_split(problem: TokenProblem) -> Splitting | None:
    """The splitting of the constraints, or None where rounding hides it and the problem is too large for exact arithmetic."""
    try:
        return split(problem)
    except SolverError:
        return None


def without_margin(problem: TokenProblem, parts: Splitting | None, loss: Loss = "logistic") -> dict:
    """What can be said of a problem that no W separates: its separable part, that part's margin, and the floor of the loss gap."""
    if parts is None:
        return {"splitting": None}
    return {
        "splitting": {
            "separable_constraints": int(parts.separable.sum()),
            "sequences_of_the_rest": parts.sequences.tolist(),
            "separable_margin": parts.margin if parts.separable.any() else None,
            "proved": parts.proved,
        },
        "loss_gap_floor": loss_gap_floor(problem, parts, loss),
    }


def run_end(run: Trajectory, svm: TokenSVM | InfeasibleSVMError, parts: Splitting | None = None) -> dict:
    """The last record of a run: norm, path length, loss gap, sparsification, tokens chosen, direction error.

    Of a problem without a margin, given its splitting: the direction error to W_sep, and the largest margin, in size, of the rest.
    """
    end = {
        "steps": int(run.iterations[-1]),
        "norm": float(run.norms[-1]),
        "path_length": float(run.path_length[-1]),
        "log_loss_gap": _number(run.log_loss_gap[-1]),
        "log_off_attention": _number(worst_off_attention(run)[-1]),
        "reaches_optimal_tokens": selects(run),
        "selected_tokens": run.selection.tolist(),
    }
    if isinstance(svm, TokenSVM):
        end["direction_error"] = _number(direction_error(run, svm)[-1])
    elif parts is not None:
        end["largest_margin_of_the_rest"] = float(np.abs(run.margins[-1][~parts.separable]).max())
        end["separable_direction_error"] = _number(separable_error(run, parts)[-1]) if parts.separable.any() else None
    return end


def _number(value: float) -> float | None:
    """JSON has no infinity and no nan."""
    return float(value) if np.isfinite(value) else None
