"""The list of works in the form in which the text cites them: authors and year, each with a link to its DOI or arXiv page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from pybtex.plugin import find_plugin, register_plugin
from pybtex.style.formatting.plain import Style as Plain
from pybtex.style.labels import BaseLabelStyle
from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata


def label(entry: Any) -> str:
    """``Min et al., 2021``, ``Ji and Telgarsky, 2020`` or ``Bach, 2010``."""
    names = [" ".join(person.prelast_names + person.last_names) for person in entry.persons.get("author", [])]
    names = [name.replace("{", "").replace("}", "") for name in names]
    who = names[0] if len(names) == 1 else " and ".join(names) if len(names) == 2 else f"{names[0]} et al."
    return f"{who}, {entry.fields['year']}"


class AuthorYearLabels(BaseLabelStyle):  # type: ignore[misc]
    """Labels by authors and year; letters tell works of the same authors and year apart."""

    def format_labels(self, sorted_entries: list[Any]) -> Iterator[str]:
        """One label an entry."""
        labels = [label(entry) for entry in sorted_entries]
        several = {name for name, count in Counter(labels).items() if count > 1}
        seen: Counter[str] = Counter()
        for name in labels:
            seen[name] += 1
            yield f"{name}{'abcdefghij'[seen[name] - 1]}" if name in several else name


class AuthorYear(Plain):  # type: ignore[misc]
    """Pybtex's plain style with these labels."""

    default_label_style = AuthorYearLabels


def setup(app: Sphinx) -> ExtensionMetadata:
    """Sphinx calls this."""
    register_plugin("pybtex.style.formatting", "author_year", AuthorYear)
    for group, name in (("pybtex.backends", "plaintext"), ("pybtex.backends", "docutils")):
        register_plugin(
            group, name, find_plugin(group, name), force=True
        )  # else looked up in all packages, a citation each
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
