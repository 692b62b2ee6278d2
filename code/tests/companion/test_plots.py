"""The plots that many figures share: the curves are the data, the guide has its slope."""

import numpy as np
import pytest
from companion.chapter import figures, plots
from matplotlib.figure import Figure


@pytest.fixture
def ax():
    return Figure().subplots()


def test_each_rule_is_drawn_in_its_colour_without_the_step_zero(ax):
    x = np.array([0, 1, 10, 100])
    drawn = plots.by_rule(ax, x, {"NGD": 1.0 / (1 + x), "Polyak": np.array([[1.0, 2, 3, 4], [3, 4, 5, 6]])})
    assert [line.get_color() for line in drawn.values()] == [figures.COLOURS[rule] for rule in ("NGD", "Polyak")]
    np.testing.assert_array_equal(drawn["NGD"].get_xdata(), [1, 10, 100])
    np.testing.assert_array_equal(drawn["Polyak"].get_ydata(), [3, 4, 5])
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert ax.get_legend_handles_labels()[1] == ["NGD", "Polyak"]


@pytest.mark.parametrize("slope", [-1.0, -0.5, 2.0])
def test_a_guide_has_its_slope(ax, slope):
    x, y = plots.guide(ax, slope, (10.0, 3.0), 1000.0, "slope").get_data()
    assert (x[0], y[0]) == (10.0, 3.0)
    assert np.log(y[1] / y[0]) / np.log(x[1] / x[0]) == pytest.approx(slope)


def test_a_threshold_stands_at_its_place(ax):
    line = plots.threshold(ax, 0.7, "edge")
    assert set(line.get_xdata()) == {0.7}
    assert line.get_color() == figures.COLOURS["theory"]
