"""What every way to make prediction sets offers: evidence per class, and the bar it must reach."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deqcert.conformal.scores import SCORES
from deqcert.conformal.split import least_values
from deqcert.errors import ConfigError
from deqcert.options import check_options, choice, options_of
from deqcert.smoothing.input import Input


@dataclass(frozen=True, slots=True)
class Evidence:
    """What speaks for each class of one input.

    Attributes:
        low: Never more than the evidence, shape (K,); calibration takes this.
        high: Never less, shape (K,); sets take this. The two differ where a solve did not end or
            where bounds are what is known.
        nfe: Cell evaluations.
        unsolved: Copies whose solve did not end in finite logits.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    nfe: float
    unsolved: int = 0


@dataclass(frozen=True)
class SetMethod(ABC):
    """A way to make prediction sets. A subclass says in its docstring what it guarantees.

    A class is in the set of an input if its evidence reaches the bar, and the bar follows from the
    evidence for the true classes of the calibration images. Its fields are its options.

    Attributes:
        name: What it is asked for by.
        noise: Whether evidence is drawn with noise; its source then is a
            :class:`deqcert.smoothing.Copies`, else the model.

    Raises:
        ConfigError: If an option is out of range.
    """

    name: ClassVar[str]
    noise: ClassVar[bool] = True

    score: str = choice("softmax", SCORES)

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def copies(self) -> int:
        """Noisy copies per image; 0 where none is drawn."""
        return 0

    def check(self, source: Any) -> None:  # noqa: B027  most take any source
        """Refuse a source that cannot serve, before the first solve; here none.

        Raises:
            ConfigError: If it cannot.
        """

    @abstractmethod
    def evidence(
        self, source: Any, inputs: Sequence[Input], *, stage: int, radius: float
    ) -> list[Evidence]:
        """Return the evidence per input.

        Args:
            source: The noisy copies, or the model.
            inputs: The inputs.
            stage: What noise is drawn for.
            radius: What a perturbation that has happened may have, in [0, 1] pixels; 0 for
                calibration images.
        """

    @abstractmethod
    def level(self, alpha: float, radius: float, sigma: float) -> float:
        """Return how often the true class's evidence may fall below the bar on clean inputs."""

    @abstractmethod
    def bar(
        self, values: ArrayLike, *, alpha: float, radius: float, sigma: float, charge: float = 0.0
    ) -> float:
        """Return the bar.

        Args:
            values: Evidence for the true class per calibration image, shape (n,).
            alpha: How often a set may miss the true class, in (0, 1).
            radius: l2 size of perturbations, at least 0.
            sigma: Standard deviation of the noise; of no meaning without.
            charge: Part of alpha that pays for how exact noise is drawn.

        Raises:
            ConfigError: If the calibration set is too small.
        """

    def parameters(self) -> dict[str, Any]:
        """Return the method and its options, as JSON values; those that are None are left out."""
        values = {name: getattr(self, name) for name in options_of(type(self))}
        return {"method": self.name, **{k: v for k, v in values.items() if v is not None}}

    def draws(self, n: int) -> int:
        """Return the noisy copies that the set of one input rests on, with n calibration images."""
        return self.copies * (n + 1)

    def enough(self, n: int, alpha: float, radius: float, sigma: float) -> None:
        """Refuse a calibration set that is too small.

        Raises:
            ConfigError: If it is, with what would be enough.
        """
        level = self.level(alpha, radius, sigma)
        least = least_values(level) if level > 1e-15 else None
        if least is None or n < least:
            needs = "no number would be enough" if least is None else f"it needs {least}"
            raise ConfigError(
                f"the calibration set has {n} images, too few for sets that miss at most "
                f"{100 * alpha:.4g}% within radius {radius:g}: {needs}; calibrate on more images, "
                "raise --alpha or lower --radius"
            )

    @classmethod
    def summary(cls) -> str:
        """Return the first line of the docstring, for help texts."""
        return (inspect.getdoc(cls) or cls.name).split("\n", 1)[0]


def members(evidence: Evidence, bar: float) -> tuple[int, ...]:
    """Return the classes whose evidence reaches the bar, ascending."""
    return tuple(int(y) for y in np.flatnonzero(evidence.high >= bar))
