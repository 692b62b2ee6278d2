"""Run the property-based tests with fresh seeds for a bounded time: ``make fuzz [SECONDS=300] [SEED=...]``.

Each seed is printed before its run; a failure ends the fuzzing, and ``make fuzz SEED=<that seed>`` repeats it.
"""

from __future__ import annotations

import argparse
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def run(seed: int) -> int:
    """One run of all property-based tests with a seed; returns pytest's exit code."""
    print(f"seed {seed}", flush=True)
    chosen = ["-m", "hypothesis", f"--hypothesis-seed={seed}", "-p", "no:cacheprovider", "-q", "--no-header"]
    command = [sys.executable, "-m", "pytest", "-c", str(HERE.parent / "pytest.ini"), str(HERE), *chosen]
    return subprocess.run(command, env=os.environ | {"HYPOTHESIS_PROFILE": "fuzz"}, check=False).returncode


def main() -> int:
    """Fuzz; returns the exit code of the first run that fails, or 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=300.0, help="no new run begins after this time")
    parser.add_argument("--seed", type=int, help="one run with this seed")
    options = parser.parse_args()
    if options.seed is not None:
        return run(options.seed)
    end, runs = time.monotonic() + options.seconds, 0
    while time.monotonic() < end:
        if code := run(secrets.randbelow(2**32)):
            return code
        runs += 1
    print(f"{runs} seeds, no failure")
    return 0


if __name__ == "__main__":
    sys.exit(main())
