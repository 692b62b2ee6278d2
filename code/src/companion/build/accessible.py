"""Read every page of the built book as axe-core reads it: no serious and no critical violation, in either theme or on a phone.

``python -m companion.build.accessible _build/html``, what ``make accessible`` calls. A table says how many nodes break
which rule; each serious one is named with its page and what is wrong.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import axe_playwright_python
from playwright.sync_api import Browser, Page

from companion.build.browser import NoBrowser, chromium, open_page

AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js")
GRAVE = ("serious", "critical")
NAMED = 3  # nodes that are named for each page, view and rule; the table counts all
RUN = """(options) => axe.run(document, options).then((result) => result.violations.flatMap((rule) => rule.nodes.map((node) => ({
  rule: rule.id, impact: rule.impact, target: node.target.join(" "), words: node.failureSummary }))))"""
# Axe counts this rule among its experiments; it is one of WCAG 2.1 (2.5.3).
LABELS = {"rules": {"label-content-name-mismatch": {"enabled": True}}}


@dataclass(frozen=True)
class View:
    """A way to look at a page: a theme, a width in pixels, and which rules depend on them (none named: all)."""

    name: str
    scheme: str = "light"
    width: int = 1280
    rules: tuple[str, ...] = ()

    def options(self) -> dict[str, Any]:
        """What axe is told."""
        only = {"runOnly": {"type": "rule", "values": list(self.rules)}} if self.rules else LABELS
        return {"resultTypes": ["violations"], **only}


VIEWS = (
    View("light"),
    View("dark", scheme="dark", rules=("color-contrast", "link-in-text-block")),
    View("phone", width=390, rules=("scrollable-region-focusable", "target-size", "aria-hidden-focus")),
)


@dataclass(frozen=True)
class Violation:
    """A node of a page that breaks a rule."""

    view: str
    page: str
    rule: str
    impact: str
    target: str
    words: str

    def __str__(self) -> str:
        words = " ".join(self.words.split())
        return f"  {self.page} ({self.view}): {self.rule}, {self.impact}, at {self.target}: {words}"


def violations(pages: Sequence[Path], folder: Path, views: Sequence[View] = VIEWS) -> Iterator[Violation]:
    """What axe finds on `pages`, which lie below `folder`, in each view.

    Raises
    ------
    NoBrowser
        When this machine has no Chromium.
    """
    with chromium() as browser:
        for view in views:
            for path in pages:
                for found in _of_page(browser, view, path):
                    yield Violation(view.name, str(path.relative_to(folder)), **found)


def _of_page(browser: Browser, view: View, path: Path) -> list[dict[str, Any]]:
    page: Page = browser.new_page(color_scheme=view.scheme, viewport={"width": view.width, "height": 900})  # type: ignore[arg-type]
    try:
        open_page(page, path.resolve().as_uri(), minutes=5)
        page.add_script_tag(path=AXE)
        found: list[dict[str, Any]] = page.evaluate(RUN, view.options())
        return found
    finally:
        page.close()


def table(found: Sequence[Violation]) -> str:
    """How many nodes break which rule, in each view."""
    counts = Counter((one.impact, one.rule, one.view) for one in found)
    lines = [f"  {'impact':<10} {'rule':<32}" + "".join(f"{view.name:>8}" for view in VIEWS)]
    for impact, rule in sorted({key[:2] for key in counts}):
        lines.append(f"  {impact:<10} {rule:<32}" + "".join(f"{counts[impact, rule, view.name]:>8}" for view in VIEWS))
    return "\n".join(lines)


def pages_of(folder: Path) -> list[Path]:
    """The pages of a built book, but for those that only lead to another one."""
    pages = [path for path in sorted(folder.rglob("*.html")) if "_static" not in path.parts]
    return [path for path in pages if 'http-equiv="Refresh"' not in path.read_text(encoding="utf-8")]


def main(arguments: list[str]) -> int:
    """Print the table and what is grave; the exit code is 1 when something is."""
    folder = Path(arguments[0])
    pages = pages_of(folder)
    if not pages:
        print(f"There are no pages below {folder}: make book", file=sys.stderr)
        return 1
    try:
        found = []
        named: Counter[tuple[str, str, str]] = Counter()
        for one in violations(pages, folder):
            found.append(one)
            named[one.view, one.page, one.rule] += one.impact in GRAVE
            if one.impact in GRAVE and named[one.view, one.page, one.rule] <= NAMED:
                print(one, file=sys.stderr, flush=True)
    except NoBrowser as problem:
        print(f"The pages were not read: {problem}", file=sys.stderr)
        return 1
    grave = sum(one.impact in GRAVE for one in found)
    print(f"{table(found)}\n  {len(pages)} pages, {grave} serious or critical violations")
    return int(grave > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
