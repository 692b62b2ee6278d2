"""Compile the engine once, into numba's cache: `python -m tokenmargin.warmup`."""

import numpy as np

from .data.synthetic import orthogonal
from .model.losses import Loss
from .training.ends import end_margins
from .training.moments import HeavyBall, train_with_moments
from .training.rules import NormalizedGD
from .training.train import train


def main() -> None:
    """Run two steps in each compiled form, from many starts, and with momentum."""
    losses: tuple[Loss, ...] = ("logistic", "exponential")
    for loss in losses:
        for form in ("gram", "matrix"):
            train(orthogonal(2, 2, 4, seed=0), NormalizedGD(0.1), 2, loss=loss, form=form)
    end_margins(orthogonal(2, 2, 4, seed=0), NormalizedGD(0.1), [2], np.zeros((1, 4, 4)))
    train_with_moments(orthogonal(2, 2, 4, seed=0), HeavyBall(0.1), 2)


if __name__ == "__main__":
    main()
