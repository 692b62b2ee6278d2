"""Where things are. Every path of the book's machinery starts here."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
BOOK = ROOT / "book"
SOURCES = ROOT / "code" / "src"
BUILD = ROOT / "_build"
EXECUTED = BUILD / "executed"
RUNS = BUILD / "runs"
HTML = BUILD / "html"
CLAIMS = EXECUTED / "claims.json"
README = ROOT / "README.md"


def relative(path: Path) -> str:
    """Path as a reader at the root of the repository would type it."""
    path = Path(path).resolve()
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
