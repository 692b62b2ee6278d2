"""Check the built pages: dead links and anchors, anything loaded from outside, figures without caption or alt text,
markup that was not rendered, numbers that are none, and outputs that tell of an error.

``python -m companion.build.check_site _build/html``
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from companion.build.paths import ROOT

LOADING = {("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("video", "src"), ("audio", "src")}
LOADING |= {("embed", "src"), ("object", "data"), ("image", "href"), ("image", "xlink:href")}
LOADING |= {("img", "srcset"), ("source", "srcset"), ("video", "poster"), ("use", "href")}
LOADING_LINKS = {"stylesheet", "preload", "prefetch", "icon", "shortcut", "modulepreload", "preconnect", "manifest"}
LOADING_LINKS |= {"dns-prefetch", "apple-touch-icon"}
CSS_URL = re.compile(r"url\(\s*[\"']?([^\"')]+)|@import\s+[\"']([^\"']+)")
# What Sphinx should have turned into something else, where a reader sees it: outside code and mathematics.
LEFT_OVER = {
    "role": re.compile(r"\{(?:glue|numref|eq|ref|doc|term|math|code|cite|prf|download|abbr)(?::\w+)*\}\S{0,30}"),
    "mathematics": re.compile(r"\$[^$\n]{1,200}\$|\\[(\[].{0,40}|\\[A-Za-z]{2,}"),
}
NO_NUMBER = {"nan", "inf", "-inf", "−inf", "None", "NaN", ""}
UNREAD = {"script", "style", "code", "pre", "textarea", "template"}
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


@dataclass(frozen=True)
class Problem:
    """Something wrong on a page."""

    page: str
    what: str

    def __str__(self) -> str:
        return f"  {self.page}: {self.what}"


@dataclass
class Image:
    """An image of a page: its address, its alt text, and its caption when it stands in a figure."""

    src: str
    alt: str
    figure: Figure | None
    in_article: bool


@dataclass
class Figure:
    """A ``figure`` element and the text of its caption."""

    caption: str = ""


@dataclass
class Page(HTMLParser):
    """What a page links to, loads, names and shows."""

    path: Path
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)
    images: list[Image] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    words: str = ""
    numbers: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[str] = []
        self._classes: list[set[str]] = []
        self._figures: list[Figure] = []
        self.feed(self.path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what an element names, links to, loads or shows."""
        given = {name: value or "" for name, value in attrs}
        if given.get("id") in self.anchors:
            self.repeated.append(given["id"])
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        classes = set(given.get("class", "").split())
        if tag not in VOID:
            self._open.append(tag)
            self._classes.append(classes)
        if "pasted-text" in classes:
            self.numbers.append("")
        self.errors += sorted(classes & {"traceback", "stderr"}) if "output" in classes else []
        if tag == "figure":
            self._figures.append(Figure())
        elif tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and LOADING_LINKS & set(given.get("rel", "").split()):
            self.loads.append(given.get("href", ""))
        elif tag == "img":
            figure = self._figures[-1] if self._figures else None
            self.images.append(Image(given.get("src", ""), given.get("alt", ""), figure, "article" in self._open))
        self.loads += [value for name, value in given.items() if (tag, name) in LOADING]
        self.loads += css_urls(given.get("style", ""))

    def handle_endtag(self, tag: str) -> None:
        """Close an element, with those left open inside it."""
        if tag in self._open:
            closed = None
            while closed != tag:
                closed = self._open.pop()
                self._classes.pop()
        if tag == "figure" and self._figures:
            self._figures.pop()

    def handle_data(self, data: str) -> None:
        """Collect what a reader sees of the article, the text of captions, and the addresses inside style elements."""
        if "article" in self._open and not UNREAD & set(self._open) and not any("math" in c for c in self._classes):
            self.words += data
        if self._classes and "pasted-text" in self._classes[-1]:
            self.numbers[-1] += data
        if self._figures and "figcaption" in self._open:
            self._figures[-1].caption += data
        if self._open and self._open[-1] == "style":
            self.loads += css_urls(data)


