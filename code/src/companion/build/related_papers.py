"""The page of the related papers: what became of each one's statements, made of the pages and their claims.

A page says in its own words what it does not test, separated by semicolons, and refers to the theorems of this book that
it touches. The directive ``{related-papers}`` collects both, and counts the claims.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata

from companion.build.claims_table import Row
from companion.build.claims_view import ClaimsDirective, Content, View, element, html, joined, prose
from companion.build.paths import ROOT
from companion.build.toc import documents, labels, markdown, title

FOLDER = "book/neighbours/"
PAPER = re.compile(r"\{cite(?::[tp])?\}`([^`,]+)")
THEOREM = re.compile(r"\{prf:ref\}`(?:[^`<]*<)?([^`<>]+)>?`")
ROLE = re.compile(r"\{[\w:]+\}`([^`<]+?)\s*(?:<[^`>]*>)?`")
UNTESTED = re.compile(r"^## What this page does not test\s*\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)


class PageIsIncomplete(ValueError):
    """A related paper's page lacks what the list of related papers is made of."""


@dataclass(frozen=True)
class RelatedPaper:
    """What the page of one related paper says of itself."""

    page: str
    title: str
    paper: str
    theorems: tuple[str, ...]
    untested: tuple[str, ...]

    def of(self, rows: Iterable[Row]) -> list[Row]:
        """The page's claims."""
        return [row for row in rows if row["page"] == self.page]


def related_papers(root: Path = ROOT) -> list[RelatedPaper]:
    """The related papers in reading order: the notebooks below `FOLDER`."""
    pages = [name.removesuffix(".ipynb") for name in documents(root) if name.startswith(FOLDER)]
    return [_read(name, root) for name in pages if (root / f"{name}.ipynb").exists()]


def _read(page: str, root: Path) -> RelatedPaper:
    """
    Raises
    ------
    PageIsIncomplete
        When a page cites no paper, refers to no theorem of this book, or does not say what it leaves untested.
    """
    path = root / f"{page}.ipynb"
    words = markdown(path)
    paper, untested = PAPER.search(words), UNTESTED.search(words)
    elsewhere = {label for label, (where, _) in labels(root).items() if not where.startswith(FOLDER)}
    touched = tuple(label for label in dict.fromkeys(THEOREM.findall(words)) if label in elsewhere)
    if not paper:
        raise PageIsIncomplete(f"{page} cites no paper: name it with {{cite}} in the claim")
    if not touched:
        raise PageIsIncomplete(f"{page} refers to no theorem of this book: name the one it touches with {{prf:ref}}")
    if not untested:
        raise PageIsIncomplete(f"{page} lacks its section 'What this page does not test'")
    return RelatedPaper(page, title(path), paper[1], touched, tuple(items(untested[1])))


def items(text: str) -> list[str]:
    """The parts of a sentence or list between semicolons; none inside mathematics or brackets is cut."""
    words = " ".join(line.removeprefix("- ") for line in text.strip().splitlines())
    masked = re.sub(r"\$[^$]*\$|\([^)]*\)", lambda match: "x" * len(match[0]), words)
    edges = [-1, *(match.start() for match in re.finditer(";", masked)), len(words)]
    parts = [words[a + 1 : b].strip().rstrip(".") for a, b in pairwise(edges)]
    return [part for part in parts if part]


class RelatedPapers(ClaimsDirective):
    """``{related-papers}``: each related paper with what was confirmed, what was not, and what was not tested."""

    def run(self) -> list[nodes.Node]:
        """The table."""
        rows, view = self.rows(), self.view()
        names = ("confirmed", "not confirmed", "not tested", "ours")
        head = html("thead", html("tr", html("th", "paper"), *(html("th", name, css="number") for name in names)))
        bodies = [_body(view, paper, paper.of(rows)) for paper in related_papers()]
        return [html("table", head, *bodies, css="claims claims-summary related")]


def _body(view: View, paper: RelatedPaper, rows: list[Row]) -> element:
    theirs = [row for row in rows if row["source"] == "neighbour"]
    against = [row for row in theirs if not row["confirms"]]
    counts = (len(theirs) - len(against), len(against), len(paper.untested), len(rows) - len(theirs))
    link = view.to("std", "doc", f"/{paper.page}", paper.title)
    first = html(
        "tr", html("td", link, html("span", view.cite(paper.paper), css="claim-details")), *map(_count, counts)
    )
    lines: list[list[Content]] = [
        ["Touches ", *joined([[view.theorem(label)] for label in paper.theorems], ", "), "."],
        *([["Not confirmed: ", *joined([_found(view, row) for row in against], "; "), "."]] if against else []),
        ["Not tested: ", *joined([_plain(part) for part in paper.untested], "; "), "."],
    ]
    details = [html("p", *line) for line in lines]
    return html("tbody", first, html("tr", html("td", *details, colspan="5", css="related-details")))


def _plain(words: str) -> list[Content]:
    """Prose without emphasis and roles: of those their words, or the title of the theorem that they name."""

    def named(match: re.Match[str]) -> str:
        title: str = labels().get(match[1].strip(), ("", match[1].strip()))[1]
        return title.partition(" (")[0]

    words = ROLE.sub(named, words)
    return [*prose(re.sub(r"(?<!\*)\*{1,2}([^*$]+)\*{1,2}", r"\1", words))]


def _found(view: View, row: Row) -> list[Content]:
    return [*prose(row["statement"].rstrip(".")), f", measured {row['found']} (", view.to_claim(row), ")"]


def _count(count: int) -> element:
    return html("td", str(count) if count else "·", css="number")


def setup(app: Sphinx) -> ExtensionMetadata:
    """Sphinx calls this."""
    app.add_directive("related-papers", RelatedPapers)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
