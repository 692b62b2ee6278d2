"""References by number read each page they lead to once, and say what Sphinx's own say; one job or two, the same bytes."""

import os
import subprocess
import sys
from types import SimpleNamespace

from companion.build.numbers import PAGES, Shelf
from companion.build.sphinx_jobs import JOBS

CONF = """
extensions = ["myst_parser", "companion.build.numbers", "companion.build.sphinx_jobs"]
html_theme = "basic"
numfig = True
nitpicky = True
myst_enable_extensions = ["colon_fence"]
"""
PAGE = """# Page {k}

:::{{figure}} dot.png
:name: fig-{k}

A dot.
:::

See {{numref}}`fig-1`, {{numref}}`fig-{k}` and {{numref}}`the {{number}}th <fig-{k}>`.
"""
DOT = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360000002000001e221bc330000000049454e44ae426082"
)


def build(folder, jobs):
    """Render six pages with figures by this many jobs; returns every page's text by its name."""
    folder.mkdir()
    (folder / "conf.py").write_text(CONF)
    (folder / "dot.png").write_bytes(DOT)
    names = [f"p{k}" for k in range(1, 7)]
    (folder / "index.md").write_text("# Index\n\n```{toctree}\n:numbered:\n" + "\n".join(names) + "\n```\n")
    for k, name in enumerate(names, 1):
        (folder / f"{name}.md").write_text(PAGE.format(k=k))
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-q", "-W", "-n", folder, folder / "out"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {JOBS: str(jobs)})
    assert done.returncode == 0, done.stderr
    return {path.name: path.read_text() for path in (folder / "out").glob("*.html")}


def test_the_numbers_are_right_and_two_jobs_write_the_same(tmp_path):
    pages = build(tmp_path / "one", 1)
    assert 'href="p1.html#fig-1"' in pages["p4.html"]
    assert "Fig. 1.1" in pages["p4.html"]
    assert "Fig. 4.1" in pages["p4.html"]
    assert "the 4.1th" in pages["p4.html"]
    assert build(tmp_path / "two", 2) == pages


def test_a_page_is_read_once_for_all_references_to_it():
    read = []
    shelf = Shelf(SimpleNamespace(get_doctree=lambda page: read.append(page) or page.upper(), config="its config"))
    assert [shelf.get_doctree(page) for page in "aabab"] == list("AABAB")
    assert read == ["a", "b"]
    assert shelf.config == "its config"
    for k in range(PAGES):
        shelf.get_doctree(f"page {k}")
    shelf.get_doctree("a")
    assert read.count("a") == 2  # no more than PAGES stand on the shelf
