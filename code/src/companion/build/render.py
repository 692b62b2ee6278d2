"""Collect the claims, render the executed book from scratch, check it, and only then put it in the place of the last good one.

``python -m companion.build.render``. Sphinx's cache is not used: with it a second run passes although the first one failed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from companion.build.check_site import check
from companion.build.claims_table import DuplicateClaim, LooseBound, collect, explained, summary, write
from companion.build.page import JUPYTER_BOOK
from companion.build.paths import BUILD, HTML, ROOT, relative
from companion.build.stopping import end_with_the_build
from companion.build.toc import documents

WORK = BUILD / "render"


class RenderFailed(RuntimeError):
    """Sphinx or the check of the built site complained."""


def build() -> Path:
    """Run Jupyter Book with warnings as errors; returns the folder of the pages."""
    shutil.rmtree(WORK, ignore_errors=True)
    options = ["--path-output", str(WORK), "-W", "-n", "--keep-going"]
    command = [*JUPYTER_BOOK, "build", str(ROOT), *options]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    (BUILD / "render.log").write_text(done.stdout)
    if done.returncode:
        raise RenderFailed(f"{complaints(done.stdout)}\nThe whole log is {relative(BUILD / 'render.log')}")
    return WORK / "_build" / "html"


def complaints(log: str) -> str:
    """The lines of a build log that say what is wrong."""
    log = re.sub(r"\x1b\[[0-9;]*m", "", log)
    lines = [line for line in log.splitlines() if re.search(r"WARNING|ERROR|CRITICAL|Error:|error:", line)]
    return "\n".join(lines or log.splitlines()[-20:])


def swap(new: Path, place: Path = HTML) -> None:
    """Put the folder `new` in the place of the old pages; a build that finds only ``html.old`` puts it back."""
    old = place.with_name(f"{place.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    new.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def main() -> int:
    """Render, check, swap; returns the exit code."""
    start = time.perf_counter()
    try:
        rows = collect()
        explained(rows)
        write(rows)
        pages = build()
        problems = check(pages)
        if problems:
            raise RenderFailed("The built pages have problems:\n" + "\n".join(map(str, problems)))
    except (RenderFailed, DuplicateClaim, LooseBound, OSError) as problem:
        print(f"\nFAILED rendering\n{problem}\nThe last good pages are untouched.\n", file=sys.stderr)
        return 1
    swap(pages)
    print(f"  {'rendered':<34} {len(documents()):>7} pages {time.perf_counter() - start:7.1f} s")
    print(f"  {summary(rows)}")
    return 0


def _forget() -> None:
    shutil.rmtree(WORK, ignore_errors=True)


if __name__ == "__main__":
    end_with_the_build(_forget)
    sys.exit(main())
