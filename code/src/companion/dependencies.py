"""Which notebook depends on which modules: written as rules for Make.

A notebook is executed again when it, a module of this repository that it imports (directly or through others), or the
environment has changed. ``python -m companion.dependencies`` writes ``_build/dependencies.mk``.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from companion import commit
from companion.paths import ROOT
from companion.toc import notebooks

SOURCES = Path("code/src")
LAST = "claims.ipynb"  # reads the executed copies of all others


def module_file(name: str, sources: Path) -> Path | None:
    """File of the module `name` below `sources`, or None when it lives elsewhere."""
    base = sources.joinpath(*name.split("."))
    candidates = (base.with_suffix(".py"), base / "__init__.py")
    return next((path for path in candidates if path.exists()), None)


def imported_names(code: str, package: str = "") -> Iterator[str]:
    """Full names of all that `code` imports; `package` resolves relative imports."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *filter(None, [node.module])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def modules_of(code: str, sources: Path, package: str = "") -> set[Path]:
    """Files below `sources` that `code` imports, with all that these import."""
    found: set[Path] = set()
    waiting = _files_imported(code, sources, package)
    while waiting:
        file = waiting.pop()
        found.add(file)
        waiting |= _files_imported_by(file, sources) - found
    return found


@cache
def _files_imported_by(file: Path, sources: Path) -> set[Path]:
    return _files_imported(file.read_text(), sources, ".".join(file.relative_to(sources).parent.parts))


def _files_imported(code: str, sources: Path, package: str) -> set[Path]:
    return {file for name in imported_names(code, package) for file in _with_parents(name, sources)}


def _with_parents(name: str, sources: Path) -> set[Path]:
    """The module's file and the ``__init__`` files that Python runs on the way to it."""
    parts = name.split(".")
    files = {module_file(".".join(parts[:end]), sources) for end in range(1, len(parts) + 1)}
    return {file for file in files if file}


def notebook_code(notebook: dict) -> str:
    """The Python of all code cells, without the lines that only IPython reads."""
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return "\n".join("pass" if line.lstrip()[:1] in {"%", "!"} else line for line in "\n".join(cells).splitlines())


def rule(path: Path, root: Path, others: list[Path]) -> str:
    """The Make rule of one notebook: all that its executed copy depends on."""
    notebook = json.loads((root / path).read_text())
    try:
        modules = modules_of(notebook_code(notebook), root / SOURCES)
    except SyntaxError:  # execution will say it better, with the cell
        modules = set()
    needs = sorted(str(module.relative_to(root)) for module in modules)
    needs += notebook.get("metadata", {}).get("companion", {}).get("reads", [])
    needs += [f"$(EXECUTED)/{other}" for other in others]
    return f"$(EXECUTED)/{path}: {' '.join([str(path), *needs])}\n"


def rules(root: Path) -> str:
    """The rules of all notebooks in ``_toc.yml``."""
    books = notebooks(root)
    lines = [f"NOTEBOOKS := {' '.join(map(str, books))}\n"]
    for path in books:
        others = [other for other in books if other != path] if path.name == LAST else []
        lines.append(rule(path, root, others))
    return "".join(lines)


def main(root: Path = ROOT) -> None:
    """Write ``_build/dependencies.mk``, and ``_build/commit`` when it changed."""
    target = root / "_build" / "dependencies.mk"
    target.parent.mkdir(exist_ok=True)
    target.write_text(rules(root))
    commit.record(root, target.with_name("commit"))


if __name__ == "__main__":
    main()
