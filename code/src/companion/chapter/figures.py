"""One look for every figure of the book."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from cycler import cycler
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

# Okabe and Ito's palette, told apart by all readers; each step rule keeps its colour, dash and marker throughout.
PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
COLOURS = {
    "GD": "#555555",
    "NGD": "#0072B2",
    "NGD/sqrt": "#56B4E9",
    "Polyak": "#D55E00",
    "bound": "#000000",
    "theory": "#009E73",
}
DASHES = {
    "GD": (0, (3, 1.5)),
    "NGD": "-",
    "NGD/sqrt": (0, (5, 1)),
    "Polyak": (0, (5, 1, 1, 1)),
    "bound": "--",
    "theory": ":",
}
MARKERS = {"GD": "s", "NGD": "o", "NGD/sqrt": "^", "Polyak": "D", "bound": "", "theory": ""}

STYLE: dict[str, Any] = {
    "figure.figsize": (7, 4),
    "figure.constrained_layout.use": True,
    "font.size": 10.5,
    "axes.titlesize": 11,
    "axes.labelsize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.prop_cycle": cycler(color=PALETTE),
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "figure.facecolor": "white",
    "svg.hashsalt": "companion",
    "svg.fonttype": "path",
}


def use_style() -> None:
    """Set the book's figure style; call it once, in the first code cell."""
    import matplotlib as mpl
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    set_matplotlib_formats("svg", "pdf")
    for name, value in STYLE.items():
        mpl.rcParams[name] = value  # type: ignore[index]


def rule_style(rule: str) -> dict[str, Any]:
    """Colour and dash of a step rule, for ``ax.plot(x, y, **rule_style("NGD"))``."""
    return {"color": COLOURS[rule], "linestyle": DASHES[rule]}


def band(ax: Axes, x: ArrayLike, ys: NDArray[np.float64], *, spread: str = "quartiles", **line: Any) -> Line2D:
    """Draw the median over seeds as a line, with a band of its spread.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
    x : array, shape (k,)
    ys : array, shape (seeds, k)
    spread : {"quartiles", "range"}
        Band from the first to the third quartile, or from the least to the greatest.
    **line
        Passed to ``ax.plot``; ``label`` names the line only.

    Returns
    -------
    matplotlib.lines.Line2D
    """
    edges = {"quartiles": (25, 75), "range": (0, 100)}[spread]
    low, high = np.percentile(ys, edges, axis=0)
    (median,) = ax.plot(x, np.median(ys, axis=0), **line)
    ax.fill_between(x, low, high, color=median.get_color(), alpha=0.2, linewidth=0)
    return median


def density(
    ax: Axes, clouds: NDArray[np.float64], extent: tuple[float, float, float, float], *, colour: str, rows: int = 420
) -> NDArray[np.float64]:
    """Draw how often a value occurs, column by column: the bifurcation diagram of many orbits, as one image.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
    clouds : array, shape (columns, k)
        Values of each column; those outside `extent` are not drawn.
    extent : (float, float, float, float)
        Left, right, bottom and top of the image in data coordinates.
    colour : str
        Of middle density; a column with a single value is darkest.
    rows : int
        Cells of a column.

    Returns
    -------
    array, shape (rows, columns)
        The density of each cell, 1 where all cells of the column are hit alike.
    """
    from matplotlib.colors import LinearSegmentedColormap

    counts = np.array([np.histogram(column, bins=rows, range=extent[2:])[0] for column in clouds]).T
    share: NDArray[np.float64] = rows * counts / clouds.shape[1]
    thick = np.maximum(share, np.maximum(np.roll(share, 1, axis=0), np.roll(share, -1, axis=0)))
    shades = LinearSegmentedColormap.from_list("density", ["white", colour, "#00131f"])
    tone = np.sqrt(np.minimum(thick / 16.0, 1.0))
    ax.imshow(tone, cmap=shades, vmin=0, vmax=1, origin="lower", extent=extent, aspect="auto", interpolation="none")
    ax.grid(False)
    return share
