"""Sweeps: one function over a grid of problems, rules and seeds, on all cores or on a cluster, as a tidy table."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ..errors import TokenMarginError

if TYPE_CHECKING:  # pandas, joblib and threadpoolctl load when a sweep runs: the extra "sweep"
    import pandas as pd
    from threadpoolctl import ThreadpoolController

Grid = Mapping[str, Sequence | Mapping[str, Any]]


@dataclass(frozen=True)
class Failure:
    """A call that raised: its inputs (labels, as in the table), the error as one line, and the traceback."""

    inputs: dict[str, Any]
    error: str
    traceback: str

    def __str__(self) -> str:
        return f"{', '.join(f'{name}={value!r}' for name, value in self.inputs.items())}: {self.error}"


class SweepError(TokenMarginError):
    """Some calls of a sweep failed; all others have run.

    Attributes
    ----------
    failures : list of Failure
    table : pandas.DataFrame
        The rows of the calls that succeeded.
    """

    def __init__(self, failures: list[Failure], table: pd.DataFrame):
        shown = "\n  ".join(map(str, failures[:5])) + ("\n  …" if len(failures) > 5 else "")
        super().__init__(
            f"{len(failures)} of {len(failures) + len(table)} calls failed; the others are in `.table`, all failures "
            f"in `.failures`. The first:\n  {shown}\n{failures[0].traceback}"
        )
        self.failures = failures
        self.table = table


def sweep(
    function: Callable[..., Mapping[str, Any]],
    grid: Grid,
    *,
    workers: int = -1,
    cache: str | Path | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Call `function` at every point of a grid, in parallel; the same table whatever the number of workers.

    Parameters
    ----------
    function : callable
        Called with one keyword argument for each name of the grid; returns a mapping of column names to values. It
        must draw its randomness from its arguments (a seed), and live in a module if worker processes are used.
    grid : mapping
        Name -> values; the points are the product, the last name running fastest. Values that do not belong in a table
        (problems, step rules) are given as a mapping label -> value: the table holds the label.
    workers : int
        Number of processes, -1 for all cores; 1 runs in this process. Inside
        ``joblib.parallel_config(backend="dask")`` the calls go to the Dask cluster that is connected.
    cache : path, optional
        Folder in which each finished call is kept: the same sweep, interrupted, goes on where it stopped. Failures are
        not kept. joblib notices when `function` itself is edited, but not when what it calls is: then remove the folder.
    progress : bool
        Show a progress bar, where a person waits.

    Returns
    -------
    pandas.DataFrame
        One row for each point, in the order of the grid: its labels, then what the function returned.

    Raises
    ------
    SweepError
        At the end, if any call raised; carries the failures with their inputs, and the table of the others.
    ValueError
        If the grid is empty or the function's columns repeat a name of the grid.

    Notes
    -----
    Every call runs with one BLAS thread: the cores are busy with other points, and sums keep their order.
    """
    import pandas as pd
    from joblib import Memory, Parallel, delayed

    points = _points(grid)
    call = function if cache is None else Memory(str(cache), verbose=0).cache(function)
    jobs = (delayed(_attempt)(call, labels, arguments) for labels, arguments in points)
    results = Parallel(n_jobs=workers, return_as="generator")(jobs)
    outcomes = list(tqdm(results, total=len(points), disable=not progress, leave=False))
    failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    rows = [
        _row(labels, outcome)
        for (labels, _), outcome in zip(points, outcomes, strict=True)
        if not isinstance(outcome, Failure)
    ]
    table = pd.DataFrame(rows)
    if failures:
        raise SweepError(failures, table)
    return table


def _points(grid: Grid) -> list[tuple[dict, dict]]:
    """(labels, arguments) of each point of the product."""
    axes = [
        list(values.items()) if isinstance(values, Mapping) else [(v, v) for v in values] for values in grid.values()
    ]
    points = [
        (
            {name: label for name, (label, _) in zip(grid, point, strict=True)},
            {name: value for name, (_, value) in zip(grid, point, strict=True)},
        )
        for point in product(*axes)
    ]
    if not grid or not points:
        raise ValueError("the grid has no point: give at least one name, and at least one value for each.")
    return points


@lru_cache(maxsize=1)
def _pools(modules: int) -> ThreadpoolController:
    """The thread pools of this process: looking for them takes milliseconds, so they are looked for when modules are new."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def _attempt(call: Callable, labels: dict, arguments: dict) -> dict | Failure:
    """The call's result as a dict, or its failure as plain text, which any process can send back."""
    try:
        with _pools(len(sys.modules)).limit(limits=1):
            return dict(call(**arguments))
    except Exception as error:
        return Failure(labels, f"{type(error).__name__}: {error}", traceback.format_exc())


def _row(labels: dict, result: dict) -> dict:
    both = labels.keys() & result.keys()
    if both:
        raise ValueError(f"the function returns {sorted(both)}, which are names of the grid: rename the columns.")
    return labels | result
