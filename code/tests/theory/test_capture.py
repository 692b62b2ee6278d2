"""The capture certificate, attacked: random and adversarial points of certified cones, and runs that must not be certified."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from tokenmargin.data.constraints import Constraints
from tokenmargin.data.problem import TokenProblem
from tokenmargin.data.synthetic import gaussian
from tokenmargin.errors import AssumptionError
from tokenmargin.margin.token_svm import TokenSVM, solve_constraints, solve_token_svm
from tokenmargin.measures.selection import is_locally_optimal, selects, settled_svm
from tokenmargin.measures.trajectory import direction_error, residual, residual_norm
from tokenmargin.model.weights import log_gradient_weights, log_limit_weights
from tokenmargin.theory.capture import Cone, capture, first_capture
from tokenmargin.theory.residual import (
    curvatures,
    e_active,
    log_alpha,
    proved_step,
    residual_limit,
    stability_threshold,
)
from tokenmargin.theory.rest_point import rest_point
from tokenmargin.training.moments import HeavyBall, train_with_moments
from tokenmargin.training.rules import GradientDescent, NormalizedGD, Polyak
from tokenmargin.training.starts import random_start
from tokenmargin.training.train import train

SHAPES = [(4, 3, 40, 1), (3, 3, 30, 3), (2, 2, 10, 1)]
INACTIVE = (6, 5, 24, 1)  # some constraints of this shape are no support vectors
RULES = {
    "GD": lambda h: GradientDescent(10.0),
    "NGD": lambda h: NormalizedGD(0.05 * h),
    "long NGD": lambda h: NormalizedGD(1.5 * h),
    "NGD/sqrt": lambda h: NormalizedGD(0.5 * h, 0.5),
    "Polyak": lambda h: Polyak(0.5, cap=100.0),
}


CASES = [(shape, rule) for shape in SHAPES for rule in RULES] + [(INACTIVE, "NGD")]


@cache
def captured(shape, rule, scores="gaussian", seed=3, loss="logistic"):
    n, T, d, Q = shape
    steps = 30000 if shape == INACTIVE else 8000
    problem = gaussian(n, T, d, seed=seed, scores=scores, Q=Q)
    svm = solve_token_svm(problem)
    record = np.unique(np.geomspace(1, steps, 30).astype(int))
    run = train(problem, RULES[rule](stability_threshold(svm)), steps, loss=loss, record=record)
    return problem, svm, run, first_capture(run, svm)


def active_part(problem, svm, R):
    c, on = problem.constraints, svm.support
    weights = np.zeros(len(c))
    weights[on] = np.linalg.solve(c.gram[np.ix_(on, on)], c.margins(R)[on])
    return c.combine(weights)


def split(problem, svm, W):
    """c, R^A - R_inf and R^perp of a matrix."""
    unit = svm.W / svm.norm
    along = np.vdot(W, unit)
    R = W - along * unit
    A = active_part(problem, svm, R)
    return along, A - problem.constraints.combine(residual_limit(problem, svm)), R - A


def directions(problem, svm, rng):
    """Matrices of norm one where R^A - R_inf can lie: random ones, and those that favour one constraint."""
    c, on = problem.constraints, svm.support
    z = np.zeros(len(c))
    single = rng.random() < 0.5
    z[on] = np.eye(on.sum())[rng.integers(on.sum())] * rng.choice([-1, 1]) if single else rng.standard_normal(on.sum())
    if rng.random() < 0.5:
        z[on] = np.linalg.solve(c.gram[np.ix_(on, on)], z[on])
    X = c.combine(z)
    X -= np.vdot(X, svm.W) * svm.W / svm.norm**2
    return X / np.linalg.norm(X)


@pytest.mark.parametrize(("shape", "rule"), CASES)
def test_no_step_from_any_point_tried_leaves_the_cone(shape, rule):
    problem, svm, run, found = captured(shape, rule)
    assert found is not None
    k = int(np.flatnonzero(run.iterations == found.iteration)[0])
    _, _, rest = split(problem, svm, run.W(k))
    centre = problem.constraints.combine(residual_limit(problem, svm)) + rest
    rng = np.random.default_rng(0)
    for _ in range(40):
        radius = found.radius * rng.choice([1.0, 0.97, rng.random()])
        along = found.along * rng.choice([1.0, 1.5])
        W = along * svm.W / svm.norm + centre + radius * directions(problem, svm, rng)
        sign, log_p, _ = log_gradient_weights(problem, problem.constraints.margins(W))
        assert (sign > 0.0).all()
        G = problem.constraints.combine(np.exp(log_p - log_p.max()))
        for h in found.longest_step * np.array([1.0, 0.3, 0.01]):
            c, x, _ = split(problem, svm, W + h * G / np.linalg.norm(G))
            assert np.linalg.norm(x) <= found.radius * (1.0 + 1e-9)
            assert c >= along + h * found.rate * (1.0 - 1e-9) - 1e-12 * along


@pytest.mark.parametrize(("shape", "rule"), CASES)
def test_a_certified_run_stays_within_its_bounds(shape, rule):
    problem, svm, run, found = captured(shape, rule)
    assert found is not None
    late = run.iterations >= found.iteration
    assert late.sum() > 2
    assert (residual_norm(run, svm)[late] <= found.residual).all()
    S = run.path_length[late] - run.path_length[late][0]
    assert (direction_error(run, svm)[late] <= found.direction_bound(S)).all()
    assert run.effective_steps[late].max() <= found.longest_step * (1.0 + 1e-12)
    first = int(np.flatnonzero(late)[0])
    start = split(problem, svm, run.W(first))[2]
    for k in range(first, len(run)):
        _, x, rest = split(problem, svm, run.W(k))
        assert np.linalg.norm(x) <= found.radius
        assert np.linalg.norm(rest - start) <= found.drift + 1e-9 * run.norms[k]


def test_a_run_to_the_runner_up_is_never_certified():
    corner = np.array([[[-3.0, -1.0], [1.0, 0.0], [0.0, 0.0]]])
    values = np.array([[[1.0], [0.5], [0.0]]])
    problem = TokenProblem(corner, np.ones(1), np.ones(1), np.array([[1.0, 0.0]]), values=values)
    svm = solve_token_svm(problem)
    start = np.array([[4.0, 0.0], [0.0, 0.0]])
    assert first_capture(train(problem, NormalizedGD(0.05), 20000, start), svm) is None
    assert first_capture(train(problem, NormalizedGD(0.05), 20000), svm) is not None


def test_the_longest_step_decides():
    problem, svm, run, found = captured(SHAPES[0], "NGD")
    cone = Cone.of(problem, svm)
    k = int(np.flatnonzero(run.iterations == found.iteration)[0])
    R = residual(run, svm, k)
    again = capture(cone, run.W(k), found.longest_step, residual_of_W=R)
    assert again is not None
    assert again.radius == pytest.approx(found.radius)
    assert capture(cone, run.W(k), 1e4 * found.longest_step) is None
    assert found.settles == (found.longest_step < proved_step(svm))
    late = capture(cone, 1e9 * svm.W, 10.0)
    assert late is not None
    assert not late.settles


def test_the_certificate_scales_with_the_units_of_the_tokens():
    problem, _svm, run, found = captured(SHAPES[0], "NGD")
    scaled = TokenProblem(
        8.0 * problem.tokens, problem.labels, problem.decoder, 2.0 * problem.queries, values=problem.values
    )
    k = int(np.flatnonzero(run.iterations == found.iteration)[0])
    step = run.step.eta / 16.0
    other = capture(Cone.of(scaled, solve_token_svm(scaled)), run.W(k) / 16.0, NormalizedGD(step))
    assert other.radius == pytest.approx(found.radius / 16.0, rel=1e-6)
    assert other.along == pytest.approx(found.along / 16.0, rel=1e-9)


def test_a_start_at_zero_or_on_the_wrong_side_is_not_captured():
    problem, svm, _, _ = captured(SHAPES[0], "NGD")
    cone = Cone.of(problem, svm)
    assert capture(cone, np.zeros((problem.d, problem.d)), 0.01) is None
    assert capture(cone, -50.0 * svm.W, 0.01) is None


def test_a_single_constraint_is_captured():
    problem = gaussian(1, 2, 6, seed=0)
    svm = solve_token_svm(problem)
    found = capture(Cone.of(problem, svm), 10.0 * svm.W, 1.0)
    assert found is not None
    assert found.settles


def test_rules_without_a_bound_are_refused():
    problem = gaussian(3, 3, 30, seed=0)
    svm = solve_token_svm(problem)
    run = train_with_moments(problem, HeavyBall(0.1, 0.9), 50)
    with pytest.raises(AssumptionError, match="its steps are not along the gradient"):
        first_capture(run, svm)


class Unknown:
    def effective_step(self, t, log_gradient_norm, log_loss_gap):
        return 0.1


def test_an_unknown_rule_needs_a_number():
    problem = gaussian(3, 3, 30, seed=0)
    svm = solve_token_svm(problem)
    with pytest.raises(AssumptionError, match="give the longest step as a number"):
        first_capture(train(problem, Unknown(), 50), svm)


def test_a_poor_solution_of_the_token_svm_is_refused():
    problem = gaussian(3, 3, 30, seed=0)
    svm = solve_token_svm(problem)
    rough = TokenSVM(svm.constraints, svm.duals, svm.margins * (1.0 - 1e-6))
    with pytest.raises(AssumptionError, match="capture needs 1e-11"):
        Cone.of(problem, rough)


def continuations(cone, W, h, steps=200):
    """The iterates from W under steps of random lengths up to h, gradient by gradient, from the problem's own weights."""
    problem, rng = cone.problem, np.random.default_rng(0)
    for _ in range(steps):
        sign, log_p, _ = log_gradient_weights(problem, problem.constraints.margins(W))
        G = problem.constraints.combine(sign * np.exp(log_p - log_p.max()))
        W = W + h * rng.choice([1.0, rng.random()]) * G / np.linalg.norm(G)
        yield W


