"""Claims that are checked: a statement, what is predicted, what was measured, and how far apart they may be.

In the build of the book a claim that does not hold raises, so that the build fails; in a notebook that somebody runs with
other values it is shown with its verdict. The notebook keeps a claim as data; the pages are made of it by `companion.build`.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from companion.chapter.numbers import text

SOURCES = {
    "abstract": "the paper's abstract",
    "secondary": "a secondary summary of the paper",
    "companion": "this companion",
    "neighbour": "a related paper",
}
SENTENCES = {
    "direction": "convergence in direction",
    "global": "global convergence",
    "rates": "rates of the direction",
    "sparsification": "rate of sparsification",
}
KINDS = {
    "equality": "a measurement equals a prediction",
    "bound": "a measurement stays on one side of a bound",
    "count": "a statement is true in every case tried",
    "failure": "without one of its conditions a statement fails",
}
STATUSES = {
    "proved": "a proof is given or cited",
    "measured": "an observation without a proof",
    "conjectured": "an estimate or a conjecture, compared with measurements",
}
BOUNDS = ("at most", "at least")
MIME = "application/vnd.companion.claim+json"
NUMBERS = ("predicted", "measured", "tolerance")
TINY = 1e-300
# With COMPANION_CLAIMS=must-hold, as the book's build sets it, a claim that does not hold raises; elsewhere it is shown.
VARIABLE, MUST_HOLD = "COMPANION_CLAIMS", "must-hold"

Relation = Callable[[float, float, float], bool]
RELATIONS: dict[str, Relation] = {
    "close": lambda measured, predicted, tol: abs(measured - predicted) <= tol * max(abs(predicted), TINY),
    "absolute": lambda measured, predicted, tol: abs(measured - predicted) <= tol,
    "at most": lambda measured, predicted, tol: measured <= predicted + tol,
    "at least": lambda measured, predicted, tol: measured >= predicted - tol,
    "all": lambda measured, predicted, tol: measured == predicted,
}
KIND_OF = {"close": "equality", "absolute": "equality", "at most": "bound", "at least": "bound", "all": "count"}


class ClaimDoesNotHold(AssertionError):
    """A claim failed: names it, its prediction, its measurement and its tolerance."""

    def __init__(self, claim: Claim):
        super().__init__(
            f"claim {claim.id!r} does not hold: {claim.statement} "
            f"Predicted {claim.relation} {claim.predicted!r}, measured {claim.measured!r}, "
            f"tolerance {claim.tolerance!r}."
        )


class ClaimIsMalformed(ValueError):
    """A claim cannot be placed: an unknown word or a missing field; in the book's build, a number that is not finite."""


@dataclass(frozen=True)
class Claim:
    """One checked statement; `claim` makes, shows and judges it in one call, and explains the fields."""

    id: str
    statement: str
    source: str
    predicted: float
    measured: float
    tolerance: float = 0.0
    relation: str = "close"
    figure: str | None = None
    theorem: str | None = None
    abstract: str | None = None
    citation: str | None = None
    detail: str | None = None
    kind: str = ""
    status: str = ""
    confirms: bool = True
    unit: str = ""
    loose: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9]+(-[A-Za-z0-9]+)*", self.id):
            raise ClaimIsMalformed(f"claim id {self.id!r} must be words joined by single hyphens")
        self._is_one_of("source", SOURCES)
        self._is_one_of("relation", RELATIONS)
        object.__setattr__(self, "kind", self.kind or KIND_OF[self.relation])
        object.__setattr__(self, "status", self.status or ("proved" if self.theorem else "measured"))
        self._is_one_of("kind", KINDS)
        self._is_one_of("status", STATUSES)
        self._is_supported()
        for name in NUMBERS if os.environ.get(VARIABLE) == MUST_HOLD else ():
            if not math.isfinite(getattr(self, name)):
                raise ClaimIsMalformed(f"claim {self.id!r}: {name} is {getattr(self, name)}, not a finite number")
        if self.tolerance < 0:
            raise ClaimIsMalformed(f"claim {self.id!r}: tolerance {self.tolerance} is negative")

    def _is_one_of(self, name: str, words: Mapping[str, object]) -> None:
        value = getattr(self, name)
        if value not in words:
            raise ClaimIsMalformed(f"claim {self.id!r}: {name} {value!r} must be one of {', '.join(words)}")

    def _is_supported(self) -> None:
        """Refuse a claim that does not say what it rests on."""
        if self.source == "abstract" or self.abstract is not None:
            self._is_one_of("abstract", SENTENCES)
        if (self.source == "abstract") != (self.abstract is not None):
            raise ClaimIsMalformed(f"claim {self.id!r}: a sentence of the abstract needs the source 'abstract'")
        if self.source == "neighbour" and not self.citation:
            raise ClaimIsMalformed(f"claim {self.id!r}: a neighbour's claim needs a citation, a key of references.bib")
        if not self.confirms and self.source == "companion":
            raise ClaimIsMalformed(f"claim {self.id!r}: only a statement from elsewhere can be found not to hold")
        if self.loose is not None and self.relation not in BOUNDS:
            raise ClaimIsMalformed(f"claim {self.id!r}: only a bound ({', '.join(BOUNDS)}) can be loose")
        if self.loose is not None and not self.loose.strip():
            raise ClaimIsMalformed(f"claim {self.id!r}: loose must say why the bound cannot be tighter")
        if self.status == "proved" and not (self.theorem or self.citation):
            raise ClaimIsMalformed(f"claim {self.id!r}: what is proved needs a theorem or a citation")

    @property
    def is_judged(self) -> bool:
        """Whether there are numbers to compare; with other parameters there may be too few points for one."""
        return all(math.isfinite(getattr(self, name)) for name in NUMBERS)

    @property
    def holds(self) -> bool | None:
        """Whether the measurement agrees with the prediction within the tolerance; None when it cannot be judged."""
        if not self.is_judged:
            return None
        return bool(RELATIONS[self.relation](self.measured, self.predicted, self.tolerance))

    def number(self, value: float, zeros: str = "") -> str:
        """A number with as many digits as the tolerance resolves, three at least; `zeros` "#" keeps those at its end."""
        if self.relation == "all":
            return text(value, ".15g")
        slack = {"close": self.tolerance, "absolute": self.tolerance / max(abs(self.predicted), TINY)}.get(
            self.relation, 0
        )
        digits = 1 - math.floor(math.log10(slack)) if slack > 0 else 3
        return text(value, f"{zeros}.{min(max(digits, 3), 10)}g")

    def found(self) -> str:
        """The measurement with its unit, and with the zeros that the tolerance makes significant."""
        zeros = "#" if self.tolerance and self.relation in {"close", "absolute"} else ""
        return f"{self.number(self.measured, zeros)} {self.unit}".rstrip()

    def expectation(self) -> str:
        """The prediction with its tolerance and unit, as a reader reads it."""
        return f"{self._expectation()} {self.unit}".rstrip()

    def _expectation(self) -> str:
        number, slack = self.number(self.predicted), text(self.tolerance)
        if self.relation in ("close", "absolute") and not self.tolerance:
            return f"exactly {number}"
        if self.relation == "close":
            return f"{number} ± {text(100 * self.tolerance)} %"
        if self.relation == "absolute":
            return f"{number} ± {slack}"
        if self.relation == "all":
            return f"all {number}"
        sign = "+" if self.relation == "at most" else "−"
        if not self.predicted and self.tolerance:
            return f"{self.relation} {slack if sign == '+' else sign + slack}"
        return f"{self.relation} {number}" + (f" ({sign} {slack})" if self.tolerance else "")

    def as_dict(self) -> dict[str, Any]:
        """All fields, with the verdict and what a reader reads, as ``claims.json`` has them."""
        if not self.is_judged:  # JSON has no NaN
            unknown = {name: None for name in NUMBERS if not math.isfinite(getattr(self, name))}
            return asdict(self) | unknown | {"holds": None, "expectation": "not judged with these values", "found": "–"}
        return asdict(self) | {"holds": self.holds, "expectation": self.expectation(), "found": self.found()}

    def __str__(self) -> str:
        if not self.is_judged:
            return f"– {self.id}: {self.statement}; not judged with these values"
        sign = "✓" if self.holds else "✗ DOES NOT HOLD:"
        return f"{sign} {self.id}: {self.statement}; predicted {self.expectation()}, measured {self.found()}"


