"""Images with the attention that is paid to their patches laid over them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from tokenmargin.data.images import on_pixels, pictures

from companion.chapter.figures import PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from tokenmargin.data.problem import TokenProblem
    from tokenmargin.training.trajectory import Trajectory


def veil(colour: str) -> LinearSegmentedColormap:
    """A colour map from clear to the colour, nearly opaque."""
    return LinearSegmentedColormap.from_list(colour, [(colour, 0.0), (colour, 0.85)])


GLOW, WEIGHT = veil(PALETTE[1]), veil("#542788")


def draw_image(
    ax: Axes, problem: TokenProblem, i: int, values: NDArray[np.float64] | None = None, veil: str | None = None
) -> AxesImage:
    """Image i of a problem with its optimal patch framed in blue, under a veil as dense as the values of its patches.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
    problem : TokenProblem
        Of images, see `tokenmargin.data.images`.
    i : int
    values : array, shape (T,), optional
        In [0, 1].
    veil : {"attention", "weight"}, optional
        Orange or purple; default orange.

    Returns
    -------
    matplotlib.image.AxesImage
        The veil, or the image where there is none.
    """
    picture = pictures(problem)[i]
    size, grid = len(picture), math.isqrt(problem.T)
    shade = ax.imshow(picture, cmap="gray_r", vmin=0.0, vmax=1.0 if values is None else 1.8)
    if values is not None:
        colours = WEIGHT if veil == "weight" else GLOW
        shade = ax.imshow(on_pixels(values, size), cmap=colours, vmin=0.0, vmax=1.0)
    y, x = divmod(int(problem.optimal[i]), grid)
    side = size // grid
    ax.add_patch(
        Rectangle((side * x - 0.5, side * y - 0.5), side, side, fill=False, lw=2, color=PALETTE[0], clip_on=False)
    )
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
    ax.spines[:].set(visible=True, color="#bbbbbb", linewidth=0.6)
    return shade


def pick(run: Trajectory) -> list[int]:
    """Two images of each class: one that ends on its optimal patch, and one that does not, if any."""
    order = np.argsort(run.selection[:, 0] != run.problem.optimal, kind="stable")
    label = run.problem.labels[order]
    return [int(order[label == y][end]) for y in (-1.0, 1.0) if (label == y).any() for end in (0, -1)]


def attention_maps(of_pair: Mapping[str, Trajectory], times: Sequence[int]) -> Figure:
    """Four images of each of two problems, a column each, and the attention at the given steps, a row each."""
    fig = plt.figure(figsize=(8.2, 1.0 + 0.86 * (1 + len(times))))
    axes = fig.subplots(1 + len(times), 9, width_ratios=[1, 1, 1, 1, 0.25, 1, 1, 1, 1])
    for half, (pair, run) in enumerate(of_pair.items()):
        records = [int(np.searchsorted(run.iterations, time)) for time in times]
        for column, i in enumerate(pick(run)):
            draw_image(axes[0, 5 * half + column], run.problem, i)
            for row, k in enumerate(records, 1):
                shade = draw_image(axes[row, 5 * half + column], run.problem, i, run.attention[k, i, 0])
        axes[0, 5 * half].set_title(pair, loc="left")
    for ax in axes.flat:
        if not ax.images:
            ax.set_axis_off()
    for ax, name in zip(axes[:, 0], ["image", *(f"t = {time}" for time in times)], strict=True):
        ax.set_ylabel(name)
    fig.colorbar(shade, ax=axes[1:], label="attention", shrink=0.7)
    return fig
