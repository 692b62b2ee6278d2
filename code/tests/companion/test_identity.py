"""What pages say of themselves: addresses of repositories, descriptions, versions; and labels of works."""

import re
from types import SimpleNamespace

import pytest
import yaml
from companion.build import identity
from companion.build.bibliography import AuthorYearLabels
from companion.build.paths import BOOK, ROOT
from docutils import nodes
from pybtex.database import Entry, Person

REMOTES = {
    "https://github.com/me/book.git": "https://github.com/me/book",
    "https://me:secret@gitlab.example.org/group/sub/book": "https://gitlab.example.org/group/sub/book",
    "git@github.com:me/book.git": "https://github.com/me/book",
    "ssh://git@codeberg.org:2222/me/book.git": "https://codeberg.org/me/book",
    "/srv/git/book.git": None,
    "../book": None,
    "file:///srv/book": None,
}


@pytest.mark.parametrize("remote", REMOTES)
def test_the_web_address_of_a_remote(remote):
    assert identity.address(remote) == REMOTES[remote]


def test_the_repository_comes_from_the_environment_before_git(monkeypatch, tmp_path):
    for name in (identity.REPOSITORY, "GITHUB_REPOSITORY", "GITHUB_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)
    assert identity.repository(tmp_path) is None
    monkeypatch.setenv("GITHUB_REPOSITORY", "fork/book")
    assert identity.repository(tmp_path) == "https://github.com/fork/book"
    monkeypatch.setenv(identity.REPOSITORY, "git@codeberg.org:me/book.git")
    assert identity.repository(tmp_path) == "https://codeberg.org/me/book"


def test_no_button_without_a_repository(monkeypatch):
    config = SimpleNamespace(html_theme_options={})
    monkeypatch.setattr(identity, "repository", lambda: None)
    identity.configure(None, config)
    assert not config.html_theme_options["use_repository_button"]
    assert "repository_url" not in config.html_theme_options
    assert "<a" not in config.html_theme_options["extra_footer"]
    monkeypatch.setattr(identity, "repository", lambda: "https://github.com/me/book")
    monkeypatch.setattr(identity.commit, "current", lambda root=ROOT: "0123456789")
    identity.configure(None, config)
    assert config.html_theme_options["repository_url"] == "https://github.com/me/book"
    assert 'href="https://github.com/me/book/tree/0123456789"' in config.html_theme_options["extra_footer"]


def test_a_description_is_the_first_paragraph_cut_at_a_word():
    page = nodes.document("", "")
    page += nodes.paragraph("", "Short.")
    page += nodes.paragraph("", "Here you see  {x}\nhow far " + "words go on " * 30)
    words = identity.description(page)
    assert words.startswith("Here you see x how far words go on")
    assert len(words) <= identity.LONGEST + 2
    assert words.endswith(" …")
    assert identity.description(nodes.document("", "")) == ""


def test_unused_scripts_leave_a_page_and_used_ones_stay():
    used = '<script src="_static/doctools.js"></script>\n<p>body</p>\n'
    unused = (
        '<script defer src="_static/scripts/fontawesome.js?digest=1"></script>\n'
        '<script>const THEBE_JS_URL = "https://unpkg.com/thebe"; x</script>\n'
        '<script async="async" src="_static/sphinx-thebe.js?v=1"></script>\n'
        '<link rel="stylesheet" type="text/css" href="_static/sphinx-thebe.css?v=4" />\n'
        "<script type=\"text/x-thebe-config\">\n{}\n</script>\n<script>kernelName = 'python3'</script>\n"
    )
    assert identity.UNUSED.sub("", used + unused).strip() == used.strip()


def entry(year, *names):
    return Entry("article", {"year": year}, {"author": [Person(name) for name in names]})


def test_labels_are_those_of_the_text():
    works = [entry("2020", "Ji, Ziwei", "Telgarsky, Matus"), entry("2010", "Bach, F."), entry("2010", "Bach, Francis")]
    works.append(entry("2023", "Wu, J.", "Braverman, V.", "{van der} Lee, J."))
    assert list(AuthorYearLabels().format_labels(works)) == [
        "Ji and Telgarsky, 2020",
        "Bach, 2010a",
        "Bach, 2010b",
        "Wu et al., 2023",
    ]


def test_every_work_is_one_click_away():
    works = re.findall(r"@\w+\{(\w+),(.*?)\n\}", (BOOK / "references.bib").read_text(encoding="utf-8"), re.DOTALL)
    assert len(works) > 15
    assert [key for key, fields in works if not re.search(r"^\s*(doi|eprint|url)\s*=", fields, re.MULTILINE)] == []


def test_version_and_citation_agree_everywhere():
    version = re.search(r'^version = "(.+)"', (ROOT / "code" / "pyproject.toml").read_text(), re.MULTILINE)[1]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    about = (BOOK / "about.md").read_text(encoding="utf-8")
    assert citation["version"] == version
    assert f"version = {{{version}}}" in about
    assert f"## {version} (" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert citation["title"] in about
    assert str(citation["preferred-citation"]["year"]) in about


def test_reading_time_counts_words_and_rounds_up(tmp_path):
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "a.md").write_text("word " * 900)
    (tmp_path / "book" / "b.md").write_text("word " * 180)
    assert identity.reading_time(["a"], tmp_path) == 5
    assert identity.reading_time(["a", "b"], tmp_path) == 10


def test_the_picture_of_the_cards_is_named_where_the_pages_have_an_address(monkeypatch, tmp_path):
    monkeypatch.setattr(identity, "FRONT", tmp_path / "index.card.png")
    context = {"title": "One"}
    app = SimpleNamespace(config=SimpleNamespace(html_title="Book"))
    monkeypatch.setenv(identity.SITE, "https://me.org/book/")
    identity.describe(app, "book/one", "page.html", context, None)
    assert "og:image" not in context["metatags"]
    identity.FRONT.write_bytes(b"png")
    identity.describe(app, "book/one", "page.html", context, None)
    assert 'property="og:image" content="https://me.org/book/_static/card.png"' in context["metatags"]
    monkeypatch.delenv(identity.SITE)
    context = {"title": "One"}
    identity.describe(app, "book/one", "page.html", context, None)
    assert "og:image" not in context["metatags"]


def test_the_picture_goes_beside_the_pages_that_have_an_address(monkeypatch, tmp_path):
    monkeypatch.setattr(identity, "FRONT", tmp_path / "index.card.png")
    identity.FRONT.write_bytes(b"png")
    (tmp_path / "_static").mkdir()
    app = SimpleNamespace(builder=SimpleNamespace(format="html"), outdir=tmp_path)
    monkeypatch.delenv(identity.SITE, raising=False)
    identity.copy_card(app, None)
    assert not (tmp_path / identity.CARD).exists()
    monkeypatch.setenv(identity.SITE, "https://me.org")
    identity.copy_card(app, None)
    assert (tmp_path / identity.CARD).read_bytes() == b"png"
