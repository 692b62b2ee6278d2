"""Run chapters at the corners of their parameters: ``python code/tests/corners.py [NOTEBOOK ...]``, ``make corners``.

A parameter that costs time stands at its low end throughout, so that a run takes seconds; the others stand at their
defaults, then all at their low ends, then all at their high ends (``--each``: one at a time). A run is good when the chapter
comes to its end: what its claims say with such values is no matter here.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import nbformat
from companion.build.execute import NotebookFailed, execute
from companion.build.parameters import ALLOWED, Parameter, number, parameters_of
from companion.build.paths import BOOK
from companion.build.run import find
from companion.chapter.claims import VARIABLE

Given = dict[str, Any]


def end(parameter: Parameter, which: str, values: Given) -> Any:
    """The value of a parameter at the ``low`` or ``high`` end of what it takes, with the other `values`."""
    match = ALLOWED.fullmatch(parameter.allowed)
    if match is None:
        words = parameter.allowed.split(" | ")
        word = words[0 if which == "low" else -1]
        return parameter.default if len(words) == 1 else type(parameter.default)(word)
    at = number(match[which], values)
    default = parameter.default[0] if match["count"] else parameter.default
    exact: Any = at if isinstance(default, float) else math.ceil(at) if which == "low" else math.floor(at)
    if match["count"] in (None, "each"):
        return (exact,) if match["count"] else exact
    step = (1 if which == "low" else -1) if match["different"] else 0
    return tuple(exact + step * i for i in range(int(match["count"])))


def corners(known: dict[str, Parameter], each: bool = False) -> Iterator[Given]:
    """The corners to try: what differs from the defaults."""
    defaults = {name: parameter.default for name, parameter in known.items()}
    costly = [name for name, parameter in known.items() if parameter.cost]
    cheap = moved(known, defaults, dict.fromkeys(costly, "low"))
    free = [name for name in known if name not in costly]
    ends = [dict.fromkeys(free, which) for which in ("low", "high")]
    if each:
        ends = [{name: which} for name in free for which in ("low", "high")]
    yield cheap
    yield from (cheap | moved(known, defaults | cheap, which) for which in ends)


def moved(known: dict[str, Parameter], values: Given, which: dict[str, str]) -> Given:
    """These parameters at these ends, one after the other: an end may depend on those before it."""
    found: Given = {}
    for name, side in which.items():
        found[name] = end(known[name], side, values | found)
    return found


def attempt(name: str, given: Given) -> tuple[str, Given, float, str]:
    """Execute a chapter with these values; its name, the values, the seconds and what went wrong (nothing: empty)."""
    start = time.perf_counter()
    texts = {key: value if isinstance(value, str) else repr(value) for key, value in given.items()}
    os.environ.pop(VARIABLE, None)
    with tempfile.TemporaryDirectory() as folder:
        try:
            execute(find(name), Path(folder) / "corner.ipynb", texts)
            problem = ""
        except NotebookFailed as failed:
            problem = str(failed)
    return name, given, time.perf_counter() - start, problem


def main() -> int:
    """Command line; returns the number of corners at which a chapter did not come to its end, one at most."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*")
    parser.add_argument("--each", action="store_true", help="move one parameter at a time")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    names = options.notebooks or [str(path.relative_to(BOOK).with_suffix("")) for path in sorted(BOOK.rglob("*.ipynb"))]
    bad = total = 0
    with ProcessPoolExecutor(options.jobs) as pool:
        tried = [
            pool.submit(attempt, name, given)
            for name in names
            for given in corners(parameters_of(nbformat.read(find(name), as_version=4)), options.each)
        ]
        for done in tried:
            name, given, seconds, problem = done.result()
            total += 1
            bad += bool(problem)
            said = ", ".join(f"{key} {value!r}" for key, value in given.items())
            print(f"{'BAD ' if problem else 'good'} {name:<44} {seconds:6.1f} s  {said}", flush=True)
            if problem:
                print(problem, flush=True)
    print(f"{total - bad} of {total} corners good")
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main())
