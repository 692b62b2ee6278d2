"""Images under a veil of attention, and tables as a reader reads them."""

import numpy as np
import pytest
from companion.chapter.images import attention_maps, draw_image, pick
from companion.chapter.tables import styled
from matplotlib.figure import Figure
from tokenmargin.data.images import on_pixels, pictures
from tokenmargin.training.decoder import digit_problem
from tokenmargin.training.rules import NormalizedGD
from tokenmargin.training.train import train


@pytest.fixture(scope="module")
def run():
    problem = digit_problem((3, 8), 20, 16, seed=1, joint_steps=20)
    return train(problem, NormalizedGD(0.1), 50, record=[5, 50])


def test_the_veil_is_the_attention_and_the_frame_the_optimal_patch(run):
    problem, ax = run.problem, Figure().subplots()
    shade = draw_image(ax, problem, 7, run.attention[-1, 7, 0])
    np.testing.assert_array_equal(ax.images[0].get_array(), pictures(problem)[7])
    np.testing.assert_array_equal(shade.get_array(), on_pixels(run.attention[-1, 7, 0], 8))
    left, low = ax.patches[0].get_xy()
    inside = np.zeros((8, 8))
    inside[int(low + 0.5) : int(low + 2.5), int(left + 0.5) : int(left + 2.5)] = 1.0
    np.testing.assert_array_equal(inside, on_pixels(np.eye(16)[problem.optimal[7]], 8))


def test_two_images_of_each_class_are_picked_a_hit_first(run):
    shown = pick(run)
    labels, hit = run.problem.labels, run.selection[:, 0] == run.problem.optimal
    np.testing.assert_array_equal(labels[shown], [-1, -1, 1, 1])
    for first, second in (shown[:2], shown[2:]):
        of_class = hit[labels == labels[first]]
        assert hit[first] == of_class.any()
        assert hit[second] == of_class.all()


def test_maps_have_a_column_an_image_and_a_row_a_time(run):
    fig = attention_maps({"one": run, "two": run}, [5, 50])
    drawn = [ax for ax in fig.axes if ax.images]
    assert len(drawn) == 8 * 3
    veils = [ax.images[1].get_array() for ax in drawn if len(ax.images) == 2]
    expected = on_pixels(run.attention[1, pick(run)[0], 0], 8)
    assert any(np.array_equal(veil, expected) for veil in veils)


def test_a_table_shows_a_dash_where_there_is_no_number_and_is_the_same_on_every_build():
    rows = [["a", 0.5], ["b", None]]
    html = styled(rows, ["name", "share"], {"share": "{:.0%}"}, "shares").to_html()
    assert "50%" in html
    assert "–" in html
    assert html == styled(rows, ["name", "share"], {"share": "{:.0%}"}, "shares").to_html()
