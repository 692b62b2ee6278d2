"""The book's Sphinx extension on a little book: executed copies, figures with their files, MathJax, claims.json."""

import base64
import json
import subprocess
import sys
from types import SimpleNamespace

import nbformat
import pytest
from companion.build import sphinx_extension
from companion.chapter.claims import MIME
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from small_book import make
from sphinx.errors import ExtensionError

CONF = """
from pathlib import Path
from companion.build import sphinx_extension

here = Path(__file__).parent
sphinx_extension.ROOT, sphinx_extension.EXECUTED = here, here.parent / "executed"
extensions = ["myst_nb", "sphinx_proof", "sphinxcontrib.bibtex", "companion.build.sphinx_extension"]
nb_execution_mode = "off"
bibtex_bibfiles = []
suppress_warnings = ["mystnb.unknown_mime_type", "ref", "prf"]
html_theme = "basic"
html_sourcelink_suffix = ""
numfig = True
companion_claims = str(here.parent / "claims.json")
"""
FIGURE = {"figure": {"name": "fig-x", "caption": "What to see."}, "image": {"alt": "A dot."}}
LANGUAGE = {"language_info": {"name": "python", "pygments_lexer": "ipython3"}}
SVG = "<svg xmlns='http://www.w3.org/2000/svg'/>"


def chapter(executed):
    """A chapter with a figure and a claim; its committed copy has no outputs."""
    data = {"image/svg+xml": SVG, "application/pdf": base64.b64encode(b"%PDF").decode(), "text/plain": "<Figure>"}
    figure = new_code_cell("plot()", metadata={"mystnb": FIGURE}, outputs=[new_output("display_data", data)])
    claim = new_code_cell("claim()", outputs=[new_output("display_data", {MIME: make(theorem=None).as_dict()})])
    book = new_notebook(cells=[new_markdown_cell("# Chapter"), figure, claim], metadata=LANGUAGE)
    if not executed:
        for cell in book.cells[1:]:
            cell.outputs = []
    return book


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The rendered little book."""
    root = tmp_path_factory.mktemp("book")
    for folder, executed in (("source", False), ("executed", True)):
        (root / folder / "book").mkdir(parents=True)
        nbformat.write(chapter(executed), root / folder / "book" / "chapter.ipynb")
    (root / "source" / "index.md").write_text("# Index\n\n```{toctree}\nbook/chapter\n```\n")
    (root / "source" / "conf.py").write_text(CONF)
    (root / "claims.json").write_text("[1]")
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-q", root / "source", root / "out"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return root / "out"


def test_the_executed_copy_is_shown(pages):
    page = (pages / "book" / "chapter.html").read_text()
    assert 'class="claim claim-holds' in page
    assert 'alt="A dot."' in page


def test_each_captioned_figure_has_its_files_and_says_where_it_comes_from(pages):
    assert (pages / "figures" / "fig-x.svg").read_text() == SVG
    assert (pages / "figures" / "fig-x.pdf").read_bytes() == b"%PDF"
    page = (pages / "book" / "chapter.html").read_text()
    assert page.count('class="provenance"') == 1
    for link in ("../figures/fig-x.svg", "../figures/fig-x.pdf", "../_sources/book/chapter.ipynb"):
        assert f'href="{link}"' in page
        assert (pages / "book" / link).exists()


def test_what_pages_read_offline_and_programs_read_lies_beside_them(pages):
    assert (pages / "_static" / "mathjax" / "tex-chtml.js").exists()
    assert list((pages / "_static" / "mathjax" / "output").rglob("*.woff"))
    assert json.loads((pages / "claims.json").read_text()) == [1]


def test_a_notebook_that_was_not_executed_stops_the_rendering(tmp_path, monkeypatch):
    monkeypatch.setattr(sphinx_extension, "ROOT", tmp_path)
    monkeypatch.setattr(sphinx_extension, "EXECUTED", tmp_path / "executed")
    (tmp_path / "a.ipynb").write_text("{}")
    with pytest.raises(ExtensionError, match=r"a\.ipynb has not been executed: use make book"):
        sphinx_extension.executed_copy("a")
    assert sphinx_extension.executed_copy("prose") is None


@pytest.mark.parametrize(("error", "format"), [(RuntimeError("failed"), "html"), (None, "latex")])
def test_nothing_is_written_beside_pages_that_were_not_made(tmp_path, error, format):
    app = SimpleNamespace(builder=SimpleNamespace(format=format), outdir=tmp_path, env=None)
    sphinx_extension.write_figures(app, error)
    sphinx_extension.copy_mathjax(app, error)
    assert list(tmp_path.iterdir()) == []


def test_a_book_without_claims_has_no_file_of_them(tmp_path):
    app = SimpleNamespace(config=SimpleNamespace(companion_claims=tmp_path / "none.json"), outdir=tmp_path)
    sphinx_extension.copy_claims(app, None)
    assert list(tmp_path.iterdir()) == []


def test_mathjax_that_is_not_installed_is_missed_by_name(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    app = SimpleNamespace(builder=SimpleNamespace(format="html"))
    with pytest.raises(ExtensionError, match="sphinx-mathjax-offline is not installed"):
        sphinx_extension.copy_mathjax(app, None)


def test_a_figure_without_a_pdf_is_written_as_it_is(tmp_path):
    sphinx_extension.write_figure(tmp_path / "a", {"image/svg+xml": ["<svg/>"]})
    sphinx_extension.write_figure(tmp_path / "b", {})
    assert [path.name for path in tmp_path.iterdir()] == ["a.svg"]
