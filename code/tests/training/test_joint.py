"""Joint training against the equations as they stand, its log-scale arithmetic, and the law of its loss."""

import numpy as np
import pytest
from scipy.special import softmax
from tokenmargin.data.sequences import Sequences
from tokenmargin.data.synthetic import signal_plus_noise
from tokenmargin.errors import InvalidProblemError
from tokenmargin.training.joint import train_joint


def sequences(n=4, T=3, d=7, seed=0, noise=1.0):
    return signal_plus_noise(n, T, d, seed=seed, noise=noise)


def reference(X, y, Z, steps, eta0, decay, full, loss):
    """The steps in matrix form and plain float64."""
    W, u = np.zeros((X.shape[2],) * 2), np.zeros(X.shape[2])
    for t in range(steps):
        s = softmax(np.einsum("itd,de,ie->it", X, W, Z), axis=1)
        mean = np.einsum("it,itd->id", s, X)
        m = y * (mean @ u)
        slope = (np.exp(-m) if loss == "exponential" else 1 / (1 + np.exp(m))) / len(y)
        g_u = (slope * y) @ mean
        score = y[:, None] * (X @ u)
        force = slope[:, None] * s * (score - (s * score).sum(axis=1, keepdims=True))
        g_W = np.einsum("it,itd,ie->de", force, X, Z)
        a, b = np.linalg.norm(g_u), np.linalg.norm(g_W)
        a, b = (np.hypot(a, b),) * 2 if full else (a, b)
        h = eta0 * (t + 1) ** -decay
        u = u + h * g_u / a
        W = W + (h * g_W / b if b > 0 else 0.0)
    return W, u


@pytest.mark.parametrize("normalizer", ["separate", "full"])
@pytest.mark.parametrize("loss", ["exponential", "logistic"])
@pytest.mark.parametrize("decay", [0.0, 2 / 3])
def test_joint_steps_agree_with_the_equations(normalizer, loss, decay):
    data = sequences()
    run = train_joint(data, 25, eta0=0.3, decay=decay, normalizer=normalizer, loss=loss)
    W, u = reference(data.tokens, data.labels, data.queries[:, 0], 25, 0.3, decay, normalizer == "full", loss)
    np.testing.assert_allclose(run.W(), W, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(run.u(), u, rtol=1e-9, atol=1e-11)
    assert run.norm_W[-1] == pytest.approx(np.linalg.norm(W), rel=1e-9)
    assert run.norm_u[-1] == pytest.approx(np.linalg.norm(u), rel=1e-9)
    m = run.attention[-1] * run.scores[-1]
    value = np.exp(-m.sum(axis=1)) if loss == "exponential" else np.logaddexp(0.0, -m.sum(axis=1))
    assert run.log_loss[-1] == pytest.approx(np.log(value.mean()), rel=1e-9)


def test_the_lengths_of_the_steps_are_the_prescribed_ones():
    run = train_joint(sequences(), 50, eta0=0.4, decay=0.5, record=np.arange(51))
    u = np.array([run.u(k) for k in range(51)])
    lengths = np.linalg.norm(np.diff(u, axis=0), axis=1)
    np.testing.assert_allclose(lengths, 0.4 * np.arange(1, 51) ** -0.5, rtol=1e-9)
    assert np.linalg.norm(run.W(1)) == 0.0  # the gradient of W vanishes at u = 0


def test_the_run_continues_where_loss_and_attention_underflow():
    data = sequences(n=6, T=4, d=30)
    run = train_joint(data, 4000, eta0=1.0, decay=0.0, record=np.array([3000, 3999, 4000]))
    assert run.log_loss[-1] < -2000.0
    assert run.log_attention[-1].min() < -800.0
    assert np.linalg.norm(run.W(-1) - run.W(-2)) == pytest.approx(1.0, rel=1e-6)
    assert np.linalg.norm(run.u(-1) - run.u(-2)) == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("decay", [1 / 2, 2 / 3])
def test_the_loss_over_the_path_length_tends_to_the_margin_of_the_selected_tokens(decay):
    """The law of the joint-training chapter, part (ii); part (i) along the way."""
    data = signal_plus_noise(6, 4, 30, seed=1, noise=1.0)
    run = train_joint(data, 30_000, eta0=0.5, decay=decay)
    path = np.cumsum(0.5 * np.arange(1, 30_001) ** -decay)[run.iterations[1:] - 1]
    assert (-run.log_loss[1:] <= np.linalg.norm(data.tokens, axis=2).max() * path + 1e-9).all()
    assert (run.log_attention[-1].argmax(axis=1) == data.optimal).all()
    signal = data.labels[:, None] * data.tokens[np.arange(6), data.optimal]
    duals = np.linalg.solve(signal @ signal.T, np.ones(6))
    assert duals.min() > 0.0  # all tokens support the separator, so this is its closed form
    assert -run.log_loss[-1] / path[-1] == pytest.approx(1 / np.sqrt(duals.sum()), rel=0.01)


def test_padding_changes_nothing():
    data = sequences()
    X, y, Z = data.tokens, data.labels, data.queries
    padded = np.concatenate([X, np.full((4, 2, 7), 9.0)], axis=1)
    mask = np.ones((4, 5), dtype=bool)
    mask[:, 3:] = False
    plain, masked = train_joint(data, 40), train_joint(Sequences(padded, y, Z, mask), 40)
    np.testing.assert_allclose(plain.W(), masked.W(), atol=1e-12)
    np.testing.assert_allclose(plain.log_loss, masked.log_loss, atol=1e-12)
    assert np.isneginf(masked.log_attention[..., 3:]).all()


def test_bad_arguments_are_named():
    data = sequences()
    with pytest.raises(ValueError, match="must be 'separate' or 'full'"):
        train_joint(data, 3, normalizer="none")
    with pytest.raises(ValueError, match="must be 'logistic' or 'exponential'"):
        train_joint(data, 3, loss="square")
    with pytest.raises(InvalidProblemError, match=r"have 3 queries each; .* pass sequences.mean_query"):
        train_joint(data.self_attention(), 3)
    with pytest.raises(InvalidProblemError, match="steps is -1"):
        train_joint(data, -1)


def test_the_paths_are_those_of_the_steps():
    """Separate: each walks eta_t a step (W after its first, which is zero). Full: the two lengths make eta_t together."""
    h = 0.4 * np.arange(1, 41) ** -0.5
    separate, full = (
        train_joint(sequences(), 40, eta0=0.4, decay=0.5, normalizer=name, record=np.arange(41))
        for name in ("separate", "full")
    )
    np.testing.assert_allclose(np.diff(separate.path_u), h, rtol=1e-9)
    np.testing.assert_allclose(np.diff(separate.path_W), np.where(np.arange(40) == 0, 0.0, h), rtol=1e-9)
    np.testing.assert_allclose(np.hypot(np.diff(full.path_u), np.diff(full.path_W)), h, rtol=1e-9)


def test_off_attention_is_one_minus_attention_and_goes_on_where_that_rounds_to_zero():
    run = train_joint(sequences(n=6, T=4, d=30), 4000, eta0=1.0, decay=0.0, record=np.array([3, 4000]))
    selection = run.log_attention[-1].argmax(axis=1)
    early = 1.0 - run.attention[1][np.arange(6), selection]
    np.testing.assert_allclose(np.exp(run.log_off_attention(selection)[1]), early, rtol=1e-12)
    assert run.log_off_attention(selection)[-1].max() < -100.0
