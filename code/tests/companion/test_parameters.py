"""Parameters: what they take is declared, checked before anything runs, and every command that a page prints is allowed."""

import ast
import re

import nbformat
import pytest
from companion.build.dependencies import notebook_code
from companion.build.parameters import ParameterError, convert, listing, parameters_of
from companion.build.paths import BOOK, ROOT
from companion.build.run import given_in, main
from hypothesis import given
from hypothesis import strategies as st

CELL = """n = 5  # sequences; 2..30; time ~ n**2
d = 100  # dimension; 2*n..1000
eta = 0.5  # length of a step # in units of 1/rho; 1e-3..2.5
classes = (0, 1)  # two digits; the second is +1; 2 different of 0..9
sizes = (3, 4)  # sizes; each of 2..9; time
loss = "logistic"  # the loss; logistic | exponential
patches = 4  # tokens; 4 | 16
name = 'a#b'  # a file; any text"""
NOTEBOOKS = sorted(BOOK.rglob("*.ipynb"))
PRINTED = re.compile(r"""make run NOTEBOOK=(\S+) P=\\?"(.*?)\\?"(?=\s|\\n|`|$)""", re.MULTILINE)


def notebook(source):
    cell = nbformat.v4.new_code_cell(source, metadata={"tags": ["parameters"]})
    return nbformat.v4.new_notebook(cells=[cell])


KNOWN = parameters_of(notebook(CELL))


def test_a_line_says_what_it_is_what_it_takes_and_what_it_costs():
    n, eta, classes = (KNOWN[name] for name in ("n", "eta", "classes"))
    assert (n.default, n.comment, n.allowed, n.cost) == (5, "sequences", "2..30", "time ~ n**2")
    assert (eta.comment, eta.allowed) == ("length of a step # in units of 1/rho", "1e-3..2.5")
    assert (classes.comment, classes.allowed) == ("two digits; the second is +1", "2 different of 0..9")
    assert "n = 5                    # sequences; 2..30; time ~ n**2" in listing(KNOWN)


@pytest.mark.parametrize(
    "given",
    [
        {"n": "2", "d": "4"},
        {"n": "30"},
        {"eta": "1e-3"},
        {"eta": "2"},
        {"classes": "(7, 3)"},
        {"sizes": "(2,)"},
        {"loss": "exponential"},
        {"patches": "16"},
        {"name": "any/thing at all.npz"},
    ],
)
def test_what_is_allowed_passes(given):
    assert convert(given, KNOWN).keys() == given.keys()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sead": "3"}, "There is no parameter 'sead'; there are: n, d, eta, classes, sizes, loss, patches, name."),
        ({"n": "three"}, "n must be of type int (sequences), not 'three'."),
        ({"n": "1.5"}, "n must be of type int (sequences), not '1.5'."),
        ({"n": "True"}, "n must be of type int (sequences), not 'True'."),
        ({"n": "1"}, "n is 1; it takes 2..30 (sequences)."),
        ({"n": "-1"}, "n is -1; it takes 2..30 (sequences)."),
        ({"d": "6"}, "d is 6, with n = 5; it takes 2*n..1000 (dimension)."),
        ({"n": "30", "d": "50"}, "d is 50, with n = 30; it takes 2*n..1000 (dimension)."),
        ({"eta": "big"}, "eta must be of type float"),
        ({"eta": "1e999"}, "eta is inf; it takes 1e-3..2.5"),
        ({"eta": "nan"}, "eta must be of type float"),
        ({"eta": "1" + "0" * 400}, "eta is inf; it takes"),
        ({"classes": "(7, 7)"}, "classes is (7, 7); it takes 2 different of 0..9 (two digits; the second is +1)."),
        ({"classes": "(1, 2, 3)"}, "it takes 2 different of 0..9"),
        ({"classes": "7"}, "classes must be of type tuple"),
        ({"sizes": "()"}, "it takes each of 2..9"),
        ({"sizes": "(3, 'x')"}, "it takes each of 2..9"),
        ({"sizes": "(3, 1e400)"}, "it takes each of 2..9"),
        ({"loss": "hinge"}, "loss is 'hinge'; it takes logistic | exponential (the loss)."),
        ({"patches": "8"}, "patches is 8; it takes 4 | 16 (tokens)."),
    ],
)
def test_what_is_not_allowed_is_refused_in_one_line(given, said):
    with pytest.raises(ParameterError) as caught:
        convert(given, KNOWN)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@given(name=st.sampled_from(sorted(KNOWN)), text=st.text())
