"""The reading order of the book, from ``_toc.yml``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import yaml

from companion.build.paths import ROOT


def documents(root: Path = ROOT) -> list[str]:
    """Every page of the book in reading order, as ``book/model`` (no suffix)."""
    return list(_files(yaml.safe_load((root / "_toc.yml").read_text())))


def _files(node: object) -> Iterator[str]:
    if isinstance(node, list):
        for item in node:
            yield from _files(item)
    elif isinstance(node, dict):
        yield from (node[key] for key in ("root", "file") if key in node)
        for key in ("parts", "chapters", "sections"):
            yield from _files(node.get(key))


def notebooks(root: Path = ROOT) -> list[Path]:
    """The notebooks of the book in reading order, relative to `root`."""
    paths = [Path(f"{name.removesuffix('.ipynb')}.ipynb") for name in documents(root)]
    return [path for path in paths if (root / path).exists()]


def title(path: Path) -> str:
    """The first heading of a page, notebook or Markdown."""
    text = path.read_text()
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return next((line[2:].strip() for line in text.splitlines() if line.startswith("# ")), path.stem)
