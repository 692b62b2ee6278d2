"""Compiled functions work where nothing can be kept: a read-only package, an unwritable home."""

import pytest
from numba.core import caching
from tokenmargin.compilation import compiled


def twice(x):
    return 2 * x


def test_without_a_place_for_a_cache_functions_are_compiled_all_the_same(monkeypatch):
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    with pytest.raises(RuntimeError, match="no locator"):
        caching.FunctionCache(twice)
    assert compiled(twice)(21) == 42
