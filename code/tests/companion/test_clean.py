"""The committed notebooks: what is cleaned, and what the check says."""

import nbformat
import pytest
from companion.build import clean
from nbformat.v4 import new_code_cell, new_notebook, new_output


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A book of one clean notebook, one with outputs, and a checkpoint that nobody looks at."""
    monkeypatch.setattr(clean, "BOOK", tmp_path)
    tidy, dirty = (
        new_notebook(cells=[new_code_cell("n = 1  # points", metadata={"tags": ["parameters"]})]) for _ in "12"
    )
    (tmp_path / "clean.ipynb").write_text(clean.text(clean.cleaned(tidy)))
    dirty.cells[0].outputs = [new_output("stream", text="1")]
    dirty.cells[0].execution_count = 7
    for name in ("dirty.ipynb", ".ipynb_checkpoints/old.ipynb"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        nbformat.write(dirty, tmp_path / name)
    return tmp_path


def test_the_check_names_the_notebook_that_is_not_clean(book, capsys):
    before = (book / "dirty.ipynb").read_text()
    assert clean.main(["--check"]) == 1
    said = capsys.readouterr().err
    assert "dirty.ipynb is not clean: run make format" in said
    assert said.count("\n") == 1
    assert (book / "dirty.ipynb").read_text() == before


def test_cleaning_writes_what_differs_and_only_that(book, capsys):
    stamp = (book / "clean.ipynb").stat().st_mtime_ns
    assert clean.main([]) == 0
    assert (book / "clean.ipynb").stat().st_mtime_ns == stamp
    assert clean.main(["--check"]) == 0
    assert nbformat.read(book / "dirty.ipynb", as_version=4).cells[0].outputs == []
    assert nbformat.read(book / ".ipynb_checkpoints" / "old.ipynb", as_version=4).cells[0].outputs


def test_parameters_that_cannot_be_read_are_told(book, capsys):
    derived = new_notebook(cells=[new_code_cell("n = 2 + m  # points", metadata={"tags": ["parameters"]})])
    (book / "dirty.ipynb").write_text(clean.text(clean.cleaned(derived)))
    assert clean.main(["--check"]) == 1
    assert "dirty.ipynb has parameters that cannot be read. The parameter line" in capsys.readouterr().err
