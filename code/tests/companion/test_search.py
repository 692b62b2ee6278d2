"""Search results: a page about a word comes before one that mentions it."""

import json
from collections import Counter
from types import SimpleNamespace

from companion.build.search import FILE, Occurrences, weights


def test_a_page_about_a_word_has_more_weight_than_a_long_page_that_mentions_it():
    pages = {
        "chapter": Counter({"polyak": 30, "other": 470}),
        "list": Counter({"polyak": 40, "other": 3960}),
        "note": Counter({"polyak": 2, "other": 98}),
    }
    found = weights(pages)["polyak"]
    assert found["chapter"] > found["list"]
    assert "note" not in found


def test_a_weight_has_its_formula():
    pages = {"a": Counter({"x": 5, "y": 15}), "b": Counter({"x": 10, "z": 10})}
    assert weights(pages) == {"x": {"a": 33, "b": 50}, "y": {"a": 60}, "z": {"b": 50}}


def test_the_order_is_the_same_whatever_was_counted_first():
    pages = {"b": Counter({"y": 4, "x": 4}), "a": Counter({"x": 4})}
    turned = {"a": Counter({"x": 4}), "b": Counter({"x": 4, "y": 4})}
    assert repr(weights(pages)) == repr(weights(turned))


def test_what_is_written_gives_each_page_a_number(tmp_path):
    (tmp_path / "_static").mkdir()
    found = Occurrences()
    found.pages = {"b": Counter({"x": 10, "z": 10}), "a": Counter({"x": 5, "y": 15})}
    found.write(SimpleNamespace(outdir=tmp_path), None)
    script = (tmp_path / "_static" / FILE).read_text()
    data = json.loads(script.removeprefix("const OCCURRENCES = ").removesuffix(";\n"))
    assert data == {"pages": {"a": 0, "b": 1}, "words": {"x": {"0": 33, "1": 50}, "y": {"0": 60}, "z": {"1": 50}}}
