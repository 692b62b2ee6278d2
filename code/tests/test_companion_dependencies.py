"""What depends on what: a notebook is executed again exactly when something it uses has changed."""

import json

import pytest
from companion.dependencies import imported_names, modules_of, notebook_code, rules
from companion.toc import documents, notebooks


@pytest.fixture
def root(tmp_path):
    """A little repository: pkg.a uses pkg.b through a relative import; pkg.c stands alone."""
    package = tmp_path / "code" / "src" / "pkg"
    package.mkdir(parents=True)
    files = {
        "__init__": "",
        "a": "from .b import x\nimport os\n",
        "b": "def f():\n    from pkg import d\n",
        "c": "",
        "d": "",
    }
    for name, text in files.items():
        (package / f"{name}.py").write_text(text)
    (tmp_path / "_toc.yml").write_text(
        "root: book/index\nparts:\n- chapters:\n  - file: book/one\n    sections:\n    - file: book/two\n  - file: book/claims\n"
    )
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "index.md").write_text("# t")
    for name, code in (("one", "from pkg.a import x"), ("two", "%matplotlib inline\nimport pkg.c"), ("claims", "")):
        cell = {"cell_type": "code", "source": code, "metadata": {}}
        (tmp_path / "book" / f"{name}.ipynb").write_text(json.dumps({"cells": [cell], "metadata": {}}))
    return tmp_path


def needs(root, name):
    line = next(line for line in rules(root).splitlines() if line.startswith(f"$(EXECUTED)/book/{name}.ipynb:"))
    return line.partition(": ")[2].split()


def test_imports_are_followed_through_modules_and_into_functions(root):
    modules = [f"code/src/pkg/{name}.py" for name in ("__init__", "a", "b", "d")]
    assert needs(root, "one") == ["book/one.ipynb", *modules]


def test_what_is_not_imported_is_not_a_dependency(root):
    assert needs(root, "two") == ["book/two.ipynb", "code/src/pkg/__init__.py", "code/src/pkg/c.py"]


def test_claims_waits_for_all_others(root):
    assert needs(root, "claims") == ["book/claims.ipynb", "$(EXECUTED)/book/one.ipynb", "$(EXECUTED)/book/two.ipynb"]


def test_the_reading_order_is_that_of_the_table_of_contents(root):
    assert documents(root) == ["book/index", "book/one", "book/two", "book/claims"]
    assert [path.stem for path in notebooks(root)] == ["one", "two", "claims"]


def test_a_notebook_may_name_files_that_it_reads(root):
    path = root / "book" / "two.ipynb"
    book = json.loads(path.read_text())
    book["metadata"]["companion"] = {"reads": ["book/data.json"]}
    path.write_text(json.dumps(book))
    assert "book/data.json" in needs(root, "two")


def test_a_notebook_that_does_not_parse_still_has_a_rule(root):
    path = root / "book" / "two.ipynb"
    path.write_text(path.read_text().replace("import pkg.c", "import ("))
    assert needs(root, "two") == ["book/two.ipynb"]


def test_relative_imports_are_resolved():
    assert set(imported_names("from ..x import y", "a.b")) == {"a.x", "a.x.y"}
    assert set(imported_names("from . import y", "a.b")) == {"a.b", "a.b.y"}


def test_lines_for_ipython_only_are_skipped():
    cell = {"cell_type": "code", "source": ["%time x\n", "import a\n"]}
    assert notebook_code({"cells": [cell]}) == "pass\nimport a"


def test_modules_from_elsewhere_are_left_out(root):
    assert modules_of("import json, numpy", root / "code" / "src") == set()
