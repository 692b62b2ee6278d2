"""In an empty environment with only the package: every module imports, the README's snippet runs. ``make alone``."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IMPORTS = """
import importlib, pkgutil, tokenmargin
names = [module.name for module in pkgutil.walk_packages(tokenmargin.__path__, "tokenmargin.")]
for name in names:
    importlib.import_module(name)
print(len(names), "modules import")
"""


def snippet() -> str:
    """The Python of the README."""
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)[0]


def main() -> int:
    """Make the environment, install, run; returns the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copytree(
            ROOT / "code", Path(folder) / "code", ignore=shutil.ignore_patterns("*.egg-info", "build")
        )
        venv.create(Path(folder) / "env", with_pip=True)
        python = Path(folder) / "env" / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", copy], check=True)
        for code in (IMPORTS, snippet()):
            subprocess.run([python, "-W", "error", "-c", code], cwd=folder, check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
