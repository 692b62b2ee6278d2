"""Random reduced maps: what they are made of, where they rest, and that they are the motion of the residual."""

import numpy as np
import pytest
from tokenmargin.data.synthetic import gaussian
from tokenmargin.margin.token_svm import solve_token_svm
from tokenmargin.studies.reduced_maps import ReducedMap, random_map, random_point
from tokenmargin.theory.residual import residual_limit, stability_threshold


@pytest.mark.parametrize("seed", range(5))
def test_a_random_map_belongs_to_some_constraints(seed):
    rng = np.random.default_rng(seed)
    reduced = random_map(rng, 5)
    p, C = reduced.weights, reduced.gram
    assert p.sum() == pytest.approx(1.0)
    assert (p > 0.0).all()
    size = np.sqrt(np.outer(C.diagonal(), C.diagonal()))
    assert np.abs(C @ p).max() < 1e-10 * size.max()
    root = np.sqrt(p)
    modes = np.linalg.eigvalsh(root[:, None] * C * root)
    assert abs(modes[0]) < 1e-10
    assert modes[1] >= 0.02 * (1.0 - 1e-9)
    assert modes[-1] == pytest.approx(1.0)
    assert reduced.threshold == pytest.approx(2.0 * reduced.margin)
    assert abs(p @ random_point(rng, reduced)) < 1e-12


def test_the_map_of_real_constraints_has_their_threshold_and_rests_at_once_at_its_rest_point():
    problem = gaussian(3, 3, 30, seed=1)
    svm = solve_token_svm(problem)
    across = problem.constraints.gram - svm.margin**2
    reduced = ReducedMap(svm.duals / svm.duals.sum(), across, svm.margin)
    assert reduced.threshold == pytest.approx(stability_threshold(svm), rel=1e-9)
    assert reduced.steps_to_rest(1.0, np.zeros(len(across)), 10) == 0
    start = -(across @ residual_limit(problem, svm))  # R = 0
    assert reduced.steps_to_rest(0.9 * reduced.threshold, start, 5000) > 10


def test_two_equal_weights_follow_the_closed_form():
    """r <- r - h sinh x/sqrt(cosh 2x), x = s r/sqrt 2 (edge theorem's pair): below the edge it rests, beyond it does not."""
    s2 = 2.0
    C = s2 / 2.0 * np.array([[1.0, -1.0], [-1.0, 1.0]])
    pair = ReducedMap(np.array([0.5, 0.5]), C, np.sqrt(s2 / 2.0))
    assert pair.threshold == pytest.approx(2.0 * np.sqrt(2.0 / s2))
    start = np.array([1.3, -1.3])
    assert pair.steps_to_rest(0.99 * pair.threshold, start, 5000) > 0
    assert pair.steps_to_rest(1.01 * pair.threshold, start, 5000) == -1
