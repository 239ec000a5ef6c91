"""A reference: what a clean run looked like, and of which model, noise and method."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from deqcert.conformal.calibration import ABOUT as SCORED
from deqcert.errors import ConfigError
from deqcert.runs.manifest import Manifest
from deqcert.sealed import SealedFormat, content_hash
from deqcert.watch.alarms import RATES
from deqcert.watch.observations import Observation

FORMAT = SealedFormat(
    "deqcert-reference",
    1,
    "reference",
    "give what deqcert watch-reference has written",
    "make it again",
)

ABOUT = (*SCORED, "method", "n0", "n", "alpha", "audit", "goal", "deadline", "norm")
"""Parameters that decide an answer: a reference says nothing of others."""

WHERE = ("data_hash", "split", "seed", "images")
RECORD = "record"
"""What tells the reference's own run from others; and a service's record from another."""


@dataclass(frozen=True)
class Distance:
    """How far a latent is from the nearest class, with the covariance that all share.

    Attributes:
        means: Shape (K, m).
        root: Lower Cholesky factor of the covariance, shape (m, m).
    """

    means: NDArray[np.float64]
    root: NDArray[np.float64]

    def __call__(self, latents: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the smallest squared Mahalanobis distance, shape (n, m) to (n,)."""
        import scipy.linalg

        def whitened(rows: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.asarray(scipy.linalg.solve_triangular(self.root, rows.T, lower=True).T)

        z, centres = whitened(latents), whitened(self.means)
        apart = [np.square(z - centre).sum(axis=1) for centre in centres]
        return np.asarray(np.min(apart, axis=0))


@dataclass(frozen=True)
class Reference:
    """What is normal.

    Args:
        parameters: What decided the answers, those of :data:`ABOUT`; and :data:`WHERE`.
        radius: r0, which the alarm on radii holds answers against.
        events: Per alarm on a rate how often it happened, and among how many.
        scores: Per score its values, in the order of the run.
        distance: What the score "mahalanobis" is measured by; None where there is none.
        notes: Names and paths as they were given.
    """

    parameters: Mapping[str, Any]
    radius: float
    events: Mapping[str, tuple[int, int]]
    scores: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    distance: Distance | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def alarms(self) -> tuple[str, ...]:
        """The alarms that it can carry."""
        return (*self.events, *self.scores)

    def rows(self, alarm: str) -> int:
        """Return how many answers an alarm's tolerance rests on."""
        return self.events[alarm][1] if alarm in self.events else len(self.scores[alarm])

    def check_about(self, now: Mapping[str, Any]) -> None:
        """Refuse answers of another model, noise or method, and the reference's own.

        Raises:
            ConfigError: If they are; the sentence names what differs.
        """
        before, after = (
            Manifest({key: given.get(key) for key in ABOUT}, ()) for given in (self.parameters, now)
        )
        if differing := before.differences(after):
            raise ConfigError(
                f"the reference is of something else ({'; '.join(differing[:4])}); watch what it "
                "was made for, or make another with deqcert watch-reference"
            )
        if all(self.parameters.get(key) == now.get(key) is not None for key in WHERE):
            raise ConfigError(
                "these answers are the reference itself, which says nothing of new ones; give "
                "another run"
            )

    @property
    def content(self) -> dict[str, Any]:
        """Everything as JSON values."""
        found = self.distance
        return {
            **FORMAT.head(),
            "parameters": dict(self.parameters),
            "radius": self.radius,
            "events": {name: list(counts) for name, counts in self.events.items()},
            "scores": {name: list(values) for name, values in self.scores.items()},
            "distance": None
            if found is None
            else {"means": _packed(found.means), "root": _packed(found.root)},
            "notes": dict(self.notes),
        }

    @property
    def sha256(self) -> str:
        """A hash of everything."""
        return content_hash(self.content)

    def write(self, path: Path) -> None:
        """Write it into a file, whole or not at all.

        Raises:
            RunError: If it cannot be written.
        """
        FORMAT.write(path, self.content, "give another file with --out")

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a file that :meth:`write` wrote.

        Raises:
            RunError: If it is not there, damaged, or was changed.
        """
        content = FORMAT.read(path)
        try:
            kept = content["distance"]
            return cls(
                parameters=dict(content["parameters"]),
                radius=float(content["radius"]),
                events={name: (int(k), int(n)) for name, (k, n) in content["events"].items()},
                scores={name: tuple(map(float, v)) for name, v in content["scores"].items()},
                distance=None
                if kept is None
                else Distance(_unpacked(kept["means"]), _unpacked(kept["root"])),
                notes=dict(content["notes"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            raise FORMAT.damaged(path) from None


def make_reference(
    rows: Sequence[Observation],
    parameters: Mapping[str, Any],
    radius: float,
    *,
    scores: Mapping[str, Sequence[float]] | None = None,
    distance: Distance | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Reference:
    """Count what happened in a clean run.

    Args:
        rows: Its answers.
        parameters: What decided them.
        radius: r0.
        scores: Values per score.
        distance: What the score "mahalanobis" is measured by; fitted to other rows than those whose
            values are given.
        notes: Names and paths.

    Raises:
        ConfigError: If a score is not finite.
    """
    events: dict[str, tuple[int, int]] = {}
    for name in RATES:
        told = [RATES.get(name).event(row, radius) for row in rows]
        if known := [one for one in told if one is not None]:
            events[name] = (sum(known), len(known))
    given = {name: tuple(map(float, values)) for name, values in (scores or {}).items()}
    for name, values in given.items():
        if not all(map(math.isfinite, values)):
            raise ConfigError(
                f"a score '{name}' of the reference is not finite: the model diverges on a clean "
                "image; leave the looks without noise out with --no-clean"
            )
    kept = {key: parameters[key] for key in (*ABOUT, *WHERE, RECORD) if key in parameters}
    return Reference(kept, radius, events, given, distance, dict(notes or {}))


def _packed(array: NDArray[np.float64]) -> dict[str, Any]:
    data = base64.b64encode(np.ascontiguousarray(array, dtype="<f8").tobytes()).decode()
    return {"shape": list(array.shape), "float64": data}


def _unpacked(kept: Mapping[str, Any]) -> NDArray[np.float64]:
    data = np.frombuffer(base64.b64decode(kept["float64"], validate=True), dtype="<f8")
    return data.reshape(kept["shape"]).astype(np.float64)
