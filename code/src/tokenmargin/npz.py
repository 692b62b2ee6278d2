"""Token problems from a file: every fault of the file is one clear line, raised before any work starts."""

from __future__ import annotations

import math
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .dynamics import GRAM_BYTES
from .errors import InvalidProblemError
from .joint import train_joint
from .problem import TokenProblem, are_the_tokens, first_tokens

Array = np.ndarray
ARRAYS = ("X", "y", "queries", "decoder", "mask", "names")
BLOCK = 1 << 22  # largest block of constraints' cosines
RUNS, RECORDS = 3, 122  # training runs that a report compares, and the records that each keeps


class BadFileError(InvalidProblemError):
    """A file does not hold a token problem; the message is one line that says what to change."""

    def _render_traceback_(self) -> list[str]:
        """Notebooks show the line alone: the fault is in the file, not in the code above it."""
        return [f"{type(self).__name__}: {self}"]


@dataclass(frozen=True, eq=False)
class TokenData:
    """What a file holds, checked.

    Attributes
    ----------
    tokens : array, shape (n, T, d)
        The file's X; zero where the mask is False.
    labels : array, shape (n,)
        The file's y.
    queries : array, shape (n, Q, d), or None
    decoder : array, shape (d,), or None
    mask : bool array, shape (n, T)
    names : array of text, shape (n,) or (n, T), or None
        Names of the sequences, or of every token.
    """

    tokens: Array
    labels: Array
    queries: Array | None
    decoder: Array | None
    mask: Array
    names: Array | None

    def name(self, sequence: int, token: int) -> str:
        """How a token is called in tables: by its name, or its index."""
        if self.names is None:
            return f"{sequence}: token {token}"
        if self.names.ndim == 1:
            return f"{self.names[sequence]}: token {token}"
        return f"{sequence}: {self.names[sequence, token]}"


def read_npz(path: str | os.PathLike, *, memory: int | None = None) -> TokenData:
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
    TokenData

    Raises
    ------
    BadFileError
        One line: the file, the array, and what to change.
    """
    path = Path(path)
    arrays = _load(path, _limit(memory))
    X, y = _numbers(path, "X", arrays["X"]), _numbers(path, "y", arrays["y"])
    _need(X.ndim == 3, path, f"X has shape {X.shape}; reshape it to (n, T, d): sequences, tokens, coordinates")
    n, T, d = X.shape
    _need(n >= 1 and d >= 1, path, f"X has shape {X.shape}: give at least one sequence and one coordinate")
    _need(T >= 2, path, f"X has T = {T}; attention chooses among at least two tokens: add tokens to each sequence")
    _need(y.shape == (n,), path, f"y has shape {y.shape}; give one label for each of the {n} sequences, shape ({n},)")
    mask = _mask(path, arrays.get("mask"), (n, T))
    X = np.where(mask[:, :, None], X, 0.0)
    _finite(path, "X", X, ": clean them, or add a mask that is False at missing tokens")
    _finite(path, "y", y, ": give each sequence the label -1 or +1")
    wrong = np.unique(y[np.abs(y) != 1.0])
    _need(wrong.size == 0, path, f"y holds {', '.join(f'{v:g}' for v in wrong[:4])}; map your two classes to -1 and +1")
    _need(np.unique(y).size == 2, path, f"y holds only the class {y[0]:+g}; add sequences of the other class")
    queries = _queries(path, arrays.get("queries"), X, mask)
    decoder = _decoder(path, arrays.get("decoder"), d)
    joint = 3 * 8.0 * (n * T) ** 2  # the joint run holds Gram matrices of all tokens
    _need(
        decoder is not None or joint <= _limit(memory),
        path,
        f"training a decoder on n T = {n * T} tokens needs about {_gibibytes(joint)}; add an array decoder ({d},), or keep fewer sequences",
    )
    data = TokenData(X, y, queries, decoder, mask, _names(path, arrays.get("names"), (n, T)))
    if decoder is not None:
        problem_of(data, path)  # ties show here
    return data


def problem_of(data: TokenData, path: str | os.PathLike = "the data", *, steps: int = 2000) -> TokenProblem:
    """The token problem of the data; without a decoder, one is trained jointly with W and then kept.

    Parameters
    ----------
    steps : int
        Steps of the joint run.

    Raises
    ------
    BadFileError
        If a sequence's best score is shared by several tokens.
    """
    decoder = trained_decoder(data, steps) if data.decoder is None else data.decoder
    try:
        return TokenProblem(data.tokens, data.labels, decoder, data.queries, data.mask)
    except InvalidProblemError as error:
        raise BadFileError(f"{Path(path).name}: {error}") from None


def trained_decoder(data: TokenData, steps: int = 2000) -> Array:
    """u after a joint run of W and u by normalised steps from zero (deterministic), shape (d,).

    Where sequences have several queries the joint run reads their mean.
    """
    if data.queries is None:
        queries = first_tokens(data.tokens, data.mask)
    elif are_the_tokens(data.queries, data.tokens, data.mask):  # padding is zero and does not count
        queries = data.queries.sum(axis=1) / data.mask.sum(axis=1, keepdims=True)
    else:
        queries = data.queries.mean(axis=1)
    return train_joint(data.tokens, data.labels, queries, steps, record=[steps], mask=data.mask).u()


def from_npz(path: str | os.PathLike, *, steps: int = 2000, memory: int | None = None) -> TokenProblem:
    """The token problem of a file; `read_npz` says what it may hold, `problem_of` what happens without a decoder."""
    return problem_of(read_npz(path, memory=memory), path, steps=steps)


def write_example(
    path: str | os.PathLike, *, n: int = 8, T: int = 5, d: int = 64, signal: float = 0.5, seed: int = 0
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
        5 * n * T * d + 2 * n * Q * d + 2 * N * d + records + min(N * N, GRAM_BYTES // 8) + 3 * min(N * N, BLOCK)
    )


# --- The checks -----------------------------------------------------------------------------------------------------


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
    _need(path.is_file(), path, f"there is no such file at {path.absolute()}; check the path")
    _need(zipfile.is_zipfile(path), path, "this is not an .npz file; write it with np.savez(path, X=..., y=...)")
    try:
        headers = _headers(path)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise BadFileError(f"{path.name}: the file is damaged ({error}); write it again with np.savez.") from None
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
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in headers}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0]
        raise BadFileError(f"{path.name}: the file is damaged ({reason}); write it again with np.savez.") from None


def _headers(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and type of each array, without its data."""
    found = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            with archive.open(member) as stream:
                version = np.lib.format.read_magic(stream)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(stream)
            found[member.removesuffix(".npy")] = (shape, dtype)
    return found


