"""Committed notebooks are clean: no outputs, kernel python3, a stable id for each cell.

``python -m companion.clean`` cleans them; with ``--check`` it only says which are not.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from companion.paths import BOOK, relative

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
    return nbformat.writes(notebook, indent=1, ensure_ascii=False).rstrip("\n") + "\n"


def main(arguments: list[str]) -> int:
    """Clean or check every notebook of the book."""
    dirty = 0
    for path in sorted(BOOK.rglob("*.ipynb")):
        if ".ipynb_checkpoints" in path.parts:
            continue
        want = text(cleaned(nbformat.read(path, as_version=4)))
        if path.read_text() == want:
            continue
        if "--check" in arguments:
            dirty += 1
            print(f"{relative(path)} is not clean: run make format", file=sys.stderr)
        else:
            Path(path).write_text(want)
    return int(dirty > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
