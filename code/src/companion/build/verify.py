"""Build the book twice and compare all bytes: ``python -m companion.build.verify``, what ``make verify`` calls.

Once in a plain folder with one job, once in a folder with spaces and letters beyond ASCII with two. What differs is listed.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from companion.build.paths import ROOT

FOLDERS = {"first": 1, "zweiter Bau – δεύτερο": 2}
BUILT = ("_build/html", "_build/executed")


def copy_sources(target: Path, root: Path = ROOT) -> None:
    """The files that git tracks, as they are now, with git's own folder; without git everything but what is built."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True, text=True).stdout
        names = [name for name in listed.split("\0") if name and (root / name).exists()]
        shutil.copytree(root / ".git", target / ".git", symlinks=True)
    except (OSError, subprocess.CalledProcessError, shutil.Error):
        files = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
        names = [str(name) for name in files if not {".venv", "_build", ".git"} & set(name.parts)]
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, target / name)


def hashes(root: Path) -> dict[str, str]:
    """Hash of each built file, by its path."""
    files = (path for part in BUILT for path in sorted((root / part).rglob("*")) if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def differences(first: dict[str, str], second: dict[str, str]) -> list[str]:
    """Files that are not the same in both, or only in one."""
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))


def main() -> int:
    """Build twice, compare, print the hash of all; returns the exit code."""
    found = []
    with tempfile.TemporaryDirectory(prefix="verify-") as place:
        for name, jobs in FOLDERS.items():
            root = Path(place) / name
            copy_sources(root)
            print(f"building in {name!r} with {jobs} job(s)", flush=True)
            subprocess.run(["make", "--no-print-directory", "book", f"JOBS={jobs}"], cwd=root, check=True)
            found.append(hashes(root))
    different = differences(*found)
    whole = hashlib.sha256("".join(f"{name} {value}\n" for name, value in found[0].items()).encode()).hexdigest()
    print(f"{len(found[0])} files, {len(different)} differ; sha256 of all: {whole}")
    print("\n".join(different), end="\n" if different else "")
    return int(bool(different))


if __name__ == "__main__":
    sys.exit(main())