def earliest(cone, h):
    """The first iterate on the ray c What + R_inf that is captured, c on a grid, with its certificate."""
    on, c = cone.active, cone.svm.constraints
    rest = rest_point(cone.svm, on, cone.log_slopes[on] + np.log(cone.gaps[on]))
    weights = np.zeros(len(c))
    weights[on] = rest.coefficients
    for along in cone.svm.norm * np.geomspace(1.0, 1e4, 120):
        W = along * cone.svm.W / cone.svm.norm + c.combine(weights)
        if found := capture(cone, W, h):
            return W, found
    raise AssertionError("no iterate on the ray was captured")


def with_copies(problem, share):
    """The problem with a copy of one token in each sequence, which scores lower than it by `share` of its gap."""
    i = np.arange(problem.n)
    t = np.argmin(problem.scores, axis=1)
    gap = problem.optimal_scores - problem.scores[i, t]
    scores = np.column_stack([problem.scores, problem.scores[i, t] - share * gap])
    tokens = np.concatenate([problem.tokens, problem.tokens[i, t][:, None]], axis=1)
    values = (problem.labels[:, None] * scores)[:, :, None]
    return TokenProblem(tokens, problem.labels, np.ones(1), problem.queries, values=values)


@pytest.mark.parametrize("seed", range(4))
def test_dependent_active_constraints_are_captured_around_the_minimiser_of_psi(seed):
    problem = with_copies(gaussian(3, 3, 30, seed=seed, scores="gaussian"), 0.7)
    svm = solve_token_svm(problem)
    with pytest.raises(AssumptionError):
        residual_limit(problem, svm)  # the duals are not unique
    cone = Cone.of(problem, svm)
    W, found = earliest(cone, 0.3 * svm.norm)
    S = 0.0
    for later in continuations(cone, W, 0.3 * svm.norm):
        S += np.linalg.norm(later - W)
        W = later
        assert np.linalg.norm(W / np.linalg.norm(W) - svm.W / svm.norm) <= found.direction_bound(S)


