"""Notebooks of a little book, for the tests of the machinery."""

import json

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
