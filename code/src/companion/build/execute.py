"""Execute one notebook with papermill, and let it through only when nothing went wrong.

``python -m companion.build.execute SOURCE TARGET [-p name value ...]``

papermill lets a misspelled parameter, ``sys.exit(0)`` and anything on stderr pass, and Sphinx renders a stored traceback
without complaint: so this step is the gate. A notebook that fails is kept as ``TARGET``'s ``.failed.ipynb``.
"""

from __future__ import annotations

import argparse
import ast
import logging
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from nbclient.exceptions import CellTimeoutError
from nbformat import NotebookNode

from companion.build.parameters import ParameterError, convert, parameters_of
from companion.build.paths import BOOK, relative
from companion.build.settings import ENVIRONMENT, KERNEL, LANGUAGE
from companion.build.settle import settle
from companion.build.stopping import end_with_the_build
from companion.chapter.claims import MUST_HOLD, VARIABLE

TIMEOUT = "COMPANION_TIMEOUT"  # seconds that one cell may take, in the environment: make book TIMEOUT=60
PATIENCE = 900
SOCKET = 107  # longest path of a socket, on Linux
KERNELS: list[int] = []  # process ids of running kernels, each the leader of its own process group
FOLDERS: list[str] = []
INJECTED = {"papermill-error-cell-tag", "injected-parameters"}
SHELL_MAGICS = {"!", "sx", "system", "bash", "sh", "script", "perl", "ruby", "html_script", "cmd"}
ANSI = re.compile(r"\x1b\[[0-9;]*m")


class NotebookFailed(RuntimeError):
    """A notebook did not execute cleanly: names the notebook, the cell, and what happened in it."""

    def __init__(self, notebook: str, reason: str, cell: str = "", details: str = ""):
        where = f"{notebook}, {cell}" if cell else notebook
        super().__init__("\n".join(part for part in (f"FAILED {where}: {reason}", details.rstrip()) if part))


class InputRefused(NotebookFailed):
    """A cell refused what it was given, by an error that asks to be shown without a traceback (`_render_traceback_`)."""

    def __init__(self, notebook: str, reason: str):
        RuntimeError.__init__(self, f"{notebook}: {reason}")


class Progress:
    """Counts the cells of one notebook, and prints a line now and then for the person who waits."""

    def __init__(self, name: str, total: int, every: float = 15.0):
        self.name, self.total, self.every = name, total, every
        self.done = 0
        self.current: NotebookNode | None = None
        self.start = self.spoken = time.perf_counter()

    def begin(self, cell: NotebookNode, cell_index: int) -> None:
        """Remember the running cell (papermill's hook)."""
        self.current = cell
        if time.perf_counter() - self.spoken > self.every:
            self.say()

    def end(self, execute_reply: dict[str, Any], **_: object) -> None:
        """Count a cell that has been executed without an error (papermill's hook)."""
        self.done += execute_reply["content"]["status"] == "ok"

    def say(self) -> None:
        """Print the progress line: name, cells done and total, seconds."""
        self.spoken = time.perf_counter()
        cells = f"{self.done}/{self.total}"
        print(f"  {self.name:<34} {cells:>7} cells {self.spoken - self.start:7.1f} s", flush=True)


def execute(source: Path, target: Path, given: dict[str, str] | None = None) -> None:
    """Execute `source` into `target`; on failure leave `target` alone and keep a ``.failed.ipynb`` beside it.

    Raises
    ------
    NotebookFailed
        When a cell raised, did not complete, wrote to stderr, or the kernel died; `InputRefused` when a cell's error
        asks to be shown alone.
    ParameterError
        When a parameter of `given` does not exist or has a wrong type.
    """
    name = _name(source)
    notebook = nbformat.read(source, as_version=4)
    values = convert(given or {}, parameters_of(notebook))
    refuse_shell_commands(notebook, name)
    failed = target.with_suffix(".failed.ipynb")
    failed.parent.mkdir(parents=True, exist_ok=True)
    progress = Progress(name, sum(map(_is_live, notebook.cells)) + bool(values))
    os.environ["COMPANION_TARGET"] = str(target.resolve())  # a notebook may leave files beside its executed copy
    with _kernel_settings() as settings:
        error = _papermill(source, failed, values, settings, progress)
    progress.say()
    executed = nbformat.read(failed, as_version=4)
    gate(executed, name, error, progress.current, failed)
    nbformat.write(settle(executed), failed)
    failed.replace(target)


