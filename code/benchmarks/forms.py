"""Time of a step in both forms, and of token SVMs, along the sizes of the scale chapter's figures: of the processor, one core."""

from __future__ import annotations

import time

from tokenmargin.data.problem import TokenProblem
from tokenmargin.data.synthetic import gaussian, taught
from tokenmargin.margin.token_svm import solve_token_svm
from tokenmargin.training.cost import Form
from tokenmargin.training.rules import NormalizedGD
from tokenmargin.training.train import train

SHAPES = [
    *((n, 6, 32) for n in (20, 40, 80, 160, 320, 640)),
    *((40, T, 32) for T in (2, 4, 8, 16, 32)),
    *((40, 6, d) for d in (16, 64, 128, 256)),
]
SVMS = [(n, 10, 32) for n in (20, 40, 80, 160, 320)]


def seconds_per_step(problem: TokenProblem, form: Form, budget: float = 0.05) -> float:
    """The least of three runs of about `budget` seconds, less a run of one step for the setting up, over the steps."""
    rule = NormalizedGD(0.05)

    def run(steps: int) -> float:
        start = time.process_time()
        train(problem, rule, steps, record=[steps], form=form)
        return time.process_time() - start

    run(1)
    steps = 4
    while (elapsed := run(steps)) < budget:
        steps *= 4
    return max(min(elapsed, *(run(steps) for _ in range(2))) - run(1), 1e-9) / steps


def forms_record() -> list[dict]:
    """Seconds of a step for each shape and form."""
    return [
        {"shape": shape, "form": form, "seconds": seconds_per_step(gaussian(*shape, seed=0), form)}
        for shape in SHAPES
        for form in ("gram", "matrix")
    ]


def growth_record() -> list[dict]:
    """Seconds of token SVMs of growing size."""
    rows = []
    for shape in SVMS:
        problem = taught(*shape, seed=0)
        began = time.process_time()
        svm = solve_token_svm(problem)
        rows.append({"shape": shape, "N": len(svm.duals), "seconds": time.process_time() - began})
    return rows
