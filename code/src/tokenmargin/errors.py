"""The errors of the package: each names the object, what it must satisfy, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .types import Array


class TokenMarginError(Exception):
    """Base of every error that this package raises on purpose."""


class InvalidProblemError(TokenMarginError, ValueError):
    """The arrays given do not make a token problem."""


class BadFileError(InvalidProblemError):
    """A file does not hold a token problem; the message is one line that says what to change."""

    def _render_traceback_(self) -> list[str]:
        """Notebooks show the line alone: the fault is in the file, not in the code above it."""
        return [f"{type(self).__name__}: {self}"]


class ImageChoiceError(TokenMarginError, ValueError):
    """A set of images has no such digits, numbers or patches; the message is one line that says what to choose."""

    def _render_traceback_(self) -> list[str]:
        """Notebooks show the line alone: the fault is in the choice, not in the code above it."""
        return [f"{type(self).__name__}: {self}"]


class TiedTokensError(InvalidProblemError):
    """Some sequences have no unique optimal token.

    Attributes
    ----------
    sequences : tuple of int
        The sequences whose best score is shared by two or more tokens.
    """

    def __init__(self, message: str, sequences: tuple[int, ...]):
        super().__init__(message)
        self.sequences = sequences


class NearTieWarning(UserWarning):
    """A best score leads by so little that rounding may have chosen the optimal token."""


class InfeasibleSVMError(TokenMarginError):
    """No matrix W separates the selected tokens from the others.

    Attributes
    ----------
    farkas : numpy.ndarray, shape (N,)
        Weights >= 0 with sum 1 such that sum_k farkas_k V_k = 0 up to rounding: no W has <V_k, W> >= 1 for all k.
    residual : float
        ||sum_k farkas_k V_k||_F, relative to sum_k farkas_k ||V_k||_F: free of the tokens' units. No W has a relative margin
        min_k <V_k, W>/(||V_k|| ||W||) above it.
    sequences : tuple of int
        The sequences whose constraints carry positive weight.
    proved : bool
        Whether weights that cancel exactly are known to exist, without rounding. Where False, the bound on the relative
        margin is what is proved, and it is of the size of rounding.
    """

    def __init__(self, message: str, farkas: Array, residual: float, sequences: tuple[int, ...], proved: bool = True):
        super().__init__(message)
        self.farkas = farkas
        self.residual = residual
        self.sequences = sequences
        self.proved = proved


class SolverError(TokenMarginError):
    """A solver stopped without a solution that its certificate accepts."""


class UnboundedStepError(TokenMarginError):
    """A step is so long that float64 cannot resolve the margins it makes: an absurd length, or Polyak's where attention
    has saturated on a wrong token, the loss gap is O(1) and the gradient is not."""


class LostStepError(TokenMarginError):
    """A step that must be taken is lost in rounding: it is too short beside ||W||, or the gradient, or an output
    whose slope decides it, cancels to rounding."""


class FloatRangeError(TokenMarginError, ArithmeticError):
    """A number that the answer needs is no finite float64: not a number, too large, or too small; the message names it."""


class AssumptionError(TokenMarginError):
    """A formula was asked for outside the assumptions under which it is a theorem."""