@pytest.mark.parametrize("seed", range(5))
def test_the_rest_point_is_the_residual_limit_where_the_duals_are_unique(seed):
    problem = gaussian(3, 3, 12, seed=seed, scores="gaussian")
    svm = solve_token_svm(problem)
    on = svm.support
    rest = rest_point(svm, on, log_limit_weights(problem)[on])
    assert rest.coefficients == pytest.approx(residual_limit(problem, svm)[on], rel=1e-9, abs=1e-9)
    assert rest.shares == pytest.approx((svm.duals * svm.margin**2)[on], rel=1e-9)
    assert rest.log_alpha == pytest.approx(log_alpha(problem, svm))
    assert rest.stiffness == pytest.approx(svm.margin * np.sqrt(curvatures(svm)[0]))
    assert rest.size == pytest.approx(e_active(problem, svm))


def test_a_run_with_dependent_constraints_tends_to_the_rest_point():
    problem = with_copies(gaussian(3, 3, 30, seed=1, scores="gaussian"), 0.7)
    svm = solve_token_svm(problem)
    cone = Cone.of(problem, svm)
    run = train(problem, NormalizedGD(0.5), 20000, record=[20000])
    assert residual_norm(run, svm)[-1] == pytest.approx(cone.size, rel=1e-6)
    assert first_capture(run, svm).settles


