"""The reference of the package, made of its docstrings: ``{api} tokenmargin.margin`` shows every public name of a wing.

The docstrings are plain text with the sections of numpydoc and write mathematics as one types it, so they are not
read as reStructuredText: names in backticks become links where the reference has them, and all else is shown as it stands.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

from docutils import nodes
from sphinx.addnodes import index, pending_xref
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective, SphinxRole
from sphinx.util.typing import ExtensionMetadata

PACKAGE = "tokenmargin"
SECTION = re.compile(r"^(?P<title>[A-Z][A-Za-z ]+)\n-{3,}\n", re.MULTILINE)
ITEMS = {"Parameters", "Returns", "Yields", "Raises", "Warns", "Attributes", "Other Parameters"}
CODE = {"Examples"}
NAME = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Entry:
    """One public name: where it is defined, what it is, and its docstring."""

    module: str
    name: str
    value: Any

    @property
    def target(self) -> str:
        """Its anchor; that of a class differs from that of a function whose name differs in its capitals alone."""
        return anchor(f"{self.module}.{self.name}") + ("-class" if inspect.isclass(self.value) else "")

    @property
    def signature(self) -> str:
        """``name(parameters) -> result`` without the package's own long type names."""
        if inspect.isclass(self.value) and issubclass(self.value, BaseException):
            return self.name
        try:
            found = str(inspect.signature(self.value))
        except (TypeError, ValueError):
            return self.name
        return self.name + re.sub(r"\(self, ?", "(", found.replace("'", "")).removesuffix(" -> None")


def anchor(path: str) -> str:
    """The anchor of a dotted path."""
    return "api-" + re.sub(r"[^a-z0-9]+", "-", path.lower()).strip("-")


def modules(package: str) -> list[ModuleType]:
    """The modules of a wing, or of a package without wings, in alphabetical order."""
    found = importlib.import_module(package)
    if not hasattr(found, "__path__"):
        return [found]
    inner = [
        importlib.import_module(f"{package}.{item.name}")
        for item in pkgutil.iter_modules(found.__path__)
        if not item.ispkg
    ]
    return sorted(inner, key=lambda module: module.__name__)


def entries(module: ModuleType) -> list[Entry]:
    """The public functions and classes that `module` defines, in the order of its text."""
    own = [
        (inspect.unwrap(value), name)
        for name, value in vars(module).items()
        if not name.startswith("_") and callable(value) and getattr(value, "__module__", None) == module.__name__
    ]
    return [Entry(module.__name__, name, value) for value, name in own if inspect.getdoc(value)]


def sections(docstring: str) -> Iterator[tuple[str, str]]:
    """Title and text of each section of a numpydoc docstring; the first has no title."""
    parts = SECTION.split(docstring)
    yield "", parts[0].strip()
    for title, text in zip(parts[1::2], parts[2::2], strict=True):
        yield title, text.rstrip()


def items(text: str) -> Iterator[tuple[str, str]]:
    """Head and words of each item of a section such as Parameters."""
    for block in re.split(r"\n(?=\S)", text.strip("\n")):
        head, _, rest = block.partition("\n")
        yield head.strip(), " ".join(line.strip() for line in rest.splitlines())


@cache
def documented() -> dict[str, str]:
    """Anchors by every way in which a docstring may name an object: its name, and its dotted path from any wing on."""
    found: dict[str, str] = {}
    for wing in wings():
        for module in modules(wing):
            for entry in entries(module):
                path = f"{entry.module}.{entry.name}"
                steps = path.split(".")
                found.update({".".join(steps[k:]): entry.target for k in range(len(steps))})
    return found


def wings() -> list[str]:
    """The wings of the package, and the modules that stand beside them."""
    package = importlib.import_module(PACKAGE)
    return [
        f"{PACKAGE}.{item.name}"
        for item in pkgutil.iter_modules(package.__path__)
        if item.ispkg or item.name == "errors"
    ]


