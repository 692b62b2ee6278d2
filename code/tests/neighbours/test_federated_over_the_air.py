"""The stable laws, the laws of the adaptive steps, the floors, the clients' gradients, and attention over the air."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import null_space
from tokenmargin.data import synthetic
from tokenmargin.model.attention import gradient
from tokenmargin.neighbours import federated_over_the_air as air

ALPHAS = np.array([1.2, 1.5, 2.0])


def test_interference_has_its_characteristic_function():
    xi = air.interference(ALPHAS, (200_000,), np.random.default_rng(0))
    for a, alpha in enumerate(ALPHAS):
        for s in (0.5, 1.0, 2.0):
            assert np.cos(s * xi[:, a]).mean() == pytest.approx(np.exp(-(s**alpha)), abs=0.01)
            assert np.sin(s * xi[:, a]).mean() == pytest.approx(0.0, abs=0.01)


def test_gaussian_interference_and_its_median():
    xi = air.interference([2.0], (100_000,), np.random.default_rng(1))
    assert xi.var() == pytest.approx(2.0, rel=0.03)
    assert air.median_size(2.0) == pytest.approx(np.sqrt(2.0) * 0.6744897501960817, rel=1e-6)


def test_columns_of_interference_are_paired():
    xi = air.interference([1.5, 1.500001], (1000,), np.random.default_rng(2))
    np.testing.assert_allclose(xi[:, 0], xi[:, 1], rtol=1e-3)
    again = air.interference([1.5], (1000,), np.random.default_rng(2))
    np.testing.assert_array_equal(again[:, 0], xi[:, 0])


def test_fading_is_positive_of_mean_one_with_the_variance_of_rayleigh():
    h = air.fading((200_000,), np.random.default_rng(3))
    assert h.min() > 0.0
    assert h.mean() == pytest.approx(1.0, abs=0.005)
    assert h.var() == pytest.approx(4.0 / np.pi - 1.0, rel=0.02)


def test_steps_of_each_server_by_hand():
    D = np.array([[3.0, -1.0], [-4.0, 2.0]])
    np.testing.assert_allclose(air.steps_taken(air.Server("plain", 0.1), D), 0.1 * D)
    np.testing.assert_allclose(air.steps_taken(air.Server("plain", 1.0, decay=1.0), D), D / np.array([[1.0], [2.0]]))
    np.testing.assert_allclose(air.steps_taken(air.Server("normalised", 2.0), D), 2.0 * D / np.sqrt([[10.0], [20.0]]))
    np.testing.assert_allclose(
        air.steps_taken(air.Server("adagrad", 1.0, 2.0), D), [[1.0, -1.0], [-0.8, 2.0 / np.sqrt(5.0)]]
    )
    adam = air.steps_taken(air.Server("adam", 1.0, 1.0, beta2=0.75), D)
    np.testing.assert_allclose(adam, [[4.0, -4.0], [-4.0 / 1.5625, 2.0 / 0.6875]])
    np.testing.assert_allclose(air.steps_taken(air.Server("adagrad", 1.0, 1.0, eps=1.0), D)[0], [0.75, -0.5])


def test_an_entry_without_any_force_rests():
    for rule in ("normalised", "adagrad", "adam"):
        np.testing.assert_array_equal(air.steps_taken(air.Server(rule, 1.0, 1.5), np.zeros((3, 2))), 0.0)


@given(unit=st.floats(1e-6, 1e6), alpha=st.floats(1.0, 2.0))
def test_adaptive_steps_have_no_unit(unit, alpha):
    D = np.random.default_rng(4).standard_normal((20, 3))
    for rule in ("adagrad", "adam"):
        server = air.Server(rule, 0.3, alpha)
        np.testing.assert_allclose(air.steps_taken(server, unit * D), air.steps_taken(server, D), rtol=1e-9)


@pytest.mark.parametrize("law", ["cauchy", "exponential", "pareto"])
def test_adagrad_steps_have_mean_power_one_over_t_for_any_law(law):
    rng, alpha = np.random.default_rng(5), 1.3
    D = {
        "cauchy": lambda: rng.standard_cauchy((8, 40_000)),
        "exponential": lambda: rng.standard_exponential((8, 40_000)),
        "pareto": lambda: rng.pareto(0.3, (8, 40_000)),
    }[law]()
    powers = (np.abs(air.steps_taken(air.Server("adagrad", 1.0, alpha), D)) ** alpha).mean(axis=1)
    np.testing.assert_allclose(powers, 1.0 / np.arange(1, 9), atol=0.01)


def test_adagrad_walk_is_bounded_by_the_harmonic_sum_path_by_path_of_sizes():
    # Given the sizes, E|sum of signed steps|^alpha over all signs is at most sum |step|^alpha; equal for alpha = 2.
    sizes = np.abs(np.random.default_rng(6).standard_cauchy(6))
    signs = np.array(np.meshgrid(*[[-1.0, 1.0]] * 6)).reshape(6, -1)
    for alpha in (1.0, 1.5, 2.0):
        steps = air.steps_taken(air.Server("adagrad", 1.0, alpha), signs * sizes[:, None])
        mean, total = (np.abs(steps.sum(axis=0)) ** alpha).mean(), (np.abs(steps[:, 0]) ** alpha).sum()
        assert mean <= total * (1.0 + 1e-12)
        if alpha == 2.0:
            assert mean == pytest.approx(total)
    np.testing.assert_allclose(air.harmonic(3), [1.0, 1.5, 11.0 / 6.0])


@pytest.mark.parametrize("alpha", [1.2, 2.0])
def test_adam_steps_at_rest_obey_their_identity(alpha):
    xi, beta2 = air.interference([alpha], (900, 400), np.random.default_rng(7))[..., 0], 0.95
    steps = air.steps_taken(air.Server("adam", 1.0, alpha, beta2=beta2), xi)[300:]
    shares = (1.0 - beta2) * np.abs(steps) ** alpha
    assert np.log1p(-shares).mean() == pytest.approx(np.log(beta2), rel=0.03)


@pytest.mark.parametrize("alpha", [1.3, 2.0])
def test_plain_walk_and_sample_mean_have_the_stable_law(alpha):
    xi = air.interference([alpha], (16, 40_000), np.random.default_rng(8))[..., 0]
    walk = air.steps_taken(air.Server("plain", 1.0), xi).sum(axis=0)
    assert np.median(np.abs(walk)) == pytest.approx(air.median_size(alpha) * air.walk_scale(16, alpha), rel=0.03)
    w = air.descend_quadratic(air.Server("plain", 1.0, decay=1.0), xi, start=7.0)[-1]
    np.testing.assert_allclose(w, -xi.mean(axis=0), rtol=1e-9, atol=1e-12)


def test_plain_floor_is_the_sum_of_its_geometric_series_and_scales_as_told():
    for alpha in ALPHAS:
        series = 0.2 * ((1.0 - 0.2) ** (alpha * np.arange(400.0))).sum() ** (1.0 / alpha)
        assert air.floor_scale(0.2, alpha) == pytest.approx(series, rel=1e-10)
        small = air.floor_scale(1e-6, alpha, curvature=2.0)
        assert small == pytest.approx(1e-6 ** (1.0 - 1.0 / alpha) / (2.0 * alpha) ** (1.0 / alpha), rel=1e-5)
    assert air.floor_scale(1.0, 1.4) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="between 0 and 2"):
        air.floor_scale([0.1, 2.0], 1.5)


def test_quadratic_without_noise_is_a_geometric_sequence():
    w = air.descend_quadratic(air.Server("plain", 0.25), np.zeros((4, 2)), start=2.0)
    np.testing.assert_allclose(w[:, 0], 2.0 * 0.75 ** np.arange(5))


def test_federations_without_noise_descend_by_the_gradient_of_their_loss():
    rng = np.random.default_rng(9)
    S = air.federations(2, 3, 4, 5, rng)
    rows = S.reshape(2, 12, 5)
    server = air.Server("adagrad", 0.1, np.array([2.0]))
    found = air.train_federations(S, [server], [2.0], 0.0, 1, rng)
    for r in range(2):

        def loss(w, X=rows[r]):
            return np.logaddexp(0.0, -X @ w).mean()

        slope = [(loss(1e-6 * e) - loss(-1e-6 * e)) / 2e-6 for e in np.eye(5)]
        assert found[0, r, 0, 0] == pytest.approx(np.square(slope).sum(), rel=1e-6)


def test_federations_without_interference_decrease_and_repeat():
    S = air.federations(2, 4, 5, 3, np.random.default_rng(10))
    servers = [air.Server("plain", 0.3), air.Server("adam", 0.01, np.array([1.5, 2.0]))]
    first = air.train_federations(S, servers, [1.5, 2.0], 0.0, 300, np.random.default_rng(11))
    again = air.train_federations(S, servers, [1.5, 2.0], 0.0, 300, np.random.default_rng(11))
    np.testing.assert_array_equal(first, again)
    assert (first[-50:].mean(axis=0) < 0.1 * first[0]).all()
    np.testing.assert_array_equal(first[:, :, 0, 0], first[:, :, 0, 1])


def test_separable_data_are_told_from_others():
    S = np.array([[1.0, 0.1], [1.0, -0.2]])
    assert air.is_separable(S)
    assert not air.is_separable(np.vstack([S, [[-1.0, 0.0]]]))


def test_slopes_of_a_power_are_its_exponent():
    t = np.arange(1.0, 1001.0)
    averages = np.stack([t**-0.5, 3.0 / t], axis=1)
    np.testing.assert_allclose(air.slopes_of(averages, (10, 1000)), [-0.5, -1.0], atol=1e-12)


def test_forces_on_attention_are_the_gradient():
    problem = synthetic.gaussian(3, 4, 6, seed=0)
    V = air.constraint_rows(problem)
    W = 5.0 * np.random.default_rng(12).standard_normal((6, 6))
    p = air.force_weights(V @ W.ravel())
    np.testing.assert_allclose(np.einsum("nk,nkd->d", p, V), -gradient(problem, W).ravel(), rtol=1e-9, atol=1e-14)


def test_forces_are_exact_far_out():
    p = air.force_weights(np.array([[600.0, 650.0], [-600.0, 3.0]]))
    assert p[0, 0] == pytest.approx(np.exp(-600.0) / (1.0 + np.e) / 2.0)
    assert np.isfinite(p).all()


def test_attention_without_a_channel_is_gradient_descent_and_needs_its_scores():
    problem = synthetic.gaussian(3, 3, 5, seed=1)
    W = np.zeros((5, 5))
    for _ in range(4):
        W -= 2.0 * gradient(problem, W)
    plain = [air.Server("plain", 2.0)]
    path = air.train_attention([problem], plain, [2.0], [0.0], [0, 4], np.random.default_rng(0), faded=False)
    np.testing.assert_array_equal(path[0], 0.0)
    np.testing.assert_allclose(path[1, 0, 0, 0], W.ravel(), rtol=1e-9, atol=1e-13)
    with pytest.raises(ValueError, match="one token of score 1"):
        air.constraint_rows(synthetic.gaussian(3, 3, 5, seed=1, scores="gaussian"))


def test_where_no_gradient_is_interference_alone_moves_attention():
    problem = synthetic.gaussian(2, 3, 5, seed=2)
    E = null_space(air.constraint_rows(problem).reshape(-1, 25))
    rng = np.random.default_rng(13)
    W = air.train_attention([problem], [air.Server("plain", 2.0)], [2.0, 1.5], [0.0, 0.1], [3], rng)[0, 0, 0]
    xi = air.interference([2.0, 1.5], (4, 1, 25), np.random.default_rng(13))[:3, 0]
    np.testing.assert_allclose(W[0] @ E, 0.0, atol=1e-12)
    np.testing.assert_allclose(W[1] @ E, -0.2 * xi[..., 1].sum(axis=0) @ E, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: air.Server("sgd", 0.1), "must be 'plain'"),
        (lambda: air.Server("plain", 0.0), "eta > 0"),
        (lambda: air.Server("adam", 0.1, beta2=1.0), "beta2 < 1"),
        (lambda: air.Server("plain", float("nan")), "eta > 0"),
        (lambda: air.Server("adagrad", 0.1, np.array([1.5, 2.5])), r"in \[1, 2\]"),
        (lambda: air.interference([1.0], (2,), np.random.default_rng(0)), "above 1"),
        (lambda: air.interference([np.nan], (2,), np.random.default_rng(0)), "above 1"),
    ],
)
def test_bad_input_is_an_error_that_says_what_is_needed(build, message):
    with pytest.raises(ValueError, match=message):
        build()
