"""What sweeps call in other processes: a module that loads at once."""

import os
import time
from pathlib import Path

import numpy as np


def mean_of_normals(seed, size):
    return {"mean": np.random.default_rng([seed, size]).standard_normal(size).mean()}


def slow(seed, folder):
    "Leaves the worker's process id behind, so that the test knows whom to kill while it works."
    (Path(folder) / f"{seed}.{os.getpid()}").touch()
    time.sleep(0.15)
    return mean_of_normals(seed, 5)
