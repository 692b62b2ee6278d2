"""Execute one chapter with changed parameters: ``python -m companion.build.run NOTEBOOK [-p name value ...]``.

The book is not touched: the executed notebook and its page go to ``_build/runs/``. A claim that does not hold with the
changed parameters is reported, not an error: what it says is a finding here.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path

from companion.build.claims_table import claims_of
from companion.build.execute import NotebookFailed, execute, put_away, shown
from companion.build.page import render_page
from companion.build.paths import BOOK, RUNS, relative
from companion.build.stopping import end_with_the_build
from companion.chapter.claims import VARIABLE


def target_of(name: str, given: dict[str, str]) -> Path:
    """Where the run goes: named after the notebook and its parameters."""
    key = hashlib.sha256(repr(sorted(given.items())).encode()).hexdigest()[:8]
    return RUNS / f"{name}-{key}.ipynb"


def find(name: str) -> Path:
    """The notebook called `name`, with or without its folder and suffix.

    Raises
    ------
    FileNotFoundError
        When there is none; lists those there are.
    """
    name = name.removeprefix("book/").removesuffix(".ipynb")
    path = BOOK / f"{name}.ipynb"
    if not name or not path.exists():
        names = sorted(str(path.relative_to(BOOK).with_suffix("")) for path in BOOK.rglob("*.ipynb"))
        raise FileNotFoundError(f"There is no notebook {name!r}. There are: {', '.join(names)}")
    return path


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="companion.build.run", description=__doc__.splitlines()[0])
    parser.add_argument("notebook")
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    options = parser.parse_args(arguments)
    given = dict(options.p)
    try:
        source = find(options.notebook)
        target = target_of(str(source.relative_to(BOOK).with_suffix("")), given)
        os.environ.pop(VARIABLE, None)
        execute(source, target, given)
    except (NotebookFailed, ValueError, FileNotFoundError) as problem:
        print(shown(problem), file=sys.stderr)
        return 1
    verdicts = {row["id"]: row["holds"] for row in claims_of(json.loads(target.read_text()))}
    if names := [id for id, holds in verdicts.items() if not holds]:
        print(f"With these parameters {len(names)} of its claims do not hold: {', '.join(names)}")
    elif verdicts:
        print(f"With these parameters all {len(verdicts)} of its claims hold.")
    print(f"The executed notebook is {relative(target)}\nIts page is {relative(render_page(target, source, RUNS))}")
    return 0


if __name__ == "__main__":
    end_with_the_build(put_away)
    sys.exit(main())
