"""Claims as a reader sees them: below the cell that makes them, and in the tables of the page of claims.

The executed notebook holds data only. Here it becomes document nodes with true cross-references, to the theorem, the
bibliography, the figure and the table, so that a dead one fails the build.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective, SphinxRole
from sphinx.util.typing import ExtensionMetadata
from sphinx.writers.html5 import HTML5Translator
from sphinxcontrib.bibtex.roles import CiteRole

from companion.build.claims_table import ABSTRACT, Row, Sentence, by_page, is_loose, read, summary, used
from companion.build.paths import CLAIMS
from companion.build.toc import labels
from companion.chapter.claims import BOUNDS, KINDS, MIME, SOURCES, STATUSES

TABLE_PAGE = "book/claims"
WORDS = {"source": SOURCES, "kind": KINDS, "status": STATUSES}
TIGHTNESS = ("tight", "loose")
NOT_CONFIRMED = "the statement of its source was not found here"
VERDICTS = {True: ("holds", "✓", "holds"), False: ("fails", "✗", "does not hold"), None: ("open", "–", "not judged")}
INLINE = {"a", "b", "span"}
PIECES = re.compile(r"\$(?P<math>[^$]+)\$|`(?P<code>[^`]+)`")

Content = str | nodes.Node


class element(nodes.General, nodes.TextElement):
    """An HTML element with attributes of its own, which may hold references."""


def html(tag: str, *content: Content, ids: str = "", css: str = "", **attributes: str) -> element:
    """An `element`: texts become text, ``data_x`` the attribute ``data-x``."""
    given = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
    made = element("", tag=tag, attributes=given, classes=css.split(), ids=[ids] if ids else [])
    made += [nodes.Text(part) if isinstance(part, str) else part for part in content]
    return made


def visit_element(self: HTML5Translator, node: element) -> None:
    """Open the HTML element."""
    self.body.append(self.starttag(node, node["tag"], "", **node["attributes"]))


def depart_element(self: HTML5Translator, node: element) -> None:
    """Close the HTML element."""
    self.body.append(f"</{node['tag']}>" + ("" if node["tag"] in INLINE else "\n"))


def prose(words: str) -> list[nodes.Node]:
    """Nodes of a short text in which ``$...$`` is mathematics and backticks are code."""
    found: list[nodes.Node] = []
    end = 0
    for match in PIECES.finditer(words):
        found.append(nodes.Text(words[end : match.start()]))
        found.append(nodes.math("", match["math"]) if match["math"] else nodes.literal("", match["code"]))
        end = match.end()
    return [*found, nodes.Text(words[end:])]


def joined(parts: Iterable[list[Content]], between: str) -> list[Content]:
    """The parts with a text between them."""
    found: list[Content] = []
    for part in parts:
        found += [between, *part] if found else part
    return found


class View:
    """Makes nodes for one page; references know it as the page they stand on."""

    def __init__(self, env: BuildEnvironment, document: nodes.document):
        self.env, self.document = env, document

    def to(self, domain: str, role: str, target: str, words: str = "") -> pending_xref:
        """A cross-reference, which shows `words`, or by default what its target is called."""
        inner = nodes.inline("", words or target)
        where = {"refdomain": domain, "reftype": role, "reftarget": target, "refdoc": self.env.docname}
        return pending_xref("", inner, refexplicit=bool(words), refwarn=True, **where)

    def cite(self, key: str) -> pending_xref:
        """A citation, as the role ``cite:t`` makes it."""
        role, node = CiteRole(), self.to("cite", "t", key)
        role.target = key
        role.result_nodes(self.document, self.env, node, True)
        return node

    def theorem(self, label: str) -> pending_xref:
        """A reference to a theorem of this book by its title."""
        _, title = labels().get(label, ("", label))
        return self.to("prf", "ref", label, title)

    def named(self, node: element, name: str) -> element:
        """`node` with the anchor `name`, known to Sphinx for references by `to`."""
        node["ids"], node["names"] = [name], [nodes.fully_normalize_name(name)]
        self.document.note_explicit_target(node, node)
        return node

    def source(self, row: Row) -> list[Content]:
        """Whose statement a claim is, with the theorem or the paper, and the details."""
        parts: list[list[Content]] = []
        if row["theorem"]:
            parts.append([self.theorem(row["theorem"])])
        if row["citation"]:
            parts.append([self.cite(row["citation"])])
        if row["detail"]:
            parts.append([*prose(row["detail"])])
        head = html("span", row["source"], title=SOURCES[row["source"]])
        return [head, ": ", *joined(parts, ", ")] if parts else [head]

    def badges(self, row: Row) -> list[list[Content]]:
        """Kind and status of a claim, each with its meaning as a title."""
        found: list[list[Content]] = [
            [html("span", row[name], title=WORDS[name][row[name]])] for name in ("kind", "status")
        ]
        return found if row["confirms"] else [*found, [html("b", "not confirmed", title=NOT_CONFIRMED)]]

    def block(self, row: Row) -> element:
        """One claim on its page."""
        state, sign, word = VERDICTS[row["holds"]]
        to_row = self.to("std", "ref", f"row-{row['id'].lower()}", row["id"])
        details = joined([self.source(row), *self.badges(row), [to_row]], " · ")
        numbers = html("span", "predicted ", row["expectation"]), html("span", "measured ", html("b", row["found"]))
        block = html(
            "div",
            html("span", sign, html("span", f" {word}"), css="claim-state", title=word),
            " ",
            html("span", *prose(row["statement"]), css="claim-statement"),
            " ",
            html(
                "span",
                numbers[0],
                ", ",
                numbers[1],
                " ",
                html("span", *details, css="claim-source"),
                css="claim-details",
            ),
            css=f"claim claim-{state}",
        )
        return self.named(block, f"claim-{row['id']}")

    def to_claim(self, row: Row) -> pending_xref:
        """A reference to a claim on its page, by its id: Sphinx makes mathematics in such a reference plain text."""
        return self.to("std", "ref", f"claim-{row['id'].lower()}", row["id"])

    def to_page(self, row: Row) -> pending_xref:
        """A reference to the page that a claim stands on."""
        return self.to("std", "doc", f"/{row['page']}", row["title"])

    def sentence(self, sentence: Sentence, rows: list[Row]) -> element:
        """What became of one sentence of the abstract: how many claims check it, which, and where."""
        own, proved = sentence.of_abstract(rows), sentence.of_theorems(rows)
        state = [mark(own + proved), " ", summary(own + proved)] if own or proved else ["not checked"]
        if otherwise := sum(not row["confirms"] for row in own):
            state.append(f"; not found in {otherwise} of them")
        checks = [html("li", *self._check(row)) for row in own]
        checks.append(html("li", *self._stated(sentence, proved)))
        head = html(
            "p",
            html("b", f"{sentence.title}."),
            " ",
            *prose(sentence.words),
            " ",
            html("span", *state, css="sentence-state"),
        )
        return html("div", head, html("ul", *checks), css="sentence")

    def _check(self, row: Row) -> list[Content]:
        words = f": measured {row['found']}, predicted {row['expectation']} · "
        sign = [] if row["confirms"] else [html("b", "Not confirmed: ", title=NOT_CONFIRMED)]
        return [*sign, *prose(row["statement"].rstrip(".")), words, self.to_claim(row)]

    def _stated(self, sentence: Sentence, rows: list[Row]) -> list[Content]:
        stated = [
            "Stated and proved in this book: ",
            *joined([[self.theorem(label)] for label in sentence.theorems], ", "),
        ]
        groups = by_page(rows).items()
        where: list[list[Content]] = [
            [html("a", *prose(of[0]["title"]), href=f"#{group_anchor(page)}"), f" ({len(of)})"] for page, of in groups
        ]
        return [*stated, "; checked in ", *joined(where, ", ")] if rows else stated

    def counts(self, rows: list[Row]) -> element:
        """How many claims each chapter makes, by source."""
        sources = [source for source in SOURCES if any(row["source"] == source for row in rows)]
        head = [html("th", source, css="number", title=SOURCES[source]) for source in sources]
        lines = [
            html(
                "tr",
                html("td", html("a", *prose(of[0]["title"]), href=f"#{group_anchor(page)}")),
                *_counted(sources, of),
            )
            for page, of in by_page(rows).items()
        ]
        foot = html("tr", html("td", "all chapters"), *_counted(sources, rows), css="total")
        top = html("thead", html("tr", html("th", "chapter"), *head, html("th", "hold", css="number")))
        return html("table", top, html("tbody", *lines, foot), css="claims claims-summary")

    def statuses(self, rows: list[Row]) -> element:
        """What each chapter's claims rest on: a line a chapter, a column a status, the theorems and the statements in its cells."""
        head = [html("th", status, title=words) for status, words in STATUSES.items()]
        lines = [
            html(
                "tr",
                html("td", html("a", *prose(of[0]["title"]), href=f"#{group_anchor(page)}")),
                *(self._of_status([row for row in of if row["status"] == status]) for status in STATUSES),
            )
            for page, of in by_page(rows).items()
        ]
        top = html("thead", html("tr", html("th", "chapter"), *head))
        return html("table", top, html("tbody", *lines), css="claims claims-statuses")

    def _of_status(self, rows: list[Row]) -> element:
        """A cell: the theorems that the claims test, and, to unfold, the claims."""
        if not rows:
            return html("td", "·")
        theorems = list(dict.fromkeys(row["theorem"] for row in rows if row["theorem"] and row["status"] == "proved"))
        names = joined([[self.theorem(label)] for label in theorems], ", ")
        items = [html("li", *prose(row["statement"].rstrip(".")), " · ", self.to_claim(row)) for row in rows]
        count = f"{len(rows)} claim{'s' if len(rows) > 1 else ''}"
        return html("td", *names, html("details", html("summary", count), html("ul", *items)))

    def table(self, rows: list[Row]) -> element:
        """Every claim with its prediction and measurement, grouped by chapter."""
        state = html("th", html("span", "state", css="visually-hidden"))
        names = [state, *(html("th", word, scope="col") for word in ("claim", "predicted", "measured", "used"))]
        groups = [self._group(page, of) for page, of in by_page(rows).items()]
        return html("table", html("thead", html("tr", *names)), *groups, css="claims claims-table")

    def _group(self, page: str, rows: list[Row]) -> element:
        title = html(
            "tr",
            html("th", self.to_page(rows[0]), colspan="5", scope="rowgroup"),
            css="chapter",
            ids=group_anchor(page),
        )
        return html("tbody", title, *map(self._row, rows))

    def _row(self, row: Row) -> element:
        small = [self.source(row), *self.badges(row)]
        if row["figure"]:
            small.append([self.to("std", "numref", row["figure"])])
        small.append([self.to_claim(row)])
        bound = tightness(row)
        if bound == "loose" and row["loose"]:
            small.append([html("b", "loose"), ": ", *prose(row["loose"])])
        cells = (
            html("td", mark([row])),
            html("td", *prose(row["statement"]), html("span", *joined(small, " · "), css="claim-details")),
            html("td", row["expectation"], css="numbers", data_label="predicted"),
            html("td", row["found"], css="numbers measured", data_label="measured"),
            html("td", bar(row), css="numbers used", data_label="used"),
        )
        words = {f"data_{name}": str(row[name]) for name in ("id", "source", "kind", "status")}
        words |= {"data_bound": bound, "data_used": repr(used(row) or 0.0), "data_chapter": row["title"]}
        return self.named(html("tr", *cells, **words), f"row-{row['id']}")


