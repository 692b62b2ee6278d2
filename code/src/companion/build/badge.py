"""The README's line of claims, between its two markers, and its picture, from the built book.

``python -m companion.build.badge`` writes both; with ``--check`` it only says whether the line is up to date.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections import Counter

from companion.build.claims_table import Row, read, summary
from companion.build.paths import BOOK, HTML, README

PICTURE = "fig-overview.svg"

KINDS = {
    "equality": "equalities",
    "bound": "bounds",
    "count": "counts of cases",
    "failure": "that fail when a condition is dropped, as they must",
}
SOURCES = {
    "abstract": "of the paper's abstract",
    "secondary": "of summaries of the paper",
    "companion": "of this companion",
    "neighbour": "of related papers",
}
LINE = re.compile(r"(<!-- claims -->)(.*?)(<!-- /claims -->)", re.DOTALL)


def with_line(readme: str, line: str) -> str:
    """`readme` with `line` between the markers."""
    return LINE.sub(lambda match: f"{match[1]}{line}{match[3]}", readme)


def headline(rows: list[Row]) -> str:
    """How many claims hold, of which kinds, and whose."""

    def counts(field: str, words: dict[str, str]) -> str:
        found = Counter(row[field] for row in rows)
        return ", ".join(f"{found[key]} {name}" for key, name in words.items() if found[key])

    kinds, sources = counts("kind", KINDS), counts("source", SOURCES)
    return f"**{summary(rows)}**, checked on every build: {kinds}. Whose: {sources}."


def main(arguments: list[str]) -> int:
    """Write or check the line; returns the exit code."""
    rows = read(HTML / "claims.json")
    old = README.read_text()
    new = with_line(old, headline(rows))
    if "--check" in arguments:
        if old != new:
            print("README.md: the line of claims is not up to date; run make badge", file=sys.stderr)
        return int(old != new)
    README.write_text(new)
    shutil.copyfile(HTML / "figures" / PICTURE, BOOK / "_static" / "readme.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
