"""Claims: each relation on both of its sides, refusal of what cannot be judged, and the collection of all of them."""

import json
import math
import re

import pytest
from companion.build import badge
from companion.build.claims_table import (
    ABSTRACT,
    DuplicateClaim,
    LooseBound,
    collect,
    explained,
    is_loose,
    read,
    summary,
    used,
    write,
)
from companion.build.paths import BOOK, CLAIMS, ROOT
from companion.build.toc import labels, notebooks
from companion.chapter.claims import (
    KIND_OF,
    MIME,
    RELATIONS,
    SENTENCES,
    ClaimDoesNotHold,
    ClaimIsMalformed,
    claim,
)
from small_book import GOOD, make, put_notebook


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
def test_what_is_not_finite_is_refused_in_the_book(name, value, monkeypatch):
    monkeypatch.setenv("COMPANION_CLAIMS", "must-hold")
    with pytest.raises(ClaimIsMalformed, match=f"{name} is {value}"):
        make(**{name: value})


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"source": "hearsay"}, "source 'hearsay' must be one of abstract, secondary, companion, neighbour"),
        ({"source": "companion: edge theorem"}, "must be one of abstract"),
        ({"relation": "near"}, "must be one of close, absolute"),
        ({"kind": "guess"}, "kind 'guess' must be one of equality, bound, count, failure"),
        ({"status": "known"}, "status 'known' must be one of proved, measured, conjectured"),
        ({"source": "abstract"}, "abstract None must be one of direction, global, rates, sparsification"),
        ({"source": "abstract", "abstract": "speed"}, "abstract 'speed' must be one of direction"),
        ({"loose": "why"}, r"only a bound \(at most, at least\) can be loose"),
        ({"loose": " ", "relation": "at most"}, "loose must say why"),
        ({"abstract": "rates"}, "a sentence of the abstract needs the source 'abstract'"),
        ({"source": "neighbour"}, "a neighbour's claim needs a citation"),
        ({"theorem": None, "status": "proved"}, "what is proved needs a theorem or a citation"),
        ({"id": "two words"}, "words joined by single hyphens"),
        ({"tolerance": -1.0}, "is negative"),
    ],
)
def test_a_malformed_claim_says_what_it_must_be(changes, text):
    with pytest.raises(ClaimIsMalformed, match=text):
        make(**changes)


def test_what_is_not_finite_is_not_judged_where_no_book_is_built(capsys, monkeypatch):
    monkeypatch.delenv("COMPANION_CLAIMS", raising=False)
    claim(**(GOOD | {"measured": math.nan}), tolerance=0.1)
    assert "one: It is $x^2$.; not judged with these values" in capsys.readouterr().out
    data = make(measured=math.nan, tolerance=0.1).as_dict()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["holds"] is None


def test_a_false_claim_is_shown_where_no_book_is_built(capsys, monkeypatch):
    monkeypatch.delenv("COMPANION_CLAIMS", raising=False)
    claim(**(GOOD | {"measured": 3.0}), tolerance=0.1)
    assert "DOES NOT HOLD: one: It is $x^2$." in capsys.readouterr().out


def test_a_false_claim_raises_in_the_book_after_it_was_shown(capsys, monkeypatch):
    monkeypatch.setenv("COMPANION_CLAIMS", "must-hold")
    with pytest.raises(ClaimDoesNotHold, match=r"claim 'one' does not hold.*measured 3.0, tolerance 0.1"):
        claim(**(GOOD | {"measured": 3.0}), tolerance=0.1)
    assert "DOES NOT HOLD: one: It is $x^2$." in capsys.readouterr().out


@pytest.fixture
def book(tmp_path):
    (tmp_path / "_toc.yml").write_text("root: book/b\nparts:\n- chapters:\n  - file: book/a\n")
    put_notebook(tmp_path, "a", make(id="first", figure="fig-a"))
    put_notebook(
        tmp_path,
        "b",
        make(id="second", measured=9.0),
        make(id="third", source="abstract", abstract="direction", theorem=None),
    )
    return tmp_path


