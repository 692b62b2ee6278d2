"""Print the built book as one PDF: ``python -m companion.build.pdf``, what ``make pdf`` calls.

The articles of the pages, in reading order, become one document, whose references lead inside it. Chromium typesets it with
the pages' own styles, those of ``print.css`` and their MathJax. What is wider than the paper is made smaller, never cut. It
prints twice: the first time tells on which page each chapter begins, the second time the contents say so.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml
from bs4 import BeautifulSoup, Tag
from playwright.sync_api import Page, ViewportSize
from pypdf import PdfReader, PdfWriter
from pypdf.generic import NameObject, TextStringObject

from companion.build import commit
from companion.build.browser import NoBrowser, chromium, open_page
from companion.build.paths import BUILD, HTML, ROOT, relative

FILE = "companion.pdf"
SHEET = ViewportSize(width=672, height=971)  # what A4 leaves between the margins of print.css, in CSS pixels
GONE = "a.headerlink, .provenance, details.hide, script, noscript, dialog, button"
ALIVE = "#token-explorer"
LEFT_OUT = {"book/gallery"}  # its pictures stand in the chapters
NOT_HERE = "This part of the page works in a browser only."
# Makes smaller what is wider than the place that it has; returns what still is.
FIT = """() => {
  const wide = [...document.querySelectorAll("mjx-container, table, pre, img, svg, .output, p, li, dd, td, th, code, h1, h2, h3")];
  const over = (part) => part.scrollWidth > part.clientWidth + 1 && part.clientWidth > 0;
  const outer = (part) => part.parentElement.closest("td, th, li, dd, p, section, div");
  for (const part of document.querySelectorAll("mjx-container:not(table *), table, pre")) {
    const room = outer(part).clientWidth, need = Math.max(part.scrollWidth, part.getBoundingClientRect().width);
    if (room && need > room + 1) part.style.zoom = Math.max(0.4, 0.985 * room / need);
  }
  const edge = document.querySelector("main").getBoundingClientRect().right + 1;
  return wide.filter((part) => part.getBoundingClientRect().right > edge || (over(part) && part.matches("pre, p, .output")))
    .map((part) => `${part.closest("section.page")?.id}: ${part.tagName} ${part.textContent.trim().slice(0, 70)}`);
}"""


class NotPrinted(RuntimeError):
    """There is no book to print, or the print is not what it must be."""


@dataclass
class Chapter:
    """A page of the book as a part of the print."""

    name: str
    title: str
    article: Tag
    part: str = ""
    sections: list[tuple[str, str]] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        """Where it begins."""
        return anchor(self.name)


def anchor(name: str, place: str = "") -> str:
    """Name in the print of a page, or of a place on it."""
    page = name.removeprefix("book/").replace("/", "-")
    return f"{page}--{place}" if place else f"page-{page}"


def parts(root: Path = ROOT) -> dict[str, str]:
    """The part of the book in which each printed page stands, in reading order; none for the front page."""
    contents = yaml.safe_load((root / "_toc.yml").read_text())
    found = {contents["root"]: ""}
    for part in contents["parts"]:
        found |= {chapter["file"]: part["caption"] for chapter in part["chapters"]}
    return {name: part for name, part in found.items() if name not in LEFT_OUT}


def chapter(html: Path, name: str, part: str, names: set[str]) -> Chapter:
    """One page of the built book, made ready for the print."""
    soup = BeautifulSoup((html / f"{name}.html").read_text(encoding="utf-8"), "html.parser")
    article = soup.select_one("article.bd-article")
    if article is None or article.h1 is None:
        raise NotPrinted(f"{name}.html has no article with a title")
    for part_of_page in article.select(ALIVE):
        part_of_page.replace_with(soup.new_tag("p", string=NOT_HERE))
    for gone in article.select(GONE):
        if not gone.decomposed:
            gone.decompose()
    for folded in article.select("details"):
        folded["open"] = ""
    for named in article.select("[id]"):
        named["id"] = anchor(name, str(named["id"]))
    for image in article.select("img[src]"):
        image["src"] = os.path.relpath((html / name).parent / str(image["src"]), html)
    for link in article.select("a[href]"):
        _turn(link, name, names)
    sections = [
        (str(part["id"]), part.h2.get_text().strip()) for part in article.select("section:has(> h2)") if part.h2
    ]
    return Chapter(name, article.h1.get_text().strip(), article, part, sections)


def _turn(link: Tag, name: str, names: set[str]) -> None:
    """Lead a link inside the print, or make it plain text when what it leads to is not printed."""
    parts = urlsplit(str(link["href"]))
    if parts.scheme or parts.netloc:
        return
    page = os.path.normpath(os.path.join(os.path.dirname(name), unquote(parts.path))) if parts.path else f"{name}.html"
    target = page.removesuffix(".html")
    if target in names and page.endswith(".html"):
        link["href"] = "#" + anchor(target, unquote(parts.fragment))
    else:
        link.unwrap()


def document(html: Path, chapters: list[Chapter]) -> str:
    """The whole book as one page of HTML, to stand in the folder of the pages."""
    front = BeautifulSoup((html / f"{chapters[0].name}.html").read_text(encoding="utf-8"), "html.parser")
    up = "../" * chapters[0].name.count("/")
    styles = "".join(str(link) for link in front.select('link[rel="stylesheet"]')).replace(f'href="{up}', 'href="')
    mathjax = [str(tag) for tag in front.select("script") if "MathJax" in tag.text or "mathjax/" in str(tag.get("src"))]
    body = "".join(
        f'<section class="page" id="{one.anchor}">{one.article.decode_contents()}</section>' for one in chapters
    )
    return (
        f'<!DOCTYPE html><html lang="en" data-theme="light"><head><meta charset="utf-8"><title>{chapters[0].title}</title>'
        f'{styles}<link rel="stylesheet" href="_static/print.css">{"".join(mathjax).replace(f"{up}_static", "_static")}</head>'
        f'<body><main class="bd-main bd-content"><article class="bd-article">{contents(chapters)}{body}</article></main></body></html>'
    )


def contents(chapters: list[Chapter]) -> str:
    """Title page and contents; the numbers of the pages are filled in later."""
    soup = BeautifulSoup("", "html.parser")
    front = chapters[0]
    box = soup.new_tag("section", attrs={"class": "contents"})
    box.append(soup.new_tag("p", attrs={"class": "book-title"}, string=front.title))
    box.append(soup.new_tag("p", attrs={"class": "book-version"}, string=f"Version: {commit.shown()}"))
    box.append(soup.new_tag("p", attrs={"class": "contents-title"}, string="Contents"))
    lines = soup.new_tag("div", attrs={"class": "contents-lines"})
    box.append(lines)
    part = ""
    for one in chapters:
        if one.part != part:
            part = one.part
            lines.append(soup.new_tag("p", attrs={"class": "contents-part"}, string=part))
        lines.append(_line(soup, one.anchor, one.title, "contents-chapter"))
        for place, title in one.sections if one.part not in {"Reference", "State"} else ():
            lines.append(_line(soup, place, title, "contents-section"))
    return str(box)


def _line(soup: BeautifulSoup, target: str, title: str, css: str) -> Tag:
    line = soup.new_tag("p", attrs={"class": css})
    link = soup.new_tag("a", href=f"#{target}")
    link.append(soup.new_tag("span", string=title))
    link.append(soup.new_tag("span", attrs={"class": "contents-number", "data-of": target}))
    line.append(link)
    return line


def numbers(pdf: Path) -> dict[str, int]:
    """Number of the page on which each place of the print stands."""
    reader = PdfReader(pdf)
    found = reader.named_destinations.items()
    return {name.lstrip("/"): (reader.get_destination_page_number(place) or 0) + 1 for name, place in found}


def fill(page: Page, found: dict[str, int]) -> None:
    """Write the numbers into the contents."""
    page.evaluate(
        """(found) => { for (const place of document.querySelectorAll(".contents-number"))
          place.textContent = found[place.dataset.of] ?? "?"; }""",
        found,
    )


def write(page: Page, target: Path) -> None:
    """Print the page as it stands; with Chromium's own outline and tags it gives up on a whole book."""
    page.pdf(path=target, prefer_css_page_size=True, print_background=True)


