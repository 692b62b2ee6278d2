"""The README's line of claims, between its two markers, and its picture, from the built book.

``python -m companion.build.badge`` writes both; with ``--check`` it only says whether the line is up to date.
"""

from __future__ import annotations

import re
import shutil
import sys

from companion.build.claims_table import read, summary
from companion.build.paths import BOOK, HTML, README

PICTURE = "fig-overview.svg"

LINE = re.compile(r"(<!-- claims -->)(.*?)(<!-- /claims -->)", re.DOTALL)


def with_line(readme: str, line: str) -> str:
    """`readme` with `line` between the markers."""
    return LINE.sub(lambda match: f"{match[1]}{line}{match[3]}", readme)


def main(arguments: list[str]) -> int:
    """Write or check the line; returns the exit code."""
    rows = read(HTML / "claims.json")
    old = README.read_text()
    new = with_line(old, f"**{summary(rows)}**, checked on every build.")
    if "--check" in arguments:
        if old != new:
            print("README.md: the line of claims is not up to date; run make badge", file=sys.stderr)
        return int(old != new)
    README.write_text(new)
    shutil.copyfile(HTML / "figures" / PICTURE, BOOK / "_static" / "readme.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