def claim(
    id: str,
    statement: str,
    *,
    source: str,
    predicted: float,
    measured: float,
    tolerance: float = 0.0,
    relation: str = "close",
    figure: str | None = None,
    theorem: str | None = None,
    abstract: str | None = None,
    citation: str | None = None,
    detail: str | None = None,
    kind: str = "",
    status: str = "",
    confirms: bool = True,
    unit: str = "",
    loose: str | None = None,
) -> None:
    """Check a statement, show the result on the page, and fail the book's build when it does not hold.

    Parameters
    ----------
    id : str
        Unique in the whole book: words joined by hyphens, written out so that it can be searched. The anchor is
        ``claim-<id>``.
    statement : str
        One sentence; ``$...$`` is typeset.
    source : {"abstract", "secondary", "companion", "neighbour"}
        Whose statement it is.
    predicted, measured : float
        Finite numbers. For ``all``: how many were tried, and of how many it is true.
    tolerance : float
        Relative for ``close``; absolute for ``absolute``, ``at most`` and ``at least``; unused for ``all``.
    relation : {"close", "absolute", "at most", "at least", "all"}
        How the measurement relates to the prediction.
    figure : str, optional
        Name of the figure that shows it (``mystnb`` metadata of its cell).
    theorem : str, optional
        Label of the statement of this book that it tests, such as ``thm-edge``.
    abstract : {"direction", "global", "rates", "sparsification"}, optional
        Which sentence of the paper's abstract it tests; needed when that is the source.
    citation : str, optional
        Key of ``references.bib``; needed for a neighbour's statement.
    detail : str, optional
        Free words shown with the source, such as ``part 2``.
    kind : {"equality", "bound", "count", "failure"}, optional
        By default what the relation makes it; ``failure`` where a statement loses one of its conditions.
    status : {"proved", "measured", "conjectured"}, optional
        By default ``proved`` when a theorem is named, else ``measured``.
    confirms : bool
        False where the claim, by holding, shows that a statement of its source was not found here.
    unit : str, optional
        Shown after both numbers, such as ``steps``. Without one they are shares, ratios or errors, as the statement says.
    loose : str, optional
        Why a bound lies farther from what is measured than a factor of three. The book's build asks for it then.

    Raises
    ------
    ClaimDoesNotHold
        When measurement and prediction disagree and the environment says ``COMPANION_CLAIMS=must-hold``.
    ClaimIsMalformed
        When it cannot be judged or placed.
    """
    from IPython.display import display

    result = Claim(
        id,
        statement,
        source,
        predicted=float(predicted),
        measured=float(measured),
        tolerance=float(tolerance),
        relation=relation,
        figure=figure,
        theorem=theorem,
        abstract=abstract,
        citation=citation,
        detail=detail,
        kind=kind,
        status=status,
        confirms=confirms,
        unit=unit,
        loose=loose,
    )
    display({"text/plain": str(result), MIME: result.as_dict()}, raw=True)
    if result.holds is False and os.environ.get(VARIABLE) == MUST_HOLD:
        raise ClaimDoesNotHold(result)
