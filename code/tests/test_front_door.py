"""The front door: its names, that nothing heavy loads before it is used, and that every example runs."""

import doctest
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
import tokenmargin

STUB = Path(tokenmargin.__file__).with_suffix(".pyi")


def test_the_stub_that_editors_read_offers_the_same_names():
    stub = {line.split()[-1] for line in STUB.read_text().splitlines() if line.startswith("from")}
    assert stub == set(tokenmargin.__all__)
    assert set(tokenmargin.__all__) <= set(dir(tokenmargin))


def test_an_unknown_name_is_answered_with_those_there_are():
    with pytest.raises(AttributeError, match=r"no attribute 'fit'; it offers .*solve_token_svm"):
        tokenmargin.fit  # noqa: B018


def test_nothing_heavy_loads_with_the_package():
    heavy = ["numpy", "numba", "cvxpy", "scipy", "pandas", "sklearn", "matplotlib"]
    code = f"import sys, tokenmargin; print([name for name in {heavy!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("name", tokenmargin.__all__)
def test_the_example_of_each_name_runs(name):
    found = getattr(tokenmargin, name)
    module = importlib.import_module(found.__module__)
    examples = doctest.DocTestFinder(recurse=False).find(found, name, module, globs={})
    assert sum(len(test.examples) for test in examples) > 0, f"{name} has no example"
    for test in examples:
        result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test)
        assert result.failed == 0


MODULES = [module.name for module in pkgutil.walk_packages(tokenmargin.__path__, "tokenmargin.") if not module.ispkg]


@pytest.mark.parametrize("name", MODULES)
def test_every_other_example_of_the_package_runs(name):
    assert doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE).failed == 0
