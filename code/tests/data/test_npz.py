"""A good file becomes a token problem; each bad one gets one line that says what to change."""

import re
import tracemalloc
import zipfile

import numpy as np
import pytest
from tokenmargin.data.npz import BadFileError, memory_needed, read_npz, write_example
from tokenmargin.errors import InvalidProblemError
from tokenmargin.studies.report import summary, try_token_svm
from tokenmargin.training.from_file import from_npz
from tokenmargin.training.rules import NormalizedGD
from tokenmargin.training.train import train

rng = np.random.default_rng(0)
X = rng.standard_normal((4, 3, 5))
Y = np.array([1, -1, 1, -1])
U = rng.standard_normal(5)
NAN = np.where(np.arange(60).reshape(4, 3, 5) == 7, np.nan, X)
TIED = X.copy()
TIED[2] = TIED[2, 0]
MASK = np.ones((4, 3), dtype=bool)
RAGGED = np.empty(4, dtype=object)
RAGGED[:] = [np.ones((k + 2, 5)) for k in range(4)]


def save(folder, **arrays):
    path = folder / "tokens.npz"
    np.savez(path, **arrays)
    return path


BAD = {
    "X missing": ({"x": X, "y": Y}, "the array 'X' is missing (the file has: x, y); save it under that name."),
    "y missing": ({"X": X}, "the array 'y' is missing (the file has: X)"),
    "unknown array": ({"X": X, "y": Y, "Mask": MASK}, "unknown array 'Mask'; rename it to one of X, y, queries, decoder, mask, names, or drop it."),
    "two axes": ({"X": X[0], "y": Y}, "X has 2 axes, shape (3, 5); reshape it to (n, T, d)"),
    "no sequence": ({"X": X[:0], "y": Y[:0]}, "give at least one sequence"),
    "one token": ({"X": X[:, :1], "y": Y}, "X has T = 1: attention chooses among at least two tokens: add tokens"),
    "text": ({"X": X.astype(str), "y": Y}, "X has type <U32; give real numbers, such as float64."),
    "complex": ({"X": X + 1j, "y": Y}, "X has type complex128; give real numbers"),
    "nan": ({"X": NAN, "y": Y}, "X holds 1 NaN or infinite value(s), the first at index (0, 1, 2): clean them, or add a mask"),
    "labels of another length": ({"X": X, "y": Y[:3]}, "y has shape (3,); give one label for each of the 4 sequences, shape (4,)."),
    "labels 0 and 1": ({"X": X, "y": Y > 0}, "y must be -1 or +1; sequence(s) 1, 3 have 0: map your two classes to -1 and +1."),
    "nan label": ({"X": X, "y": [1, np.nan, 1, -1]}, "y holds 1 NaN or infinite value(s)"),
    "one class": ({"X": X, "y": np.ones(4)}, "y holds only the class +1; add sequences of the other class."),
    "ties": ({"X": TIED, "y": Y, "decoder": U}, "tokens 0 and 1 of sequence 2 are equal, and score best: keep one of each, or mask one."),
    "objects": ({"X": RAGGED, "y": Y}, "X holds Python objects, which are never unpickled; save a plain array, shorter sequences padded"),
    "object names": ({"X": X, "y": Y, "names": np.array(["a", None, 1, 2], dtype=object)}, "names holds Python objects"),
    "decoder of another d": ({"X": X, "y": Y, "decoder": U[:2]}, "decoder has shape (2,); it reads vectors of dimension 5: give (5,)."),
    "nan decoder": ({"X": X, "y": Y, "decoder": U * np.nan}, "decoder holds 5 NaN or infinite value(s)"),
    "queries of another n": ({"X": X, "y": Y, "queries": X[:2, 0]}, "queries has shape (2, 5); give (4, 5) or (4, Q, 5) to go with the tokens."),
    "mask of another shape": ({"X": X, "y": Y, "mask": MASK[:, :2]}, "mask has shape (4, 2); give (4, 3), True where a token exists."),
    "mask of floats": ({"X": X, "y": Y, "mask": 0.5 * MASK}, "mask has type float64 or values other than 0 and 1; give bool"),
    "mask leaves one": ({"X": X, "y": Y, "mask": np.arange(3) < np.array([[3], [1], [3], [3]])}, "mask leaves fewer than two tokens in sequence(s) 1: drop them or unmask tokens."),
    "names of another shape": ({"X": X, "y": Y, "names": ["a", "b"]}, "names has shape (2,); give (4,) or (4, 3)."),
}  # fmt: skip


@pytest.mark.parametrize(("arrays", "text"), BAD.values(), ids=BAD.keys())
def test_a_bad_file_gets_one_line(tmp_path, arrays, text):
    path = save(tmp_path, **arrays)
    with pytest.raises(BadFileError, match=re.escape(text)) as caught:
        read_npz(path)
    line = str(caught.value)
    assert line.startswith("tokens.npz: ")
    assert "\n" not in line
    assert caught.value._render_traceback_() == [f"BadFileError: {line}"]
    assert isinstance(caught.value, InvalidProblemError)


