"""Whatever ends a build ends all of it, says one line, and leaves what stood."""

import os
import signal
import subprocess
import sys
import time

import nbformat
import pytest
from companion.build import book
from companion.build.execute import NotebookFailed, execute
from companion.build.parameters import ParameterError
from companion.build.stopping import OWNER, is_alive

HANG = """import os, pathlib, time
pathlib.Path({pid!r}).write_text(str(os.getpid()))
time.sleep(600)"""


def until(condition, seconds=60.0):
    """Wait until `condition()` is true; its last value."""
    end = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return value


def gone(process):
    """Whether a process has ended, even if nobody has asked for its exit code."""
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return not is_alive(process)


@pytest.fixture
def hanging(tmp_path):
    """An execution whose cell hangs; gives the process and the id of its kernel."""
    pid = tmp_path / "kernel"
    cell = nbformat.v4.new_code_cell(HANG.format(pid=str(pid)))
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "hang.ipynb")
    command = [
        sys.executable,
        "-m",
        "companion.build.execute",
        str(tmp_path / "hang.ipynb"),
        str(tmp_path / "out.ipynb"),
    ]
    owner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    folder = tmp_path / "tmp"
    folder.mkdir()
    environment = os.environ | {OWNER: str(owner.pid), "TMPDIR": str(folder)}
    worker = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert until(lambda: pid.exists() and pid.read_text()), "the kernel did not start"
    yield worker, int(pid.read_text()), owner, folder
    for process in (worker, owner):
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_execution_and_kernel(hanging, number):
    worker, kernel, _, folder = hanging
    worker.send_signal(number)
    _, said = worker.communicate(timeout=30)
    assert worker.returncode == 128 + number
    assert f"stopped ({number.name})" in said
    assert "Traceback" not in said
    assert until(lambda: gone(kernel))
    assert not list(folder.glob("companion-*"))


def test_a_killed_build_takes_its_executions_along(hanging):
    worker, kernel, owner, _ = hanging
    owner.kill()
    owner.wait()
    assert until(lambda: worker.poll() is not None)
    assert until(lambda: gone(kernel))


def test_a_killed_execution_takes_its_kernel_along(hanging):
    worker, kernel, _, _ = hanging
    worker.kill()
    worker.wait()
    assert until(lambda: gone(kernel))


def hang(tmp_path):
    cells = [nbformat.v4.new_code_cell("import time\ntime.sleep(600)")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "hang.ipynb")
    execute(tmp_path / "hang.ipynb", tmp_path / "out.ipynb")


def test_a_cell_that_hangs_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPANION_TIMEOUT", "1")
    with pytest.raises(NotebookFailed, match=r"hang, cell 1 \(import time\): .*longer than 1 s"):
        hang(tmp_path)


@pytest.mark.parametrize("given", ["0", "-1", "soon", "1.5", ""])
def test_a_bad_time_is_refused(tmp_path, monkeypatch, given):
    monkeypatch.setenv("COMPANION_TIMEOUT", given)
    with pytest.raises(ParameterError, match="whole number of seconds above 0"):
        hang(tmp_path)


def test_a_long_folder_of_temporary_files_is_no_matter(tmp_path):
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1")]), tmp_path / "short.ipynb")
    command = [
        sys.executable,
        "-m",
        "companion.build.execute",
        str(tmp_path / "short.ipynb"),
        str(tmp_path / "out.ipynb"),
    ]
    done = subprocess.run(command, env=os.environ | {"TMPDIR": str(folder)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_second_build_waits_and_says_for_whom(tmp_path):
    script = f"from pathlib import Path; from companion.build.book import alone\nwith alone(Path({str(tmp_path / 'lock')!r})): print('done')"
    with book.alone(tmp_path / "lock"):
        second = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        assert f"another build works here (process {os.getpid()}): waiting" in second.stdout.readline()
        assert second.poll() is None
    assert second.communicate(timeout=30)[0] == "done\n"


def test_the_last_good_pages_come_back_after_a_kill_within_the_swap(tmp_path):
    (tmp_path / "html.old").mkdir()
    (tmp_path / "html.old" / "index.html").write_text("good")
    book.tidy(tmp_path / "html")
    assert (tmp_path / "html" / "index.html").read_text() == "good"
    (tmp_path / "html.old").mkdir()
    book.tidy(tmp_path / "html")
    assert (tmp_path / "html" / "index.html").read_text() == "good"
    assert not (tmp_path / "html.old").exists()


def test_what_ignores_a_polite_word_is_killed(tmp_path):
    deaf = f"import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); open({str(tmp_path / 'up')!r}, 'w').close(); time.sleep(600)"
    leader = subprocess.Popen([sys.executable, "-c", deaf], start_new_session=True)
    assert until((tmp_path / "up").exists)
    book.end_session(leader, patience=0.2)
    assert leader.returncode == -signal.SIGKILL
