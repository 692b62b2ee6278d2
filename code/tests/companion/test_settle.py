"""Two executions of one notebook give the same bytes, and two builds are compared file by file."""

import subprocess

import nbformat
import pytest
from companion.build import verify
from companion.build.execute import execute
from nbformat.v4 import new_code_cell, new_notebook

CODE = """import pandas as pd
from IPython.display import display
display(pd.DataFrame({"a": [1.0]}).style.format("{:.1f}").hide(axis="index"))
display(pd.DataFrame({"b": [2.0]}).style.set_properties(color="red"))
object()"""


def test_two_executions_give_the_same_bytes(tmp_path):
    nbformat.write(new_notebook(cells=[new_code_cell(CODE)]), tmp_path / "small.ipynb")
    for name in ("one", "two"):
        execute(tmp_path / "small.ipynb", tmp_path / f"{name}.ipynb")
    text = (tmp_path / "one.ipynb").read_text()
    assert (tmp_path / "two.ipynb").read_text() == text
    assert "T_00000" in text
    assert "T_00001" in text
    assert "object at an address" in text


def test_differences_of_two_builds(tmp_path):
    for name, words in (("one", "a"), ("two", "b")):
        (tmp_path / name / "_build" / "html").mkdir(parents=True)
        (tmp_path / name / "_build" / "html" / "same").write_text("x")
        (tmp_path / name / "_build" / "html" / "other").write_text(words)
    (tmp_path / "two" / "_build" / "html" / "more").write_text("x")
    found = [verify.hashes(tmp_path / name) for name in ("one", "two")]
    assert verify.differences(*found) == ["_build/html/more", "_build/html/other"]
    assert verify.differences(found[0], found[0]) == []


@pytest.mark.parametrize("git", [True, False])
def test_sources_are_copied_without_what_is_built(tmp_path, git):
    root = tmp_path / "root"
    for name in ("book/a.md", "_build/x", ".venv/y"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    if git:
        subprocess.run(["git", "init", "-q"], cwd=root, check=True)
        subprocess.run(["git", "add", "book"], cwd=root, check=True)
    verify.copy_sources(tmp_path / "copy", root)
    copied = [path for path in (tmp_path / "copy").rglob("*") if path.is_file() and ".git" not in path.parts]
    assert [str(path.relative_to(tmp_path / "copy")) for path in copied] == ["book/a.md"]