def css_urls(css: str) -> list[str]:
    """Addresses that a style sheet loads."""
    return [first or second for first, second in CSS_URL.findall(css)]


def is_external(address: str) -> bool:
    """Whether a browser would leave the site to fetch it."""
    parts = urlsplit(address.strip())
    return bool(parts.netloc) or parts.scheme in {"http", "https", "ftp"}


class Site:
    """All pages below a folder."""

    def __init__(self, folder: Path):
        self.folder = folder.resolve()

    @cached_property
    def pages(self) -> dict[Path, Page]:
        """Pages by path."""
        return {path: Page(path) for path in sorted(self.folder.rglob("*.html")) if "_static" not in path.parts}

    def problems(self) -> list[Problem]:
        """All that is wrong, page by page."""
        found = [
            Problem(str(path.relative_to(self.folder)), what)
            for path, page in self.pages.items()
            for what in dict.fromkeys([*self._links(page), *self._loads(page), *_figures(page), *_text(page)])
        ]
        return found + list(self._style_sheets())

    def _links(self, page: Page) -> Iterator[str]:
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme == "file":
                yield f"link into this machine {link}"
            if parts.scheme or parts.netloc or link in {"", "#"}:
                continue
            target = self._target(page.path, parts.path) if parts.path else page.path
            if not target.exists():
                yield f"dead link {link}"
            elif parts.fragment and not self._has(target, unquote(parts.fragment)):
                yield f"dead anchor {link}"

    def _loads(self, page: Page) -> Iterator[str]:
        for address in page.loads:
            if is_external(address):
                yield f"loads from outside {address}"
            elif self._is_missing(page.path, address):
                yield f"loads a missing file {address}"

    def _has(self, target: Path, anchor: str) -> bool:
        return target not in self.pages or anchor in self.pages[target].anchors

    def _is_missing(self, page: Path, address: str) -> bool:
        inline = not address or address.startswith(("data:", "#"))
        return not inline and not self._target(page, urlsplit(address).path).exists()

    def _target(self, page: Path, path: str) -> Path:
        base = self.folder if path.startswith("/") else page.parent
        target = (base / unquote(path).lstrip("/")).resolve()
        return target / "index.html" if target.is_dir() else target

    def _style_sheets(self) -> Iterator[Problem]:
        for path in sorted(self.folder.rglob("*.css")):
            for address in filter(is_external, css_urls(path.read_text())):
                yield Problem(str(path.relative_to(self.folder)), f"loads from outside {address}")


def _figures(page: Page) -> Iterator[str]:
    for image in page.images:
        if not image.in_article:
            continue
        generated = not image.alt.strip() or Path(urlsplit(image.src).path).name in image.alt
        if generated or image.alt.startswith(("../", "_images/")):
            yield f"image without alt text {image.src}"
        if image.figure is None or not image.figure.caption.strip():
            yield f"image without caption {image.src}"


def _text(page: Page) -> Iterator[str]:
    for name, pattern in LEFT_OVER.items():
        for match in pattern.finditer(page.words):
            yield f"{name} left as text: {match[0]}"
    for number in page.numbers:
        if number.strip() in NO_NUMBER:
            yield f"no number in a sentence: {number.strip() or 'nothing'}"
    for anchor in page.repeated:
        if anchor != "proof-content":  # every proof has this one
            yield f"anchor given twice: {anchor}"
    for kind in page.errors:
        yield f"a cell shows a {kind}"
    if str(ROOT) in page.words:
        yield f"names a folder of this machine: {ROOT}"


def check(folder: Path) -> list[Problem]:
    """Problems of the site built in `folder`; empty when it is sound.

    Raises
    ------
    FileNotFoundError
        When there is no page at all.
    """
    site = Site(folder)
    if not site.pages:
        raise FileNotFoundError(f"there are no pages below {folder}")
    return site.problems()


def main(arguments: list[str]) -> int:
    """Print the problems; returns the exit code."""
    problems = check(Path(arguments[0]))
    for problem in problems:
        print(problem, file=sys.stderr)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
