"""Committed notebooks are clean: no outputs, kernel python3, a stable id for each cell, parameters that can be read.

``python -m companion.build.clean`` cleans them; with ``--check`` it only says which are not.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from companion.build.parameters import ParameterError, parameters_of
from companion.build.paths import BOOK, relative

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def cleaned(notebook: NotebookNode) -> NotebookNode:
    """A copy without outputs, execution counts and papermill's traces."""
    notebook = nbformat.from_dict(notebook)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    kept = {key: value for key, value in notebook.metadata.items() if key == "companion"}
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}, **kept})
    notebook.nbformat_minor = 5
    return notebook


def text(notebook: NotebookNode) -> str:
    """The notebook as it is committed."""
    written: str = nbformat.writes(notebook, indent=1, ensure_ascii=False)
    return written.rstrip("\n") + "\n"


def fault(path: Path) -> str | None:
    """What is wrong with a committed notebook, None when it is clean."""
    notebook = nbformat.read(path, as_version=4)
    if path.read_text() != text(cleaned(notebook)):
        return "is not clean: run make format"
    try:
        parameters_of(notebook)
    except ParameterError as error:
        return f"has parameters that cannot be read. {error}"
    return None


def main(arguments: list[str]) -> int:
    """Clean or check every notebook of the book."""
    paths = [path for path in sorted(BOOK.rglob("*.ipynb")) if ".ipynb_checkpoints" not in path.parts]
    if "--check" not in arguments:
        for path in paths:
            want = text(cleaned(nbformat.read(path, as_version=4)))
            if path.read_text() != want:
                path.write_text(want)
        return 0
    faults = {path: fault(path) for path in paths}
    for path, what in faults.items():
        if what:
            print(f"{relative(path)} {what}", file=sys.stderr)
    return int(any(faults.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
