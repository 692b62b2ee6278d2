"""The page of claims: collected from the executed notebooks, in reading order."""

from __future__ import annotations

import html
import json
import os
from pathlib import Path

from companion.claims import MIME, SOURCES, prose
from companion.numbers import text
from companion.paths import CLAIMS, EXECUTED, ROOT
from companion.toc import notebooks


class DuplicateClaim(ValueError):
    """Two claims of the book have the same id."""


def collect(executed: Path = EXECUTED, root: Path = ROOT) -> list[dict]:
    """All claims of the book, each with the page it stands on and that page's title.

    Raises
    ------
    DuplicateClaim
        When an id occurs twice.
    """
    rows = [row for path in notebooks(root) if (executed / path).exists() for row in _of_notebook(executed, path)]
    seen: dict[str, str] = {}
    for row in rows:
        if row["id"] in seen:
            raise DuplicateClaim(f"claim id {row['id']!r} is used in {seen[row['id']]} and in {row['page']}")
        seen[row["id"]] = row["page"]
    return rows


def _of_notebook(executed: Path, path: Path) -> list[dict]:
    notebook = json.loads((executed / path).read_text())
    page, title = str(path.with_suffix("")), _title(notebook, path.stem)
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    found = [output["data"][MIME] for output in outputs if MIME in output.get("data", {})]
    return [row | {"page": page, "title": title} for row in found]


def _title(notebook: dict, default: str) -> str:
    lines = "\n".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    return next((line[2:].strip() for line in lines.splitlines() if line.startswith("# ")), default)


def write(rows: list[dict], target: Path = CLAIMS) -> None:
    """Write ``claims.json``, which the render step puts beside the pages."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


def summary(rows: list[dict]) -> str:
    """``12 of 12 claims hold``."""
    return f"{sum(row['holds'] for row in rows)} of {len(rows)} claims hold"


class Table:
    """Rows of claims as an HTML table, grouped by chapter when `grouped`."""

    def __init__(self, rows: list[dict], grouped: bool = True, here: str = "book"):
        self.rows, self.grouped, self.here = rows, grouped, here

    def __repr__(self) -> str:
        return "\n".join(f"{row['id']}: {'holds' if row['holds'] else 'fails'}" for row in self.rows)

    def _repr_html_(self) -> str:
        if not self.rows:
            return "<p>No claim of this kind has been made yet.</p>"
        names = ("claim", "source", "predicted", "measured", "")
        head = "".join(f"<th>{name}</th>" for name in names)
        return f'<div class="wide"><table class="claims table"><tr>{head}</tr>{self._body()}</table></div>'

    def _body(self) -> str:
        body, title = [], None
        for row in self.rows:
            if self.grouped and row["title"] != title:
                title = row["title"]
                link = f'<a href="{self._url(row)}">{prose(title)}</a>'
                body.append(f'<tr class="chapter"><th colspan="5">{link}</th></tr>')
            body.append(self._row(row))
        return "".join(body)

    def _row(self, row: dict) -> str:
        statement = f'{prose(row["statement"])} <a href="{self._url(row)}#claim-{row["id"]}">{row["id"]}</a>'
        if row["figure"]:
            statement += f' · <a href="{self._url(row)}#{html.escape(row["figure"])}">figure</a>'
        state = '<span class="yes">✓</span>' if row["holds"] else '<span class="no">✗</span>'
        cells = (statement, prose(row["source"]), row["expectation"], text(row["measured"]), state)
        return f'<tr id="row-{row["id"]}">{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'

    def _url(self, row: dict) -> str:
        return f"{Path(os.path.relpath(row['page'], self.here)).as_posix()}.html"


def by_source(rows: list[dict]) -> dict[str, str]:
    """How many claims come from each kind of source, in words."""
    counts = {kind: sum(row["kind"] == kind for row in rows) for kind in SOURCES}
    return {SOURCES[kind]: str(count) for kind, count in counts.items() if count}