class Api(SphinxDirective):
    """``{api} tokenmargin.margin``: a section a module, in it every public name."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The sections."""
        known = documented()
        return [self.section(module, known) for module in modules(self.arguments[0]) if entries(module)]

    def section(self, module: ModuleType, known: dict[str, str]) -> nodes.section:
        """One module."""
        title = module.__name__.removeprefix(f"{PACKAGE}.")
        made = nodes.section("", nodes.title("", "", nodes.literal("", title)), ids=[anchor(module.__name__)], names=[])
        made += self.paragraphs(inspect.getdoc(module) or "", known)
        for entry in entries(module):
            made += self.entry(entry, known)
        return made

    def entry(self, entry: Entry, known: dict[str, str]) -> list[nodes.Node]:
        """One name: its signature as a heading, then its docstring."""
        heading = nodes.paragraph(
            "", "", nodes.literal("", entry.signature), classes=["api-signature"], ids=[entry.target]
        )
        heading["names"] = [entry.target]
        self.state.document.note_explicit_target(heading, heading)
        listed = index(entries=[("single", f"{entry.name} ({entry.module})", entry.target, "", None)])
        body = nodes.container(classes=["api-body"])
        for title, text in sections(inspect.getdoc(entry.value) or ""):
            body += self.part(title, text, known)
        return [listed, heading, body]

    def part(self, title: str, text: str, known: dict[str, str]) -> list[nodes.Node]:
        """One section of a docstring."""
        head = [nodes.rubric("", title)] if title else []
        if title in CODE:
            return [*head, nodes.literal_block(text, text, language="pycon")]
        if title in ITEMS:
            rows = [
                nodes.definition_list_item(
                    "",
                    nodes.term("", "", nodes.literal("", name)),
                    nodes.definition("", nodes.paragraph("", "", *self.words(rest, known))),
                )
                for name, rest in items(text)
            ]
            return [*head, nodes.definition_list("", *rows)]
        return [*head, *self.paragraphs(text, known)]

    def paragraphs(self, text: str, known: dict[str, str]) -> list[nodes.Node]:
        """Paragraphs of plain text; an indented block, or what follows ``::``, as it stands."""
        found: list[nodes.Node] = []
        for block in re.split(r"\n\s*\n", text):
            if re.match(r" {2,}", block):
                found.append(nodes.literal_block(block, inspect.cleandoc(block), language="text"))
            elif block.strip():
                found.append(nodes.paragraph("", "", *self.words(re.sub(r"\s*\n\s*", " ", block), known)))
        return found

    def words(self, text: str, known: dict[str, str]) -> list[nodes.Node]:
        """Plain text, in which a name in backticks is a link where the reference has it."""
        found: list[nodes.Node] = []
        for k, part in enumerate(NAME.split(text.replace("``", "`"))):
            if k % 2 == 0:
                found.append(nodes.Text(part))
            elif part in known:
                found.append(reference(part, known[part], self.env.docname))
            else:
                found.append(nodes.literal("", part))
        return found


def reference(words: str, target: str, page: str) -> pending_xref:
    """A link to a name of the reference."""
    options = {"refdomain": "std", "reftype": "ref", "reftarget": target, "refdoc": page, "refwarn": True}
    return pending_xref("", nodes.literal("", words), refexplicit=True, **options)


class Function(SphinxRole):
    """``{fn}`e_inf` ``: a link to a function of the package, anywhere in the book; an unknown one fails the build."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """The link."""
        target = documented().get(self.text)
        if target is None:
            message = self.inliner.reporter.error(f"the package has no public name {self.text!r}")
            return [], [message]
        return [reference(self.text, target, self.env.docname)], []


def setup(app: Sphinx) -> ExtensionMetadata:
    """Sphinx calls this."""
    app.add_directive("api", Api)
    app.add_role("fn", Function())
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
