"""The page of a run outside the book."""

import json

import nbformat
from companion.build import page
from companion.build.paths import BOOK, HTML
from companion.build.toc import title
from companion.chapter.claims import MIME
from companion.chapter.numbers import PREFIX
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output


def test_a_run_is_said_to_be_one_and_links_to_the_built_book(tmp_path):
    text = "# Title\n\nSee [](exact-constants.ipynb) and [](../extending.md), {cite}`wu2023implicit`."
    chapter, target = BOOK / "neighbours" / "chapter.ipynb", tmp_path / "neighbours" / "chapter-1.html"
    chapter_link = text.replace("exact", "../exact")
    data = {MIME: {}, "text/html": '<a href="../claims.html#row-x">x</a>'}
    cells = [
        {"cell_type": "markdown", "source": chapter_link},
        {"cell_type": "code", "source": "", "outputs": [{"data": data}]},
    ]
    first, claims, last = page._alone({"cells": cells}, chapter, target)["cells"]
    assert f'{HTML.name}/book/claims.html#row-x"' in claims["outputs"][0]["data"]["text/html"]
    assert first["source"].startswith("# Title\n\n```{note}")
    assert f'{HTML.name}/book/exact-constants.html">{title(BOOK / "exact-constants.ipynb")}</a>' in first["source"]
    assert "[](" not in first["source"]
    assert "{bibliography}" in last["source"]


def test_the_page_of_a_run_looks_like_the_book(tmp_path):
    """Glue, mathematics and citations are rendered, and everything that the page loads lies beside it."""
    record = {"application/papermill.record/text/plain": "4.25"}
    number = new_output("display_data", record, metadata={"scrapbook": {"name": "x", "mime_prefix": PREFIX}})
    cells = [
        new_markdown_cell("# A chapter\n\nIt is {glue:text}`x`, as $a < b$ by {cite}`wu2023implicit`."),
        new_code_cell("1 + 1", outputs=[number], execution_count=1),
    ]
    notebook = tmp_path / "neighbours" / "chapter-1.ipynb"
    notebook.parent.mkdir()
    nbformat.write(new_notebook(cells=cells), notebook)
    html = page.render_page(notebook, BOOK / "neighbours" / "chapter.ipynb", tmp_path).read_text()
    assert "4.25" in html
    assert r"\(a &lt; b\)" in html
    assert "Wu" in html
    assert (tmp_path / "_static" / "mathjax" / "tex-chtml.js").exists()
    assert json.loads((tmp_path / "searchindex.js").read_text()[len("Search.setIndex(") : -1])
