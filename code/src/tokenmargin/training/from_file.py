"""The token problem of a file; a file without a decoder gets one that is trained."""

from __future__ import annotations

import os
from pathlib import Path

from ..data.npz import read_npz
from ..data.problem import TokenProblem
from ..errors import BadFileError, InvalidProblemError
from .decoder import problem_of


def from_npz(path: str | os.PathLike[str], *, steps: int = 2000, memory: int | None = None) -> TokenProblem:
    """The token problem of a file; `read_npz` says what it may hold, `problem_of` what happens without a decoder.

    Raises
    ------
    BadFileError
        One line: the file, and what to change.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from tokenmargin.data.npz import write_example
    >>> from tokenmargin.training.from_file import from_npz
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     problem = from_npz(write_example(Path(folder) / "example.npz"), steps=200)
    >>> problem
    TokenProblem(n=8, T=5, d=64, Q=1)
    """
    try:
        return problem_of(*read_npz(path, memory=memory), steps=steps)
    except InvalidProblemError as error:
        raise error if isinstance(error, BadFileError) else BadFileError(f"{Path(path).name}: {error}") from None
