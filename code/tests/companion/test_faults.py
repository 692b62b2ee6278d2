"""Faults of the machine, on a small book that is really built: a clear word, the last good pages, and a next build that succeeds.

These build with Make and take minutes: ``make faults`` runs them.
"""

import json
import os
import shutil
import signal
import subprocess
import time

import nbformat
import pytest
from companion.build.paths import ROOT
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

pytestmark = pytest.mark.faults
CLAIM = """from companion.chapter.claims import claim
import pathlib, time
time.sleep(float(pathlib.Path('wait').read_text()))
claim("one", "One is one", source="companion", predicted=1, measured=1)"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A checkout with two pages, built."""
    root = tmp_path_factory.mktemp("ein Büchlein")
    shutil.copytree(ROOT / "code" / "src", root / "code" / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "_config.yml", "requirements.txt", "code/pyproject.toml"):
        shutil.copy2(ROOT / name, root / name)  # no newer than the environment
    (root / ".venv").symlink_to(ROOT / ".venv")
    (root / "_toc.yml").write_text("format: jb-book\nroot: book/index\nchapters:\n- file: book/chapter\n")
    shutil.copytree(ROOT / "book" / "_static", root / "book" / "_static")
    shutil.copyfile(ROOT / "book" / "references.bib", root / "book" / "references.bib")
    index = "# Book\n\n```{claims-table}\n```\n\n```{bibliography}\n```\n"
    (root / "book" / "index.md").write_text(index)
    cells = [new_markdown_cell("# Chapter"), new_code_cell(CLAIM)]
    nbformat.write(new_notebook(cells=cells), root / "book" / "chapter.ipynb")
    (root / "book" / "wait").write_text("0")
    done = make(root)
    assert done.returncode == 0, done.stdout
    return root


def start(root, *words, **environment):
    """`make book` of the small checkout, in a session of its own."""
    settings = os.environ | {"PYTHONPATH": str(root / "code" / "src")} | environment
    command = ["make", "book", *words]
    return subprocess.Popen(
        command,
        cwd=root,
        env=settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def make(root, *words, **environment):
    """The same to its end."""
    worker = start(root, *words, **environment)
    said, _ = worker.communicate(timeout=600)
    return subprocess.CompletedProcess(worker.args, worker.returncode, said)


def change(root, wait="0"):
    """Let the next build execute the chapter anew, with a cell that waits so many seconds."""
    (root / "book" / "wait").write_text(wait)
    notebook = json.loads((root / "book" / "chapter.ipynb").read_text())
    notebook["cells"][1]["source"] += f"\n# {time.monotonic_ns()}"
    (root / "book" / "chapter.ipynb").write_text(json.dumps(notebook))


def pages(root):
    """What a reader sees."""
    return {path.name: path.read_bytes() for path in (root / "_build" / "html").rglob("*.html")}


def running(root):
    """Processes that still work in this checkout."""
    found = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return [line for line in found.splitlines() if str(root) in line]


def wait_for(worker, words):
    """Read what `worker` says until `words` come."""
    said = ""
    for line in worker.stdout:
        said += line
        if words in said:
            return said
    raise AssertionError(said)


def executing(root):
    """Wait until the chapter's copy is there: its kernel is about to run."""
    end = time.monotonic() + 60
    failed = root / "_build" / "executed" / "book" / "chapter.failed.ipynb"
    while not failed.exists() and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(1.5)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("stage", ["execution", "rendering"])
def test_a_signal(built, number, stage):
    before = pages(built)
    change(built, "60" if stage == "execution" else "0")
    worker = start(built)
    if stage == "execution":
        executing(built)
    else:
        wait_for(worker, "rendering")
        time.sleep(1.0)
    os.killpg(worker.pid, number)
    said, _ = worker.communicate(timeout=60)
    assert worker.returncode != 0
    assert "Traceback" not in said
    assert len(said.splitlines()) < 8, said
    end = time.monotonic() + 30
    while running(built) and time.monotonic() < end:
        time.sleep(0.2)
    assert running(built) == []
    assert pages(built) == before
    change(built)
    again = make(built)
    assert again.returncode == 0, again.stdout


def test_two_builds_at_once(built):
    change(built, "2")
    first = start(built)
    executing(built)
    second = make(built)
    said, _ = first.communicate(timeout=120)
    assert first.returncode == 0, said
    assert second.returncode == 0, second.stdout
    assert "another build works here" in second.stdout
    assert "0 notebooks executed" in second.stdout
    assert json.loads((built / "_build" / "html" / "claims.json").read_text())


def test_a_killed_swap(built):
    html = built / "_build" / "html"
    before = pages(built)
    html.rename(html.with_name("html.old"))
    change(built)
    nbformat.write(
        new_notebook(cells=[new_markdown_cell("# Chapter"), new_code_cell("1 / 0")]), built / "book" / "x.ipynb"
    )
    good = (built / "book" / "chapter.ipynb").read_text()
    (built / "book" / "x.ipynb").replace(built / "book" / "chapter.ipynb")
    assert make(built).returncode != 0
    assert pages(built) == before
    (built / "book" / "chapter.ipynb").write_text(good)
    assert make(built).returncode == 0


@pytest.mark.parametrize("left", [b"", b"NOTEBOOKS := book/chap", b"NOTEBOOKS :=\n$(EXECUTED)/book/ch"])
def test_a_truncated_list_of_dependencies(built, left):
    (built / "_build" / "dependencies.mk").write_bytes(left)
    done = subprocess.run(["make", "help"], cwd=built, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert make(built).returncode == 0


@pytest.mark.parametrize("left", [b"", b"[", b"[]"])
def test_broken_claims_are_not_up_to_date(built, left):
    (built / "_build" / "html" / "claims.json").write_bytes(left)
    done = make(built)
    assert done.returncode == 0, done.stdout
    assert json.loads((built / "_build" / "html" / "claims.json").read_text())


def test_a_kernel_that_dies(built):
    good, before = (built / "book" / "chapter.ipynb").read_text(), pages(built)
    nbformat.write(new_notebook(cells=[new_code_cell("import os; os._exit(9)")]), built / "book" / "chapter.ipynb")
    done = make(built)
    assert done.returncode != 0
    assert "Kernel died" in done.stdout
    assert pages(built) == before
    (built / "book" / "chapter.ipynb").write_text(good)
    assert make(built).returncode == 0


def test_a_cell_that_hangs(built):
    before = pages(built)
    change(built, "60")
    done = make(built, "TIMEOUT=2")
    assert done.returncode != 0
    assert "longer than 2 s" in done.stdout
    assert pages(built) == before
    change(built)
    assert make(built).returncode == 0


@pytest.mark.parametrize(
    "setting", [{"TZ": "Asia/Kolkata"}, {"LC_ALL": "C"}, {"LC_ALL": "POSIX", "LANG": ""}, {"PATH": "/usr/bin:/bin"}]
)
def test_other_surroundings(built, setting):
    change(built)
    done = make(built, **setting)
    assert done.returncode == 0, done.stdout