def _counted(sources: list[str], rows: list[Row]) -> list[element]:
    counts = [sum(row["source"] == source for row in rows) for source in sources]
    cells = [html("td", str(count) if count else "·", css="number") for count in counts]
    held = f" {sum(row['holds'] for row in rows)} of {len(rows)}"
    return [*cells, html("td", mark(rows), held, css="number")]


def tightness(row: Row) -> str:
    """``tight`` or ``loose`` for a bound, ``no bound`` for other claims."""
    return "no bound" if row["relation"] not in BOUNDS else "loose" if is_loose(row) else "tight"


def bar(row: Row) -> element:
    """How much of what a claim allows is used, as a number and drawn."""
    share = used(row)
    if share is None:
        return html("span", "exact")
    words = f"{100 * share:.0f} %" if share >= 0.01 else "< 1 %" if share > 0 else "0 %"
    return html("span", words, css=f"margin margin-{tightness(row).split()[0]}", style=f"--used: {min(share, 1):.3f}")


def mark(rows: list[Row]) -> element:
    """A sign that tells whether all `rows` hold."""
    holds = all(row["holds"] for row in rows)
    return html("span", "✓" if holds else "✗", css="yes" if holds else "no", title="holds" if holds else "fails")


def group_anchor(page: str) -> str:
    """Anchor of a chapter's group of rows."""
    return f"chapter-{page.removeprefix('book/').replace('/', '-')}"


