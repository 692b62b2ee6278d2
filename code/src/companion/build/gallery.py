"""The page of all figures: ``{gallery}`` shows each one small, by chapter, with its number and a link to its place."""

from __future__ import annotations

import html as escaping
import json
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata

from companion.build.claims_view import View, element, html, script_of
from companion.build.paths import EXECUTED, ROOT
from companion.build.toc import notebooks, title

# Figures whose colours mean much or little: in the dark they are dimmed, not turned.
COLOUR_MAPS = {
    "fig-overview",
    "fig-global-map",
    "fig-global-near",
    "fig-global-plane",
    "fig-joint-phase",
    "fig-edge-bifurcation",
    "fig-other-norms",
    "fig-numerics-scales",
    "fig-real-maps-four",
    "fig-real-maps-sixteen",
    "fig-real-farkas",
    "fig-your-data-attention",
}


@dataclass(frozen=True)
class Picture:
    """A captioned figure of a notebook."""

    page: str
    name: str
    alt: str
    colour_map: bool


def pictures(notebook: dict[str, Any], page: str) -> Iterator[Picture]:
    """The captioned figures of a notebook."""
    for cell in notebook["cells"]:
        about = cell["metadata"].get("mystnb", {})
        name = about.get("figure", {}).get("name")
        if name and "caption" in about["figure"]:
            image = about.get("image", {})
            marked = name in COLOUR_MAPS or "colour-map" in image.get("classes", "")
            yield Picture(page, name, image.get("alt", ""), marked)


class Gallery(SphinxDirective):
    """``{gallery}``: all figures of the book."""

    def run(self) -> list[nodes.Node]:
        """A part for each chapter that has figures."""
        view = View(self.env, self.state.document)
        chapters = []
        for path in notebooks():
            page = path.with_suffix("").as_posix()
            found = list(pictures(json.loads((EXECUTED / path).read_text(encoding="utf-8")), page))
            if found:
                chapters.append(self._chapter(view, page, found))
        return [html("div", *chapters, css="gallery")]

    def _chapter(self, view: View, page: str, found: list[Picture]) -> element:
        words = title(ROOT / f"{page}.ipynb")
        head = html("p", view.to("std", "doc", f"/{page}", words), css="gallery-chapter")
        items = [html("div", *(self._item(view, one) for one in found), css="gallery-items")]
        return html("div", head, *items, data_chapter=words)

    def _item(self, view: View, one: Picture) -> element:
        here = posixpath.dirname(self.env.docname)
        up = posixpath.relpath(".", here) if here else "."
        source, alt = f"{up}/figures/{one.name}.svg", escaping.escape(one.alt)
        css = ' class="colour-map"' if one.colour_map else ""
        image = nodes.raw("", f'<img src="{source}" alt="{alt}" loading="lazy"{css}>', format="html")
        place = f"{posixpath.relpath(one.page, here or '.')}.html#{nodes.make_id(one.name)}"
        link = html("a", image, href=place)
        return html("figure", link, html("figcaption", view.to("std", "numref", one.name)))


def mark_colour_maps(app: Sphinx, doctree: nodes.document) -> None:
    """Give the pictures of `COLOUR_MAPS` their class (doctree-read)."""
    for figure in doctree.findall(nodes.figure):
        if COLOUR_MAPS.intersection(figure["names"]):
            for image in figure.findall(nodes.image):
                image["classes"].append("colour-map")


def setup(app: Sphinx) -> ExtensionMetadata:
    """Sphinx calls this."""
    app.add_directive("gallery", Gallery)
    app.connect("doctree-read", mark_colour_maps)
    app.connect("html-page-context", script_of("gallery", "gallery.js"))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
