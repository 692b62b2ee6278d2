"""Sequences from a file: every fault of the file is one clear line, raised before any work starts."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..errors import BadFileError, InvalidProblemError
from ..types import Array
from .problem import TokenProblem
from .sequences import Sequences

CALLED = {"tokens": "X", "labels": "y"}
ARRAYS = ("X", "y", "queries", "decoder", "mask", "names")


GRAM_ENTRIES = 1 << 27  # largest Gram matrix of constraints that a run may hold
BLOCK = 1 << 22  # largest block of constraints' cosines


RUNS, RECORDS = 3, 122  # training runs that a report compares, and the records that each keeps


def read_npz(path: str | os.PathLike[str], *, memory: int | None = None) -> tuple[Sequences, Array | None]:
    """Read and check a file written by ``np.savez(path, X=..., y=..., ...)``; nothing is ever unpickled.

    Parameters
    ----------
    path : path
        A .npz file with X (n, T, d) and y (n,) of -1 and +1; optionally queries (n, d) or (n, Q, d), decoder (d,), mask (n, T)
        of True where a token exists, names (n,) or (n, T).
    memory : int, optional
        Bytes that the work may take; default half of the machine's memory. Sizes are read before any array is.

    Returns
    -------
    sequences : Sequences
        Zero where the mask is False.
    decoder : array, shape (d,), or None
        Where there is none, `training.decoder.with_trained_decoder` makes one.

    Raises
    ------
    BadFileError
        One line: the file, the array, and what to change.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from tokenmargin.data.npz import read_npz, write_example
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sequences, decoder = read_npz(write_example(Path(folder) / "example.npz"))
    >>> sequences, decoder is None
    (Sequences(n=8, T=5, d=64, Q=1), True)
    """
    path = Path(path)
    arrays = _load(path, _limit(memory))
    decoder = arrays.get("decoder")
    try:
        sequences = Sequences(
            arrays["X"],
            arrays["y"],
            arrays.get("queries"),
            arrays.get("mask"),
            None,
            None,
            arrays.get("names"),
            called=CALLED,
        )
        if decoder is not None:
            decoder = TokenProblem.of(sequences, decoder).decoder  # its shape and ties show here
    except InvalidProblemError as error:
        raise BadFileError(f"{path.name}: {error}") from None
    classes = np.unique(sequences.labels)
    _need(len(classes) == 2, path, f"y holds only the class {classes[0]:+g}; add sequences of the other class")
    tokens = sequences.n * sequences.T
    joint = 3 * 8.0 * tokens**2  # the joint run holds Gram matrices of all tokens
    _need(
        decoder is not None or joint <= _limit(memory),
        path,
        f"training a decoder on n T = {tokens} tokens needs about {_gibibytes(joint)}; add an array decoder ({sequences.d},), or keep fewer sequences",
    )
    return sequences, decoder


def write_example(
    path: str | os.PathLike[str], *, n: int = 8, T: int = 5, d: int = 64, signal: float = 0.5, seed: int = 0
) -> Path:
    """Write a small file: sequences of 3 to T tokens, one of them a signal for the label, the others noise; no decoder.

    The same arguments give the same bytes in every array.
    """
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, T, d)) / np.sqrt(d)
    y = np.where(np.arange(n) % 2 == 0, 1.0, -1.0)
    lengths = rng.integers(3, T + 1, size=n)
    place = rng.integers(lengths)
    X[np.arange(n), place] += signal * y[:, None] * np.eye(d)[0]
    mask = np.arange(T) < lengths[:, None]
    names = np.array([[f"signal {i}" if t == place[i] else f"noise {i}.{t}" for t in range(T)] for i in range(n)])
    queries = np.where(mask[:, :, None], X, 0.0).sum(axis=1) / lengths[:, None] + rng.standard_normal((n, d)) / np.sqrt(
        d
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, X=X, y=y, queries=queries, mask=mask, names=names)
    return path


def memory_needed(shape: tuple[int, ...], queries: tuple[int, ...] = ()) -> float:
    """Bytes that a report holds at once on tokens of this shape (n, T, d) and queries of that one: a count, on the high side.

    The tokens five times (read, made float, checked, kept, multiplied), the vectors of the N constraints, the records of
    the runs (margins, W or its coefficients, attention twice), a Gram matrix where one is used, blocks of cosines.
    """
    if len(shape) != 3:
        return 8.0 * math.prod(shape)
    n, T, d = shape
    Q = queries[1] if len(queries) == 3 else 1
    N, rows = n * Q * max(T - 1, 0), n * Q * T
    records = RUNS * RECORDS * (N + min(N, d * d) + 2 * rows)
    return 8.0 * (
        5 * n * T * d + 2 * n * Q * d + 2 * N * d + records + min(N * N, GRAM_ENTRIES) + 3 * min(N * N, BLOCK)
    )


def _need(condition: bool, path: Path, message: str) -> None:
    if not condition:
        raise BadFileError(f"{path.name}: {message}.")


def _gibibytes(size: float) -> str:
    size /= 2**30
    return f"{size:.0f} GiB" if size >= 10 else f"{size:.2g} GiB"


def _limit(memory: int | None) -> float:
    if memory is not None:
        return memory
    try:
        return 0.5 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return np.inf


def _load(path: Path, limit: float) -> dict[str, Array]:
    """The file's arrays, once their headers are found right: names, types, sizes."""
    try:
        with path.open("rb"):
            pass
    except FileNotFoundError:
        raise BadFileError(f"{path.name}: there is no such file at {path.absolute()}; check the path.") from None
    except (OSError, ValueError) as error:  # a folder, no permission, a name too long, a zero byte in the name
        reason = getattr(error, "strerror", None) or error
        raise BadFileError(f"{path.name}: the file cannot be read ({reason}); check the path.") from None
    _need(zipfile.is_zipfile(path), path, "this is not an .npz file; write it with np.savez(path, X=..., y=...)")
    with _damaged(path):
        headers = _headers(path)
    for name in ("X", "y"):
        there = ", ".join(headers) or "nothing"
        _need(name in headers, path, f"the array {name!r} is missing (the file has: {there}); save it under that name")
    unknown = [name for name in headers if name not in ARRAYS]
    _need(
        not unknown,
        path,
        f"unknown array {', '.join(map(repr, unknown))}; rename it to one of {', '.join(ARRAYS)}, or drop it",
    )
    for name, (_, dtype) in headers.items():
        _need(
            not dtype.hasobject,
            path,
            f"{name} holds Python objects, which are never unpickled; save a plain array, shorter sequences padded and marked in 'mask'",
        )
    stored = sum(math.prod(shape) * dtype.itemsize for shape, dtype in headers.values())
    need = stored + memory_needed(headers["X"][0], headers["queries"][0] if "queries" in headers else ())
    _need(
        need <= limit,
        path,
        f"X of shape {headers['X'][0]} needs about {_gibibytes(need)}, and {_gibibytes(limit)} may be used; keep fewer sequences or coordinates",
    )
    with _damaged(path), np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in headers}


@contextmanager
def _damaged(path: Path) -> Iterator[None]:
    """One line for whatever a damaged or foreign archive makes zipfile, its decompressors or NumPy raise.

    That is more than they document: zlib.error, RuntimeError where a password is asked for, NotImplementedError for a
    method of compression, SyntaxError and tokenize.TokenError for a header.
    """
    try:
        yield
    except BadFileError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadFileError(f"{path.name}: the file is damaged ({reason}); write it again with np.savez.") from None


def _headers(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and type of each array, without its data."""
    found = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            name = member.removesuffix(".npy")
            _need(name not in found, path, f"the array {name!r} is there twice; write the file again with np.savez")
            with archive.open(member) as stream:
                version = np.lib.format.read_magic(stream)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(stream)
            found[name] = (shape, dtype)
    return found
