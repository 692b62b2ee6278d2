"""What depends on what: a notebook is executed again exactly when the content of something it uses has changed."""

import ast
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from companion.build import dependencies
from companion.build.dependencies import forget_broken, imported_files, modules_of, notebook_code, rules
from companion.build.paths import ROOT, write_whole
from companion.build.toc import documents, notebooks
from small_book import write_notebook

SOURCES = ROOT / "code" / "src"
SETTINGS = "code/src/companion/build/settings.py"
STAMPS = "_build/stamps"


def needs(root, name):
    """What a notebook's rule names, without the folder of the stamps and what every notebook needs."""
    line = next(line for line in rules(root).splitlines() if line.startswith(f"$(EXECUTED)/book/{name}.ipynb:"))
    found = [stamp.removeprefix(f"{STAMPS}/") for stamp in line.partition(": ")[2].split()]
    assert found[0] == f"book/{name}.ipynb"
    assert {SETTINGS, "environment"} <= set(found)
    return {file.removeprefix("code/src/") for file in found[1:]} - {SETTINGS.removeprefix("code/src/"), "environment"}


def test_imports_are_followed_through_sub_packages_and_into_functions(root):
    assert needs(root, "one") == {"pkg/deep/a.py", "pkg/flat/b.py", "pkg/flat/d.py"}


def test_what_is_not_imported_is_not_a_dependency(root):
    assert needs(root, "two") == {"pkg/c.py"}


@pytest.mark.parametrize("code", ["from pkg import f", "import pkg", "from pkg import *"])
def test_a_name_of_the_package_itself_counts_with_what_it_is_found_in_on_demand(root, code):
    write_notebook(root / "book" / "two.ipynb", code)
    assert needs(root, "two") == {"pkg/__init__.py", "pkg/flat/b.py", "pkg/flat/d.py"}


def test_a_relative_import_two_levels_up_is_followed(root):
    sources = root / "code" / "src"
    code = "from ..data.problem import TokenProblem\nfrom . import other\nfrom .. import c"
    for name in ("data/problem", "model/other"):
        (sources / "pkg" / name).parent.mkdir(exist_ok=True)
        (sources / "pkg" / f"{name}.py").write_text("")
    found = {str(file.relative_to(sources)) for file in imported_files(code, sources, "pkg.model")}
    assert found == {"pkg/data/problem.py", "pkg/model/other.py", "pkg/c.py"}


def test_long_notebooks_come_first_and_the_others_in_reading_order():
    books = notebooks(ROOT)
    order = dependencies.longest_first(books)
    count = len(dependencies.LONG)
    assert [path.relative_to("book").with_suffix("").as_posix() for path in order[:count]] == list(dependencies.LONG)
    assert order[count:] == [path for path in books if path not in order[:count]]


def inits():
    return sorted(SOURCES.rglob("__init__.py"))


