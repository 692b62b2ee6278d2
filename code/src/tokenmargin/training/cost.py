"""What a run costs in each form: multiply-adds of a step, numbers held, and which form is the cheaper."""

from __future__ import annotations

from typing import Literal

from ..data.constraints import BLOCK
from ..data.problem import TokenProblem
from .rules import Step

Form = Literal["auto", "gram", "matrix", "reference"]
GRAM_BYTES = 1 << 30  # largest constraint Gram matrix that the coefficient form may hold


def cost_per_step(problem: TokenProblem) -> dict[str, float]:
    """Multiply-adds of one step in each form: {"gram": N^2, "matrix": 2 n Q d (d + T)}."""
    N, rows = len(problem.constraints), int(problem.query_mask.sum())
    return {"gram": float(N) ** 2, "matrix": 2.0 * rows * problem.d * (problem.d + problem.T)}


def numbers_held(problem: TokenProblem) -> dict[str, float]:
    """Numbers of 8 bytes that a run of each form holds at its peak, the problem's own arrays and the records left out.

    {"gram": N^2 + N min(N, 256) + 2 N d + 2 d^2, "matrix": max(17 n Q T + n Q d + 4 d^2, 10 n Q T + 6 d^2) + 1000}: the Gram matrix,
    the block of rows that is being formed and the constraints' vectors; or, at the larger of two moments, arrays as long as
    the constraints (indices, margins, weights, logits, scores, lengths), the queries turned by W, and W, its start, its
    copies and its gradient, and about a thousand numbers whatever the size.
    """
    N, rows, d = len(problem.constraints), problem.n * problem.Q, problem.d
    gram = N * (N + min(N, BLOCK) + 2.0 * d) + 2.0 * d * d
    matrix = max(rows * (17.0 * problem.T + d) + 4.0 * d * d, 10.0 * rows * problem.T + 6.0 * d * d)
    return {"gram": gram, "matrix": matrix + 1000.0}


def gram_share(problem: TokenProblem) -> float:
    """Expected time of a Gram step over that of a matrix step; "auto" takes the Gram form up to 1, where it fits in memory.

    Calibrated on one core: a multiply-add of the matrix form takes 0.7 of one of the Gram form, and the calls of a matrix
    step as long as 1.2e5 of them.
    """
    cost = cost_per_step(problem)
    return cost["gram"] / (0.7 * cost["matrix"] + 1.2e5)


def cheaper_form(problem: TokenProblem, step: Step) -> Form:
    fits = 8.0 * cost_per_step(problem)["gram"] <= GRAM_BYTES
    return "gram" if fits and gram_share(problem) <= 1.0 else "matrix"
