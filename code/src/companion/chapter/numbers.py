"""Numbers for prose: computed in a notebook, read on the page, never typed by hand."""

from __future__ import annotations

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
PREFIX = "application/papermill.record/"


def text(value: object, fmt: str = ".3g") -> str:
    """A number as it should be read: ``1.2 × 10⁻⁵`` for 1.2e-05, a true minus sign, thousands set off by a narrow space.

    Any other value as is. A comma would not do: myst-nb reads ``8,400`` as a pair.
    """
    if isinstance(value, str):
        return value
    mantissa, mark, exponent = format(value, fmt).partition("e")
    mantissa = mantissa.replace("-", "−").replace(",", "\u202f")
    mantissa = mantissa.rstrip(".")
    if not mark:
        return mantissa
    power = f"10{str(int(exponent)).translate(SUPERSCRIPTS)}"
    return mantissa[:-1] + power if mantissa in {"1", "−1"} else f"{mantissa} × {power}"


def put(name: str, value: object, fmt: str = ".3g") -> None:
    """Name a number for the prose of the same page, where ``{glue:text}`name` `` shows it.

    Parameters
    ----------
    name : str
        Key, unique on the page.
    value : number or str
        What was measured; a text is shown as it is.
    fmt : str
        Format of a number, as in ``format(value, fmt)``.
    """
    from IPython.display import display

    metadata = {"scrapbook": {"name": name, "mime_prefix": PREFIX}}
    quoted = repr(text(value, fmt))  # the role reads a Python literal: unquoted, 8,400 would be a pair and 1.00 be 1.0
    display({f"{PREFIX}text/plain": quoted}, metadata=metadata, raw=True)
