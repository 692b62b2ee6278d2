"""All claims of the book as data: collected from the executed notebooks, in reading order, and counted."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from companion.build.paths import CLAIMS, EXECUTED, ROOT, write_whole
from companion.build.toc import notebooks
from companion.chapter.claims import BOUNDS, MIME

TIGHT = 3.0  # a bound within this factor of what is measured is tight
Row = dict[str, Any]  # the fields of a `Claim`, as in claims.json


class LooseBound(ValueError):
    """A bound lies far from what is measured, and its claim does not say why."""


class DuplicateClaim(ValueError):
    """Two claims of the book have the same id."""


def claims_of(notebook: dict[str, Any]) -> list[Row]:
    """The claims in the outputs of an executed notebook."""
    outputs = [output.get("data", {}) for cell in notebook["cells"] for output in cell.get("outputs", [])]
    return [data[MIME] for data in outputs if MIME in data]


def collect(executed: Path = EXECUTED, root: Path = ROOT) -> list[Row]:
    """All claims of the book, each with the page it stands on and that page's title.

    Raises
    ------
    DuplicateClaim
        When an id occurs twice; letters of both cases count as the same.
    """
    rows = [row for path in notebooks(root) if (executed / path).exists() for row in _of_page(executed, path)]
    seen: dict[str, str] = {}
    for row in rows:
        key = row["id"].lower()
        if key in seen:
            raise DuplicateClaim(f"claim id {row['id']!r} is used in {seen[key]} and in {row['page']}")
        seen[key] = row["page"]
    return rows


def _of_page(executed: Path, path: Path) -> list[Row]:
    notebook = json.loads((executed / path).read_text())
    place = {"page": str(path.with_suffix("")), "title": _title(notebook, path.stem)}
    return [row | place for row in claims_of(notebook)]


def _title(notebook: dict[str, Any], default: str) -> str:
    lines = "\n".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    return next((line[2:].strip() for line in lines.splitlines() if line.startswith("# ")), default)


def used(row: Row) -> float | None:
    """How much of what a claim that holds allows is used: 1 when the measurement is at the limit.

    For an equality the distance from the prediction over the tolerance; for a bound the smaller over the larger of limit
    and measurement, 0 when they differ in sign; None where nothing is allowed (a count, an exact equality).
    """
    predicted, measured, tolerance = row["predicted"], row["measured"], row["tolerance"]
    if row["relation"] in ("close", "absolute"):
        allowed = tolerance * (abs(predicted) if row["relation"] == "close" else 1.0)
        return abs(measured - predicted) / allowed if allowed else None
    if row["relation"] not in BOUNDS:
        return None
    limit = predicted + tolerance if row["relation"] == "at most" else predicted - tolerance
    if measured == limit:
        return 1.0
    low, high = sorted((abs(limit), abs(measured)))
    return low / high if measured * limit > 0 else 0.0


def is_loose(row: Row) -> bool:
    """Whether a claim that holds is a bound farther from what is measured than a factor of `TIGHT`."""
    share = used(row)
    return bool(row["relation"] in BOUNDS and row["holds"] and share is not None and share * TIGHT < 1.0)


def explained(rows: list[Row]) -> None:
    """Refuse loose bounds that do not say why they are.

    Raises
    ------
    LooseBound
        Names them all, with what is measured.
    """
    silent = [row for row in rows if is_loose(row) and not row["loose"]]
    if silent:
        lines = [f"  {row['id']} ({row['page']}): {row['expectation']}, measured {row['found']}" for row in silent]
        raise LooseBound(
            f"bounds farther than a factor of {TIGHT:g} from what is measured: tighten each, or say why it cannot be "
            "tighter (loose=...)\n" + "\n".join(lines)
        )


def write(rows: list[Row], target: Path = CLAIMS) -> None:
    """Write ``claims.json``, which the render step puts beside the pages."""
    write_whole(target, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


def read(source: Path = CLAIMS) -> list[Row]:
    """What `write` wrote."""
    rows: list[Row] = json.loads(source.read_text())
    return rows


def summary(rows: list[Row]) -> str:
    """``12 of 12 claims hold``."""
    return f"{sum(row['holds'] for row in rows)} of {len(rows)} claims hold"


def by_page(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by page, in reading order."""
    return {page: list(group) for page, group in groupby(rows, key=lambda row: str(row["page"]))}


@dataclass(frozen=True)
class Sentence:
    """One statement of the paper's abstract, in the companion's words, and the companion's theorems on it."""

    key: str
    title: str
    words: str
    theorems: tuple[str, ...]

    def of_abstract(self, rows: list[Row]) -> list[Row]:
        """The claims that name this sentence of the abstract."""
        return [row for row in rows if row["abstract"] == self.key]

    def of_theorems(self, rows: list[Row]) -> list[Row]:
        """The claims that check the companion's theorems on it."""
        return [row for row in rows if row["source"] == "companion" and row["theorem"] in self.theorems]


ABSTRACT = (
    Sentence(
        "direction",
        "Direction",
        r"$W_t$ converges in direction to $W_{\mathrm{mm}}$, which separates the optimal from the other tokens with the "
        "largest margin.",
        ("thm-one-clock",),
    ),
    Sentence(
        "global",
        "Global convergence",
        "There are scenarios in which this convergence is provably global: from every start.",
        ("thm-global", "lem-global-rules"),
    ),
    Sentence(
        "rates",
        "Rates of the direction",
        r"Normalized gradient descent and the Polyak step-size converge to $W_{\mathrm{mm}}$ at finite-time rates.",
        ("thm-sharp-order",),
    ),
    Sentence(
        "sparsification",
        "Rate of sparsification",
        "For the same rules the attention map becomes sparse at a finite-time rate.",
        ("thm-sparse",),
    ),
)
