"""Compile the engine once, into numba's cache: `python -m tokenmargin.warmup`."""

from .data.synthetic import orthogonal
from .model.losses import Loss
from .training.moments import HeavyBall, train_with_moments
from .training.rules import NormalizedGD
from .training.train import train


def main() -> None:
    """Run two steps in each compiled form, and with momentum."""
    losses: tuple[Loss, ...] = ("logistic", "exponential")
    for loss in losses:
        for form in ("gram", "matrix"):
            train(orthogonal(2, 2, 4, seed=0), NormalizedGD(0.1), 2, loss=loss, form=form)
    train_with_moments(orthogonal(2, 2, 4, seed=0), HeavyBall(0.1), 2)


if __name__ == "__main__":
    main()