def outline(target: Path, chapters: list[Chapter], found: dict[str, int]) -> None:
    """Give the print an outline: parts, chapters and sections; and a title and a language."""
    writer = PdfWriter(clone_from=target)
    part, above = "", None
    for one in chapters:
        if one.part != part:
            part, above = one.part, writer.add_outline_item(title=one.part, page_number=found[one.anchor] - 1)
        here = writer.add_outline_item(title=one.title, page_number=found[one.anchor] - 1, parent=above)
        for place, words in one.sections:
            if place in found:
                writer.add_outline_item(title=words, page_number=found[place] - 1, parent=here)
    writer.add_metadata({"/Title": chapters[0].title})
    writer.root_object[NameObject("/Lang")] = TextStringObject("en")
    writer.write(target)


def print_book(html: Path, target: Path, root: Path = ROOT) -> int:
    """Print the pages below `html` to `target`; returns the number of sheets.

    Raises
    ------
    NotPrinted
        When there are no pages, something would be cut, or a line of the contents names a wrong page.
    NoBrowser
        When this machine has no Chromium.
    """
    where = parts(root)
    missing = [name for name in where if not (html / f"{name}.html").exists()]
    if missing:
        raise NotPrinted(f"there is no page {html / missing[0]}.html: make book")
    source = html / "print.html"
    chapters = [chapter(html, name, part, set(where)) for name, part in where.items()]
    source.write_text(document(html, chapters), encoding="utf-8")
    try:
        with chromium() as browser:
            page = browser.new_page(viewport=SHEET)
            page.emulate_media(media="print", color_scheme="light")
            open_page(page, source.resolve().as_uri(), minutes=15)
            page.evaluate(FIT)
            if cut := page.evaluate(FIT):
                raise NotPrinted("wider than the paper:\n  " + "\n  ".join(cut))
            fill(page, {})
            write(page, target)
            found = numbers(target)
            fill(page, found)
            write(page, target)
    finally:
        source.unlink()
    if numbers(target) != found:
        raise NotPrinted("the contents moved the pages that they name")
    _complete(found, chapters)
    outline(target, chapters, found)
    return len(PdfReader(target).pages)


def _complete(found: dict[str, int], chapters: list[Chapter]) -> None:
    lost = [one.name for one in chapters if one.anchor not in found]
    if lost:
        raise NotPrinted(f"no page is known of {', '.join(lost)}")


def main() -> int:
    """Print the book; returns the exit code."""
    start = time.perf_counter()
    logging.getLogger("pypdf").setLevel(logging.ERROR)  # it warns of the counts in Chromium's trailers
    target = BUILD / FILE
    try:
        sheets = print_book(HTML, target)
    except (NotPrinted, NoBrowser) as problem:
        print(f"The book was not printed: {problem}", file=sys.stderr)
        return 1
    size = target.stat().st_size / 1e6
    print(f"  {relative(target)}: {sheets} pages, {size:.1f} MB, {time.perf_counter() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
