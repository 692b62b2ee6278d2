"""The gallery shows each captioned figure of a notebook, with its alt text, and knows which are colour maps."""

import json

from companion.build import gallery
from companion.build.paths import BOOK, ROOT
from companion.build.toc import notebooks


def cell(name, alt="A curve.", **image):
    about = {"figure": {"name": name, "caption": "It falls."}, "image": {"alt": alt, **image}}
    return {"metadata": {"mystnb": about}}


def test_only_captioned_figures_are_shown_in_their_order():
    notebook = {
        "cells": [cell("fig-b"), {"metadata": {}}, {"metadata": {"mystnb": {"figure": {"name": "x"}}}}, cell("fig-a")]
    }
    shown = list(gallery.pictures(notebook, "book/one"))
    assert [(one.page, one.name, one.alt) for one in shown] == [
        ("book/one", "fig-b", "A curve."),
        ("book/one", "fig-a", "A curve."),
    ]


def test_colour_maps_are_known_by_name_or_class():
    notebook = {"cells": [cell("fig-overview"), cell("fig-a"), cell("fig-b", classes="colour-map")]}
    assert [one.colour_map for one in gallery.pictures(notebook, "p")] == [True, False, True]


def test_each_named_colour_map_is_a_figure_of_the_book_and_each_figure_has_alt_text():
    books = [json.loads((ROOT / path).read_text(encoding="utf-8")) for path in notebooks()]
    shown = [one for book in books for one in gallery.pictures(book, "p")]
    assert {one.name for one in shown} >= gallery.COLOUR_MAPS
    assert all(len(one.alt) > 20 for one in shown)
    assert len({one.name for one in shown}) == len(shown)
    assert "{gallery}" in (BOOK / "gallery.md").read_text(encoding="utf-8")
