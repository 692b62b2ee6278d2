"""The commands that the documents tell a reader to type exist."""

import re
import subprocess

import pytest
from companion.build.paths import BOOK, ROOT

DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", ".ci/run", ".github/workflows/book.yml")]
DOCUMENTS += sorted(BOOK.glob("*.md"))
MAKEFILE = (ROOT / "Makefile").read_text()
COMMAND = re.compile(r"(?:^[ ]*|`|run: )make ((?:[A-Z]+=\S+ )*[a-z][a-z-]*)", re.MULTILINE)


def commands():
    """Make targets that documents name, by document."""
    found = {(path.name, match[1].split()[-1]) for path in DOCUMENTS for match in COMMAND.finditer(path.read_text())}
    return sorted(found)


def test_commands_are_found():
    assert {target for _, target in commands()} >= {"book", "test", "run", "lint", "format", "badge", "lab", "lock"}


@pytest.mark.parametrize(("document", "target"), commands())
def test_each_named_target_exists(document, target):
    assert re.search(rf"^{re.escape(target)}:", MAKEFILE, re.MULTILINE), document


@pytest.mark.parametrize("target", sorted(re.findall(r"^([a-z]+):.*## ", MAKEFILE, re.MULTILINE)))
def test_each_target_of_the_help_can_be_planned(target):
    """Make understands its rule; nothing is run."""
    command = ["make", "--dry-run", "--old-file=requirements.txt", target, "NOTEBOOK=model", "P=-p seed 3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_each_folder_of_the_layout_exists():
    rows = re.findall(r"^\| (`.+?`) \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    places = [place for row in rows for place in re.findall(r"`([^`]+)`", row)]
    assert len(places) > 5
    assert all((ROOT / place).exists() for place in places)


def test_each_module_that_is_run_by_make_or_named_in_prose_exists():
    text = MAKEFILE + "".join(path.read_text() for path in DOCUMENTS)
    modules = set(re.findall(r"\bcompanion\.(?:build|chapter)\.[a-z_]+", text))
    assert len(modules) > 5
    for module in modules:
        assert (ROOT / "code" / "src" / f"{module.replace('.', '/')}.py").exists(), module
