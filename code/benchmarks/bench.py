"""All benchmarks: `make bench`; with ``BENCH=--record`` also the long ones, and all into ``record.json``.

The scale chapter shows the record: these are the numbers that a build, which runs chapters side by side, cannot measure.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import forms
import large
import speed
import sweep

RECORD = Path(__file__).with_name("record.json")


def main() -> None:
    """Print all, and write the record where it is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true", help="also the long ones; write record.json")
    record = parser.parse_args().record
    step = alone(large.step_record)
    say("(n, T, d) = {shape}: {step_ms:.1f} ms a step, its products {products_ms:.1f} ms, {peak_gib:.2f} GiB", step)
    svms = []
    for shape in [(200, 10, 64), (1250, 17, 64)][: 1 + record]:
        svms.append(alone(large.svm_record, *shape))
        say(
            "token SVM {shape}: N = {N}, {support} support vectors, {seconds:.1f} s, certificate {certificate:.1e}",
            svms[-1],
        )
    growth = alone(forms.growth_record)
    steps = alone(forms.forms_record)
    for row in steps:
        say("(n, T, d) = {shape}, {form}: {seconds:.2g} s a step", row)
    workers = sweep.speed_up_record()
    for kind, ratios in (("clock", workers["speed_up"]), ("processor", workers["processor_speed_up"])):
        print(
            f"a sweep with two workers instead of one, by the {kind}: {statistics.median(ratios):.2f} times as fast "
            f"({min(ratios):.2f} to {max(ratios):.2f}); {os.cpu_count()} cores, load {workers['load']:.1f}",
            flush=True,
        )
    speed.main()
    if record:
        machine = {
            "date": datetime.date.today().isoformat(),
            "system": platform.system(),
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        }
        kept = {"machine": machine, "step": step, "forms": steps, "svms": svms, "growth": growth, "workers": workers}
        RECORD.write_text(json.dumps(kept, indent=1) + "\n")


def alone(function: Callable, *arguments: object) -> dict:
    """The result of a call in a process of its own, so that the memory it reports is its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def say(line: str, values: dict) -> None:
    """Print a line at once: the next may take long."""
    print(line.format(**values), flush=True)


if __name__ == "__main__":
    main()
