"""What a page says of itself: where the sources live, which version it is, what machines read, and no more bytes than needed.

The address of the repository comes from ``COMPANION_REPOSITORY``, from GitHub's own environment or from the git remote
``origin``; that of the published pages from ``COMPANION_SITE``. Where there is none there is no button and no link.
"""

from __future__ import annotations

import html
import math
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util.docutils import SphinxRole
from sphinx.util.typing import ExtensionMetadata

from companion.build import commit
from companion.build.paths import EXECUTED, ROOT
from companion.build.toc import markdown
from companion.chapter.card import SIZE

REPOSITORY, SITE = "COMPANION_REPOSITORY", "COMPANION_SITE"
CARD = "_static/card.png"
FRONT = EXECUTED / "book" / "index.card.png"  # what the front page's notebook leaves
PACE = 180  # words a minute, formulas among them
LONGEST = 200  # characters of a description
# Scripts of the theme that these pages do not use: Thebe, and icons as a script, which the theme also has as a font.
UNUSED = re.compile(
    r'\s*<script[^>]*src="[^"]*(?:fontawesome\.js|sphinx-thebe\.js)[^"]*"[^>]*></script>'
    r"|\s*<script>const THEBE_JS_URL.*?</script>"
    r'|\s*<script type="text/x-thebe-config">.*?</script>'
    r"|\s*<script>kernelName = .*?</script>"
    r'|\s*<link[^>]*href="[^"]*sphinx-thebe\.css[^"]*"[^>]*/?>'
    r'|\s*<link[^>]*rel="preload"[^>]*fontawesome\.js[^>]*/?>',
    re.DOTALL,
)


def repository(root: Path = ROOT) -> str | None:
    """Web address of the repository, or None."""
    if given := os.environ.get(REPOSITORY):
        return address(given)
    if name := os.environ.get("GITHUB_REPOSITORY"):
        return f"{os.environ.get('GITHUB_SERVER_URL', 'https://github.com')}/{name}"
    try:
        done = subprocess.run(
            ["git", "remote", "get-url", "origin"], cwd=root, check=True, capture_output=True, text=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return address(done.stdout.strip())


def address(remote: str) -> str | None:
    """``https://host/owner/name`` of a git remote; None for a remote that is no web host (a folder)."""
    found = re.fullmatch(
        r"(?:https?://(?:[^@/]+@)?|ssh://(?:[^@/]+@)?|[\w.-]+@)(?P<host>[\w.-]+\.[a-z]+)(?::\d+(?=/))?[:/](?P<path>[^?#\s]+?)(?:\.git)?/?",
        remote,
    )
    return f"https://{found['host']}/{found['path']}" if found else None


def configure(app: Sphinx, config: Config) -> None:
    """Buttons to the repository where there is one (config-inited)."""
    where = repository()
    options = config.html_theme_options
    options.update(use_repository_button=bool(where), use_issues_button=bool(where))
    if where:
        options.update(repository_url=where, path_to_docs="", repository_branch="main")
    options["extra_footer"] = footer(where)


def footer(where: str | None) -> str:
    """The version of these pages, a link to it, and the licences."""
    now = commit.current()
    version = html.escape(commit.shown())
    if where and now != commit.UNCOMMITTED:
        version = f'<a href="{html.escape(where)}/tree/{now}">{version}</a>'
    return f"<p>Version: {version}. Code under the MIT License; text and figures under CC BY 4.0.</p>"


def describe(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """A description and an OpenGraph card for those who show links (html-page-context)."""
    words = html.escape(description(doctree)) if doctree is not None else ""
    title = html.escape(re.sub(r"<[^>]+>", "", context.get("title", "")))
    tags = {"og:type": "article", "og:site_name": app.config.html_title, "og:title": title, "og:description": words}
    if site := os.environ.get(SITE, "").rstrip("/"):
        tags["og:url"] = f"{site}/{page}.html"
        if FRONT.exists():
            width, height = map(str, SIZE)
            tags |= {"og:image": f"{site}/{CARD}", "og:image:width": width, "og:image:height": height}
    lines = [f'<meta property="{name}" content="{value}" />' for name, value in tags.items() if value]
    if words:
        lines.insert(0, f'<meta name="description" content="{words}" />')
    context["metatags"] = "\n".join([context.get("metatags", ""), *lines])


def description(doctree: nodes.document) -> str:
    """The first paragraph of a page without its mathematics' markup, cut at a word."""
    first = next((node.astext() for node in doctree.findall(nodes.paragraph) if len(node.astext()) > 40), "")
    words = re.sub(r"\s+", " ", re.sub(r"[\\{}$]", "", first)).strip()
    return words if len(words) <= LONGEST else words[:LONGEST].rsplit(" ", 1)[0] + " …"


def lighten(app: Sphinx, error: Exception | None) -> None:
    """Take scripts that are not used off every page, and away what a reader does not need (build-finished)."""
    if error or app.builder.format != "html":
        return
    for path in Path(app.outdir).rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        path.write_text(UNUSED.sub("", text), encoding="utf-8")
    for name in ("scripts/fontawesome.js", "scripts/fontawesome.js.map", "sphinx-thebe.js", "sphinx-thebe.css"):
        (Path(app.outdir) / "_static" / name).unlink(missing_ok=True)
    (Path(app.outdir) / ".buildinfo").unlink(missing_ok=True)  # for Sphinx's cache, and different in each folder


def copy_card(app: Sphinx, error: Exception | None) -> None:
    """Put the picture of the cards beside the pages, where these have an address (build-finished)."""
    if not error and app.builder.format == "html" and os.environ.get(SITE) and FRONT.exists():
        shutil.copyfile(FRONT, Path(app.outdir) / CARD)


class Version(SphinxRole):
    """``{version}`commit` ``: the commit of these pages; ``{version}`repository` ``: a link to the sources, or that there is none."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """The text or the link."""
        if self.text == "commit":
            return [nodes.Text(commit.shown())], []
        where = repository()
        if where is None:
            return [nodes.Text("the folder from which these pages were built (it has no public address)")], []
        return [nodes.reference("", where, refuri=where)], []


class Minutes(SphinxRole):
    """``{minutes}`model finite-time-rates` ``: how long it takes to read these pages, at `PACE` words a minute."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """The number of minutes."""
        return [nodes.Text(str(reading_time(self.text.split())))], []


def reading_time(names: list[str], root: Path = ROOT) -> int:
    """Minutes to read the prose of these pages, rounded up to five."""
    pages = [
        next(path for suffix in (".ipynb", ".md") if (path := root / "book" / f"{name}{suffix}").exists())
        for name in names
    ]
    words = sum(len(markdown(path).split()) for path in pages)
    return 5 * math.ceil(words / PACE / 5)


def setup(app: Sphinx) -> ExtensionMetadata:
    """Sphinx calls this."""
    app.add_role("version", Version())
    app.add_role("minutes", Minutes())
    app.connect("config-inited", configure)
    app.connect("html-page-context", describe)
    app.connect("build-finished", copy_card)
    app.connect("build-finished", lighten, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
