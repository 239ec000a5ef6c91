"""What was prepared for a network, kept for the next question about the same weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from deqcert.models.base import ImplicitModel
from deqcert.models.hashes import weights_hash

MOST = 8
"""Things of one kind that are kept; the oldest goes first."""

T = TypeVar("T")


class Known(Generic[T]):
    """Things that are prepared once for a network and some parameters.

    A network is known by its weights and its configuration, not by the object that holds them.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[object, ...], T] = {}

    def holds(self, model: ImplicitModel, *parameters: object) -> bool:
        """Return whether it is there already."""
        return self._key(model, parameters) in self._found

    def of(self, model: ImplicitModel, *parameters: object, make: Callable[[], T]) -> T:
        """Return what is known of a network, made now if it is not.

        Args:
            model: The network.
            *parameters: What else it depends on.
            make: How it is made.
        """
        key = self._key(model, parameters)
        if key not in self._found:
            made = make()
            while len(self._found) >= MOST:
                del self._found[next(iter(self._found))]
            self._found[key] = made
        return self._found[key]

    @staticmethod
    def _key(model: ImplicitModel, parameters: tuple[object, ...]) -> tuple[object, ...]:
        return weights_hash(model), repr(getattr(model, "config", type(model))), *parameters