@pytest.mark.parametrize("path", inits(), ids=lambda path: str(path.relative_to(SOURCES)))
def test_no_package_imports_a_module_of_ours_while_python_passes_through_it(path):
    """The walk leaves out an ``__init__`` that is only passed through: so it must not import anything eagerly."""
    tree = ast.parse(path.read_text())
    eager = [node for node in tree.body if not isinstance(node, ast.FunctionDef)]
    eager = [
        node for node in eager if not (isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"))
    ]
    package = ".".join(path.relative_to(SOURCES).parent.parts)
    assert not imported_files("\n".join(map(ast.unparse, eager)), SOURCES, package)


def test_an_eager_import_would_be_seen(root):
    code = "from .flat import b"
    assert imported_files(code, root / "code" / "src", "pkg")


def test_the_reading_order_is_that_of_the_table_of_contents(root):
    assert documents(root) == ["book/index", "book/one", "book/two"]
    assert [path.stem for path in notebooks(root)] == ["one", "two"]


def test_a_notebook_may_name_files_that_it_reads(root):
    (root / "book" / "data.json").write_text("{}")
    write_notebook(root / "book" / "two.ipynb", metadata={"companion": {"reads": ["book/data.json"]}})
    assert needs(root, "two") == {"book/data.json"}


def test_a_notebook_that_does_not_parse_still_has_a_rule(root):
    write_notebook(root / "book" / "two.ipynb", "import (")
    assert needs(root, "two") == set()


def test_lines_for_ipython_only_are_skipped():
    cell = {"cell_type": "code", "source": ["%time x\n", "import a\n"]}
    assert notebook_code({"cells": [cell]}) == "pass\nimport a"


def test_modules_from_elsewhere_are_left_out(root):
    assert modules_of("import json, numpy\nfrom numpy import linalg", root / "code" / "src") == set()


class Book:
    """The little repository under the book's own Makefile, all executed and rendered a while ago."""

    def __init__(self, root: Path):
        self.root = root
        shutil.copyfile(ROOT / "Makefile", root / "Makefile")
        (root / "code" / "src" / "tokenmargin").mkdir()
        for path in (root / "code" / "pyproject.toml", root / ".venv" / ".ready"):
            path.parent.mkdir(exist_ok=True)
            path.write_text("")
        dependencies.main(root)
        built = [root / "_build" / "executed" / path for path in notebooks(root)]
        for path in (*built, root / "_build" / ".warm", root / "_build" / "html" / "claims.json"):
            write_whole(path, "[1]")
        self.age()

    def age(self) -> None:
        """Turn all clocks back: sources and stamps ten minutes, what was made of them five."""
        now = (self.root / "Makefile").stat().st_mtime
        made = {self.root / "_build" / name for name in (".warm", "html/claims.json")}
        made |= set((self.root / "_build" / "executed").rglob("*.ipynb"))
        for path in filter(Path.is_file, self.root.rglob("*")):
            ago = 200 if path in made else 300 if path.name == ".ready" else 600
            os.utime(path, (now - ago, now - ago))

    def due(self) -> set[str]:
        """What `make book` would do now: notebooks to execute, and "render"."""
        dependencies.main(self.root)
        command = ["make", "--no-print-directory", "--dry-run", "site", "PYTHON=false"]
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
        said = subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=True, env=clean).stdout
        words = [line.split() for line in said.splitlines() if "-m companion.build." in line]
        steps = [line[line.index("-m") + 1 :] for line in words]
        return {Path(step[1]).stem if step[0].endswith("execute") else step[0].rpartition(".")[2] for step in steps}

    def change(self, path: str, text: str = "changed = 1\n") -> str:
        """Write a file anew; returns what it held."""
        old = (self.root / path).read_text()
        (self.root / path).write_text(text)
        return old


@pytest.fixture
def book(root, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(root.parent))
    return Book(root)


def test_nothing_is_due_when_nothing_changed(book):
    assert book.due() == set()


@pytest.mark.parametrize(
    ("path", "due"),
    [
        ("code/src/pkg/c.py", {"two", "render"}),  # rendering makes the page of claims
        ("code/src/pkg/flat/d.py", {"one", "render"}),
        ("code/src/pkg/__init__.py", {"render"}),  # its docstrings are the reference
        ("code/src/companion/build/render.py", {"render"}),
        ("code/src/companion/build/settings.py", {"one", "two", "render"}),
        ("requirements.txt", {"one", "two", "render"}),
        ("code/pyproject.toml", set()),
        ("book/index.md", {"render"}),
        ("_config.yml", {"render"}),
    ],
)
def test_a_change_is_followed_by_what_depends_on_it_and_no_more(book, path, due):
    book.change(path)
    book.root.joinpath(".venv/.ready").touch()  # the environment is made elsewhere
    book.root.joinpath("_build/.warm").touch()
    assert book.due() == due


def test_a_changed_notebook_is_executed(book):
    write_notebook(book.root / "book" / "one.ipynb", "1")
    assert book.due() == {"one", "render"}


@pytest.mark.parametrize("path", ["code/src/pkg/c.py", "book/one.ipynb", "code/src/companion/build/settings.py"])
def test_content_that_was_changed_and_restored_executes_nothing(book, path):
    old = book.change(path)
    book.change(path, old)
    assert book.due() == set()


@pytest.mark.parametrize("text", ["", "[]", "[{"])
def test_a_site_whose_claims_are_empty_or_broken_is_not_up_to_date(book, text):
    site = book.root / "_build" / "html" / "claims.json"
    site.write_text(text)
    assert book.due() == {"render"}
    forget_broken(site)
    assert not site.exists()


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    write_whole(tmp_path / "a", "old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write_whole(tmp_path / "a", "new")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_the_rules_are_those_of_this_book():
    """Every chapter depends on what a chapter imports, and on nothing of the build but its settings."""
    for path in filter(lambda path: path.stem != "claims", notebooks(ROOT)):
        files = set(map(str, dependencies.needs(path, ROOT)))
        build = {file for file in files if file.startswith("code/src/companion/build/")}
        code = notebook_code(json.loads((ROOT / path).read_text()))
        assert "companion.chapter" in code or "companion" not in code
        assert build == {SETTINGS}
