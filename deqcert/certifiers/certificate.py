"""The answer for one input, whoever certified it and however."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from deqcert.certifiers.bounds import round_down, write_radius
from deqcert.errors import ConfigError

Norm = Literal["l2", "linf"]
"""How the size of a perturbation is measured: its length, or its largest change of a pixel."""

LARGEST_RADIUS = 1e6
"""Largest radius that is believed: the distance between black and white at 10^12 pixels."""

NORMS: tuple[Norm, ...] = get_args(Norm)


@dataclass(frozen=True, slots=True)
class NoiseDetails:
    """What a certificate from noise rests on.

    Attributes:
        p_lower: Lower bound of the probability of the class under the noise.
        sigma: Standard deviation of the noise, in input units ([0, 1] pixels), as asked for; the
            radius goes by the float32 nearest to it where that is smaller.
        n0: Noisy samples that chose the class.
        n: Noisy samples that bounded its probability; with a goal, as many as were drawn.
        votes: Samples among n that voted for the class.
        audited: Samples solved again by the reference to audit the votes.
        disagreements: Audited samples whose class changed.
        seed: Seed of the noise.
        charge: Part of the certificate's alpha that pays for how exact noise is drawn.
    """

    p_lower: float
    sigma: float
    n0: int
    n: int
    votes: int
    audited: int
    disagreements: int
    seed: int
    charge: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Certificate:
    """A class, a radius, and what they rest on.

    Attributes:
        prediction: Class that the certified classifier answers within the radius; None abstains.
        radius: Radius in input units ([0, 1] pixels), rounded down to 6 decimals whatever is given,
            so that run folders and tables hold this very number; 0 when abstaining.
        norm: Norm of the perturbations that the radius is about: "l2" or "linf".
        alpha: Probability, over the method's own randomness, that the certificate is wrong; 0 for
            a proof.
        method: Name of the certifier.
        sound: Whether the method's guarantee is proven.
        assumptions: What the certificate is about and what it assumes, in words.
        nfe: Cell evaluations in all, start-up, selection and audit included; a learned start
            counts by its cost.
        seconds: Wall time, in seconds.
        details: What only this kind of method has to say, such as :class:`NoiseDetails`: an object
            of the class that the certifier calls its ``record``; None where there is nothing.

    Raises:
        ConfigError: If a value is impossible, such as a radius without a class.
    """

    prediction: int | None
    radius: float
    norm: Norm = "l2"
    alpha: float
    method: str
    sound: bool = True
    assumptions: str
    nfe: float
    seconds: float
    details: Any = None

    def __post_init__(self) -> None:
        # Other people's certifiers bring NumPy's numbers along, which JSON does not know.
        if self.prediction is not None:
            object.__setattr__(self, "prediction", operator.index(self.prediction))
        for name in ("radius", "alpha", "seconds"):
            object.__setattr__(self, name, float(getattr(self, name)))
        nfe: Any = self.nfe
        whole = hasattr(nfe, "__index__")
        object.__setattr__(self, "nfe", operator.index(nfe) if whole else float(nfe))
        if self.norm not in NORMS:
            raise ConfigError(f"norm is {self.norm!r}, but it must be one of {', '.join(NORMS)}.")
        abstains = self.prediction is None
        if not 0.0 <= self.radius <= LARGEST_RADIUS or (abstains and self.radius > 0.0):
            raise ConfigError(
                f"radius is {self.radius}, but it must be a finite number from 0 to "
                f"{LARGEST_RADIUS:g}, and 0 without a class; where nothing changes the class, give "
                "the size of the input's range."
            )
        object.__setattr__(self, "radius", float(round_down(self.radius)))
        if not 0.0 <= self.alpha < 1.0:
            raise ConfigError(f"alpha is {self.alpha}, but it must be from 0 to below 1.")

    def __repr__(self) -> str:
        """Return the gist, the radius rounded down to 3 decimals; attributes hold all of it."""
        radius = write_radius(self.radius, 3)
        unsound = "" if self.sound else ", sound=False"
        return (
            f"Certificate(prediction={self.prediction}, radius={radius}, norm={self.norm!r}, "
            f"alpha={self.alpha:g}, method={self.method!r}{unsound}, ...)"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values; :meth:`from_dict` makes an equal certificate of it."""
        values = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "details"
        }
        details = None
        if self.details is not None:
            details = {
                field.name: _plain(getattr(self.details, field.name))
                for field in dataclasses.fields(self.details)
            }
        return values | {"details": details}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Certificate:
        """Make a certificate from what :meth:`to_dict` returned.

        Args:
            data: The values; details become an object of the record class of the certifier that
                ``data["method"]`` names.

        Raises:
            ConfigError: If the method is unknown, or the values are not a certificate's.
        """
        from deqcert.certifiers.registry import certifier_class

        values = dict(data)
        record = certifier_class(str(values.get("method"))).record
        try:
            details = values.pop("details", None)
            if details is not None:
                if record is None:
                    raise TypeError("its method has no record for details")
                details = record(**{key: _frozen(value) for key, value in details.items()})
            return cls(**values, details=details)
        except (TypeError, AttributeError) as error:
            raise ConfigError(f"these are not the values of a certificate: {error}.") from None


def _plain(value: Any) -> Any:
    """Return a value of a record as JSON takes it: tuples become lists."""
    return [_plain(part) for part in value] if isinstance(value, tuple) else value


def _frozen(value: Any) -> Any:
    """Return a JSON value as a record holds it: lists become tuples."""
    return tuple(_frozen(part) for part in value) if isinstance(value, list) else value
