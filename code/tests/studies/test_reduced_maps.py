"""Random reduced maps: what they are made of, where they rest, and that they are the motion of the residual."""

import numpy as np
import pytest
from tokenmargin.data.synthetic import gaussian
from tokenmargin.margin.token_svm import solve_token_svm
from tokenmargin.studies.reduced_maps import ReducedMap, orthogonal_map, random_map, random_point
from tokenmargin.theory.residual import SHARE, residual_limit, stability_threshold


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


@pytest.mark.parametrize("seed", range(5))
def test_orthogonal_maps_rest_under_the_proved_step(seed):
    rng = np.random.default_rng(seed)
    reduced = orthogonal_map(rng, 6)
    lengths = reduced.margin / np.sqrt(reduced.weights)
    assert reduced.margin == pytest.approx(1.0 / np.sqrt((1.0 / lengths**2).sum()))
    across = np.diag(lengths**2) - reduced.margin**2  # <V_k, V_l> less the parts along W_mm
    assert np.abs(reduced.gram - across).max() < 1e-9 * across.max()
    assert reduced.threshold == pytest.approx(2.0 / reduced.margin, rel=1e-6)
    assert reduced.steps_to_rest(SHARE * reduced.threshold, random_point(rng, reduced), 200_000) > 0


def _rises(z, p, m):
    """Change of E[z + m log z] in one step z -> y = z e^{r - z} with E y^2 = m^2 = E z^2, and r; by rows."""
    low = z.min(axis=1, keepdims=True)
    r = low[:, 0] - 0.5 * np.log((p * (z * np.exp(low - z)) ** 2).sum(axis=1) / m**2)
    y = z * np.exp(r[:, None] - z)
    return (p * (y - z)).sum(axis=1) + m * (r - (p * z).sum(axis=1))


@pytest.mark.parametrize("m", [0.3, 1.0, 1.7, 2.0 * SHARE])
def test_the_height_of_orthogonal_constraints_rises(m):
    """The orthogonal theorem's Lyapunov function, constant steps; at rest alone it does not rise."""
    rng = np.random.default_rng(0)
    for spread in (0.1, 0.5, 2.0):
        p = rng.dirichlet(np.full(4, 0.7), size=5000) + 1e-9
        p /= p.sum(axis=1, keepdims=True)
        z = np.exp(spread * rng.standard_normal(p.shape))
        z *= m / np.sqrt((p * z**2).sum(axis=1, keepdims=True))
        far = (p * np.log(z / m) ** 2).sum(axis=1)
        assert (_rises(z, p, m) > 1e-6 * far - 1e-14).all()
    assert abs(_rises(np.full((1, 4), m), p[:1], m)[0]) < 1e-14


def test_beyond_its_range_the_height_can_fall():
    z, p = np.array([[1.9596, 2.4979]]), np.array([[0.9665, 0.0335]])
    m = np.sqrt((p * z**2).sum())
    assert 2.0 * SHARE < m < 2.0
    assert _rises(z, p, m)[0] < -4e-5
