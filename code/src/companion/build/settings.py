"""What decides the outputs of an execution, besides the code: every notebook depends on this file."""

from __future__ import annotations

KERNEL = "python3"
LANGUAGE = "python"
ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",  # notebooks run side by side: one thread each
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "SOURCE_DATE_EPOCH": "0",  # figures carry no date: the same bytes on each execution
    "JUPYTER_PREFER_ENV_PATH": "1",  # the python3 kernel of this environment, not the user's
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
}
