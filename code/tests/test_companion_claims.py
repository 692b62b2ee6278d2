"""Claims: each relation on both of its sides, refusal of what cannot be judged, and the page that collects them."""

import json
import math

import pytest
from companion import badge, claims
from companion.claims import MIME, RELATIONS, Claim, ClaimDoesNotHold, ClaimIsMalformed, claim
from companion.claims_page import DuplicateClaim, Table, collect, summary, write

GOOD = {
    "id": "one",
    "statement": "It is $x^2$.",
    "source": "companion: one-clock theorem",
    "predicted": 2.0,
    "measured": 2.0,
}


def make(**changes):
    return Claim(**(GOOD | {"tolerance": 0.1} | changes))


@pytest.mark.parametrize(
    ("relation", "inside", "outside"),
    [("close", 2.19, 2.21), ("absolute", 1.91, 1.89), ("at most", 2.09, 2.11), ("at least", 1.91, 1.89), ("all", 2, 1)],
)
def test_each_relation_holds_inside_and_fails_outside(relation, inside, outside):
    assert make(relation=relation, measured=inside).holds
    assert not make(relation=relation, measured=outside).holds


def test_every_relation_is_tried_above():
    assert set(RELATIONS) == {"close", "absolute", "at most", "at least", "all"}


def test_close_is_relative_and_keeps_its_meaning_for_negative_predictions():
    assert make(predicted=-200.0, measured=-190.0).holds
    assert not make(predicted=-200.0, measured=-170.0).holds
    assert not make(predicted=0.0, measured=1e-12).holds


@pytest.mark.parametrize("name", ["predicted", "measured", "tolerance"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(name, value):
    with pytest.raises(ClaimIsMalformed, match=f"{name} is {value}"):
        make(**{name: value})


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"source": "hearsay: x"}, "must begin with one of abstract, secondary, companion, neighbour"),
        ({"relation": "near"}, "must be one of close, absolute"),
        ({"id": "two words"}, "words joined by single hyphens"),
        ({"tolerance": -1.0}, "is negative"),
    ],
)
def test_a_malformed_claim_says_what_it_must_be(changes, text):
    with pytest.raises(ClaimIsMalformed, match=text):
        make(**changes)


def test_a_false_claim_raises_after_it_was_shown(capsys):
    with pytest.raises(ClaimDoesNotHold, match=r"claim 'one' does not hold.*measured 3.0, tolerance 0.1"):
        claim(**(GOOD | {"measured": 3.0}), tolerance=0.1)
    assert "Claim one" in capsys.readouterr().out


def test_its_html_has_an_anchor_and_typesets_mathematics():
    page = make(statement="$a<b$ & `code`").to_html()
    assert 'id="claim-one"' in page
    assert r"\(a&lt;b\)</span> &amp; <code>code</code>" in page


def put_notebook(root, name, *claims):
    outputs = [{"output_type": "display_data", "data": {MIME: item.as_dict()}, "metadata": {}} for item in claims]
    cells = [
        {"cell_type": "markdown", "source": [f"# Chapter {name}\n", "\n", "text"], "metadata": {}},
        {"cell_type": "code", "source": [], "metadata": {}, "outputs": outputs},
    ]
    for folder in (root, root / "executed"):
        path = folder / "book" / f"{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"cells": cells}))


@pytest.fixture
def book(tmp_path):
    (tmp_path / "_toc.yml").write_text("root: book/b\nparts:\n- chapters:\n  - file: book/a\n")
    put_notebook(tmp_path, "a", make(id="first", figure="fig-a"))
    put_notebook(tmp_path, "b", make(id="second", measured=9.0), make(id="third", source="abstract"))
    return tmp_path


def test_claims_are_collected_in_reading_order(book):
    rows = collect(book / "executed", book)
    assert [(row["id"], row["page"], row["title"], row["kind"]) for row in rows] == [
        ("second", "book/b", "Chapter b", "companion"),
        ("third", "book/b", "Chapter b", "abstract"),
        ("first", "book/a", "Chapter a", "companion"),
    ]
    assert summary(rows) == "2 of 3 claims hold"


def test_the_table_links_claims_and_figures(book):
    page = Table(collect(book / "executed", book))._repr_html_()
    for link in ("b.html#claim-second", "a.html#claim-first", "a.html#fig-a"):
        assert f'href="{link}"' in page
    assert page.count("✗") == 1


def test_an_id_may_not_occur_twice(book):
    put_notebook(book, "a", make(id="second"))
    with pytest.raises(DuplicateClaim, match=r"'second' is used in book/b and in book/a"):
        collect(book / "executed", book)


def test_claims_json_is_plain(book):
    write(collect(book / "executed", book), book / "claims.json")
    rows = json.loads((book / "claims.json").read_text())
    assert [row["holds"] for row in rows] == [False, True, True]


def test_the_readme_line_is_written_between_its_markers():
    text = badge.with_line("a <!-- claims -->old<!-- /claims --> b", "new")
    assert text == "a <!-- claims -->new<!-- /claims --> b"


def test_the_badge_links_its_row_from_every_folder(tmp_path, monkeypatch):
    pages = {claims.BOOK: "claims.html#row-one", claims.BOOK / "neighbours": "../claims.html#row-one"}
    for folder, link in (pages | {tmp_path: "claims.html#row-one"}).items():
        monkeypatch.chdir(folder)
        assert f'href="{link}"' in make().to_html()


def test_the_row_has_the_anchor_that_the_badge_links(book):
    assert 'id="row-first"' in Table(collect(book / "executed", book))._repr_html_()
