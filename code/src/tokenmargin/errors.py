"""The errors of the package: each names the object, what it must satisfy, and what to do."""


class TokenMarginError(Exception):
    """Base of every error that this package raises on purpose."""


class InvalidProblemError(TokenMarginError, ValueError):
    """The arrays given do not make a token problem."""


class BadFileError(InvalidProblemError):
    """A file does not hold a token problem; the message is one line that says what to change."""

    def _render_traceback_(self) -> list[str]:
        """Notebooks show the line alone: the fault is in the file, not in the code above it."""
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
        Weights >= 0 with sum 1 such that sum_k farkas_k V_k = 0: no W has <V_k, W> >= 1 for all k.
    residual : float
        ||sum_k farkas_k V_k||_F, relative to sum_k farkas_k ||V_k||_F: free of the tokens' units.
    sequences : tuple of int
        The sequences whose constraints carry positive weight.
    """

    def __init__(self, message: str, farkas, residual: float, sequences: tuple[int, ...]):
        super().__init__(message)
        self.farkas = farkas
        self.residual = residual
        self.sequences = sequences


class SolverError(TokenMarginError):
    """A solver stopped without a solution that its certificate accepts."""


class UnboundedStepError(TokenMarginError):
    """Polyak's step has no finite size: a wrong token has saturated, the loss gap is O(1), the gradient is not."""


class AssumptionError(TokenMarginError):
    """A formula was asked for outside the assumptions under which it is a theorem."""
