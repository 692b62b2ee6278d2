"""What many figures draw: curves of the step rules on logarithmic axes, guide slopes, thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from companion.chapter.figures import COLOURS, band, rule_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D


def by_rule(ax: Axes, x: ArrayLike, curves: Mapping[str, ArrayLike], **line: Any) -> dict[str, Line2D]:
    """Draw one curve a step rule, each in the rule's colour and dash, on two logarithmic axes.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
    x : array, shape (k,)
        Steps or path lengths; what is not positive is left out.
    curves : mapping of str to array, shape (k,) or (seeds, k)
        Values by rule; of several seeds the median with a band of the quartiles.
    **line
        Passed to ``ax.plot``.

    Returns
    -------
    dict of matplotlib.lines.Line2D
        The curves by rule, labelled with its name.
    """
    shown = np.asarray(x) > 0
    drawn = {}
    for rule, values in curves.items():
        ys = np.atleast_2d(np.asarray(values, dtype=np.float64))[:, shown]
        drawn[rule] = band(ax, np.asarray(x)[shown], ys, label=rule, **(rule_style(rule) | line))
    ax.set(xscale="log", yscale="log")
    return drawn


def guide(ax: Axes, slope: float, start: tuple[float, float], end: float, label: str) -> Line2D:
    """Draw a thin line of the given slope in log-log axes, from the point `start` to the abscissa `end`, and name it."""
    x = np.array([start[0], end])
    y = start[1] * (x / start[0]) ** slope
    (line,) = ax.plot(x, y, color="0.45", linewidth=0.9)
    ax.annotate(label, (x[1], y[1]), (3, 0), textcoords="offset points", va="center", color="0.35")
    return line


def threshold(ax: Axes, at: float, label: str) -> Line2D:
    """Mark a predicted threshold by a dotted vertical line in the colour of the theory."""
    return ax.axvline(at, color=COLOURS["theory"], linestyle=":", linewidth=1.4, label=label)
