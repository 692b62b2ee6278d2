"""The order of search results: pages about a word before pages that mention it.

Sphinx's index knows which pages have a word, not how often. The weights of `scorer.js` are written beside it.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util.typing import ExtensionMetadata

from companion.build.paths import BOOK

SCORER = BOOK / "_static" / "scorer.js"
FILE = "occurrences.js"
HALF = 10  # occurrences on a page of mean length that give half of the largest weight
LEAST = 3  # occurrences that count at all


def weights(pages: dict[str, Counter[str]]) -> dict[str, dict[str, int]]:
    """Of each word, by page: 100 c/(c + `HALF` l), c its occurrences there, l the page's length over the mean length."""
    mean = sum(words.total() for words in pages.values()) / max(len(pages), 1)
    found: dict[str, dict[str, int]] = {}
    for page, words in sorted(pages.items()):
        for word, count in sorted(words.items()):
            if count >= LEAST:
                found.setdefault(word, {})[page] = round(100 * count / (count + HALF * words.total() / mean))
    return dict(sorted(found.items()))


class Occurrences:
    """Counts the words of each page, stemmed as Sphinx's index has them."""

    def __init__(self) -> None:
        self.pages: dict[str, Counter[str]] = {}

    def count(self, app: Sphinx, doctree: nodes.document, page: str) -> None:
        """Count those of one page, as a reader sees them (doctree-resolved)."""
        if getattr(app.builder, "indexer", None) is None:
            return
        language = app.builder.indexer.lang  # type: ignore[attr-defined]
        stem = cache(language.stem)
        texts = (node.astext() for node in doctree.findall(nodes.Text) if not isinstance(node.parent, nodes.raw))
        words = (word for text in texts for word in language.split(text))
        self.pages[page] = Counter(stem(word.lower()) for word in words if language.word_filter(word))

    def write(self, app: Sphinx, error: Exception | None) -> None:
        """Write the weights, pages by their number (build-finished)."""
        if not error and self.pages:
            numbers = {page: number for number, page in enumerate(sorted(self.pages))}
            words = {
                word: {numbers[page]: weight for page, weight in found.items()}
                for word, found in weights(self.pages).items()
            }
            text = json.dumps({"pages": numbers, "words": words}, ensure_ascii=False, separators=(",", ":"))
            (Path(app.outdir) / "_static" / FILE).write_text(f"const OCCURRENCES = {text};\n", encoding="utf-8")


def use_scorer(app: Sphinx, config: Config) -> None:
    """Give Sphinx's search the scorer (config-inited)."""
    config.html_search_scorer = str(SCORER)


def add_weights(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Load the weights on the page of the search (html-page-context)."""
    if page == "search":
        app.add_js_file(FILE)


def setup(app: Sphinx) -> ExtensionMetadata:
    """Sphinx calls this."""
    found = Occurrences()
    app.connect("config-inited", use_scorer)
    app.connect("doctree-resolved", found.count)
    app.connect("html-page-context", add_weights)
    app.connect("build-finished", found.write)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
