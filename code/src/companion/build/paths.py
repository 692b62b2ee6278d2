"""Where things are: what a chapter knows, and what only the build needs."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from companion.chapter.paths import BOOK, BUILD, ROOT, RUNS, relative

__all__ = ["BOOK", "BUILD", "CLAIMS", "EXECUTED", "HTML", "README", "ROOT", "RUNS", "relative", "write_whole"]

EXECUTED = BUILD / "executed"
HTML = BUILD / "html"
CLAIMS = EXECUTED / "claims.json"
README = ROOT / "README.md"


def write_whole(path: Path, text: str) -> None:
    """Write `text` to `path` whole or not at all: who reads meanwhile, or after an interruption, sees no half file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".draft")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(draft, 0o644)
        os.replace(draft, path)
    except BaseException:
        os.unlink(draft)
        raise
