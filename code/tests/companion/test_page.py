"""The page of a run outside the book."""

import json
import os
from pathlib import Path

import nbformat
from companion.build import page
from companion.build.paths import BOOK, HTML
from companion.build.toc import title
from companion.chapter.claims import MIME
from companion.chapter.numbers import PREFIX
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from small_book import make


def test_a_run_is_said_to_be_one_and_links_to_the_built_book(tmp_path):
    text = "# Title\n\nSee [](exact-constants.ipynb) and [](../extending.md), {cite}`wu2023implicit`."
    chapter, target = BOOK / "neighbours" / "chapter.ipynb", tmp_path / "neighbours" / "chapter-1.html"
    chapter_link = text.replace("exact", "../exact")
    cells = [{"cell_type": "markdown", "source": chapter_link}]
    first, last = page._alone({"cells": cells}, chapter, target)["cells"]
    assert first["source"].startswith("# Title\n\n```{note}")
    assert f'{HTML.name}/book/exact-constants.html">{title(BOOK / "exact-constants.ipynb")}</a>' in first["source"]
    assert "[](" not in first["source"]
    assert "{bibliography}" in last["source"]


def test_a_citation_of_a_claim_alone_gets_its_references():
    data = {MIME: make(citation="wu2023implicit").as_dict()}
    cells = [
        {"cell_type": "markdown", "source": "# Title"},
        {"cell_type": "code", "source": "", "outputs": [{"data": data}]},
    ]
    assert "{bibliography}" in page._alone({"cells": cells}, BOOK / "a.ipynb", BOOK / "a.html")["cells"][-1]["source"]


def test_the_page_of_a_run_looks_like_the_book(tmp_path):
    """Glue, mathematics and citations are rendered, and everything that the page loads lies beside it."""
    record = {"application/papermill.record/text/plain": "4.25"}
    number = new_output("display_data", record, metadata={"scrapbook": {"name": "x", "mime_prefix": PREFIX}})
    claimed = new_output("display_data", {MIME: make(citation="wu2023implicit", detail="part 2").as_dict()})
    cells = [
        new_markdown_cell(
            "# A chapter\n\nIt is {glue:text}`x`, by the {prf:ref}`theorem <thm-edge>`, as $a < b$ by {cite}`wu2023implicit`."
        ),
        new_code_cell("1 + 1", outputs=[number, claimed], execution_count=1),
    ]
    notebook = tmp_path / "neighbours" / "chapter-1.ipynb"
    notebook.parent.mkdir()
    nbformat.write(new_notebook(cells=cells), notebook)
    html = page.render_page(notebook, BOOK / "neighbours" / "chapter.ipynb", tmp_path).read_text()
    assert "4.25" in html
    assert r"\(a &lt; b\)" in html
    assert "Wu" in html
    book = Path(os.path.relpath(HTML, notebook.parent)).as_posix()
    for link in ("edge-of-stability.html#thm-edge", "claims.html#row-one"):  # what only the book has
        assert f'href="{book}/book/{link}"' in html
    assert html.count("#thm-edge") == 2
    assert "Edge of stability (theorem)" in html
    assert (tmp_path / "_static" / "mathjax" / "tex-chtml.js").exists()
    assert json.loads((tmp_path / "searchindex.js").read_text()[len("Search.setIndex(") : -1])
