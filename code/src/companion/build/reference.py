"""The claims' values as they were when somebody last looked: ``book/reference.json``, renewed by ``make reference``.

A value that has drifted from there is told: printed beyond a hundredth of what the claim allows, refused beyond all of it.
What a claim allows is its tolerance; for a bound it is the distance that the reference keeps from the bound.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from companion.build.claims_table import Row, read
from companion.build.paths import BOOK, HTML, relative, write_whole
from companion.chapter.claims import TINY

REFERENCE = BOOK / "reference.json"
TOLD = 0.01


@dataclass(frozen=True)
class Drift:
    """How far a claim's value is from its reference, in units of what the claim allows."""

    id: str
    reference: float
    measured: float
    size: float

    def __str__(self) -> str:
        return f"{self.id}: {self.measured!r}, reference {self.reference!r}: drift {self.size:.2g} of what it allows"


def allowed(row: Row, reference: float) -> float:
    """How far from `reference` the claim's value may be, in the unit of the value."""
    if row["relation"] == "close":
        return float(row["tolerance"] * max(abs(row["predicted"]), TINY))
    if row["relation"] == "absolute":
        return float(row["tolerance"])
    return float(abs(reference - row["predicted"]) + row["tolerance"])


def drift(row: Row, reference: float) -> Drift:
    """The drift of one claim; infinite where nothing is allowed and something changed."""
    distance, unit = abs(row["measured"] - reference), allowed(row, reference)
    size = 0.0 if distance == 0 else distance / unit if unit > 0 else float("inf")
    return Drift(row["id"], reference, row["measured"], size)


def drifts(rows: list[Row], references: dict[str, float]) -> list[Drift]:
    """The drifts that are told, largest first."""
    found = [drift(row, references[row["id"]]) for row in rows if row["id"] in references]
    return sorted((item for item in found if item.size > TOLD), key=lambda item: -item.size)


def check(rows: list[Row], source: Path = REFERENCE) -> list[str]:
    """Print the drifts; return a line for each that is larger than allowed, and for claims without reference or without a row."""
    references = load(source)
    found = drifts(rows, references)
    for item in found:
        print(f"  {item}")
    now = {row["id"] for row in rows}
    problems = [str(item) for item in found if item.size > 1 and is_equality(rows, item.id)]
    problems += [f"{id}: no reference; make reference" for id in sorted(now - references.keys())]
    return problems + [f"{id}: a reference without a claim; make reference" for id in sorted(references.keys() - now)]


def is_equality(rows: list[Row], id: str) -> bool:
    """Whether the claim compares with a value: one with a bound may move away from its bound as far as it likes."""
    return next(row for row in rows if row["id"] == id)["relation"] in {"close", "absolute", "all"}


def load(source: Path) -> dict[str, float]:
    """The references by id."""
    references: dict[str, float] = json.loads(source.read_text(encoding="utf-8"))
    return references


def record(rows: list[Row], target: Path = REFERENCE) -> None:
    """Write the values of `rows` as the references, in the order of the ids."""
    values = {row["id"]: row["measured"] for row in sorted(rows, key=lambda row: str(row["id"]))}
    write_whole(target, json.dumps(values, indent=1) + "\n")


def main(arguments: list[str]) -> int:
    """Write the references from the built book, or with ``--check`` compare it with them; returns the exit code."""
    rows = read(HTML / "claims.json")
    if "--check" in arguments:
        problems = check(rows)
        print("\n".join(problems), file=sys.stderr, end="\n" if problems else "")
        return int(bool(problems))
    record(rows)
    print(f"{relative(REFERENCE)}: {len(rows)} values")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
