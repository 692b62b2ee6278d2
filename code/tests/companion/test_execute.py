"""The execution gate, tried on small notebooks that each go wrong in one way."""

import re

import nbformat
import pytest
from companion.build import execute as gate
from companion.build.execute import NotebookFailed, execute, main

PARAMETERS = "seed = 0  # random seed\nstep = 0.5  # length of a step # in units of 1/rho\nname = 'a#b'  # which data"


def notebook(path, *cells):
    book = nbformat.v4.new_notebook()
    book.cells = [nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})]
    book.cells += [nbformat.v4.new_code_cell(cell) for cell in cells]
    nbformat.write(book, path)
    return path


@pytest.fixture
def run(tmp_path):
    """Execute a notebook of these cells over an older good copy; returns that copy."""
    target = tmp_path / "out" / "small.ipynb"
    target.parent.mkdir()

    def go(*cells, **given):
        target.write_text("the last good copy")
        execute(notebook(tmp_path / "small.ipynb", *cells), target, given)
        return target

    go.target = target
    return go


def test_a_good_notebook_passes_and_takes_its_parameters(run, capsys):
    target = run("print(seed, step, name)", "", seed="7", step="2")
    executed = nbformat.read(target, as_version=4)
    printed = [output.text for cell in executed.cells for output in cell.get("outputs", [])]
    assert printed == ["7 2.0 a#b\n"]
    assert not target.with_suffix(".failed.ipynb").exists()
    assert "3/3 cells" in capsys.readouterr().out


def test_a_tuple_arrives_as_a_tuple_without_a_word_of_papermill(tmp_path, caplog):
    book = nbformat.v4.new_notebook()
    book.cells = [
        nbformat.v4.new_code_cell("sizes = (1, 2)  # sizes (a, b), (c)", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("assert sizes == (3, (4.5, 'five'))"),
    ]
    nbformat.write(book, tmp_path / "tuples.ipynb")
    execute(tmp_path / "tuples.ipynb", tmp_path / "out.ipynb", {"sizes": "(3, (4.5, 'five'))"})
    assert not caplog.records


BAD = {
    "error": ("x = 1\n1 / 0", "ZeroDivisionError: division by zero", "1 / 0"),
    "exit": ("import sys\nsys.exit(0)", "SystemExit: 0", "SystemExit"),
    "stderr": ("import sys\nprint('oops', file=sys.stderr)", "the cell wrote to stderr", "oops"),
    "warning": ("import warnings\nwarnings.warn('shaky')", "the cell wrote to stderr", "shaky"),
    "dead kernel": ("import os\nos._exit(1)", "DeadKernelError", "Kernel died"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_cell_fails_with_its_place_and_its_reason(run, kind, capsys):
    source, reason, details = BAD[kind]
    with pytest.raises(NotebookFailed) as caught:
        run("fine = True", source, "never = 'reached'")
    message = str(caught.value)
    assert f"FAILED small, cell 3 ({source.splitlines()[0]})" in message
    assert reason in message
    assert details in message
    assert run.target.read_text() == "the last good copy"
    assert run.target.with_suffix(".failed.ipynb").exists()
    assert "small.failed.ipynb" in message
    assert ("4/4 cells" in capsys.readouterr().out) == (kind in {"stderr", "warning"})


def test_the_place_is_that_of_the_source_when_parameters_were_injected(run):
    with pytest.raises(NotebookFailed, match=r"cell 2 \(1 / 0\): ZeroDivisionError"):
        run("1 / 0", seed="3")


def test_a_cell_that_did_not_complete_fails(tmp_path):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x = 1")])
    with pytest.raises(NotebookFailed, match=r"cell 1 \(x = 1\): the cell did not complete"):
        gate.gate(book, "small", None, None, tmp_path / "copy.ipynb")


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("!false", "a shell call (! or !!)"),
        ("if True:\n    !false", "a shell call"),
        ("x = !false", "a shell call"),
        ("!!false", "a shell call"),
        ("%sx false", "%sx"),
        ("y = %system false", "%system"),
        ("%%bash\nfalse", "%bash"),
        ("%%script sh\nfalse", "%script"),
        ("%%time\n!false", "a shell call"),
        ("%%capture\n%%bash\nfalse", "%bash"),
        ("get_ipython().system('false')", "a shell call"),
        ("import os; os.system('false')", "os.system"),
        ("import subprocess as s\nimport subprocess\nsubprocess.call(['false'])", "subprocess.call"),
    ],
)
def test_a_shell_call_is_refused_because_its_failure_would_be_hidden(run, source, named):
    with pytest.raises(NotebookFailed, match=rf"cell 2 .*: .*{re.escape(named)}.* hides its failure"):
        run(source)


@pytest.mark.parametrize(
    "source",
    [
        "print('!false')",
        "x = 3\nx != 4",
        "'%%bash'",
        "%precision 3",
        "import subprocess\nsubprocess.run(['true'], check=True)",
    ],
)
def test_what_only_looks_like_a_shell_call_passes(run, source):
    run(source)


def test_a_claim_that_does_not_hold_stops_the_book(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("COMPANION_CLAIMS", raising=False)
    code = "from companion.chapter.claims import claim\nclaim('no', 'No.', source='companion', predicted=1, measured=2)"
    source = notebook(tmp_path / "false.ipynb", code)
    execute(source, tmp_path / "out.ipynb")
    assert main([str(source), str(tmp_path / "out.ipynb")]) == 1
    assert "claim 'no' does not hold" in capsys.readouterr().err
    monkeypatch.setenv("COMPANION_CLAIMS", "")


def test_the_command_line_returns_one_and_says_why(tmp_path, capsys):
    source = notebook(tmp_path / "small.ipynb", "pass")
    assert main([str(source), str(tmp_path / "out.ipynb"), "-p", "sead", "3"]) == 1
    assert "There is no parameter 'sead'" in capsys.readouterr().err


REFUSED = """
class Refused(ValueError):
    def _render_traceback_(self):
        return [f"{type(self).__name__}: {self}"]

raise Refused("data.npz: y holds 0; map your two classes to -1 and +1.")
"""


def test_a_refused_input_is_one_line_on_the_terminal(tmp_path, capsys):
    source = notebook(tmp_path / "small.ipynb", REFUSED)
    assert main([str(source), str(tmp_path / "out.ipynb")]) == 1
    shown = capsys.readouterr()
    assert shown.err == "small: Refused: data.npz: y holds 0; map your two classes to -1 and +1.\n"
    assert not (tmp_path / "out.ipynb").exists()


# A kernel that, as on a busy machine, is still at its last request when the answer has arrived.
SLOW = """
import time
kernel = get_ipython().kernel
reply = kernel.shell_handlers["kernel_info_request"]

async def slow(*arguments):
    await reply(*arguments)
    time.sleep(1.0)

kernel.shell_handlers["kernel_info_request"] = slow
"""


def test_a_kernel_that_is_slow_to_finish_is_not_interrupted(run, capfd):
    run(SLOW)
    assert "KeyboardInterrupt" not in capfd.readouterr().err