class ClaimPlugin:
    """MyST-NB's plugin for the claims of an executed notebook (entry point in pyproject.toml)."""

    mime_priority_overrides: ClassVar[list[tuple[str, str, int]]] = [("*", MIME, 1)]

    @staticmethod
    def handle_mime(renderer: Any, data: Any, inline: bool) -> list[nodes.Node] | None:
        """The block of a claim, None for other data."""
        if data.mime_type != MIME or inline:
            return None
        page = renderer.renderer
        return [View(page.sphinx_env, page.document).block(data.content)]


class ClaimsDirective(SphinxDirective):
    """Base of the directives that show all claims."""

    def rows(self) -> list[Row]:
        """All claims of the book."""
        return read(Path(self.config.companion_claims))

    def view(self) -> View:
        """What makes nodes for this page."""
        return View(self.env, self.state.document)


class ClaimsTable(ClaimsDirective):
    """``{claims-table}``: every claim, by chapter."""

    def run(self) -> list[nodes.Node]:
        """The table."""
        return [self.view().table(self.rows())]


class ClaimsSummary(ClaimsDirective):
    """``{claims-summary}``: how many claims each chapter makes, by source."""

    def run(self) -> list[nodes.Node]:
        """The table."""
        return [self.view().counts(self.rows())]


