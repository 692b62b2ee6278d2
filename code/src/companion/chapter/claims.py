"""Claims that are checked: a statement, what is predicted, what was measured, and how far apart they may be.

A claim that does not hold raises, so the build fails; the page of claims shows the state of all of them.
"""

from __future__ import annotations

import html
import math
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from companion.chapter.numbers import text
from companion.chapter.paths import BOOK

SOURCES = {
    "abstract": "the paper's abstract",
    "secondary": "a secondary summary of the paper",
    "companion": "this companion",
    "neighbour": "a related paper",
}
# What a companion's source may name, with the page and the label of the statement that a reader is sent to.
RESULTS = {
    "one-clock": ("finite-time-rates", "thm-one-clock"),
    "sharp-order": ("finite-time-rates", "thm-sharp-order"),
    "global-convergence": ("global-convergence", "thm-global"),
    "sharp-constant": ("exact-constants", "thm-sharp-constant"),
    "rate table": ("exact-constants", "thm-sharp-constant"),
    "settling": ("exact-constants", "prop-settling"),
    "loss-gap": ("finite-time-rates", "cor-loss-gap"),
    "settled-direction": ("real-data", "prop-real-settled"),
    "edge": ("edge-of-stability", "thm-edge"),
    "sparsification": ("sparsification", "thm-sparse"),
    "joint-training": ("joint-training", "thm-joint"),
    "joint training": ("joint-training", "thm-joint"),
    "alternative": ("your-data", "thm-alternative"),
    "either a margin or a certificate": ("your-data", "thm-alternative"),
    "Farkas certificate": ("your-data", "thm-alternative"),
    "certificate": ("scale", "thm-certificate"),
    "what the certificate guarantees": ("scale", "thm-certificate"),
    "gradient identity": ("model", "lem-model-gradient"),
    "the gradient is a combination of constraints": ("model", "lem-model-gradient"),
    "log-scale": ("numerics", "prop-logscale"),
    "numerics": ("numerics", "prop-logscale"),
    "full self-attention": ("self-attention", "prop-self"),
}
KINDS = "theorems?|proposition|corollary|lemma"
NAMED = re.compile(rf"\b({'|'.join(sorted(map(re.escape, RESULTS), key=len, reverse=True))})\b(?: (?:{KINDS})\b)?")
ARXIV = re.compile(r"\barXiv (\d{4}\.\d{5}(?:v\d+)?)")
MIME = "application/vnd.companion.claim+json"
TINY = 1e-300
REPORT = "report"  # value of COMPANION_CLAIMS under which a claim that fails is shown but does not raise

Relation = Callable[[float, float, float], bool]
RELATIONS: dict[str, Relation] = {
    "close": lambda measured, predicted, tol: abs(measured - predicted) <= tol * max(abs(predicted), TINY),
    "absolute": lambda measured, predicted, tol: abs(measured - predicted) <= tol,
    "at most": lambda measured, predicted, tol: measured <= predicted + tol,
    "at least": lambda measured, predicted, tol: measured >= predicted - tol,
    "all": lambda measured, predicted, tol: measured == predicted,
}


class ClaimDoesNotHold(AssertionError):
    """A claim failed: names it, its prediction, its measurement and its tolerance."""

    def __init__(self, claim: Claim):
        super().__init__(
            f"claim {claim.id!r} does not hold: {claim.statement} "
            f"Predicted {claim.relation} {claim.predicted!r}, measured {claim.measured!r}, "
            f"tolerance {claim.tolerance!r}."
        )


class ClaimIsMalformed(ValueError):
    """A claim cannot be judged: an unknown source or relation, a bad id, or a number that is not finite."""


