"""The README's line of claims and its picture come from the built book."""

import json

import pytest
from companion.build import badge
from small_book import make


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A README with an old line, and a built book with one of two claims that holds."""
    for name in ("README", "HTML", "BOOK"):
        monkeypatch.setattr(badge, name, tmp_path / name)
    (tmp_path / "README").write_text("a <!-- claims -->old<!-- /claims --> b")
    for folder in ("HTML/figures", "BOOK/_static"):
        (tmp_path / folder).mkdir(parents=True)
    rows = [make().as_dict(), make(id="two", measured=9.0).as_dict()]
    (tmp_path / "HTML" / "claims.json").write_text(json.dumps(rows))
    (tmp_path / "HTML" / "figures" / badge.PICTURE).write_text("<svg/>")
    return tmp_path


def test_the_line_and_the_picture_are_written(book):
    assert badge.main([]) == 0
    line = "**1 of 2 claims hold**, checked on every build: 2 equalities. Whose: 2 of this companion."
    assert (book / "README").read_text() == f"a <!-- claims -->{line}<!-- /claims --> b"
    assert (book / "BOOK" / "_static" / "readme.svg").read_text() == "<svg/>"


def test_the_check_tells_an_old_line_and_writes_nothing(book, capsys):
    assert badge.main(["--check"]) == 1
    assert "run make badge" in capsys.readouterr().err
    assert "old" in (book / "README").read_text()
    assert not list((book / "BOOK" / "_static").iterdir())


def test_the_check_passes_a_line_that_is_up_to_date(book, capsys):
    badge.main([])
    assert badge.main(["--check"]) == 0
    assert capsys.readouterr().err == ""
