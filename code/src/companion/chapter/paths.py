"""Where a chapter finds and leaves files."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[4]
BOOK = ROOT / "book"
BUILD = ROOT / "_build"
RUNS = BUILD / "runs"


def relative(path: Path) -> str:
    """Path as a reader at the root of the repository would type it."""
    path = Path(path).resolve()
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def beside_run(suffix: str, name: str = "notebook") -> Path:
    """A file next to the executed copy of the running notebook, such as ``beside_run(".json", "your-data")``.

    In a notebook that is run by hand the file is _build/runs/<name><suffix>.
    """
    target = Path(os.environ.get("COMPANION_TARGET", RUNS / f"{name}.ipynb")).with_suffix(suffix)
    target.parent.mkdir(parents=True, exist_ok=True)
    return target
