"""The reading order of the book, from ``_toc.yml``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import yaml

from companion.build.paths import ROOT

THEOREM = re.compile(
    r"^`{3,}\{prf:(?P<type>theorem|proposition|corollary|lemma|remark|conjecture)\}(?P<title>.*)\n(?::nonumber:.*\n)?:label: (?P<label>\S+)$",
    re.MULTILINE,
)


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
    return next((line[2:].strip() for line in markdown(path).splitlines() if line.startswith("# ")), path.stem)


def markdown(path: Path) -> str:
    """The Markdown of a page, notebook or not."""
    text = path.read_text()
    if path.suffix != ".ipynb":
        return text
    cells = json.loads(text)["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


@cache
def labels(root: Path = ROOT) -> dict[str, tuple[str, str]]:
    """Page and title of each labelled theorem of the book, such as ``("book/model", "Gradient (lemma)")``, by label."""
    found = {}
    for name in documents(root):
        path = next(path for suffix in (".ipynb", ".md") if (path := root / f"{name}{suffix}").exists())
        for match in THEOREM.finditer(markdown(path)):
            found[match["label"]] = (name, f"{match['title'].split(', the companion')[0].strip()} ({match['type']})")
    return found
