"""What differs between two executions of the same notebook and means nothing: times, and ids drawn at random."""

from __future__ import annotations

import re
from typing import Any

from nbformat import NotebookNode

TIMES = ("papermill", "execution")
TABLE = re.compile(r"\bT_[0-9a-f]{5}(?=\b|_)")  # pandas draws five digits for the ids of a styled table
ADDRESS = re.compile(r"\bat 0x[0-9a-f]{6,}\b")


def settle(notebook: NotebookNode) -> NotebookNode:
    """The notebook without times, its tables counted, addresses of objects left out; changed in place."""
    names: dict[str, str] = {}
    for holder in (notebook, *notebook.cells):
        for key in TIMES:
            holder.metadata.pop(key, None)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            for kind in ("text/html", "text/plain"):
                if kind in data:
                    data[kind] = _settled(data[kind], names)
    return notebook


def _settled(words: Any, names: dict[str, str]) -> str:
    text = "".join(words)
    text = TABLE.sub(lambda match: names.setdefault(match[0], f"T_{len(names):05x}"), text)
    return ADDRESS.sub("at an address", text)
