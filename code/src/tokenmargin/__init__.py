"""Max-margin token selection of one softmax attention layer.

Rooms, in the order in which data flow and in which the book reads: ``data``, ``model``, ``margin``, ``training``,
``measures``, ``theory``, ``studies``; and ``neighbours``, one module a related paper. The names below are the front door;
each loads its room when it is first used.
"""

from __future__ import annotations

from importlib import import_module

_ROOMS = {
    "Sequences": "data.sequences",
    "TokenProblem": "data.problem",
    "gaussian": "data.synthetic",
    "orthogonal": "data.synthetic",
    "read_npz": "data.npz",
    "solve_token_svm": "margin.token_svm",
    "train": "training.train",
    "GradientDescent": "training.rules",
    "NormalizedGD": "training.rules",
    "Polyak": "training.rules",
    "train_joint": "training.joint",
    "from_npz": "training.from_file",
    "direction_error": "measures.trajectory",
    "conditions": "theory.conditions",
    "e_inf": "theory.residual",
    "stability_threshold": "theory.residual",
    "rates": "theory.rates",
}
__all__ = sorted(_ROOMS)


def __getattr__(name: str) -> object:
    """A public name, from its room (PEP 562)."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(f".{_ROOMS[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