def _numbers(path: Path, name: str, array: Array) -> Array:
    _need(array.dtype.kind in "fiub", path, f"{name} has type {array.dtype}; save real numbers, such as float64")
    return array.astype(float)


def _finite(path: Path, name: str, array: Array, advice: str = "") -> None:
    bad = np.argwhere(~np.isfinite(array))
    where = tuple(int(i) for i in bad[0]) if len(bad) else ()
    _need(len(bad) == 0, path, f"{name} holds {len(bad)} NaN or infinite value(s), the first at index {where}{advice}")


def _mask(path: Path, mask: Array | None, shape: tuple[int, int]) -> Array:
    if mask is None:
        return np.ones(shape, dtype=bool)
    _need(mask.shape == shape, path, f"mask has shape {mask.shape}; give {shape}, True where a token exists")
    plain = mask.dtype == bool or (mask.dtype.kind in "iu" and bool(np.isin(mask, (0, 1)).all()))
    _need(plain, path, f"mask has type {mask.dtype}; save bool, True where a token exists")
    mask = mask.astype(bool)
    short = np.flatnonzero(mask.sum(axis=1) < 2)
    _need(short.size == 0, path, f"mask leaves fewer than two tokens in sequence {short[:1]}; drop that sequence")
    return mask


def _queries(path: Path, queries: Array | None, X: Array, mask: Array) -> Array | None:
    if queries is None:
        return None
    n, _, d = X.shape
    queries = _numbers(path, "queries", queries)
    shape = queries.shape
    queries = queries[:, None, :] if queries.ndim == 2 else queries
    fits = queries.ndim == 3 and queries.shape[0] == n and queries.shape[2] == d and queries.shape[1] >= 1
    _need(fits, path, f"queries has shape {shape}; give ({n}, {d}) or ({n}, Q, {d}) to go with X")
    if are_the_tokens(queries, X, mask):
        return X  # full self-attention: what stands in the padding does not matter
    _finite(path, "queries", queries, ": clean them")
    return queries


def _decoder(path: Path, decoder: Array | None, d: int) -> Array | None:
    if decoder is None:
        return None
    decoder = _numbers(path, "decoder", decoder)
    _need(
        decoder.shape == (d,),
        path,
        f"decoder has shape {decoder.shape}; give ({d},), or leave it out to have one trained",
    )
    _finite(path, "decoder", decoder, ": clean it, or leave it out to have one trained")
    return decoder


def _names(path: Path, names: Array | None, shape: tuple[int, int]) -> Array | None:
    if names is None:
        return None
    _need(names.shape in (shape, shape[:1]), path, f"names has shape {names.shape}; give ({shape[0]},) or {shape}")
    return names.astype(str)
