"""Claims: each relation on both of its sides, refusal of what cannot be judged, and the page that collects them."""

import json
import math

import pytest
from companion.build import badge
from companion.build.claims_table import (
    ABSTRACT,
    DuplicateClaim,
    State,
    Summary,
    Table,
    UnknownSentence,
    collect,
    summary,
    write,
)
from companion.build.paths import BOOK
from companion.chapter import claims
from companion.chapter.claims import (
    MIME,
    RELATIONS,
    RESULTS,
    Claim,
    ClaimDoesNotHold,
    ClaimIsMalformed,
    claim,
    source_html,
)

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
    put_notebook(tmp_path, "b", make(id="second", measured=9.0), make(id="third", source="abstract: direction"))
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


@pytest.mark.parametrize("name", RESULTS)
def test_each_result_that_a_source_may_name_stands_on_its_page(name):
    page, label = RESULTS[name]
    cells = json.loads((BOOK / f"{page}.ipynb").read_text())["cells"]
    assert any(f":label: {label}\n" in "".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def test_a_source_links_each_theorem_that_it_names():
    assert source_html("companion: sharp-constant and edge theorems", BOOK) == (
        'companion: <a href="exact-constants.html#thm-sharp-constant">sharp-constant</a> '
        'and <a href="edge-of-stability.html#thm-edge">edge theorems</a>'
    )


def test_links_of_a_source_start_from_the_folder_of_the_page():
    link = source_html("companion: edge theorem", BOOK / "neighbours")
    assert 'href="../edge-of-stability.html#thm-edge"' in link


@pytest.mark.parametrize("source", ["abstract: the edge theorem", "companion: knowledge", "companion: sledge theorem"])
def test_words_that_name_no_result_of_the_companion_are_no_links(source):
    assert source_html(source) == source


def test_a_related_paper_is_linked_by_its_number():
    assert source_html("neighbour: arXiv 2305.11788") == (
        'neighbour: <a href="https://arxiv.org/abs/2305.11788">arXiv 2305.11788</a>'
    )


@pytest.mark.parametrize(
    ("changes", "read"),
    [
        ({"predicted": -5e4, "tolerance": 1e-4}, "−50000 ± 0.01 %"),
        ({"predicted": 2.0075069, "tolerance": 1e-5, "relation": "absolute"}, "2.007507 ± 10⁻⁵"),
        ({"predicted": 0.0, "tolerance": 1e-6, "relation": "absolute"}, "0 ± 10⁻⁶"),
        ({"predicted": 7.0, "tolerance": 0.0, "relation": "at least"}, "at least 7"),
        ({"predicted": 2240.0, "tolerance": 0.0, "relation": "all"}, "all 2240"),
        ({"predicted": 1.0, "tolerance": 0.1, "relation": "at most"}, "at most 1 (+ 0.1)"),
        ({"predicted": 0.0, "tolerance": 1e-9, "relation": "at most"}, "at most 10⁻⁹"),
        ({"predicted": 0.0, "tolerance": 0.5, "relation": "at least"}, "at least −0.5"),
    ],
)
def test_a_prediction_shows_the_digits_that_its_tolerance_resolves(changes, read):
    assert make(**changes).expectation() == read


@pytest.mark.parametrize("relation", ["absolute", "at most"])
def test_a_measurement_near_a_predicted_zero_has_three_digits(relation):
    row = make(predicted=0.0, tolerance=1e-9, measured=1.23456e-13, relation=relation).as_dict()
    assert row["found"] == "1.23 × 10⁻¹³"


def test_zeros_that_the_tolerance_makes_significant_are_shown():
    assert make(predicted=1.0, tolerance=1e-4, measured=0.9999999).found() == "1.0000"
    assert make(predicted=1.0, tolerance=0.0, relation="at least", measured=5.0).found() == "5"


def test_the_measurement_has_the_digits_of_the_prediction():
    assert make(predicted=1.0, tolerance=1e-4, measured=0.99998321).as_dict()["found"] == "0.99998"


def test_an_abstract_claim_says_which_sentence_it_checks(book):
    put_notebook(book, "a", make(id="vague", source="abstract: it works"))
    with pytest.raises(UnknownSentence, match=r"'vague'.*must say which sentence"):
        collect(book / "executed", book)


@pytest.mark.parametrize(
    ("source", "title"),
    [
        ("abstract: $W_t$ converges in direction to $W_{mm}$", "Direction"),
        ("abstract: provably global convergence", "Global convergence"),
        ("abstract: finite-time rates of $W_t$ to $W_{mm}$", "Rates of the direction"),
        ("abstract: rate of sparsification of the attention map", "Rate of sparsification"),
    ],
)
def test_an_abstract_claim_belongs_to_one_sentence(source, title):
    row = make(source=source).as_dict()
    assert [sentence.title for sentence in ABSTRACT if sentence.of_abstract([row])] == [title]


def test_the_state_of_the_abstract_counts_claims_and_links_them(book):
    put_notebook(book, "a", make(id="global", source="companion: global-convergence theorem", measured=9.0))
    page = State(collect(book / "executed", book))._repr_html_()
    for link in ("b.html#claim-third", "#chapter-a", "global-convergence.html#thm-global"):
        assert f'href="{link}"' in page
    assert page.count("1 of 2 claims hold") == 1  # the abstract's third holds, the one-clock theorem's second does not
    assert page.count("0 of 1 claims hold") == 1
    assert page.count("not checked") == 2
    assert page.count("#thm-") == len(ABSTRACT)  # each sentence has its theorem, checked or not


def test_the_summary_counts_by_chapter_and_source(book):
    page = Summary(collect(book / "executed", book))._repr_html_()
    assert '<a href="#chapter-b">Chapter b</a></td><td class="number">1</td><td class="number">1</td>' in page
    assert "2 of 3" in page


def test_each_chapter_has_the_anchor_that_the_summary_links(book):
    rows = collect(book / "executed", book)
    table = Table(rows)._repr_html_()
    assert all(f'id="chapter-{name}"' in table for name in ("a", "b"))
