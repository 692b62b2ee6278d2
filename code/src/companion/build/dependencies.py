"""Which notebook depends on which files: written as rules for Make, with a stamp of each file's content.

``python -m companion.build.dependencies`` writes ``_build/dependencies.mk`` and the stamps. A notebook is executed again
when the content of one of these has changed: the notebook, a module of this repository that it imports (directly or
through others), a file that its metadata says it reads, the execution settings, or the locked environment. A stamp holds
the hash of a file and keeps its time while the content is the same, so that switching a branch and back executes nothing.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from companion.build import commit
from companion.build.paths import ROOT, write_whole
from companion.build.toc import notebooks

SOURCES = Path("code/src")
SETTINGS = SOURCES / "companion" / "build" / "settings.py"
STAMPS = Path("_build/stamps")
ENVIRONMENT = "environment"  # the stamp of Python's version and the lock
LOCK = Path("requirements.txt")
END = "WHOLE := yes\n"  # Make reads the file only when it ends so
# Begun first, the longest before the others, so that none of them runs on alone at the end.
LONG = (
    "global-convergence",
    "real-data",
    "exact-constants",
    "joint-training",
    "scale",
    "neighbours/transformers-as-svm",
    "edge-of-stability",
    "finite-time-rates",
)
PROSE = ("*.md", "*.bib", "_static/*")


def module_file(name: str, sources: Path) -> Path | None:
    """File of the module `name` below `sources`, or None when it lives elsewhere."""
    if not name:
        return None
    base = sources.joinpath(*name.split("."))
    candidates = (base.with_suffix(".py"), base / "__init__.py")
    return next((path for path in candidates if path.exists()), None)


def imported_files(code: str, sources: Path, package: str = "") -> set[Path]:
    """Files below `sources` that `code` imports; `package` resolves relative imports.

    An ``__init__`` counts when something is imported from the package itself, not when Python merely passes through it
    on the way to a module: ours hold docstrings, or find their names on demand (a test sees to it).
    """
    return {file for name in _imported(code, sources, package) if (file := module_file(name, sources))}


def _imported(code: str, sources: Path, package: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *filter(None, [node.module])])
            for alias in node.names:
                name = f"{base}.{alias.name}"
                yield name if module_file(name, sources) else base


def modules_of(code: str, sources: Path, package: str = "") -> set[Path]:
    """Files below `sources` that `code` imports, with all that these import."""
    found: set[Path] = set()
    waiting = imported_files(code, sources, package)
    while waiting:
        file = waiting.pop()
        found.add(file)
        waiting |= _imported_by(file, file.read_text(), sources) - found
    return found


@cache
def _imported_by(file: Path, code: str, sources: Path) -> set[Path]:
    package = ".".join(file.relative_to(sources).parent.parts)
    found = imported_files(code, sources, package)
    return found | _on_demand(code, sources, package) if file.stem == "__init__" else found


def _on_demand(code: str, sources: Path, package: str) -> set[Path]:
    """Modules that a lazy ``__init__`` names in texts, from which it imports on demand."""
    texts = [node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)]
    names = [
        text.lstrip(".") for text in texts if isinstance(text, str) and text.lstrip(".").replace(".", "").isidentifier()
    ]
    found = (module_file(name, sources) for text in names for name in (text, f"{package}.{text}"))
    return {file for file in found if file}


def notebook_code(notebook: dict[str, Any]) -> str:
    """The Python of all code cells, without the lines that only IPython reads."""
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return "\n".join("pass" if line.lstrip()[:1] in {"%", "!"} else line for line in "\n".join(cells).splitlines())


def needs(path: Path, root: Path) -> list[Path]:
    """What the notebook `path` depends on, relative to `root`: itself, modules, files it reads, execution settings."""
    notebook = json.loads((root / path).read_text())
    try:
        modules = modules_of(notebook_code(notebook), root / SOURCES)
    except SyntaxError:  # execution will say it better, with the cell
        modules = set()
    modules |= modules_of(f"import {'.'.join(SETTINGS.relative_to(SOURCES).with_suffix('').parts)}", root / SOURCES)
    reads = map(Path, notebook.get("metadata", {}).get("companion", {}).get("reads", []))
    return [path, *sorted(module.relative_to(root) for module in modules), *reads]


def pages(root: Path) -> list[Path]:
    """What the pages are rendered from, besides executed notebooks: prose, configuration and the book's machinery."""
    prose = {path for pattern in PROSE for path in (root / "book").rglob(pattern) if path.is_file()}
    code = (root / SOURCES).rglob("*.py")  # the book's machinery, and the docstrings of the reference
    found = sorted(path.relative_to(root) for path in {*prose, *code})
    return [*found, *(name for name in map(Path, ("_config.yml", "_toc.yml")) if (root / name).exists())]


def longest_first(books: list[Path]) -> list[Path]:
    """The notebooks in the order in which they are executed: those of `LONG`, then the others as they stand."""
    places = {Path(f"book/{name}.ipynb"): place for place, name in enumerate(LONG)}
    return sorted(books, key=lambda path: places.get(path, len(LONG)))


def stamp(root: Path, path: Path) -> Path:
    """The stamp of the file `path`, written anew only when its content has changed; relative to `root`."""
    return _write_stamp(root, STAMPS / path, hashlib.sha256((root / path).read_bytes()).hexdigest())


def stamp_environment(root: Path) -> Path:
    """The stamp of what is installed: Python's version and the lock."""
    lock = root / LOCK
    content = sys.version + (hashlib.sha256(lock.read_bytes()).hexdigest() if lock.exists() else "")
    return _write_stamp(root, STAMPS / ENVIRONMENT, content)


def _write_stamp(root: Path, name: Path, content: str) -> Path:
    if not (root / name).exists() or (root / name).read_text() != content:
        write_whole(root / name, content)
    return name


def _line(target: str, needed: Iterable[Path]) -> str:
    return f"{target} {' '.join(map(str, needed))}\n"


def rules(root: Path) -> str:
    """The rules of all notebooks in ``_toc.yml``, and of the pages; writes the stamps that they name."""
    books = notebooks(root)
    environment = stamp_environment(root)
    lines = [
        _line("NOTEBOOKS :=", longest_first(books)),
        _line("PAGES :=", (stamp(root, path) for path in pages(root))),
    ]
    for path in books:
        stamps = [stamp(root, needed) for needed in needs(path, root)]
        lines.append(_line(f"$(EXECUTED)/{path}:", [*stamps, environment]))
    return "".join([*lines, END])


def forget_broken(claims: Path) -> None:
    """Remove a ``claims.json`` that holds no claims or cannot be read, so that it does not count as up to date."""
    try:
        sound = bool(json.loads(claims.read_text()))
    except FileNotFoundError:
        return
    except ValueError:
        sound = False
    if not sound:
        claims.unlink()


def main(root: Path = ROOT) -> None:
    """Write ``_build/dependencies.mk`` and the stamps, and ``_build/commit`` when it changed."""
    build = root / "_build"
    write_whole(build / "dependencies.mk", rules(root))
    commit.record(root, build / "commit")
    forget_broken(build / "html" / "claims.json")


if __name__ == "__main__":
    main()