def test_any_text_is_taken_or_refused_by_name(name, text):
    try:
        value = convert({name: text}, KNOWN)[name]
    except ParameterError as refused:
        said, value = str(refused), KNOWN[name].default
    else:
        said = name
    assert said.startswith(name)
    assert "\n" not in said.replace(repr(text), "")
    assert type(value) is type(KNOWN[name].default)


def test_a_derived_parameter_is_refused():
    with pytest.raises(ParameterError, match="derive other values in the next cell"):
        parameters_of(notebook("n = 2 + m  # stale"))


def test_an_end_of_a_range_is_arithmetic_only():
    with pytest.raises(ParameterError, match="must be arithmetic"):
        convert({"n": "3"}, parameters_of(notebook("n = 2  # n; __import__('os')..3")))


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ("", {}),
        ("-p seed 3", {"seed": "3"}),
        ("  -p classes (7,  7) -p seed -1", {"classes": "(7,  7)", "seed": "-1"}),
        ("-p easy '(2,7)' -p n 60", {"easy": "(2,7)", "n": "60"}),
        ("-p data a folder/my-p file.npz", {"data": "a folder/my-p file.npz"}),
    ],
)
def test_what_make_passes_needs_no_quotes(words, given):
    assert given_in(words) == given


@pytest.mark.parametrize("words", ["seed 3", "-p seed", "-p", "-q seed 3"])
def test_what_is_not_understood_is_said(words):
    with pytest.raises(ParameterError):
        given_in(words)


def test_parameters_from_a_file(tmp_path):
    path = tmp_path / "mine.yml"
    path.write_text("seed: 3\nclasses: [7, 1]\n")
    assert given_in(f"--params {path} -p seed 4") == {"seed": "4", "classes": "(7, 1)"}
    for broken in ("- 3", "a: [", "3"):
        path.write_text(broken)
        with pytest.raises(ParameterError, match=re.escape(str(path))):
            given_in(f"--params {path}")
    with pytest.raises(ParameterError, match=r"none\.yml"):
        given_in(f"--params {tmp_path / 'none.yml'}")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_parameter_of_a_chapter_declares_what_it_takes_and_takes_its_default(path):
    known = parameters_of(nbformat.read(path, as_version=4))
    assert [name for name, parameter in known.items() if not parameter.allowed] == []
    defaults = {name: p.default if isinstance(p.default, str) else repr(p.default) for name, p in known.items()}
    assert convert(defaults, known) == {name: parameter.default for name, parameter in known.items()}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_cell_overwrites_a_parameter_or_leaves_it_unused(path):
    book = nbformat.read(path, as_version=4)
    known = set(parameters_of(book))
    cells = [cell for cell in book.cells if "parameters" not in cell.metadata.get("tags", [])]
    code = notebook_code({"cells": [cell for cell in cells if cell.cell_type == "code"]})
    tree = ast.parse(code)
    assigned = {
        name.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for name in ast.walk(node.targets[0])
        if isinstance(name, ast.Name)
    }
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    assert known & assigned == set()
    assert known - used == set()


def test_every_printed_command_is_allowed():
    pages = [*NOTEBOOKS, *BOOK.rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    printed = [found.groups() for page in pages for found in PRINTED.finditer(page.read_text(encoding="utf-8"))]
    assert len(printed) > len(NOTEBOOKS)
    for name, words in printed:
        if (path := BOOK / f"{name}.ipynb").exists() and "--params" not in words:
            given = given_in(words)
            convert(given, parameters_of(nbformat.read(path, as_version=4)))
            assert given


def test_a_refusal_ends_with_two_and_a_list_with_zero(capsys, monkeypatch):
    monkeypatch.setenv("P", "-p classes (7,7)")
    assert main(["model"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["modal"]) == 2
    assert "There is no notebook 'modal'" in capsys.readouterr().err
    monkeypatch.setenv("P", "")
    assert main(["model"]) == 0
    assert "2 different of 0..9" in capsys.readouterr().out
