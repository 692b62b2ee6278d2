"""Execute one chapter with changed parameters: ``python -m companion.build.run NOTEBOOK [-p name value ...]``.

Without parameters it lists those that the chapter has. A value that the chapter does not take is refused before anything
runs, in one line. Parameters come as ``-p name value``, from a YAML file (``--params file.yml``), or, as ``make run`` passes
them, as one text in the environment (``P``), so that no tuple needs quoting against the shell.

The book is not touched: the executed notebook and its page go to ``_build/runs/``. A claim that does not hold with the
changed parameters is reported, not an error: what it says is a finding here.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
from pathlib import Path

import nbformat

from companion.build.execute import NotebookFailed, execute, put_away, shown
from companion.build.parameters import ParameterError, convert, listing, parameters_of
from companion.build.paths import BOOK, RUNS, relative
from companion.build.stopping import end_with_the_build
from companion.chapter.claims import VARIABLE

WORDS = "P"  # in the environment: what stands after P= on make's command line
OPTION = re.compile(r"(?:^|\s)(-p|--params)\s+")


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


def given_in(words: str) -> dict[str, str]:
    """Parameters in a text such as ``-p classes (7, 7) -p seed 3``: a value ends where the next option begins.

    Raises
    ------
    ParameterError
        When the text is of another form.
    """
    before, *pieces = OPTION.split(words)
    given: dict[str, str] = {}
    for option, piece in zip(pieces[::2], pieces[1::2], strict=True):
        name, _, value = piece.strip().partition(" ")
        if option == "--params":
            given |= from_file(Path(piece.strip()))
        elif name and value.strip():
            given[name] = value.strip().strip("'\"")
        else:
            raise ParameterError(f"-p needs a name and a value, as in -p seed 3; given was {piece.strip()!r}.")
    if before.strip():
        raise ParameterError(f"Give parameters as -p name value; not understood: {before.strip()!r}.")
    return given


def from_file(path: Path) -> dict[str, str]:
    """Parameters in a YAML file of lines ``name: value``.

    Raises
    ------
    ParameterError
        When the file cannot be read or is not a mapping of names to values.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as problem:
        raise ParameterError(f"{path}: {' '.join(str(problem).split())}") from None
    if not isinstance(values, dict):
        raise ParameterError(f"{path} must hold lines such as seed: 3, one a parameter.")
    return {str(name): str(tuple(value) if isinstance(value, list) else value) for name, value in values.items()}


def run(source: Path, given: dict[str, str]) -> None:
    """Execute and render the chapter `source` with these parameters, and say what became of its claims."""
    from companion.build.claims_table import claims_of
    from companion.build.page import render_page

    target = target_of(str(source.relative_to(BOOK).with_suffix("")), given)
    os.environ.pop(VARIABLE, None)
    execute(source, target, given)
    claims = claims_of(json.loads(target.read_text(encoding="utf-8")))
    print(verdict({claim["id"]: claim["holds"] for claim in claims}), end="")
    print(f"The executed notebook is {relative(target)}\nIts page is {relative(render_page(target, source, RUNS))}")


def verdict(holds: dict[str, bool | None]) -> str:
    """What became of the claims with these parameters, a line each for those that fell and those not judged."""
    fallen = [id for id, held in holds.items() if held is False]
    open_ = [id for id, held in holds.items() if held is None]
    lines = [f"With these parameters {sum(map(bool, holds.values()))} of {len(holds)} claims hold."] if holds else []
    lines += [f"Not: {', '.join(fallen)}"] if fallen else []
    lines += [f"Not judged: {', '.join(open_)}"] if open_ else []
    return "".join(f"{line}\n" for line in lines)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code: 2 when the parameters or the notebook's name are refused."""
    parser = argparse.ArgumentParser(prog="companion.build.run", description=__doc__.splitlines()[0])
    parser.add_argument("notebook")
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    parser.add_argument("--params", type=Path, metavar="FILE.yml")
    options = parser.parse_args(arguments)
    try:
        source = find(options.notebook)
        given = given_in(os.environ.get(WORDS, "")) | (from_file(options.params) if options.params else {})
        given |= dict(options.p)
        known = parameters_of(nbformat.read(source, as_version=4))
        convert(given, known)
    except (ParameterError, FileNotFoundError) as problem:
        print(f"{options.notebook}: {problem}", file=sys.stderr)
        return 2
    if known and not given:
        print(f'{listing(known)}\nChange some: make run NOTEBOOK={options.notebook} P="-p {next(iter(known))} VALUE"')
        return 0
    try:
        run(source, given)
    except (NotebookFailed, ValueError) as problem:
        print(shown(problem), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    end_with_the_build(put_away)
    sys.exit(main())
