"""The Python that the page on extending prints names what the package has."""

import ast
import importlib
import re

import pytest
from companion.build.paths import BOOK

BLOCKS = re.findall(r"```python\n(.*?)```", (BOOK / "extending.md").read_text(encoding="utf-8"), re.DOTALL)


def imports(block: str) -> list[tuple[str, str]]:
    """Each name that a block imports from the package, with its module."""
    found = (node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.ImportFrom))
    return [(node.module or "", alias.name) for node in found for alias in node.names]


@pytest.mark.parametrize(
    ("module", "name"),
    [pair for block in BLOCKS for pair in imports(block) if pair[0].startswith(("tokenmargin", "companion"))],
)
def test_a_printed_import_exists(module: str, name: str) -> None:
    assert hasattr(importlib.import_module(module), name)


def test_the_page_prints_imports() -> None:
    assert sum(len(imports(block)) for block in BLOCKS) >= 7
