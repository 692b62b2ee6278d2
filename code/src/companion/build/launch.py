"""Pages that lead to running code: a button to Binder, and notebooks that install the package where it is missing.

A notebook that is downloaded from the published pages begins with a cell that installs the package from the commit that
made the page, when it is not there; so it runs on Colab, or alone in an empty folder. Without a public address of the
repository there is neither.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util.typing import ExtensionMetadata

from companion.build import commit, identity

BINDER = "https://mybinder.org"
INSTALL = """# Installs the package from the commit that made this page, where it is missing.
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("companion") is None:
    package = "tokenmargin[all] @ git+{address}@{commit}#subdirectory=code"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)"""


def configure(app: Sphinx, config: Config) -> None:
    """A button to Binder on the page of each notebook, where the repository is public (config-inited)."""
    if identity.repository():
        buttons: dict[str, Any] = config.html_theme_options.setdefault("launch_buttons", {})
        buttons.update(binderhub_url=BINDER, notebook_interface="jupyterlab")


def install(app: Sphinx, error: Exception | None) -> None:
    """Begin each notebook that can be downloaded with a cell that installs the package (build-finished)."""
    where, now = identity.repository(), commit.current()
    if error or app.builder.format != "html" or not where or now == commit.UNCOMMITTED:
        return
    for path in Path(app.outdir, "_sources").rglob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        first = nbformat.v4.new_code_cell(INSTALL.format(address=where, commit=now), id="install")
        notebook.cells.insert(0, first)
        nbformat.write(notebook, path)


def setup(app: Sphinx) -> ExtensionMetadata:
    """Sphinx calls this."""
    app.connect("config-inited", configure)
    app.connect("build-finished", install)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