@dataclass(frozen=True)
class Claim:
    """One checked statement; `claim` makes, shows and judges it in one call."""

    id: str
    statement: str
    source: str
    predicted: float
    measured: float
    tolerance: float
    relation: str = "close"
    figure: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9]+(-[A-Za-z0-9]+)*", self.id):
            raise ClaimIsMalformed(f"claim id {self.id!r} must be words joined by single hyphens")
        if self.kind not in SOURCES:
            raise ClaimIsMalformed(
                f"claim {self.id!r}: source {self.source!r} must begin with one of {', '.join(SOURCES)}, "
                "followed by ':' and details if any"
            )
        if self.relation not in RELATIONS:
            raise ClaimIsMalformed(
                f"claim {self.id!r}: relation {self.relation!r} must be one of {', '.join(RELATIONS)}"
            )
        for name in ("predicted", "measured", "tolerance"):
            if not math.isfinite(getattr(self, name)):
                raise ClaimIsMalformed(f"claim {self.id!r}: {name} is {getattr(self, name)}, not a finite number")
        if self.tolerance < 0:
            raise ClaimIsMalformed(f"claim {self.id!r}: tolerance {self.tolerance} is negative")

    @property
    def kind(self) -> str:
        """Where the statement comes from: a key of `SOURCES`."""
        return self.source.partition(":")[0].strip()

    @property
    def holds(self) -> bool:
        """Whether the measurement agrees with the prediction within the tolerance."""
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
        """The measurement, with the zeros that the tolerance makes significant."""
        return self.number(self.measured, "#" if self.tolerance and self.relation in {"close", "absolute"} else "")

    def expectation(self) -> str:
        """The prediction with its tolerance, as a reader reads it."""
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

    def as_dict(self) -> dict:
        """All fields, with the verdict and what a reader reads, for `claims.json`."""
        read = {"expectation": self.expectation(), "found": self.found()}
        return asdict(self) | {"kind": self.kind, "holds": self.holds} | read

    def to_html(self) -> str:
        """One compact block, with an anchor to link to."""
        state, sign, word = ("holds", "✓", "holds") if self.holds else ("fails", "✗", "does not hold")
        row = f"{address('claims')}#row-{self.id}"
        return (
            f'<div class="claim claim-{state}" id="claim-{self.id}">'
            f'<span class="claim-state" title="{word}">{sign}<span> {word}</span></span> '
            f'<span class="claim-statement">{prose(self.statement)}</span> '
            f'<span class="claim-details"><span>predicted {self.expectation()}</span>, '
            f"<span>measured <b>{self.found()}</b></span> "
            f'<span class="claim-source">{source_html(self.source)} · <a href="{row}">{self.id}</a></span></span></div>'
        )


def address(page: str, folder: Path | None = None) -> str:
    """Address of a page of the book, such as ``claims``, from `folder` (that of the running notebook)."""
    here = Path.cwd() if folder is None else folder
    return Path(os.path.relpath(BOOK / f"{page}.html", here if here.is_relative_to(BOOK) else BOOK)).as_posix()


def source_html(source: str, folder: Path | None = None) -> str:
    """A claim's source as HTML: the theorem that it names, or the paper, is a link from a page in `folder`."""
    kind, colon, details = prose(source).partition(":")

    def link(match: re.Match) -> str:
        page, label = RESULTS[match[1]]
        return f'<a href="{address(page, folder)}#{label}">{match[0]}</a>'

    details = NAMED.sub(link, details) if kind.strip() == "companion" else details
    return kind + colon + ARXIV.sub(r'<a href="https://arxiv.org/abs/\1">\g<0></a>', details)


def prose(words: str) -> str:
    """HTML of a short text in which ``$...$`` is mathematics and backticks are code."""
    words = html.escape(words, quote=False)
    words = re.sub(r"\$(.+?)\$", r'<span class="math notranslate nohighlight">\\(\1\\)</span>', words)
    return re.sub(r"`(.+?)`", r"<code>\1</code>", words)


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
) -> None:
    """Check a statement, show the result on the page, and fail the build when it does not hold.

    Parameters
    ----------
    id : str
        Unique in the whole book: words joined by hyphens. The anchor is ``claim-<id>``.
    statement : str
        One sentence; ``$...$`` is typeset.
    source : str
        ``abstract``, ``secondary``, ``companion`` or ``neighbour``, with details after a colon
        (``"companion: one-clock theorem"``).
    predicted, measured : float
        Finite numbers. For ``all``: how many were tried, and of how many it is true.
    tolerance : float
        Relative for ``close``; absolute for ``absolute``, ``at most`` and ``at least``; unused for ``all``.
    relation : {"close", "absolute", "at most", "at least", "all"}
        How the measurement relates to the prediction.
    figure : str, optional
        Name of the figure that shows it (``mystnb`` metadata of its cell).

    Raises
    ------
    ClaimDoesNotHold
        When measurement and prediction disagree.
    ClaimIsMalformed
        When it cannot be judged.
    """
    from IPython.display import display

    result = Claim(id, statement, source, float(predicted), float(measured), float(tolerance), relation, figure)
    plain = f"Claim {id}: {result.expectation()} predicted, {text(result.measured)} measured"
    display({"text/plain": plain, "text/html": result.to_html(), MIME: result.as_dict()}, raw=True)
    if not result.holds and os.environ.get("COMPANION_CLAIMS") != REPORT:
        raise ClaimDoesNotHold(result)
