"""The page of one executed notebook, as the book would show it, outside the book."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from companion.build.claims_table import claims_of
from companion.build.paths import BOOK, HTML, ROOT, RUNS
from companion.build.toc import title

LINK = re.compile(r"\[\]\(([\w./-]+)\.(ipynb|md)\)")
# The command `jupyter-book`, started so that `companion.build` comes first.
JUPYTER_BOOK = [sys.executable, "-c", "import companion.build, jupyter_book.cli.main as book; book.main()"]
PARTS = ("_static", "_images", "_sphinx_design_static")
NOTE = """
```{note}
A run outside the book, with its own parameters. Theorems and figures are numbered anew here.
```
"""
REFERENCES = "## References\n\n```{bibliography}\n:style: author_year\n:filter: docname in docnames\n```"


def render_page(notebook: Path, chapter: Path, runs: Path = RUNS) -> Path:
    """Render `notebook`, an executed copy of `chapter` below the folder `runs`, to the HTML page beside it.

    Links to other chapters lead to their pages in the built book; numbers of their theorems and figures are not known here.

    Raises
    ------
    RuntimeError
        When Sphinx makes no page; holds the end of its log.
    """
    name = notebook.relative_to(runs).with_suffix("")
    target = runs / f"{name}.html"
    with tempfile.TemporaryDirectory() as folder:
        source, built = Path(folder) / "source", Path(folder) / "out"
        (source / name).parent.mkdir(parents=True)
        (source / "_toc.yml").write_text(f"format: jb-book\nroot: {name}\n")
        (source / f"{name}.ipynb").write_text(json.dumps(_alone(json.loads(notebook.read_text()), chapter, target)))
        shutil.copytree(BOOK / "_static", source / "book" / "_static")
        shutil.copyfile(BOOK / "references.bib", source / "book" / "references.bib")
        config = yaml.safe_load((ROOT / "_config.yml").read_text())
        config["sphinx"]["config"]["companion_outside"] = Path(os.path.relpath(HTML, target.parent)).as_posix()
        (source / "_config.yml").write_text(yaml.safe_dump(config, allow_unicode=True))
        options = ["--config", str(source / "_config.yml"), "--path-output", str(built)]
        done = subprocess.run(
            [*JUPYTER_BOOK, "build", str(source), *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        pages = built / "_build" / "html"
        if not (pages / f"{name}.html").exists():
            raise RuntimeError(f"no page could be made of {name}:\n{done.stdout[-2000:]}")
        for part in filter(Path.is_dir, map(pages.joinpath, PARTS)):
            shutil.copytree(part, runs / part.name, dirs_exist_ok=True)
        shutil.copyfile(pages / "searchindex.js", runs / "searchindex.js")
        shutil.copyfile(pages / f"{name}.html", target)
    return target


def _alone(notebook: dict[str, Any], chapter: Path, target: Path) -> dict[str, Any]:
    """`notebook` with a note below its title, its links to other chapters turned to the built book, and references."""

    def address(name: str) -> str:
        other = Path(os.path.relpath(chapter.parent / f"{name}.html", BOOK))
        return Path(os.path.relpath(HTML / "book" / other, target.parent)).as_posix()

    def link(match: re.Match[str]) -> str:
        return f'<a href="{address(match[1])}">{title(chapter.parent / f"{match[1]}.{match[2]}")}</a>'

    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = LINK.sub(link, "".join(cell["source"]))
    first = notebook["cells"][0]
    head, _, rest = "".join(first["source"]).partition("\n")
    first["source"] = f"{head}\n{NOTE}{rest}"
    cites = any("{cite}" in "".join(cell["source"]) for cell in notebook["cells"])
    if cites or any(row["citation"] for row in claims_of(notebook)):
        notebook["cells"].append({"cell_type": "markdown", "id": "references", "metadata": {}, "source": REFERENCES})
    return notebook