def test_claims_are_collected_in_reading_order(book):
    rows = collect(book / "executed", book)
    assert [(row["id"], row["page"], row["title"], row["source"]) for row in rows] == [
        ("second", "book/b", "Chapter b", "companion"),
        ("third", "book/b", "Chapter b", "abstract"),
        ("first", "book/a", "Chapter a", "companion"),
    ]
    assert summary(rows) == "2 of 3 claims hold"


def test_an_id_may_not_occur_twice(book):
    put_notebook(book, "a", make(id="second"))
    with pytest.raises(DuplicateClaim, match=r"'second' is used in book/b and in book/a"):
        collect(book / "executed", book)


def test_claims_json_is_plain(book):
    write(collect(book / "executed", book), book / "claims.json")
    rows = read(book / "claims.json")
    assert [row["holds"] for row in rows] == [False, True, True]


def test_the_readme_line_is_written_between_its_markers():
    text = badge.with_line("a <!-- claims -->old<!-- /claims --> b", "new")
    assert text == "a <!-- claims -->new<!-- /claims --> b"


@pytest.mark.parametrize(
    ("changes", "shown"),
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
def test_a_prediction_shows_the_digits_that_its_tolerance_resolves(changes, shown):
    assert make(**changes).expectation() == shown


@pytest.mark.parametrize("relation", ["absolute", "at most"])
def test_a_measurement_near_a_predicted_zero_has_three_digits(relation):
    row = make(predicted=0.0, tolerance=1e-9, measured=1.23456e-13, relation=relation).as_dict()
    assert row["found"] == "1.23 × 10⁻¹³"


def test_zeros_that_the_tolerance_makes_significant_are_shown():
    assert make(predicted=1.0, tolerance=1e-4, measured=0.9999999).found() == "1.0000"
    assert make(predicted=1.0, tolerance=0.0, relation="at least", measured=5.0).found() == "5"


def test_the_measurement_has_the_digits_of_the_prediction():
    assert make(predicted=1.0, tolerance=1e-4, measured=0.99998321).as_dict()["found"] == "0.99998"


@pytest.mark.parametrize(("relation", "kind"), KIND_OF.items())
def test_the_kind_follows_from_the_relation_unless_it_is_said(relation, kind):
    assert make(relation=relation).kind == kind
    assert make(relation=relation, kind="failure").kind == "failure"
    assert set(KIND_OF) == set(RELATIONS)


def test_what_names_a_theorem_is_proved_unless_it_is_said():
    assert make().status == "proved"
    assert make(theorem=None).status == "measured"
    assert make(status="conjectured").status == "conjectured"
    assert make(theorem=None, citation="wu2023implicit", source="neighbour", status="proved").status == "proved"


def test_the_kernel_shows_data_and_one_line_of_text(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, **_: shown.append(data))
    claim(**GOOD, tolerance=0.1)
    (data,) = shown
    assert set(data) == {"text/plain", MIME}
    assert data["text/plain"] == "✓ one: It is $x^2$.; predicted 2 ± 10 %, measured 2.00"
    assert data[MIME] == json.loads(json.dumps(data[MIME]))
    assert data[MIME]["theorem"] == "thm-edge"


def test_ids_that_differ_in_case_alone_are_the_same(book):
    put_notebook(book, "a", make(id="SECOND"))
    with pytest.raises(DuplicateClaim, match="'SECOND' is used in book/b and in book/a"):
        collect(book / "executed", book)


def test_each_sentence_of_the_abstract_has_theorems_that_stand_in_the_book():
    assert [sentence.key for sentence in ABSTRACT] == list(SENTENCES)
    for sentence in ABSTRACT:
        assert sentence.theorems
        assert set(sentence.theorems) <= set(labels())


def test_a_sentence_finds_its_claims_by_their_fields():
    rows = [
        make(source="abstract", abstract="rates", theorem=None).as_dict(),
        make(theorem="thm-sharp-order").as_dict(),
    ]
    rows.append(make(theorem="thm-sharp-order", source="secondary").as_dict())
    found = {sentence.key: (sentence.of_abstract(rows), sentence.of_theorems(rows)) for sentence in ABSTRACT}
    assert found.pop("rates") == (rows[:1], rows[1:2])
    assert all(found[key] == ([], []) for key in found)


def test_each_claim_of_the_executed_book_is_written_out_in_its_notebook():
    """So that its id can be searched: no id is put together by code."""
    if not CLAIMS.exists():
        pytest.skip("the book has not been executed here")
    for row in read():
        assert json.dumps(f'"{row["id"]}"')[1:-1] in (ROOT / f"{row['page']}.ipynb").read_text(), row["id"]


def test_no_chapter_puts_an_id_together():
    """The same without an executed book: the first argument of `claim` is a literal or a plain name or item."""
    for path in notebooks(ROOT):
        for cell in json.loads((ROOT / path).read_text())["cells"]:
            code = "".join(cell["source"]) if cell["cell_type"] == "code" else ""
            for call in code.split("claim(\n")[1:]:
                first = call.lstrip().splitlines()[0]
                assert not first.startswith(("f'", 'f"', "rf", "str")), (path, first)
                assert "+" not in first.split(",")[0], (path, first)


def test_each_theorem_and_citation_that_a_chapter_names_exists():
    keys = (BOOK / "references.bib").read_text()
    for path in notebooks(ROOT):
        text = (ROOT / path).read_text()
        for label in set(re.findall(r'theorem=\\"([^"\\]+)\\"', text)):
            assert label in labels(), (path, label)
        for key in set(re.findall(r'citation(?:=|\\": )\\"([^"\\]+)\\"', text)):
            assert f"{{{key}," in keys, (path, key)


@pytest.mark.parametrize(
    ("changes", "share"),
    [
        ({"relation": "close", "measured": 2.05}, 0.25),
        ({"relation": "absolute", "measured": 2.05}, 0.5),
        ({"relation": "at most", "measured": 1.05}, 0.5),
        ({"relation": "at least", "measured": 3.8}, 0.5),
        ({"relation": "at most", "predicted": -1.0, "measured": -1.8}, 0.5),
        ({"relation": "at most", "measured": -1.0}, 0.0),
        ({"relation": "at least", "predicted": 0.1, "measured": 0.0}, 1.0),
        ({"relation": "all"}, None),
        ({"relation": "absolute", "tolerance": 0.0}, None),
    ],
)
def test_how_much_of_what_a_claim_allows_is_used(changes, share):
    item = make(**changes)
    assert item.holds
    assert used(item.as_dict()) == (share if share is None else pytest.approx(share, rel=1e-12))


def test_a_bound_is_tight_within_a_factor_of_three():
    rows = {name: make(relation="at most", measured=value).as_dict() for name, value in
            {"tight": 0.701, "loose": 0.699, "sign": -0.1}.items()}  # fmt: skip
    assert {name: is_loose(row) for name, row in rows.items()} == {"tight": False, "loose": True, "sign": True}
    assert not is_loose(make(measured=2.0).as_dict())


def test_a_loose_bound_must_say_why():
    place = {"page": "book/one"}
    silent = make(id="far", relation="at least", measured=9.0).as_dict() | place
    reasoned = make(id="why", relation="at least", measured=9.0, loose="existence").as_dict() | place
    explained([reasoned, make().as_dict() | place])
    with pytest.raises(LooseBound, match=r"(?s)factor of 3 .*far \(book/one\): at least 2 .*measured 9") as caught:
        explained([silent, reasoned])
    assert "why (" not in str(caught.value)


def test_the_unit_stands_after_both_numbers():
    item = make(relation="at most", unit="steps")
    assert (item.expectation(), item.found()) == ("at most 2 (+ 0.1) steps", "2 steps")
    assert make().found() == "2.00"
