"""The page of claims: collected from the executed notebooks, in reading order."""

from __future__ import annotations

import html
import json
import re
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from companion.build.paths import BOOK, CLAIMS, EXECUTED, ROOT
from companion.build.toc import notebooks
from companion.chapter.claims import MIME, NAMED, SOURCES, address, prose, source_html


class DuplicateClaim(ValueError):
    """Two claims of the book have the same id."""


class UnknownSentence(ValueError):
    """A claim about the paper's abstract is about none of its sentences."""


def collect(executed: Path = EXECUTED, root: Path = ROOT) -> list[dict]:
    """All claims of the book, each with the page it stands on and that page's title.

    Raises
    ------
    DuplicateClaim
        When an id occurs twice.
    UnknownSentence
        When a claim about the paper's abstract does not say about which sentence of it.
    """
    rows = [row for path in notebooks(root) if (executed / path).exists() for row in _of_notebook(executed, path)]
    seen: dict[str, str] = {}
    for row in rows:
        if row["id"] in seen:
            raise DuplicateClaim(f"claim id {row['id']!r} is used in {seen[row['id']]} and in {row['page']}")
        seen[row["id"]] = row["page"]
        if row["kind"] == "abstract" and not any(sentence.of_abstract([row]) for sentence in ABSTRACT):
            raise UnknownSentence(
                f"claim {row['id']!r}: its source {row['source']!r} must say which sentence of the abstract it checks: "
                "its direction, its global convergence, a rate, or the sparsification"
            )
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


@dataclass(frozen=True)
class Sentence:
    """One statement of the paper's abstract, in the companion's words, and how to tell the claims that check it.

    Attributes
    ----------
    key : str
        Pattern that the source of a claim of kind ``abstract`` has.
    theorems : tuple of str
        Names in `companion.chapter.claims.RESULTS` under which the companion states and proves it.
    """

    title: str
    words: str
    key: str
    theorems: tuple[str, ...]

    def of_abstract(self, rows: list[dict]) -> list[dict]:
        """The claims that name this sentence of the abstract."""
        return [row for row in rows if row["kind"] == "abstract" and re.search(self.key, row["source"])]

    def of_theorems(self, rows: list[dict]) -> list[dict]:
        """The claims that check the companion's theorems on it."""
        return [row for row in rows if row["kind"] == "companion" and set(self.theorems) & set(named(row["source"]))]


ABSTRACT = (
    Sentence(
        "Direction",
        r"$W_t$ converges in direction to $W_{\mathrm{mm}}$, which separates the optimal from the other tokens with the "
        "largest margin.",
        r"^(?!.*rate).*direction",
        ("one-clock",),
    ),
    Sentence(
        "Global convergence",
        "There are scenarios in which this convergence is provably global: from every start.",
        r"global",
        ("global-convergence",),
    ),
    Sentence(
        "Rates of the direction",
        r"Normalized gradient descent and the Polyak step-size converge to $W_{\mathrm{mm}}$ at finite-time rates.",
        r"^(?!.*sparsif).*rate",
        ("sharp-order",),
    ),
    Sentence(
        "Rate of sparsification",
        "For the same rules the attention map becomes sparse at a finite-time rate.",
        r"sparsif",
        ("sparsification",),
    ),
)


def named(source: str) -> list[str]:
    """Names of the companion's results in a source."""
    return [match[1] for match in NAMED.finditer(source)]


class View:
    """Rows of claims as HTML, with links from a page in the folder `here`."""

    def __init__(self, rows: list[dict], here: Path = BOOK):
        self.rows, self.here = rows, here

    def __repr__(self) -> str:
        return "\n".join(f"{row['id']}: {'holds' if row['holds'] else 'fails'}" for row in self.rows)

    def url(self, row: dict) -> str:
        """Address of the page on which a claim stands."""
        return address(row["page"].removeprefix("book/"), self.here)

    def chapters(self, rows: list[dict]) -> dict[str, list[dict]]:
        """Rows by page, in reading order."""
        return {page: list(group) for page, group in groupby(rows, key=lambda row: row["page"])}


