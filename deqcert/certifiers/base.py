"""What every certifier offers, whether it draws noise or proves without any."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from deqcert.certifiers.certificate import Norm
from deqcert.certifiers.goals import Goal
from deqcert.options import options_of

if TYPE_CHECKING:
    from deqcert.certifiers.certificate import Certificate
    from deqcert.smoothing import Input

T = TypeVar("T")


@dataclass(frozen=True)
class Certifier(ABC, Generic[T]):
    """Certify inputs: a class and a radius within which it cannot change.

    Labels never enter. A subclass is a frozen dataclass that says in its docstring what it
    guarantees. Its fields are what it needs: options declared by :mod:`deqcert.options`, and
    objects that whoever makes it has at hand, such as a ``predictor``.

    ``T`` is what it looks at: the :class:`deqcert.smoothing.SmoothingEngine` for a method that
    draws noise (derive from :class:`deqcert.certifiers.SmoothingCertifier`), and the
    :class:`deqcert.models.ImplicitModel` itself for one that proves without.

    Attributes:
        name: What it is asked for by.
        sound: Whether the guarantee is proven.
        norm: Norm of the perturbations: "l2" or "linf".
        noise: Whether it draws noise, so that it looks at an engine.
        record: Class of its certificates' ``details``: a dataclass of numbers, text, None and
            tuples of these; None where there are none.
    """

    name: ClassVar[str]
    sound: ClassVar[bool] = True
    norm: ClassVar[Norm] = "l2"
    noise: ClassVar[bool] = False
    record: ClassVar[type[Any] | None] = None

    @abstractmethod
    def certify(self, subject: T, input: Input, /) -> Certificate:
        """Certify one input.

        Args:
            subject: The engine, which holds the model, sigma and the seed; without noise, the
                model.
            input: The input, and the index that selects its noise.

        Raises:
            DataError: If the input does not fit the model.
        """

    def check(self, subject: T, /) -> None:
        """Refuse a model or noise that cannot serve, before the first solve; here none.

        Args:
            subject: What :meth:`certify` will be given.

        Raises:
            ConfigError: If there is something of that kind.
        """

    def notes(self, subject: T, /) -> dict[str, Any]:
        """Return what a run folder should say of what was used, as JSON values; here nothing.

        Args:
            subject: What :meth:`certify` will be given, after :meth:`check`.
        """
        return {}

    def forecast(self, subject: T, input: Input, /) -> tuple[float, float]:
        """Forecast what a run costs, by certifying one input.

        Returns:
            Seconds that are spent once before the first certificate, here none that are known; and
            seconds for an input.
        """
        return 0.0, self.certify(subject, input).seconds

    @abstractmethod
    def assumptions(self) -> str:
        """Say what the certificates are about and what they assume."""

    def about(self) -> str:
        """Name the classifier that the certificates are about, in a few words for a table.

        Here the model itself. A method whose certificates are about what a solve makes of it, such
        as "the 1-evaluation classifier", says so.
        """
        return "the model itself"

    def parameters(self) -> dict[str, Any]:
        """Return what decides the certificates, as JSON values for a manifest.

        The method, the norm if it is not l2, and every option; an option that is None is left out.
        """
        found: dict[str, Any] = {"method": self.name}
        if self.norm != "l2":
            found["norm"] = self.norm
        for name in options_of(type(self)):
            value = getattr(self, name)
            if value is not None:
                found[name] = value.describe() if isinstance(value, Goal) else value
        return found

    @classmethod
    def summary(cls) -> str:
        """Return the first line of the docstring, for help texts; a warning with it if unsound."""
        first = (inspect.getdoc(cls) or cls.name).split("\n", 1)[0]
        return first if cls.sound else f"UNSOUND. {first}"
