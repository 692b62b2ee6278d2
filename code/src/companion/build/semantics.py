"""What the markup of the pages says to those who read it with a screen reader, a keyboard or a narrow screen.

The folded code of a cell is called by what it makes ("Code of Fig. 9"), a figure is a link to its picture alone, and roles
that the tools give wrongly are put right.
"""

from __future__ import annotations

import html
from pathlib import Path

from docutils import nodes
from myst_nb.sphinx_ import HideCodeCellNode
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.typing import ExtensionMetadata
from sphinx.writers.html5 import HTML5Translator

# Docutils marks the entries of a bibliography with a role that is no item of a list; the theme gives its button for the search
# another name than the words that stand on it.
MENDED = {
    'role="doc-biblioentry"': 'role="listitem"',
    'pst-js-only" title="Search" aria-label="Search"': 'pst-js-only" title="Search"',
}


class NameAndOpen(SphinxPostTransform):
    """Name folded code by what its cell shows, and let pictures open (after MyST-NB chose a format, before it folds)."""

    default_priority = 198
    formats = ("html",)

    def run(self, **kwargs: object) -> None:
        """Set the words of the folds; wrap the pictures of figures that say where they lie."""
        for figure in self.document.findall(nodes.figure):
            if figure.get("opens"):
                opens(figure, figure["opens"])
        numbers = self.env.toc_fignumbers.get(self.env.docname, {}).get("figure", {})
        for cell in self.document.findall(nodes.container):
            if cell.get("nb_element") == "cell_code" and cell.get("hide_mode"):
                cell["prompt_show"] = cell["prompt_hide"] = name_of_code(cell, numbers)


def name_of_code(cell: nodes.Element, numbers: dict[str, tuple[int, ...]]) -> str:
    """``Code of Fig. 9``, ``Code of the claims`` or ``Code``."""
    for figure in cell.findall(nodes.figure):
        number = next((numbers[name] for name in figure["ids"] if name in numbers), None)
        if number:
            return f"Code of Fig. {'.'.join(map(str, number))}"
    claims = sum("claim" in node.get("classes", ()) for node in cell.findall(nodes.Element))
    return f"Code of the claim{'s' if claims > 1 else ''}" if claims else "Code"


def visit_folded(self: HTML5Translator, node: HideCodeCellNode) -> None:
    """Open the fold; its name is what stands on it."""
    classes = " ".join(node["classes"])
    words = html.escape(node["prompt_show"])
    summary = f'<summary><p class="admonition-title">{words}</p></summary>'
    self.body.append(f'<details class="admonition hide {classes}">\n{summary}\n')


def depart_folded(self: HTML5Translator, node: HideCodeCellNode) -> None:
    """Close the fold."""
    self.body.append("</details>\n")


def opens(figure: nodes.figure, address: str) -> None:
    """Make the picture of `figure` a link to the file `address`, which a reader can enlarge."""
    image = next(iter(figure.findall(nodes.image)), None)
    if image is not None and not isinstance(image.parent, nodes.reference):
        link = nodes.reference("", "", refuri=address, internal=True, reftitle="Open the picture alone")
        image.parent.replace(image, link)
        link += image


def mend(app: Sphinx, error: Exception | None) -> None:
    """Put roles right on every page (build-finished)."""
    if error or app.builder.format != "html":
        return
    for path in Path(app.outdir).rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        if any(wrong in text for wrong in MENDED):
            for wrong, right in MENDED.items():
                text = text.replace(wrong, right)
            path.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> ExtensionMetadata:
    """Sphinx calls this."""
    app.add_node(HideCodeCellNode, override=True, html=(visit_folded, depart_folded))
    app.add_post_transform(NameAndOpen)
    app.add_js_file("pages.js", loading_method="defer")
    app.connect("build-finished", mend, priority=910)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
