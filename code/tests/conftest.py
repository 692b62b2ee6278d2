"""The suite draws the same examples on every run; ``make fuzz`` draws new ones."""

import os

for pool in ("OPENBLAS", "OMP", "MKL"):  # before NumPy loads: small matrices gain nothing, and tests run side by side
    os.environ.setdefault(f"{pool}_NUM_THREADS", "1")

from hypothesis import settings  # noqa: E402

settings.register_profile("fixed", derandomize=True, database=None, deadline=None, print_blob=False)
settings.register_profile("fuzz", derandomize=False, database=None, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))
