"""What Sphinx needs to know of executed notebooks, their figures, and mathematics that renders offline."""

from __future__ import annotations

import base64
import html
import importlib.util
import json
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.fileutil import copy_asset
from sphinx.util.typing import ExtensionMetadata

from companion.build import (
    api,
    bibliography,
    claims_view,
    commit,
    gallery,
    identity,
    launch,
    numbers,
    related_papers,
    search,
    semantics,
    sphinx_jobs,
    terms,
)
from companion.build.paths import EXECUTED, ROOT
from companion.chapter.claims import MIME

FORMATS = {"svg": "image/svg+xml", "pdf": "application/pdf"}
MATHJAX = ("tex-chtml.js", "input/tex/extensions", "output/chtml/fonts")


def executed_copy(docname: str) -> Path | None:
    """The executed copy of a page, None when the page is not a notebook."""
    if not (ROOT / f"{docname}.ipynb").exists():
        return None
    path = EXECUTED / f"{docname}.ipynb"
    if not path.exists():
        raise ExtensionError(f"{docname}.ipynb has not been executed: use make book")
    return path


def read_executed(app: Sphinx, docname: str, source: list[str]) -> None:
    """Hand Sphinx the executed copy in place of the committed notebook, with the code of claims folded (source-read)."""
    path = executed_copy(docname)
    if path or Path(app.env.doc2path(docname)).suffix == ".ipynb":
        source[0] = json.dumps(folded(json.loads(path.read_text() if path else source[0])))


def folded(notebook: dict[str, Any]) -> dict[str, Any]:
    """The notebook with the code of each cell that makes claims folded away: the claims say what it checks."""
    for cell in notebook["cells"]:
        tags = cell["metadata"].get("tags", [])
        if any(MIME in output.get("data", {}) for output in cell.get("outputs", [])) and "hide-input" not in tags:
            cell["metadata"]["tags"] = [*tags, "hide-input"]
    return notebook


def add_provenance(app: Sphinx, doctree: nodes.document) -> None:
    """Below each captioned notebook figure: its notebook, its vector files and its commit (doctree-read)."""
    docname = app.env.docname
    path = executed_copy(docname)
    if path is None or app.builder.format != "html":
        return
    cells = {name: number for number, name in figure_cells(json.loads(path.read_text()))}
    for figure in doctree.findall(nodes.figure):
        name = next((name for name in figure["names"] if name in cells), None)
        if name:
            line = nodes.raw("", _provenance(docname, name, cells[name]), format="html")
            figure += nodes.legend("", line)
            figure["opens"] = f"{'../' * docname.count('/')}figures/{name}.svg"


def _provenance(docname: str, name: str, cell: int) -> str:
    up = "../" * docname.count("/")
    stem = f"{up}figures/{html.escape(name)}"
    where, now, shown = _version()
    version = html.escape(shown)
    if where and now != commit.UNCOMMITTED:
        version = f'<a href="{html.escape(where)}/blob/{now}/{docname}.ipynb">{version}</a>'
    return (
        f'<p class="provenance"><a href="{up}_sources/{docname}.ipynb" download>notebook</a>, cell {cell} · '
        f'<a href="{stem}.svg" download>SVG</a> · <a href="{stem}.pdf" download>PDF</a> · '
        f"<span>{version}</span></p>"
    )


@cache
def _version() -> tuple[str | None, str, str]:
    """The repository and the commit, asked of git once."""
    return identity.repository(), commit.current(), commit.shown()


def figure_cells(notebook: dict[str, Any]) -> Iterator[tuple[int, str]]:
    """Number of the cell, counted from one, and name of each captioned figure of an executed notebook."""
    for number, cell in enumerate(notebook["cells"], 1):
        if name := next((name for name, _ in figures({"cells": [cell]})), None):
            yield number, name


def figures(notebook: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and image data of each captioned figure of an executed notebook."""
    for cell in notebook["cells"]:
        name = cell["metadata"].get("mystnb", {}).get("figure", {}).get("name")
        for output in cell.get("outputs", []) if name else []:
            if FORMATS["svg"] in output.get("data", {}):
                yield name, output["data"]


def write_figures(app: Sphinx, error: Exception | None) -> None:
    """Write each captioned figure to ``figures/<name>.svg`` and ``.pdf`` (build-finished)."""
    if error or app.builder.format != "html":
        return
    folder = Path(app.outdir) / "figures"
    folder.mkdir(exist_ok=True)
    for docname in sorted(app.env.found_docs):
        path = executed_copy(docname)
        for name, data in figures(json.loads(path.read_text())) if path else ():
            write_figure(folder / name, data)


def write_figure(stem: Path, data: dict[str, Any]) -> None:
    """Write one figure in the formats it has."""
    if FORMATS["svg"] in data:
        stem.with_name(f"{stem.name}.svg").write_text("".join(data[FORMATS["svg"]]))
    if FORMATS["pdf"] in data:
        stem.with_name(f"{stem.name}.pdf").write_bytes(base64.b64decode(data[FORMATS["pdf"]]))


def copy_mathjax(app: Sphinx, error: Exception | None) -> None:
    """Put MathJax beside the pages, so that no page asks the network for it (build-finished)."""
    if error or app.builder.format != "html":
        return
    found = importlib.util.find_spec("sphinx-mathjax-offline")
    if found is None or found.origin is None:
        raise ExtensionError("sphinx-mathjax-offline is not installed: make book")
    package = Path(found.origin).parent
    source, target = package / "static" / "mathjax", Path(app.outdir) / "_static" / "mathjax"
    for part in MATHJAX:
        copy_asset(source / part, target / part if (source / part).is_dir() else target)


def copy_claims(app: Sphinx, error: Exception | None) -> None:
    """Put ``claims.json`` beside the pages (build-finished)."""
    claims = Path(app.config.companion_claims)
    if not error and claims.exists():
        shutil.copyfile(claims, Path(app.outdir) / "claims.json")


def setup(app: Sphinx) -> ExtensionMetadata:
    """Sphinx calls this."""
    claims_view.setup(app)
    related_papers.setup(app)
    identity.setup(app)
    launch.setup(app)
    bibliography.setup(app)
    api.setup(app)
    numbers.setup(app)
    search.setup(app)
    sphinx_jobs.setup(app)
    semantics.setup(app)
    gallery.setup(app)
    terms.setup(app)
    app.connect("source-read", read_executed)
    app.connect("doctree-read", add_provenance)
    for finish in (write_figures, copy_mathjax, copy_claims):
        app.connect("build-finished", finish)
    app.set_html_assets_policy("always")  # mathematics in a table that a notebook makes is invisible to Sphinx
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
