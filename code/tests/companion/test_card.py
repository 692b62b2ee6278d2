"""The picture of the front page: its size, its white ground, the same bytes each time."""

import matplotlib.pyplot as plt
from companion.chapter.card import SIZE, leave_card
from PIL import Image


def test_a_figure_of_any_shape_stands_in_the_middle_of_a_white_card(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPANION_TARGET", str(tmp_path / "index.ipynb"))
    for shape in ((9.2, 3.5), (3.0, 6.0)):
        figure = plt.figure(figsize=shape, facecolor="black")
        path = leave_card(figure)
        first = path.read_bytes()
        assert leave_card(figure).read_bytes() == first
        plt.close(figure)
        with Image.open(path) as card:
            assert card.size == SIZE
            assert card.getpixel((0, 0)) == (255, 255, 255)
            assert card.getpixel((SIZE[0] // 2, SIZE[1] // 2)) == (0, 0, 0)
            left, top, right, bottom = Image.eval(card.convert("L"), lambda v: 255 - v).getbbox()
        assert abs(left - (SIZE[0] - right)) <= 1
        assert abs(top - (SIZE[1] - bottom)) <= 1
        assert path.name == "index.card.png"
