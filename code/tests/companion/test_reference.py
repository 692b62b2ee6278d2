"""A claim's value that has drifted from its reference is told, and refused when it is further off than the claim allows."""

import json

import pytest
from companion.build import reference
from small_book import make


def row(**changes):
    return make(**changes).as_dict()


@pytest.mark.parametrize(
    ("changes", "before", "size"),
    [
        ({"predicted": 2.0, "measured": 2.1, "tolerance": 0.1}, 2.0, 0.5),
        ({"predicted": -2.0, "measured": -2.1, "tolerance": 0.1}, -2.0, 0.5),
        ({"predicted": 2.0, "measured": 2.1, "tolerance": 0.4, "relation": "absolute"}, 2.0, 0.25),
        ({"predicted": 3.0, "measured": 1.0, "tolerance": 0.0, "relation": "at most"}, 2.0, 1.0),
        ({"predicted": 3.0, "measured": 1.0, "tolerance": 1.0, "relation": "at most"}, 2.0, 0.5),
        ({"predicted": 5, "measured": 5, "tolerance": 0, "relation": "all"}, 5, 0.0),
        ({"predicted": 5, "measured": 5, "tolerance": 0, "relation": "all"}, 4, 1.0),
        ({"predicted": 0.0, "measured": 1e-9, "tolerance": 0.0, "relation": "absolute"}, 0.0, float("inf")),
    ],
)
def test_the_size_of_a_drift(changes, before, size):
    assert reference.drift(row(**changes), before).size == pytest.approx(size)


def test_small_drifts_are_silent_larger_ones_told_too_large_ones_refused(tmp_path, capsys):
    rows = [row(id=id, measured=measured) for id, measured in (("a", 2.0001), ("b", 2.05), ("c", 2.3))]
    rows.append(row(id="d", measured=0.0, relation="at most", tolerance=0.0))
    reference.record([row(id="a"), row(id="b"), row(id="c"), row(id="d", measured=1.5)], tmp_path / "r.json")
    problems = reference.check(rows, tmp_path / "r.json")
    assert [line.split(":")[0] for line in problems] == ["c"]
    assert [line.split(":")[0].strip() for line in capsys.readouterr().out.splitlines()] == ["d", "c", "b"]


def test_a_claim_without_reference_and_a_reference_without_claim_are_told(tmp_path):
    reference.record([row(id="a"), row(id="gone")], tmp_path / "r.json")
    assert reference.check([row(id="a"), row(id="new")], tmp_path / "r.json") == [
        "new: no reference; make reference",
        "gone: a reference without a claim; make reference",
    ]


def test_the_command_writes_and_compares(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reference, "HTML", tmp_path)
    monkeypatch.setattr(reference, "read", lambda path: json.loads(path.read_text()))
    monkeypatch.setattr(reference, "record", lambda rows: (tmp_path / "r.json").write_text(json.dumps(rows)))
    (tmp_path / "claims.json").write_text(json.dumps([row()]))
    assert reference.main([]) == 0
    assert "1 values" in capsys.readouterr().out
    monkeypatch.setattr(reference, "check", lambda rows: ["wrong"])
    assert reference.main(["--check"]) == 1
    assert capsys.readouterr().err == "wrong\n"
