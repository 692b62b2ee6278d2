"""Tables of numbers as a reader reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

Format = str | Callable[[Any], str]


def styled(rows: Sequence[Sequence[Any]], names: Sequence[str], formats: Mapping[str, Format], uuid: str) -> Any:
    """A table without an index, numbers aligned to the right, a dash where there is none; the same on every build.

    Parameters
    ----------
    rows : sequence of sequences
    names : sequence of str
        Of the columns.
    formats : mapping of str to str or callable
        How the numbers of a column are written, as pandas takes it.
    uuid : str
        Name of the table, unique on the page.

    Returns
    -------
    pandas.io.formats.style.Styler
    """
    cells = [{"selector": "th, td", "props": "padding: 0.2em 0.5em; text-align: right"}]
    cells += [{"selector": "td", "props": "white-space: nowrap"}]
    look = pd.DataFrame(rows, columns=list(names)).style.format(dict(formats), na_rep="–")
    return look.hide(axis="index").set_table_styles(cells).set_uuid(uuid)
