"""Build the book: ``python -m companion.build.book --jobs 2``, what ``make book`` calls.

One build at a time works in a checkout: a second one says so and waits. Whatever ends a build (an error, Ctrl-C, a
terminated shell) ends all that it started, and leaves the last good pages in their place.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from companion.build import dependencies
from companion.build.paths import BUILD, EXECUTED, HTML, ROOT, relative
from companion.build.sphinx_jobs import JOBS
from companion.build.stopping import OWNER

LOG = BUILD / "executed.log"
PATIENCE = 10.0  # seconds that processes get to put their work away before they are killed


class Stopped(Exception):
    """A signal asked the build to stop."""


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Hold the file `lock` while the body runs; wait, and say so, while another process holds it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            print(f"  another build works here (process {file.read().strip() or 'unknown'}): waiting", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield  # the lock goes with the file, however this process ends


def tidy(html: Path = HTML) -> None:
    """Put right what a killed build left: the last good pages back in their place, drafts of files away."""
    old = html.with_name(f"{html.name}.old")
    if old.exists() and not html.exists():
        old.rename(html)
    shutil.rmtree(old, ignore_errors=True)
    for draft in [*html.parent.glob(".*.draft"), *EXECUTED.rglob(".*.draft")]:
        draft.unlink(missing_ok=True)


def make(jobs: int) -> int:
    """Let Make execute and render what changed, in a session of its own; returns its exit code.

    Raises
    ------
    Stopped
        When a signal arrived; all processes of the session are gone by then.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(signal.Signals(number).name)

    variables = shlex.split(os.environ.get("MAKEFLAGS", "").partition("-- ")[2])  # those of the command line
    command = ["make", "--no-print-directory", f"--jobs={jobs}", "site", *variables]
    environment = os.environ | {OWNER: str(os.getpid()), JOBS: str(jobs)}
    for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
        environment.pop(name, None)
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    worker = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    try:
        return worker.wait()
    finally:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        end_session(worker)
        for number, handler in before.items():
            signal.signal(number, handler)


def end_session(leader: subprocess.Popen[bytes], patience: float = PATIENCE) -> None:
    """End every process of the session that `leader` began: first by asking, then by force."""
    for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 1.0)):
        try:
            os.killpg(leader.pid, number)
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                leader.poll()
                os.killpg(leader.pid, 0)
                time.sleep(0.05)
        except (ProcessLookupError, PermissionError):  # none is left
            break
    leader.wait()


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="companion.build.book", description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1)
    jobs = parser.parse_args(arguments).jobs
    try:
        with alone(BUILD / ".lock"):
            tidy()
            start = time.monotonic()
            LOG.write_text("", encoding="utf-8")
            dependencies.main()
            code = make(jobs)
            if code == 0:
                done = len(LOG.read_text(encoding="utf-8").splitlines())
                pages = relative(HTML / "index.html")
                print(f"{done} notebooks executed in {time.monotonic() - start:.0f} s. The book: {pages}")
            return code
    except (Stopped, KeyboardInterrupt) as signalled:
        print(
            f"\nStopped ({signalled or 'SIGINT'}). The last good pages stand; `make book` goes on from here.",
            flush=True,
        )
        return 130
    except OSError as problem:
        print(f"\nFAILED: {problem}. The last good pages stand.", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
