"""Link each word of the glossary where a chapter first uses it in its prose."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata

from companion.build.paths import BOOK, ROOT

PAGE = "book/glossary"
GLOSSARY = BOOK / "glossary.md"
# Words of the glossary that are also everyday English, or verbs: their readers follow the notation.
EVERYDAY = {"cap", "captured", "claim", "constraint", "dual", "null", "score"}


@cache
def terms(source: Path = GLOSSARY) -> tuple[str, ...]:
    """What the glossary explains, longest first: a line that is followed by an indented one."""
    blocks = re.findall(r"```\{glossary\}\n(.*?)```", source.read_text(encoding="utf-8"), re.DOTALL)
    found = re.findall(r"^(\S.*)\n[ :]", "\n".join(blocks), re.MULTILINE)
    return tuple(sorted(set(found) - EVERYDAY, key=lambda term: (-len(term), term)))


@cache
def pattern(source: Path = GLOSSARY) -> re.Pattern[str]:
    """Any of the terms, in the singular or the plural."""
    return re.compile(rf"(?<![\w-])({'|'.join(map(re.escape, terms(source)))})(s?)(?![\w-])", re.IGNORECASE)


def link_terms(app: Sphinx, doctree: nodes.document) -> None:
    """Link the first use of each term in the prose of a notebook (doctree-read)."""
    page = app.env.docname
    if PAGE not in app.env.found_docs or not (ROOT / f"{page}.ipynb").exists():
        return
    seen = {node["reftarget"].lower() for node in doctree.findall(pending_xref) if node.get("reftype") == "term"}
    for paragraph in doctree.findall(nodes.paragraph):
        if isinstance(paragraph.parent, nodes.section):
            for text in [child for child in paragraph.children if isinstance(child, nodes.Text)]:
                paragraph.replace(text, list(linked(str(text), seen, page)))


def linked(words: str, seen: set[str], page: str) -> Iterator[nodes.Node]:
    """The nodes of `words`, with a reference at each term that is not in `seen`, where it is noted."""
    names = {term.lower(): term for term in terms()}
    end = 0
    for match in pattern().finditer(words):
        key = match[1].lower()
        if key in seen:
            continue
        seen.add(key)
        yield nodes.Text(words[end : match.start()])
        inner = nodes.inline("", match[0], classes=["std", "std-term"])
        where = {"refdomain": "std", "reftype": "term", "reftarget": names[key], "refdoc": page}
        yield pending_xref("", inner, refexplicit=True, refwarn=True, **where)
        end = match.end()
    yield nodes.Text(words[end:])


def setup(app: Sphinx) -> ExtensionMetadata:
    """Sphinx calls this."""
    app.connect("doctree-read", link_terms)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
