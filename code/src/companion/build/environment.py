"""Whether the environment is whole: ``python environment.py record FILE`` after an installation, ``check FILE`` before a use.

Run by its path and with the standard library alone, because what it looks for may be missing. A whole environment has every
distribution that the installation recorded, and of each all the folders and modules that it brought.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path


def installed() -> dict[str, metadata.Distribution]:
    """The distributions of this environment by name."""
    return {distribution.metadata["Name"]: distribution for distribution in metadata.distributions(path=[site()])}


def site() -> str:
    """The folder ``site-packages`` of this environment."""
    return next(path for path in sys.path if path.endswith("site-packages"))


def missing(recorded: list[str]) -> Iterator[str]:
    """What is not there: a recorded distribution, or one of its folders or modules."""
    now = installed()
    yield from (name for name in recorded if name not in now)
    for name, distribution in now.items():
        parts = {file.parts[0] for file in distribution.files or () if file.parts[0] != ".." and file.suffix != ".pyc"}
        yield from (f"{part} of {name}" for part in sorted(parts) if not Path(site(), part).exists())


def main(task: str, record: Path) -> int:
    """Command line; returns the exit code."""
    if task == "record":
        record.write_text("\n".join(sorted(installed())) + "\n", encoding="utf-8")
        return 0
    gone = list(missing(record.read_text(encoding="utf-8").split("\n")[:-1]))
    if gone:
        print(f"  the environment .venv is not whole ({gone[0]} is missing): making it anew", flush=True)
    return bool(gone)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