def _name(source: Path) -> str:
    inside = source.resolve().is_relative_to(BOOK)
    return str(source.resolve().relative_to(BOOK).with_suffix("")) if inside else source.stem


def _papermill(
    source: Path, failed: Path, values: dict[str, Any], settings: object, progress: Progress
) -> Exception | None:
    """Run papermill; return, not raise, what it raised, because the saved copy is read next."""
    import papermill
    from papermill.translators import PythonTranslator, papermill_translators

    class Literals(PythonTranslator):  # type: ignore[misc]
        """Writes tuples as tuples; papermill would make them texts."""

        @classmethod
        def translate(cls, val: object) -> str:
            return repr(val) if isinstance(val, tuple) else super().translate(val)

    seconds = patience()
    papermill_translators.register("python", Literals)
    logging.getLogger("papermill").setLevel(logging.ERROR)  # it reads parameter lines more narrowly than `convert`
    shutil.copyfile(source, failed)
    try:
        papermill.execute_notebook(
            source,
            failed,
            values,
            kernel_name=KERNEL,
            language=LANGUAGE,
            cwd=source.resolve().parent,
            progress_bar=False,
            config=settings,
            on_cell_start=progress.begin,
            on_cell_executed=progress.end,
            execution_timeout=seconds,
        )
    except Exception as error:
        return error
    return None


def patience() -> int:
    """Seconds that one cell may take.

    Raises
    ------
    ParameterError
        When the environment gives something else than a whole number above zero.
    """
    given = os.environ.get(TIMEOUT, str(PATIENCE))
    if not given.isdecimal() or int(given) == 0:
        raise ParameterError(f"The time that a cell may take must be a whole number of seconds above 0, not {given!r}.")
    return int(given)


