"""Compile the engine once, into numba's cache: `python -m tokenmargin.warmup`."""

from .attention import Loss
from .datasets import orthogonal
from .dynamics import train
from .steps import NormalizedGD


def main() -> None:
    """Run two steps in each compiled form."""
    losses: tuple[Loss, ...] = ("logistic", "exponential")
    for loss in losses:
        for form in ("gram", "matrix"):
            train(orthogonal(2, 2, 4, seed=0), NormalizedGD(0.1), 2, loss=loss, form=form)


if __name__ == "__main__":
    main()
