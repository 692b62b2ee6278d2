"""What the tests of the book's machinery share: a little repository with a package, notebooks and a table of contents."""

import pytest
from small_book import TOC, write_notebook


@pytest.fixture
def root(tmp_path):
    """A little repository: pkg.deep.a uses pkg.flat.b by a relative import, and this pkg.flat.d; pkg.c stands alone."""
    files = {
        "pkg/__init__.py": '"""Lazy."""\nNAMES = {"f": "flat.b"}\ndef __getattr__(name): ...\n',
        "pkg/deep/__init__.py": '"""Only words."""\n',
        "pkg/deep/a.py": "from ..flat.b import x\nimport os\n",
        "pkg/flat/__init__.py": "",
        "pkg/flat/b.py": "def f():\n    from pkg.flat import d\n",
        "pkg/flat/d.py": "",
        "pkg/c.py": "",
        "companion/__init__.py": "",
        "companion/build/__init__.py": "",
        "companion/build/settings.py": "THREADS = 1\n",
        "companion/build/render.py": "from companion.build import settings\n",
    }
    for name, text in files.items():
        path = tmp_path / "code" / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "_toc.yml").write_text(TOC)
    (tmp_path / "_config.yml").write_text("title: t\n")
    (tmp_path / "requirements.txt").write_text("numpy==1\n")
    write_notebook(tmp_path / "book" / "one.ipynb", "from pkg.deep.a import x")
    write_notebook(tmp_path / "book" / "two.ipynb", "%matplotlib inline\nimport pkg.c")
    (tmp_path / "book" / "index.md").write_text("# t")
    return tmp_path
