"""Pages written by several processes side by side. They are read one after another: not every extension allows otherwise."""

from __future__ import annotations

import os

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.typing import ExtensionMetadata

JOBS = "COMPANION_JOBS"  # how many, in the environment: make book JOBS=2


def write_side_by_side(app: Sphinx, env: BuildEnvironment) -> None:
    """Once all pages are read, let several processes write them (env-updated)."""
    app.parallel = int(os.environ.get(JOBS, "1"))


def setup(app: Sphinx) -> ExtensionMetadata:
    """Sphinx calls this."""
    app.connect("env-updated", write_side_by_side)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