def put_away() -> None:
    """Kill the kernels of this process, with what they started, and remove its temporary folders."""
    for kernel in KERNELS:
        try:
            os.killpg(kernel, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue
    for folder in FOLDERS:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _kernel_settings() -> Iterator[object]:
    """Talk to the kernel through sockets in a folder of this run's own; keep the user's IPython profile out."""
    from jupyter_client.manager import AsyncKernelManager
    from traitlets.config import Config

    class Manager(AsyncKernelManager):
        """Ends a kernel by its shutdown message alone.

        jupyter_client interrupts it first, which papermill's kernels do not need: after the last reply a kernel that is
        slow to put its work away (on a busy machine) would take the interrupt for the user's, and say so.
        """

        async def start_kernel(self, **options: object) -> None:  # type: ignore[override]
            await super().start_kernel(**options)
            KERNELS.append(self.provisioner.pid)  # type: ignore[union-attr]

        async def _async_interrupt_kernel(self) -> None:
            if not self.shutting_down:
                await super()._async_interrupt_kernel()

    folder = tempfile.mkdtemp(prefix="companion-")
    FOLDERS.append(folder)
    if len(f"{folder}/kernel-1") > SOCKET - len("-10"):  # a long TMPDIR leaves no room for the names of sockets
        os.rmdir(folder)
        folder = tempfile.mkdtemp(prefix="companion-", dir="/tmp")
        FOLDERS[-1] = folder
    os.environ.update(ENVIRONMENT, IPYTHONDIR=f"{folder}/ipython")
    try:
        yield Config(
            KernelManager={"transport": "ipc", "ip": f"{folder}/kernel"},
            NotebookClient={"kernel_manager_class": Manager},
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        KERNELS.clear()


def refuse_shell_commands(notebook: NotebookNode, name: str) -> None:
    """A shell call whose failure is discarded is not let in, in whatever syntax IPython has for it."""
    for index, cell in enumerate(notebook.cells):
        if _is_live(cell) and (call := shell_call(cell.source)):
            reason = f"{call} hides its failure; use subprocess.run(..., check=True)"
            raise NotebookFailed(name, reason, _describe(cell, index))


def shell_call(source: str) -> str | None:
    """The shell call in a cell whose failure would be discarded, as a reader knows it; None when there is none."""
    from IPython.core.inputtransformer2 import TransformerManager

    try:
        tree = ast.parse(TransformerManager().transform_cell(source))
    except SyntaxError:  # execution will say it better
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (found := _shell(node)):
            return found
    return None


def _shell(call: ast.Call) -> str | None:
    """How the syntax tree of a cell shows ``!``, ``!!``, shell magics (in nested calls too), and ``os.system``."""
    name = ast.unparse(call.func)
    words = [word.value for word in call.args if isinstance(word, ast.Constant)]
    if name.endswith((".getoutput", ".system", ".system_raw", ".system_piped")) and "ipython" in name.lower():
        return "a shell call (! or !!)"
    if name in {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "subprocess.call"}:
        return name
    if name.endswith((".run_line_magic", ".run_cell_magic")) and words and words[0] in SHELL_MAGICS:
        return f"the magic %{words[0]}"
    if name.endswith(".run_cell_magic") and len(words) > 2:
        return shell_call(str(words[2]))
    return None


def gate(notebook: NotebookNode, name: str, error: Exception | None, last: NotebookNode | None, copy: Path) -> None:
    """Raise `NotebookFailed` unless each code cell of the executed `notebook` completed without complaint."""
    cells = [cell for cell in notebook.cells if not INJECTED & set(cell.metadata.get("tags", []))]
    kept = f"The failed copy is {relative(copy)}"
    for index, cell in enumerate(cells):
        for reason, details in _complaints(cell):
            if details == reason:
                raise InputRefused(name, reason)
            raise NotebookFailed(name, reason, _describe(cell, index), f"{details}\n{kept}")
    if isinstance(error, CellTimeoutError):
        late = next((i for i, cell in enumerate(cells) if last and cell.id == last.id), 0)
        reason = f"the cell took longer than {patience()} s; make TIMEOUT=3600 ... gives it an hour"
        raise NotebookFailed(name, reason, _describe(cells[late], late), kept)
    if error is not None:
        where = next((_describe(cell, i) for i, cell in enumerate(cells) if last and cell.id == last.id), "")
        raise NotebookFailed(name, f"{type(error).__name__}", where, f"{error}\n{kept}")
    for index, cell in enumerate(cells):
        if _is_live(cell) and cell.execution_count is None:
            raise NotebookFailed(name, "the cell did not complete", _describe(cell, index), kept)


def _complaints(cell: NotebookNode) -> Iterator[tuple[str, str]]:
    for output in cell.get("outputs", []):
        if output.output_type == "error":
            traceback = ANSI.sub("", "\n".join(output.traceback))
            yield f"{output.ename}: {output.evalue}", traceback
        elif output.output_type == "stream" and output.name == "stderr":
            yield "the cell wrote to stderr", ANSI.sub("", output.text)


def _is_live(cell: NotebookNode) -> bool:
    return cell.cell_type == "code" and bool(cell.source.strip())


def _describe(cell: NotebookNode, index: int) -> str:
    first = next((line for line in cell.source.splitlines() if line.strip()), "")
    return f"cell {index + 1} ({first.strip()})"


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="companion.build.execute", description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    options = parser.parse_args(arguments)
    os.environ[VARIABLE] = MUST_HOLD
    try:
        execute(options.source, options.target, dict(options.p))
    except (NotebookFailed, ParameterError) as problem:
        print(shown(problem), file=sys.stderr, flush=True)
        return 1
    except OSError as problem:  # a full disk, a folder that cannot be written
        print(f"\nFAILED {_name(options.source)}: {problem}\n", file=sys.stderr, flush=True)
        return 1
    return 0


def shown(problem: Exception) -> str:
    """What the terminal shows: a refused input as one line, anything else set off by blank lines."""
    return str(problem) if isinstance(problem, InputRefused) else f"\n{problem}\n"


if __name__ == "__main__":
    end_with_the_build(put_away)
    sys.exit(main())
