"""The parameters of a notebook: one line each, with a default and a comment."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import Any

from nbformat import NotebookNode

LINE = re.compile(r"^(?P<name>[A-Za-z_]\w*)\s*=\s*(?P<rest>.+)$")


class ParameterError(ValueError):
    """A parameter was given that the notebook does not have, or a value that does not fit its default."""


@dataclass(frozen=True)
class Parameter:
    """One line of the cell tagged ``parameters``: ``name = default  # comment``."""

    name: str
    default: Any
    comment: str

    def __str__(self) -> str:
        return f"  {f'{self.name} = {self.default!r}':<24} # {self.comment}"


def parameters_of(notebook: NotebookNode) -> dict[str, Parameter]:
    """Parameters of a notebook by name; empty when no cell is tagged ``parameters``."""
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    found = [_parse(line) for cell in cells for line in cell.source.splitlines()]
    return {parameter.name: parameter for parameter in found if parameter}


def _parse(line: str) -> Parameter | None:
    match = LINE.match(line)
    if match is None:
        return None
    value, comment = _split_comment(match["rest"])
    try:
        return Parameter(match["name"], ast.literal_eval(value), comment)
    except (ValueError, SyntaxError):
        raise ParameterError(
            f"The parameter line {line!r} must be a plain value (number, text, tuple, True, None) "
            "followed by a comment: derive other values in the next cell."
        ) from None


def _split_comment(text: str) -> tuple[str, str]:
    """Split at the first ``#`` that leaves a whole literal on its left."""
    for position in (i for i, letter in enumerate(text) if letter == "#"):
        try:
            ast.literal_eval(text[:position].strip())
        except (ValueError, SyntaxError):
            continue
        return text[:position].strip(), text[position + 1 :].strip()
    return text.strip(), ""


def convert(given: dict[str, str], known: dict[str, Parameter]) -> dict[str, Any]:
    """Turn texts from the command line into values of the same type as the defaults.

    Raises
    ------
    ParameterError
        For a name that is not in `known`, or a value of another type; lists all parameters.
    """
    return {name: _convert_one(name, text, known) for name, text in given.items()}


def _convert_one(name: str, text: str, known: dict[str, Parameter]) -> Any:
    if name not in known:
        raise ParameterError(f"There is no parameter {name!r}. {_listing(known)}")
    default = known[name].default
    try:
        value = text if isinstance(default, str) else ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if default is not None and type(value) is not type(default):
        kind = type(default).__name__
        raise ParameterError(f"The parameter {name!r} must be of type {kind}, not {text!r}. {_listing(known)}")
    return value


def _listing(known: dict[str, Parameter]) -> str:
    if not known:
        return "This notebook has no parameters."
    return "\n".join(["The parameters, with their defaults, are:", *map(str, known.values())])
