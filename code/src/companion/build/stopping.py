"""Ending: a process of the build ends when it is asked to, or when the build that started it is gone."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

OWNER = "COMPANION_OWNER"  # process id of the build, in the environment of all that it starts
EVERY = 1.0


def end_with_the_build(clean: Callable[[], None], every: float = EVERY) -> None:
    """On SIGTERM, SIGINT or SIGHUP, or when the build has disappeared: call `clean`, say one line and exit.

    The exit does not unwind the stack: what must be put away is put away by `clean`.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        clean()
        print(f"  stopped ({signal.Signals(number).name})", file=sys.stderr, flush=True)
        os._exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)
    owner = int(os.environ.get(OWNER, os.getppid()))
    threading.Thread(target=_follow, args=(owner, every), daemon=True).start()


def _follow(owner: int, every: float) -> None:
    while is_alive(owner):
        time.sleep(every)
    os.kill(os.getpid(), signal.SIGTERM)


def is_alive(process: int) -> bool:
    """Whether there is a process with this id."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