class ClaimsStatuses(ClaimsDirective):
    """``{claims-statuses}``: which statements are proved, measured and conjectured, by chapter."""

    def run(self) -> list[nodes.Node]:
        """The table."""
        return [self.view().statuses(self.rows())]


class ClaimsAbstract(ClaimsDirective):
    """``{claims-abstract}``: the state of each sentence of the paper's abstract."""

    def run(self) -> list[nodes.Node]:
        """The sentences."""
        rows, view = self.rows(), self.view()
        return [html("div", *(view.sentence(sentence, rows) for sentence in ABSTRACT), css="sentences")]


class ClaimsCount(SphinxRole):
    """``{claims-count}`all` ``: the summary; of a source, a kind, a status, `tight` or `loose`: how many claims are."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """The count as text."""
        rows = read(Path(self.config.companion_claims))
        if self.text == "all":
            return [nodes.Text(summary(rows))], []
        if self.text in TIGHTNESS:
            return [nodes.Text(str(sum(tightness(row) == self.text for row in rows)))], []
        name = next((name for name, words in WORDS.items() if self.text in words), None)
        if name is None:
            known = ["all", *(word for words in WORDS.values() for word in words), *TIGHTNESS]
            message = self.inliner.reporter.error(f"claims-count {self.text!r} must be one of {', '.join(known)}")
            return [], [message]
        return [nodes.Text(str(sum(row[name] == self.text for row in rows)))], []


def resolve_outside(app: Sphinx, env: BuildEnvironment, node: pending_xref, words: nodes.Element) -> nodes.Node | None:
    """On the page of a single run: a link into the built book, for what only the book has (missing-reference)."""
    book = app.config.companion_outside
    target = node["reftarget"]
    if not book or node["refdomain"] not in {"prf", "std"}:
        return None
    if target.startswith("row-"):
        page, title = TABLE_PAGE, words.astext()
    elif target in labels():
        page, title = labels()[target]
    else:
        return None
    shown = words if node["refexplicit"] else nodes.inline("", title)
    return nodes.reference("", "", shown, refuri=f"{book}/{page}.html#{target}", internal=False)


def script_of(css: str, script: str) -> Callable[..., None]:
    """Load a script on the pages that have an element of this class alone (html-page-context)."""

    def add(app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
        if doctree is not None and any(css in node["classes"] for node in doctree.findall(element)):
            app.add_js_file(script, loading_method="defer")

    return add


def setup(app: Sphinx) -> ExtensionMetadata:
    """Sphinx calls this."""
    app.add_config_value("companion_claims", str(CLAIMS), "env", [str])
    app.add_config_value("companion_outside", "", "env", [str])
    app.add_node(element, html=(visit_element, depart_element))
    app.add_directive("claims-table", ClaimsTable)
    app.add_directive("claims-summary", ClaimsSummary)
    app.add_directive("claims-statuses", ClaimsStatuses)
    app.add_directive("claims-abstract", ClaimsAbstract)
    app.add_role("claims-count", ClaimsCount())
    app.connect("missing-reference", resolve_outside)
    app.connect("html-page-context", script_of("claims-table", "claims.js"))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
