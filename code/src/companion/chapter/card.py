"""The picture that stands for the book where somebody shows a link to it."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from companion.chapter.paths import beside_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE = (1200, 630)  # pixels, as those who show links ask for
EDGE = 24


def leave_card(figure: Figure) -> Path:
    """Leave `figure` beside the executed notebook as a PNG of `SIZE`, as large as fits in the middle of a white ground."""
    from PIL import Image

    width, height = figure.get_size_inches()
    dots = min((SIZE[0] - 2 * EDGE) / width, (SIZE[1] - 2 * EDGE) / height)
    drawn = BytesIO()
    figure.savefig(drawn, format="png", dpi=dots, bbox_inches=None)
    picture, card = Image.open(drawn).convert("RGB"), Image.new("RGB", SIZE, "white")
    card.paste(picture, ((SIZE[0] - picture.width) // 2, (SIZE[1] - picture.height) // 2))
    path = beside_run(".card.png", "index")
    card.save(path, optimize=True)
    return path
