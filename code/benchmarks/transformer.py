"""The vision transformer on all five thousand images: executes the chapter with long parameters, keeps ``transformer.json``.

The chapter shows the record: a run of many minutes, which no build should wait for.
"""

from __future__ import annotations

import datetime
import json
import platform
from pathlib import Path

from companion.build.execute import execute
from companion.build.paths import BOOK, RUNS

RECORD = Path(__file__).with_name("transformer.json")
GIVEN = {"crowd": 4000, "unseen": 1000, "crowd_steps": 2000, "batch": 50, "seeds": 3, "draws": 1}
LEAST = {"n": 50, "steps": 20}  # the full-batch part of the chapter is not recorded


def main() -> None:
    """Execute, and write the record."""
    if not RECORD.exists():  # the chapter shows it
        RECORD.write_text(json.dumps(record({})), encoding="utf-8")
    target = RUNS / "vision-transformer-recorded.ipynb"
    execute(BOOK / "vision-transformer.ipynb", target, {name: str(value) for name, value in (GIVEN | LEAST).items()})
    rules = json.loads(target.with_suffix(".json").read_text(encoding="utf-8"))
    RECORD.write_text(json.dumps(record(rules), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def record(rules: dict[str, dict[str, float]]) -> dict[str, object]:
    """The rules' results with what was run, when and where."""
    return {
        "date": datetime.date.today().isoformat(),
        "system": platform.system(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "n": GIVEN["crowd"],
        "batch": GIVEN["batch"],
        "steps": GIVEN["crowd_steps"],
        "seeds": GIVEN["seeds"],
        "rules": rules,
    }


if __name__ == "__main__":
    main()
