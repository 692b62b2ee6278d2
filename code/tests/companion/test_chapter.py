"""Numbers for prose, clean notebooks, figures' files, and the run of one chapter."""

import base64
import hashlib

import matplotlib as mpl
import nbformat
import numpy as np
import pytest
from companion.build import clean, run, sphinx_extension
from companion.chapter import figures, numbers
from companion.chapter.claims import MIME
from matplotlib.figure import Figure
from myst_nb.core.variables import format_plain_text


@pytest.mark.parametrize(
    ("value", "fmt", "text"),
    [
        (1.2e-05, ".3g", "1.2 × 10⁻⁵"),
        (-1.25e10, ".3g", "−1.25 × 10¹⁰"),
        (1e-4, ".0e", "10⁻⁴"),
        (0.125, ".3g", "0.125"),
        (-3, "d", "−3"),
        (np.float64(2.5), ".1f", "2.5"),
        (8400, ",d", "8\u202f400"),
        ("as it is", ".3g", "as it is"),
    ],
)
def test_numbers_read_as_in_print(value, fmt, text):
    assert numbers.text(value, fmt) == text


def test_a_negative_power_of_ten_keeps_its_sign():
    assert numbers.text(-1e-4, ".0e") == "−10⁻⁴"


@pytest.mark.parametrize(
    ("value", "fmt", "read"), [(8400, ",d", "8\u202f400"), (1.0, ".4f", "1.0000"), ("a 'b'", "", "a 'b'")]
)
def test_the_role_that_reads_a_number_shows_it_as_it_was_put(value, fmt, read, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, **_: shown.extend(data.values()))
    numbers.put("name", value, fmt)
    assert format_plain_text(shown[0], "s") == read


def test_a_dirty_notebook_is_cleaned_once_and_for_all():
    cell = nbformat.v4.new_code_cell("1", execution_count=3, metadata={"papermill": {}, "tags": ["hide-input"]})
    cell.outputs = [nbformat.v4.new_output("stream", text="1")]
    book = nbformat.v4.new_notebook(
        cells=[cell], metadata={"kernelspec": {"name": "my-env", "display_name": "Mine"}, "companion": {"reads": []}}
    )
    done = clean.cleaned(book)
    assert done.cells[0].outputs == []
    assert done.cells[0].execution_count is None
    assert done.cells[0].metadata == {"tags": ["hide-input"]}
    assert done.cells[0].id == cell.id
    assert done.metadata.kernelspec.name == "python3"
    assert done.metadata.companion == {"reads": []}
    assert clean.text(clean.cleaned(done)) == clean.text(done)


def test_captioned_figures_are_found_and_written(tmp_path):
    data = {"image/svg+xml": ["<svg>", "</svg>"], "application/pdf": base64.b64encode(b"%PDF").decode()}
    named = {"metadata": {"mystnb": {"figure": {"name": "fig-x"}}}, "outputs": [{"data": data}]}
    bare = {"metadata": {}, "outputs": [{"data": data}]}
    ((name, found),) = sphinx_extension.figures({"cells": [bare, named]})
    sphinx_extension.write_figure(tmp_path / name, found)
    assert (tmp_path / "fig-x.svg").read_text() == "<svg></svg>"
    assert (tmp_path / "fig-x.pdf").read_bytes() == b"%PDF"


def test_the_code_of_claims_is_folded_and_no_other():
    output = {"output_type": "display_data", "data": {MIME: {}}}
    cells = [{"metadata": {"tags": ["x"]}, "outputs": [output]}, {"metadata": {}, "outputs": [{"data": {}}]}]
    cells.append({"metadata": {"tags": ["hide-input"]}, "outputs": [output]})
    done = sphinx_extension.folded({"cells": cells})["cells"]
    assert [cell["metadata"].get("tags") for cell in done] == [["x", "hide-input"], None, ["hide-input"]]


def test_a_run_is_named_after_its_parameters():
    first, again, other = (run.target_of("model", given) for given in ({"n": "8"}, {"n": "8"}, {"n": "9"}))
    assert first == again != other
    assert first.parent == run.RUNS


def test_an_unknown_chapter_lists_those_there_are(capsys):
    assert run.main(["no-such-chapter"]) == 2
    message = capsys.readouterr().err
    assert "There is no notebook 'no-such-chapter'" in message
    assert "numerics" in message


def draw(path):
    with mpl.rc_context(figures.STYLE):
        canvas = Figure()
        ax = canvas.subplots()
        line = figures.band(ax, [1, 2, 3], np.arange(15.0).reshape(5, 3), **figures.rule_style("NGD"))
        canvas.savefig(path, metadata={"Date": None})
    return line, hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_figure_has_the_same_bytes_each_time(tmp_path):
    (line, first), (_, second) = draw(tmp_path / "1.svg"), draw(tmp_path / "2.svg")
    assert first == second
    assert line.get_color() == figures.COLOURS["NGD"]
    np.testing.assert_array_equal(line.get_ydata(), [6, 7, 8])


def test_a_run_reports_claims_that_fall_with_its_parameters(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "BOOK", tmp_path)
    monkeypatch.setattr(run, "RUNS", tmp_path / "runs")
    monkeypatch.setenv("COMPANION_CLAIMS", "")
    parameters = nbformat.v4.new_code_cell("n = 3  # points", metadata={"tags": ["parameters"]})
    code = "from companion.chapter.claims import claim\nclaim('three', 'Three.', source='companion', predicted=3, measured=n)"
    book = nbformat.v4.new_notebook(cells=[parameters, nbformat.v4.new_code_cell(code)])
    nbformat.write(book, tmp_path / "toy.ipynb")
    assert run.main(["toy", "-p", "n", "4"]) == 0
    said = capsys.readouterr().out
    assert "0 of 1 claims hold.\nNot: three" in said
    assert run.target_of("toy", {"n": "4"}).with_suffix(".html").exists()


def test_density_counts_each_column_on_its_own():
    clouds = np.array([[0.5, 0.5, 0.5, 0.5], [0.5, 1.5, 0.5, 1.5], [9.0, 0.5, 9.0, 0.5]])
    share = figures.density(Figure().subplots(), clouds, (0.0, 3.0, 0.0, 2.0), colour="blue", rows=2)
    np.testing.assert_array_equal(share, [[2.0, 1.0, 1.0], [0.0, 1.0, 0.0]])