def test_without_a_positive_dual_there_is_no_rest():
    """Of (1, 0) and (1, 1) the second has margin one at W_mm = (1, 0), and no weight: Psi falls along -(0, 1) for ever."""
    constraints = Constraints.of_vectors([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    svm = solve_constraints(constraints)
    with pytest.raises(AssumptionError, match="no dual of W_mm is positive"):
        rest_point(svm, np.array([True, True]), np.zeros(2))


@pytest.mark.parametrize("seed", [4, 9, 13, 15])
def test_a_run_that_settles_on_other_tokens_is_captured_around_their_own_svm(seed):
    problem = gaussian(4, 4, 6, seed=seed, scores="gaussian")
    W0 = random_start(problem, 6.0, np.random.default_rng([seed]))
    run = train(problem, NormalizedGD(0.3), 3000, W0, record=np.unique(np.geomspace(1, 3000, 25).astype(int)))
    assert not selects(run)
    svm = settled_svm(run)
    assert (svm.constraints.selection != problem.optimal).any()
    assert is_locally_optimal(problem, svm)
    found = first_capture(run, svm)
    assert found is not None
    late = run.iterations >= found.iteration
    S = run.path_length[late] - run.path_length[late][0]
    assert (direction_error(run, svm)[late] <= found.direction_bound(S)).all()


def test_a_choice_that_is_not_locally_optimal_is_refused():
    problem = gaussian(2, 3, 20, seed=0, scores="gaussian")
    worst = np.argmin(problem.scores, axis=1)
    with pytest.raises(AssumptionError, match="scores no lower than the selected one"):
        Cone.of(problem, solve_token_svm(problem, worst))


def test_a_better_token_whose_constraint_is_inactive_may_push_back_and_is_reckoned_with():
    tokens = np.array([[[1.0, 0.0], [0.0, 0.0], [-2.0, 0.3]]])
    problem = TokenProblem(tokens, [1.0], [1.0], np.array([[1.0, 0.0]]), values=[[[1.0], [0.0], [2.0]]])
    svm = solve_token_svm(problem, [0])
    assert svm.margins == pytest.approx([1.0, 3.0])
    cone = Cone.of(problem, svm)
    assert capture(cone, 0.1 * svm.W, 0.01) is None
    W, _ = earliest(cone, 0.1)
    before = np.vdot(W, svm.W)
    for later in continuations(cone, W, 0.1):
        assert np.vdot(later, svm.W) > before
        before = np.vdot(later, svm.W)
    near = 0.05 * svm.W
    drop = next(continuations(cone, near, 0.1, steps=1))
    assert np.vdot(drop, svm.W) < np.vdot(near, svm.W)  # where it is not captured the better token wins


def test_polyak_without_a_cap_is_not_captured_off_the_optimal_tokens():
    tokens = np.array([[[1.0, 0.0], [0.0, 0.0], [-2.0, 0.3]]])
    problem = TokenProblem(tokens, [1.0], [1.0], np.array([[1.0, 0.0]]), values=[[[1.0], [0.0], [2.0]]])
    svm = solve_token_svm(problem, [0])
    cone = Cone.of(problem, svm)
    assert capture(cone, 100.0 * svm.W, Polyak(0.5)) is None
    assert capture(cone, 100.0 * svm.W, Polyak(0.5, cap=1.0)) is not None


def test_what_is_not_known_of_the_direction_counts():
    problem, svm, run, found = captured(SHAPES[0], "NGD")
    k = int(np.flatnonzero(run.iterations == found.iteration)[0])
    cone = Cone.of(problem, svm)
    rough = replace(cone, blur=0.1)
    assert capture(rough, run.W(k), run.step) is None
    assert cone.blur < 1e-13


def test_without_a_certain_pull_the_third_inequality_is_not_enough():
    """Where tau = 0 and all constraints are active it reads 0 >= 0; the weights still move the residual off the rest point."""
    problem = gaussian(3, 3, 30, seed=0, scores="gaussian")
    svm = solve_token_svm(problem)
    cone = Cone.of(problem, svm)
    assert cone.active.all()
    centre = problem.constraints.combine(residual_limit(problem, svm))
    W = 4.0 * svm.W + centre
    shell, h = 1e-6, 1e-3
    found = capture(cone, W, h)
    assert found is None or found.radius > 2.0 * (shell + h)
    far = max(np.linalg.norm(split(problem, svm, later)[1]) for later in continuations(cone, W, h, steps=1000))
    assert far > shell + h
