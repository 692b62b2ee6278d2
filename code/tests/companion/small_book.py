"""Notebooks of a little book, for the tests of the machinery."""

import json

from companion.chapter.claims import MIME, Claim

TOC = """root: book/index
parts:
- chapters:
  - file: book/one
    sections:
    - file: book/two
"""


def write_notebook(path, *code, metadata=None):
    """A notebook with a title and these code cells."""
    cells = [{"cell_type": "markdown", "source": f"# Chapter {path.stem}", "metadata": {}, "id": "title"}]
    cells += [
        {"cell_type": "code", "source": source, "metadata": {}, "id": f"c{k}", "outputs": [], "execution_count": None}
        for k, source in enumerate(code)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    book = {"cells": cells, "metadata": metadata or {}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(book))
    return path


GOOD = {
    "id": "one",
    "statement": "It is $x^2$.",
    "source": "companion",
    "theorem": "thm-edge",
    "predicted": 2.0,
    "measured": 2.0,
}


def make(**changes):
    """A claim that holds, but for the changes."""
    return Claim(**(GOOD | {"tolerance": 0.1} | changes))


def put_notebook(root, name, *claims):
    """A chapter with claims in its outputs, committed and executed."""
    outputs = [{"output_type": "display_data", "data": {MIME: item.as_dict()}, "metadata": {}} for item in claims]
    cells = [
        {"cell_type": "markdown", "source": [f"# Chapter {name}\n", "\n", "text"], "metadata": {}},
        {"cell_type": "code", "source": [], "metadata": {}, "outputs": outputs},
    ]
    for folder in (root, root / "executed"):
        path = folder / "book" / f"{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"cells": cells}))
