"""The reference shows every public name with its docstring, its links lead somewhere, and an unknown name fails."""

import inspect
import re
import subprocess
import sys

import pytest
import tokenmargin
from companion.build import api
from companion.build.paths import BOOK

CONF = """
extensions = ["myst_parser", "companion.build.api"]
html_theme = "basic"
nitpicky = True
"""


def build(folder, **pages):
    """Render pages of Markdown, warnings as errors; returns the finished process."""
    (folder / "conf.py").write_text(CONF)
    names = "\n".join(pages)
    (folder / "index.md").write_text(f"# Index\n\n```{{toctree}}\n{names}\n```\n")
    for name, text in pages.items():
        (folder / f"{name}.md").write_text(text)
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-q", "-W", "-n", folder, folder / "out"]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_reference_of_every_wing(tmp_path):
    pages = {f"p{k}": f"# Wing\n\n```{{api}} {wing}\n```\n" for k, wing in enumerate(api.wings())}
    done = build(tmp_path, **pages, use="# Use\n\nSee {fn}`e_inf` and {fn}`margin.token_svm.solve_token_svm`.\n")
    assert done.returncode == 0, done.stderr
    shown = "".join((tmp_path / "out" / f"{name}.html").read_text() for name in pages)
    for name in tokenmargin.__all__:
        entry = api.Entry(getattr(tokenmargin, name).__module__, name, getattr(tokenmargin, name))
        assert f'id="{entry.target}"' in shown, name
    use = (tmp_path / "out" / "use.html").read_text()
    for target in re.findall(r'href="(p\d+\.html)#([\w-]+)"', use):
        assert f'id="{target[1]}"' in (tmp_path / "out" / target[0]).read_text()
    assert use.count('href="p') >= 2
    assert "e_inf (tokenmargin.theory.residual)" in (tmp_path / "out" / "genindex.html").read_text()


def test_an_unknown_name_fails(tmp_path):
    done = build(tmp_path, use="# Use\n\n{fn}`no_such_name`\n")
    assert done.returncode != 0
    assert "no public name 'no_such_name'" in done.stderr


def test_each_wing_has_its_page():
    for wing in api.wings():
        assert f"```{{api}} {wing}\n" in (BOOK / "api" / f"{wing.split('.')[-1]}.md").read_text(encoding="utf-8")


def test_sections_and_items():
    text = "First line.\n\nParameters\n----------\nx : float\n    The place,\n    in metres.\ny : int\n    Count.\n\nNotes\n-----\nAny."
    found = dict(api.sections(text))
    assert list(found) == ["", "Parameters", "Notes"]
    assert list(api.items(found["Parameters"])) == [("x : float", "The place, in metres."), ("y : int", "Count.")]


@pytest.mark.parametrize("name", sorted(tokenmargin.__all__))
def test_each_public_name_says_what_it_needs_and_gives(name):
    entry = api.Entry("m", name, getattr(tokenmargin, name))
    titles = [title for title, _ in api.sections(inspect.getdoc(entry.value))]
    assert "Examples" in titles
    assert entry.signature.startswith(name)
