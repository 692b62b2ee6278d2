"""Build the book twice and compare all bytes: ``python -m companion.build.verify``, what ``make verify`` calls.

Once in a plain folder with one job, once in a folder with spaces and letters beyond ASCII with two. What differs is listed.
``--notebooks model two-cycles`` executes these alone; ``--pages`` renders twice what stands executed in this folder.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from companion.build.paths import EXECUTED, ROOT
from companion.build.sphinx_jobs import JOBS

FOLDERS = {"first": 1, "zweiter Bau – δεύτερο": 2}
BUILT = ("_build/html", "_build/executed", "_build/render/_build/html")
SHOWN = 60  # bytes before and after the first that differs


def copy_sources(target: Path, root: Path = ROOT) -> None:
    """The files that git tracks, as they are now, with git's own folder; without git everything but what is built."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True, text=True).stdout
        names = [name for name in listed.split("\0") if name and (root / name).exists()]
        subprocess.run(["git", "clone", "--quiet", "--no-checkout", root, target], check=True)
        subprocess.run(["git", "reset", "--quiet"], cwd=target, check=True)
    except (OSError, subprocess.CalledProcessError):
        files = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
        names = [str(name) for name in files if not {".venv", "_build", ".git"} & set(name.parts)]
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, target / name)


def steps(jobs: int, notebooks: list[str], pages: bool) -> list[list[str]]:
    """The commands that build the book, or the part of it that is asked for."""
    make = ["make", "--no-print-directory"]
    if pages:
        return [[*make, "sound"], [".venv/bin/python", "-m", "companion.build.render"]]
    if notebooks:
        return [
            [*make, "sound"],
            [*make, f"--jobs={jobs}", *(f"_build/executed/book/{name}.ipynb" for name in notebooks)],
        ]
    return [[*make, "book", f"JOBS={jobs}"]]


def hashes(root: Path) -> dict[str, str]:
    """Hash of each built file, by its path."""
    files = (path for part in BUILT for path in sorted((root / part).rglob("*")) if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def differences(first: dict[str, str], second: dict[str, str]) -> list[str]:
    """Files that are not the same in both, or only in one."""
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))


def shown(name: str, roots: list[Path]) -> Iterator[str]:
    """The name of a file that differs, and what stands in both where they part."""
    yield name
    if all((root / name).exists() for root in roots):
        one, two = ((root / name).read_bytes() for root in roots)
        at = next((k for k, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
        for text in (one, two):
            yield f"    … {text[max(at - SHOWN, 0) : at + SHOWN].decode(errors='replace')!r}"


def main(arguments: list[str] | None = None) -> int:
    """Build twice, compare, print the hash of all and what differs; returns the exit code."""
    parser = argparse.ArgumentParser(prog="companion.build.verify", description=__doc__.splitlines()[0])
    parser.add_argument("--notebooks", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--pages", action="store_true")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="verify-") as place:
        roots = [Path(place) / name for name in FOLDERS]
        for root, jobs in zip(roots, FOLDERS.values(), strict=True):
            copy_sources(root)
            if options.pages:
                shutil.copytree(EXECUTED, root / EXECUTED.relative_to(ROOT))
            print(f"building in {root.name!r} with {jobs} job(s)", flush=True)
            for step in steps(jobs, options.notebooks, options.pages):
                subprocess.run(step, cwd=root, check=True, env=os.environ | {JOBS: str(jobs)})
        found = [hashes(root) for root in roots]
        different = differences(*found)
        lines = [line for name in different for line in shown(name, roots)]
    whole = hashlib.sha256("".join(f"{name} {value}\n" for name, value in found[0].items()).encode()).hexdigest()
    print(f"{len(found[0])} files, {len(different)} differ; sha256 of all: {whole}")
    print("\n".join(lines), end="\n" if lines else "")
    return int(bool(different))


if __name__ == "__main__":
    sys.exit(main())
