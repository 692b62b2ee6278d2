"""The report on a token problem is complete, true, and fit for JSON."""

import json

import numpy as np
import pytest
from tokenmargin.data.contradictions import two_labels
from tokenmargin.data.synthetic import gaussian, orthogonal
from tokenmargin.errors import InfeasibleSVMError
from tokenmargin.margin.token_svm import TokenSVM, solve_token_svm
from tokenmargin.studies.report import constants, run_end, summary, try_token_svm, without_margin
from tokenmargin.theory.infeasible import split
from tokenmargin.theory.residual import e_inf
from tokenmargin.training.rules import NormalizedGD
from tokenmargin.training.train import train


def test_report_of_a_feasible_problem():
    problem = orthogonal(3, 3, 9, seed=0)
    svm = try_token_svm(problem)
    assert isinstance(svm, TokenSVM)
    run = train(problem, NormalizedGD(0.1), 2000)
    report = json.loads(json.dumps(summary(problem, svm, {"NGD": run}), allow_nan=False))
    assert report["conditions"]["acute"]
    assert report["conditions"]["equal_scores"]
    assert report["token_svm"]["rho"] == svm.margin
    assert report["token_svm"]["e_inf"] == pytest.approx(0.0, abs=1e-8)
    assert report["optimal_tokens"] == problem.optimal.tolist()
    assert report["runs"]["NGD"]["reaches_optimal_tokens"]
    assert np.ravel(report["runs"]["NGD"]["selected_tokens"]).tolist() == problem.optimal.tolist()
    assert report["runs"]["NGD"]["norm"] == pytest.approx(200.0, rel=1e-2)


def test_report_of_an_infeasible_problem_names_the_sequences():
    problem = gaussian(12, 4, 3, seed=0)
    svm = try_token_svm(problem)
    assert isinstance(svm, InfeasibleSVMError)
    run = train(problem, NormalizedGD(0.1), 200)
    report = json.loads(json.dumps(summary(problem, svm, {"NGD": run}), allow_nan=False))
    assert not report["feasible"]
    assert report["infeasible"]["sequences"] == list(svm.sequences)
    assert "direction_error" not in run_end(run, svm)


def test_constants_are_none_outside_their_assumptions():
    full, part = gaussian(4, 3, 100, seed=0), gaussian(12, 4, 20, seed=0)
    assert constants(full, solve_token_svm(full))["e_inf"] == e_inf(full, solve_token_svm(full))
    svm = solve_token_svm(part)
    assert not svm.support.all()
    found = constants(part, svm)
    assert found["e_inf"] is None
    assert found["h_star"] is None
    assert found["rho"] == svm.margin


def test_report_of_an_infeasible_problem_says_what_can_be_separated():
    problem = two_labels(5, 20, seed=0)
    svm = try_token_svm(problem)
    run = train(problem, NormalizedGD(0.1), 2000)
    report = json.loads(json.dumps(summary(problem, svm, {"NGD": run}), allow_nan=False))
    found, end = report["infeasible"], report["runs"]["NGD"]
    parts = split(problem)
    assert found["splitting"]["sequences_of_the_rest"] == [0, 5]
    assert found["splitting"]["separable_constraints"] == 4
    assert found["splitting"]["separable_margin"] == parts.margin
    assert found["splitting"]["proved"]
    assert np.exp(end["log_loss_gap"]) > found["loss_gap_floor"] > 0.0
    assert end["separable_direction_error"] < 0.2
    assert end["largest_margin_of_the_rest"] < 1.0


def test_report_without_a_splitting_says_none():
    assert without_margin(two_labels(3, 20, seed=0), None) == {"splitting": None}
    assert without_margin(two_labels(3, 20, seed=0), split(two_labels(3, 20, seed=0)))["loss_gap_floor"] > 0.0
