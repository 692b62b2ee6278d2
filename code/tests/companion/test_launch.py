"""From a page to running code: Binder's button and its files, and the cell that installs the package where it is missing."""

import ast
import sys
from types import SimpleNamespace

import nbformat
import pytest
from companion.build import identity, launch
from companion.build.paths import ROOT

ADDRESS = "https://github.com/me/book"


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Pages with one notebook to download, of a public repository at a commit."""
    monkeypatch.setattr(identity, "repository", lambda: ADDRESS)
    monkeypatch.setattr(launch.commit, "current", lambda: "0123456789")
    path = tmp_path / "_sources" / "book" / "x.ipynb"
    path.parent.mkdir(parents=True)
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x = 1")]), path)
    return SimpleNamespace(outdir=tmp_path, builder=SimpleNamespace(format="html"), path=path)


def cells(site):
    return [cell.source for cell in nbformat.read(site.path, as_version=4).cells]


def test_a_downloaded_notebook_installs_the_commit_that_made_its_page(site):
    launch.install(site, None)
    first, second = cells(site)
    assert f'"tokenmargin[all] @ git+{ADDRESS}@0123456789#subdirectory=code"' in first
    assert second == "x = 1"
    nbformat.validate(nbformat.read(site.path, as_version=4))


def test_where_the_package_is_there_nothing_is_installed(site, monkeypatch):
    launch.install(site, None)
    calls = []
    monkeypatch.setattr("subprocess.run", lambda command, check: calls.append(command))
    code = compile(ast.parse(cells(site)[0]), "cell", "exec")
    exec(code, {})
    assert calls == []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    exec(code, {})
    assert calls[0][:4] == [sys.executable, "-m", "pip", "install"]


@pytest.mark.parametrize("missing", ["address", "commit"])
def test_without_an_address_or_a_commit_a_notebook_stays_as_it_is(site, monkeypatch, missing):
    if missing == "address":
        monkeypatch.setattr(identity, "repository", lambda: None)
    else:
        monkeypatch.setattr(launch.commit, "current", lambda: launch.commit.UNCOMMITTED)
    launch.install(site, None)
    assert cells(site) == ["x = 1"]


def test_the_button_to_binder_is_there_where_the_repository_is_public(monkeypatch):
    config = SimpleNamespace(html_theme_options={})
    monkeypatch.setattr(identity, "repository", lambda: None)
    launch.configure(None, config)
    assert config.html_theme_options == {}
    monkeypatch.setattr(identity, "repository", lambda: ADDRESS)
    launch.configure(None, config)
    assert config.html_theme_options["launch_buttons"]["binderhub_url"] == "https://mybinder.org"


def test_binder_installs_what_the_book_is_built_with():
    folder = ROOT / ".binder"
    assert (folder / (folder / "requirements.txt").read_text().removeprefix("-r ").strip()).resolve() == (
        ROOT / "requirements.txt"
    )
    assert (folder / "postBuild").stat().st_mode & 0o111
    assert "tokenmargin.warmup" in (folder / "postBuild").read_text()
