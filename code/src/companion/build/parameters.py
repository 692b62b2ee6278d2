"""The parameters of a notebook: one line each, with a default, what it is, what values it takes and what it costs.

``n = 5  # sequences; 2..30; time ~ n**2``: the parts of the comment are separated by semicolons. What is allowed is one of

- ``LOW..HIGH``, a range with its ends; they may be arithmetic with other parameters, as in ``n*T..1000``;
- ``each of LOW..HIGH``, a tuple of one or more such numbers; ``2 of LOW..HIGH``, of two; ``2 different of LOW..HIGH``;
- ``one | another``, a list of values;
- ``any text``.

``time`` says that the time of the chapter grows in proportion, ``time ~ n**2`` how else; without it, it does not.
"""

from __future__ import annotations

import ast
import math
import re
from dataclasses import dataclass
from typing import Any

from nbformat import NotebookNode

LINE = re.compile(r"^(?P<name>[A-Za-z_]\w*)\s*=\s*(?P<rest>.+)$")
ALLOWED = re.compile(
    r"((?P<count>each|\d+)(?P<different> different)? of )?(?P<low>[^ .|]+(\.\d+[^ .|]*)?)\.\.(?P<high>[^ |]+)"
)
ANY = "any text"
ARITHMETIC = (ast.Expression, ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.UnaryOp, ast.USub)


class ParameterError(ValueError):
    """A parameter was given that the notebook does not have, or a value that it does not take."""


@dataclass(frozen=True)
class Parameter:
    """One line of the cell tagged ``parameters``: ``name = default  # what it is; what is allowed; what it costs``."""

    name: str
    default: Any
    comment: str
    allowed: str = ""
    cost: str = ""

    def __str__(self) -> str:
        parts = filter(None, (self.comment, self.allowed, self.cost))
        return f"  {f'{self.name} = {self.default!r}':<24} # {'; '.join(parts)}"


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
    parts = comment.split("; ")
    cost = parts.pop() if re.fullmatch(r"time( ~ .+)?", parts[-1]) else ""
    allowed = parts.pop() if _says_what_is_allowed(parts[-1]) else ""
    try:
        return Parameter(match["name"], ast.literal_eval(value), "; ".join(parts), allowed, cost)
    except (ValueError, SyntaxError):
        raise ParameterError(
            f"The parameter line {line!r} must be a plain value (number, text, tuple, True, None) "
            "followed by a comment: derive other values in the next cell."
        ) from None


def _says_what_is_allowed(part: str) -> bool:
    return part == ANY or " | " in part or bool(ALLOWED.fullmatch(part))


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
    """Turn texts from the command line into values of the same type as the defaults, within what they may be.

    Raises
    ------
    ParameterError
        For a name that is not in `known`, a value of another type or one that is not allowed; one line.
    """
    values = {name: _of_type(name, text, known) for name, text in given.items()}
    everything = {name: parameter.default for name, parameter in known.items()} | values
    for name, parameter in known.items():
        if given and not _is_allowed(everything[name], parameter.allowed, everything):
            said = f"{name} is {everything[name]!r}{_with(parameter.allowed, everything)}"
            raise ParameterError(f"{said}; it takes {parameter.allowed} ({parameter.comment}).")
    return values


def _of_type(name: str, text: str, known: dict[str, Parameter]) -> Any:
    if name not in known:
        names = ", ".join(known) or "none"
        raise ParameterError(f"There is no parameter {name!r}; there are: {names}.")
    default = known[name].default
    try:
        value = text if isinstance(default, str) else ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = text
    if isinstance(default, float) and type(value) is int:
        value = _as_float(value)
    if default is not None and type(value) is not type(default):
        kind = type(default).__name__
        raise ParameterError(f"{name} must be of type {kind} ({known[name].comment}), not {text!r}.")
    return value


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _is_allowed(value: Any, allowed: str, everything: dict[str, Any]) -> bool:
    if not allowed or allowed == ANY:
        return True
    match = ALLOWED.fullmatch(allowed)
    if match is None:
        return str(value) in allowed.split(" | ")
    entries = value if match["count"] else (value,)
    if match["count"] and not (len(entries) == int(match["count"]) if match["count"] != "each" else entries):
        return False
    if match["different"] and len(set(entries)) < len(entries):
        return False
    low, high = (number(match[end], everything) for end in ("low", "high"))
    return all(type(entry) in (int, float) and low <= entry <= high for entry in entries)


def number(text: str, everything: dict[str, Any]) -> float:
    """The value of an end of a range: arithmetic with numbers and other parameters."""
    tree = ast.parse(text, mode="eval")
    for node in ast.walk(tree):
        if not isinstance(node, (*ARITHMETIC, ast.Constant, ast.Name, ast.Load)):
            raise ParameterError(f"The end {text!r} of a range must be arithmetic with numbers and parameters.")
    return float(eval(compile(tree, "<range>", "eval"), {"__builtins__": {}}, everything))


def _with(allowed: str, everything: dict[str, Any]) -> str:
    """Other parameters that a range depends on, with their values."""
    match = ALLOWED.fullmatch(allowed)
    ends = f"{match['low']} {match['high']}" if match else ""
    names = [name for name in everything if re.search(rf"(?<![\w.]){name}\b", ends)]
    return "".join(f", with {name} = {everything[name]!r}" for name in names)


def listing(known: dict[str, Parameter]) -> str:
    """All parameters with their defaults, one a line."""
    if not known:
        return "This notebook has no parameters."
    return "\n".join(["The parameters, with their defaults, are:", *map(str, known.values())])
