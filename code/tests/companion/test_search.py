"""Search results: a page about a word comes before one that mentions it."""

from collections import Counter

from companion.build.search import weights


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
