"""The commit that the pages show below each figure."""

from __future__ import annotations

import subprocess
from pathlib import Path

from companion.build.paths import BUILD, ROOT, write_whole

UNCOMMITTED = "uncommitted changes"


def current(root: Path = ROOT) -> str:
    """Short hash of the last commit; ``uncommitted changes`` when tracked files differ from it or there is none."""
    try:
        changes = _git(root, "status", "--porcelain", "--untracked-files=no")
        return UNCOMMITTED if changes else _git(root, "rev-parse", "--short=10", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return UNCOMMITTED


def shown(root: Path = ROOT) -> str:
    """How the pages name it: ``commit 0123456789``, or ``uncommitted changes``."""
    now = current(root)
    return now if now == UNCOMMITTED else f"commit {now}"


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def record(root: Path = ROOT, target: Path = BUILD / "commit") -> None:
    """Write the commit into `target`, which keeps its time when nothing changed, so that Make renders only then."""
    now = current(root)
    if not target.exists() or target.read_text() != now:
        write_whole(target, now)
