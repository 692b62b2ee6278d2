"""One report on a token problem: which conditions hold, the margin, the constants, and what training did."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..data.problem import TokenProblem
from ..errors import AssumptionError, FloatRangeError, InfeasibleSVMError
from ..margin.token_svm import TokenSVM, solve_token_svm
from ..measures.selection import selects
from ..measures.trajectory import direction_error, worst_off_attention
from ..model.losses import Loss
from ..theory.conditions import conditions
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
        report["infeasible"] = {"sequences": list(svm.sequences), "residual": svm.residual}
    report["runs"] = {name: run_end(run, svm) for name, run in runs.items()}
    return report


def run_end(run: Trajectory, svm: TokenSVM | InfeasibleSVMError) -> dict:
    """The last record of a run: norm, path length, loss gap, sparsification, tokens chosen, direction error."""
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
    return end


def _number(value: float) -> float | None:
    """JSON has no infinity and no nan."""
    return float(value) if np.isfinite(value) else None
