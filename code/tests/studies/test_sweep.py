"""Sweeps: the same table for one worker, two, and a Dask cluster that loses a worker; resuming; failures."""

import gc
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from called import mean_of_normals, slow
from joblib import parallel_config
from tokenmargin.data.synthetic import gaussian
from tokenmargin.studies.sweep import SweepError, sweep
from tokenmargin.training.rules import NormalizedGD, Polyak
from tokenmargin.training.train import train


def step_length(rule, seed):
    return {"h": rule.effective_step(3, 0.0, 0.0) + seed}


def counted(x, folder):
    with (Path(folder) / f"{x}.calls").open("a") as calls:
        calls.write("x")
    if x == 3 and not (Path(folder) / "repaired").exists():
        raise ValueError("three is broken")
    return {"square": x * x}


GRID = {"seed": range(4), "size": (2, 1000)}


def test_rows_follow_the_grid_and_hold_labels():
    table = sweep(step_length, {"rule": {"NGD": NormalizedGD(0.5), "P": Polyak(2.0)}, "seed": [0, 10]}, workers=1)
    assert table.to_dict("list") == {
        "rule": ["NGD", "NGD", "P", "P"],
        "seed": [0, 10, 0, 10],
        "h": [0.5, 10.5, 2.0, 12.0],
    }


def test_two_workers_give_the_table_of_one():
    pd.testing.assert_frame_equal(
        sweep(mean_of_normals, GRID, workers=1), sweep(mean_of_normals, GRID, workers=2), check_exact=True
    )


def test_failures_come_at_the_end_with_their_inputs_and_the_rest_is_kept(tmp_path):
    with pytest.raises(SweepError, match=r"1 of 5 calls failed(.|\n)*x=3(.|\n)*ValueError: three is broken") as caught:
        sweep(counted, {"x": range(5), "folder": [str(tmp_path)]}, workers=1)
    assert [failure.inputs["x"] for failure in caught.value.failures] == [3]
    assert "in counted" in caught.value.failures[0].traceback
    assert list(caught.value.table["square"]) == [0, 1, 4, 16]


def test_an_interrupted_sweep_goes_on_where_it_stopped(tmp_path):
    grid = {"x": range(5), "folder": [str(tmp_path)]}
    with pytest.raises(SweepError):
        sweep(counted, grid, workers=1, cache=tmp_path / "cache")
    (tmp_path / "repaired").touch()
    table = sweep(counted, grid, workers=1, cache=tmp_path / "cache")
    assert list(table["square"]) == [0, 1, 4, 9, 16]
    assert [len((tmp_path / f"{x}.calls").read_text()) for x in range(5)] == [1, 1, 1, 2, 1]


def test_an_empty_grid_and_a_repeated_column_are_refused():
    with pytest.raises(ValueError, match="at least one value"):
        sweep(mean_of_normals, {"seed": [], "size": [1]}, workers=1)
    with pytest.raises(ValueError, match=r"\['x'\], which are names of the grid"):
        sweep(dict, {"x": [1]}, workers=1)


def test_a_bar_shows_only_where_it_is_asked_for(capsys):
    for progress in (False, True):
        sweep(mean_of_normals, GRID, workers=1, progress=progress)
        train(gaussian(2, 3, 8, seed=0), NormalizedGD(0.1), 50, progress=progress)
        shown = capsys.readouterr()
        assert shown.out == ""
        assert ("/8 [" in shown.err) == progress  # one call each
        assert ("  0%|" in shown.err) == progress
        assert shown.err == "" or shown.err.split("\r")[-1].strip() == ""  # nothing stays behind


@pytest.mark.filterwarnings("ignore:Port .* is already in use:UserWarning:distributed")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_dask_cluster_that_loses_a_worker_gives_the_same_table(tmp_path):
    """What Dask leaves open when a worker is killed, or when a port is tried twice, is collected before the test ends."""
    distributed = pytest.importorskip("distributed")
    grid = {"seed": range(24), "folder": [str(tmp_path)]}
    expected = sweep(mean_of_normals, {"seed": range(24), "size": [5]}, workers=1)["mean"]
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        victim = next(iter(client.run(os.getpid).values()))
        with parallel_config(backend="dask"):
            thread = threading.Thread(target=_kill_once_busy, args=(victim, tmp_path))
            thread.start()
            table = sweep(slow, grid)
            thread.join()
    del cluster, client
    gc.collect()
    assert any(path.suffix == f".{victim}" for path in tmp_path.iterdir()), "the victim had work"
    assert len({path.suffix for path in tmp_path.iterdir()}) >= 2
    np.testing.assert_array_equal(table["mean"], expected)


def _kill_once_busy(pid, folder):
    while not list(folder.glob(f"*.{pid}")):
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