def test_missing_foreign_and_damaged_files(tmp_path):
    with pytest.raises(BadFileError, match="there is no such file at"):
        read_npz(tmp_path / "absent.npz")
    text = tmp_path / "table.csv"
    text.write_text("a,b\n1,2\n")
    with pytest.raises(BadFileError, match=r"this is not an .npz file; write it with np.savez"):
        read_npz(text)
    np.save(tmp_path / "one.npy", X)
    with pytest.raises(BadFileError, match=r"this is not an .npz file"):
        read_npz(tmp_path / "one.npy")
    archive = tmp_path / "archive.npz"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("X.npy", b"not an array")
    with pytest.raises(BadFileError, match="the file is damaged"):
        read_npz(archive)
    whole = save(tmp_path, X=X, y=Y)
    with zipfile.ZipFile(whole) as file:
        members = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(archive, "w") as file:
        for name, data in members.items():
            file.writestr(name, data[:-8])
    with pytest.raises(BadFileError, match="the file is damaged"):
        read_npz(archive)


def test_size_is_judged_from_the_header_alone(tmp_path):
    path = tmp_path / "huge.npz"
    with zipfile.ZipFile(path, "w") as file:
        for name, shape in (("X", "(1000000, 1000, 1000)"), ("y", "(1000000,)")):
            header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
            file.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
    with pytest.raises(BadFileError, match=r"X of shape \(1000000, 1000, 1000\) needs about .* keep fewer sequences"):
        read_npz(path)
    with pytest.raises(BadFileError, match="GiB may be used"):
        read_npz(save(tmp_path, X=X, y=Y), memory=1000)


def test_an_object_array_never_runs_its_pickle(tmp_path):
    touched = tmp_path / "touched"

    class Payload:
        def __reduce__(self):
            return (touched.write_text, ("ran",))

    path = save(tmp_path, X=np.array([Payload()], dtype=object), y=Y)
    with pytest.raises(BadFileError, match="never unpickled"):
        read_npz(path)
    assert not touched.exists()


def test_a_good_file_is_read_whole(tmp_path):
    mask = np.arange(3) < np.array([[3], [2], [3], [2]])
    padded = np.where(mask[:, :, None], X, np.nan)
    path = save(tmp_path, X=padded, y=Y, decoder=U, queries=X[:, 1], mask=mask.astype(int), names=list("abcd"))
    data, _ = read_npz(path)
    assert data.name(1, 0) == "b: token 0"
    problem = from_npz(path)
    np.testing.assert_array_equal(problem.mask, mask)
    np.testing.assert_array_equal(problem.queries[:, 0], X[:, 1])
    np.testing.assert_array_equal(problem.decoder, U)
    np.testing.assert_array_equal(problem.tokens[mask], X[mask])


def test_plain_file_takes_the_first_token_as_query(tmp_path):
    problem = from_npz(save(tmp_path, X=X.astype(np.float32), y=Y.astype(np.int8), decoder=U))
    np.testing.assert_array_equal(problem.queries[:, 0], X[:, 0].astype(np.float32))


def test_the_example_is_the_same_each_time_and_gets_a_decoder(tmp_path):
    paths = [write_example(tmp_path / f"{k}.npz") for k in range(2)]
    (first, decoder), (second, _) = (read_npz(path) for path in paths)
    np.testing.assert_array_equal(first.tokens, second.tokens)
    assert decoder is None
    problem, again = (from_npz(path, steps=500) for path in paths)
    np.testing.assert_array_equal(problem.decoder, again.decoder)
    chosen = [first.name(i, t) for i, t in enumerate(problem.optimal)]
    assert chosen == [f"{i}: signal {i}" for i in range(problem.n)]


def test_a_decoder_for_very_many_tokens_must_be_given(tmp_path):
    path = save(tmp_path, X=np.ones((6000, 2, 1)), y=np.where(np.arange(6000) % 2, 1, -1))
    with pytest.raises(
        BadFileError, match=r"training a decoder on n T = 12000 tokens needs about .* add an array decoder"
    ):
        read_npz(path, memory=2**30)


def test_several_queries_are_kept_and_trained_with_their_mean(tmp_path):
    data, _ = read_npz(write_example(tmp_path / "one.npz"))
    queries = np.repeat(data.queries, 2, axis=1)
    path = save(tmp_path, X=data.tokens, y=data.labels, mask=data.mask, queries=queries)
    problem, single = from_npz(path, steps=50), from_npz(tmp_path / "one.npz", steps=50)
    assert problem.Q == 2
    np.testing.assert_allclose(problem.decoder, single.decoder)


@pytest.mark.parametrize("shape", [(300, 6, 24), (60, 6, 60), (2000, 2, 4)])
def test_the_memory_that_is_counted_covers_what_a_report_takes(tmp_path, shape):
    n, _, d = shape
    rng = np.random.default_rng(0)
    y = np.where(np.arange(n) % 2, 1.0, -1.0)
    path = save(tmp_path, X=rng.standard_normal(shape), y=y, decoder=rng.standard_normal(d))

    def report(path):
        problem = from_npz(path)
        svm = try_token_svm(problem)
        runs = {name: train(problem, NormalizedGD(0.1), 121, record=np.arange(122)) for name in "abc"}
        summary(problem, svm, runs)

    report(write_example(tmp_path / "small.npz"))  # imports and compiles, which takes minutes where memory is traced
    tracemalloc.start()
    report(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= memory_needed(shape)
