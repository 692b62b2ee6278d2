"""Rendering: what is collected first, what a failure says, and that the last good pages stay."""

import json
import subprocess
from types import SimpleNamespace

import pytest
from companion.build import render
from companion.build.claims_table import DuplicateClaim
from small_book import make


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with good old pages in which to render."""
    monkeypatch.setattr(render, "BUILD", tmp_path)
    monkeypatch.setattr(render, "WORK", tmp_path / "render")
    monkeypatch.setattr(render, "HTML", tmp_path / "html")
    monkeypatch.setattr(render, "swap", lambda new, swap=render.swap: swap(new, tmp_path / "html"))
    monkeypatch.setattr(render, "collect", lambda: [make().as_dict()])
    monkeypatch.setattr(render, "write", lambda rows: (tmp_path / "claims.json").write_text(json.dumps(rows)))
    (tmp_path / "html").mkdir()
    (tmp_path / "html" / "index.html").write_text("old")
    return tmp_path


def sphinx(monkeypatch, code, log, page="<p>new</p>"):
    """Let Jupyter Book make this page, or complain."""

    def run(command, **_):
        assert {"-W", "-n", "--keep-going"} <= set(command)
        pages = render.WORK / "_build" / "html"
        pages.mkdir(parents=True)
        (pages / "index.html").write_text(page)
        return SimpleNamespace(returncode=code, stdout=log)

    monkeypatch.setattr(subprocess, "run", run)


def test_good_pages_take_the_place_of_the_old(place, monkeypatch, capsys):
    sphinx(monkeypatch, 0, "fine")
    assert render.main() == 0
    assert (place / "html" / "index.html").read_text() == "<p>new</p>"
    assert "1 of 1 claims hold" in capsys.readouterr().out
    assert json.loads((place / "claims.json").read_text())[0]["id"] == "one"
    assert (place / "render.log").read_text() == "fine"


def test_a_complaint_of_sphinx_fails_and_keeps_the_old_pages(place, monkeypatch, capsys):
    sphinx(monkeypatch, 1, "reading\na.md:3: WARNING: undefined label\n")
    assert render.main() == 1
    said = capsys.readouterr().err
    assert "a.md:3: WARNING: undefined label" in said
    assert "The whole log is" in said
    assert "The last good pages are untouched" in said
    assert (place / "html" / "index.html").read_text() == "old"


def test_what_is_left_of_an_older_rendering_is_removed_first(place, monkeypatch):
    (place / "render").mkdir()
    (place / "render" / "stale").write_text("")
    sphinx(monkeypatch, 0, "")
    render.build()
    assert not (place / "render" / "stale").exists()


def test_two_claims_of_one_id_fail_before_anything_is_rendered(place, monkeypatch, capsys):
    def collect():
        raise DuplicateClaim("claim id 'x' is used in a and in b")

    monkeypatch.setattr(render, "collect", collect)
    monkeypatch.setattr(render, "build", lambda: pytest.fail("rendered"))
    assert render.main() == 1
    assert "claim id 'x' is used in a and in b" in capsys.readouterr().err
    assert (place / "html" / "index.html").read_text() == "old"


def test_pages_that_were_never_there_need_not_be_moved_away(tmp_path):
    (tmp_path / "new").mkdir()
    render.swap(tmp_path / "new", tmp_path / "html")
    assert [path.name for path in tmp_path.iterdir()] == ["html"]