class State(View):
    """What became of each sentence of the abstract: how many claims check it, which, and where."""

    def _repr_html_(self) -> str:
        return '<div class="sentences">' + "".join(self._sentence(sentence) for sentence in ABSTRACT) + "</div>"

    def _sentence(self, sentence: Sentence) -> str:
        own, proved = sentence.of_abstract(self.rows), sentence.of_theorems(self.rows)
        checks = "".join(f"<li>{self._check(row)}</li>" for row in own) + self._of_theorems(sentence, proved)
        state = f"{mark(own + proved)} {summary(own + proved)}" if own or proved else "not checked"
        return (
            f'<div class="sentence"><p><b>{sentence.title}.</b> {prose(sentence.words)} '
            f'<span class="sentence-state">{state}</span></p><ul>{checks}</ul></div>'
        )

    def _check(self, row: dict) -> str:
        link = f'<a href="{self.url(row)}#claim-{row["id"]}">{prose(row["statement"].rstrip("."))}</a>'
        return f"{link}: measured {row['found']}, predicted {row['expectation']}"

    def _of_theorems(self, sentence: Sentence, rows: list[dict]) -> str:
        theorems = ", ".join(source_html(f"companion: {name} theorem", self.here) for name in sentence.theorems)
        pages = self.chapters(rows).items()
        where = ", ".join(
            f'<a href="#{group_anchor(page)}">{prose(of[0]["title"])}</a> ({len(of)})' for page, of in pages
        )
        stated = f"Stated and proved in this book: {theorems.replace('companion: ', '')}"
        return f"<li>{stated}{f'; checked in {where}' if rows else ''}</li>"


class Summary(View):
    """How many claims each chapter makes, by the kind of their source."""

    def _repr_html_(self) -> str:
        kinds = [kind for kind in SOURCES if any(row["kind"] == kind for row in self.rows)]
        head = "".join(f'<th class="number" title="{SOURCES[kind]}">{kind}</th>' for kind in kinds)
        body = "".join(
            f'<tr><td><a href="#{group_anchor(page)}">{prose(rows[0]["title"])}</a></td>{self._counts(kinds, rows)}</tr>'
            for page, rows in self.chapters(self.rows).items()
        )
        foot = f'<tr class="total"><td>all chapters</td>{self._counts(kinds, self.rows)}</tr>'
        head = f'<tr><th>chapter</th>{head}<th class="number">hold</th></tr>'
        return f'<table class="claims claims-summary"><thead>{head}</thead><tbody>{body}{foot}</tbody></table>'

    def _counts(self, kinds: list[str], rows: list[dict]) -> str:
        counts = [sum(row["kind"] == kind for row in rows) for kind in kinds]
        cells = [str(count) if count else "·" for count in counts]
        cells.append(f"{mark(rows)} {sum(row['holds'] for row in rows)} of {len(rows)}")
        return "".join(f'<td class="number">{cell}</td>' for cell in cells)


class Table(View):
    """Every claim with its prediction and measurement, grouped by chapter."""

    def _repr_html_(self) -> str:
        head = '<tr><th></th><th>claim</th><th>predicted</th><th class="measured">measured</th></tr>'
        body = "".join(map(self._group, self.chapters(self.rows).values()))
        return f'<table class="claims claims-table"><thead>{head}</thead>{body}</table>'

    def _group(self, rows: list[dict]) -> str:
        link = f'<a href="{self.url(rows[0])}">{prose(rows[0]["title"])}</a>'
        title = f'<tr class="chapter" id="{group_anchor(rows[0]["page"])}"><th></th><th colspan="3">{link}</th></tr>'
        return f"<tbody>{title}{''.join(map(self._row, rows))}</tbody>"

    def _row(self, row: dict) -> str:
        small = [source_html(row["source"], self.here), f'<a href="{self.url(row)}#claim-{row["id"]}">{row["id"]}</a>']
        if row["figure"]:
            small.append(f'<a href="{self.url(row)}#{html.escape(row["figure"])}">figure</a>')
        statement = f'{prose(row["statement"])}<span class="claim-details">{" · ".join(small)}</span>'
        cells = (
            f"<td>{mark([row])}</td><td>{statement}</td>"
            f'<td class="numbers" data-label="predicted">{row["expectation"]}</td>'
            f'<td class="numbers measured" data-label="measured">{row["found"]}</td>'
        )
        return f'<tr id="row-{row["id"]}">{cells}</tr>'


def mark(rows: list[dict]) -> str:
    """A sign that tells whether all `rows` hold."""
    holds = all(row["holds"] for row in rows)
    return f'<span class="{"yes" if holds else "no"}" title="{"holds" if holds else "fails"}">{"✓" if holds else "✗"}</span>'


def group_anchor(page: str) -> str:
    """Anchor of a chapter's group of rows."""
    return f"chapter-{page.removeprefix('book/').replace('/', '-')}"
