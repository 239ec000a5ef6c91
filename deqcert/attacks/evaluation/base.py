"""Every attack on every image of a run, a few images at a time, a line on the disk for each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from deqcert.attacks.base import Attack
from deqcert.attacks.evaluation.certified import CertifiedImage
from deqcert.attacks.evaluation.outcome import Outcome, outcome_layout
from deqcert.attacks.target import Target
from deqcert.certifiers.certificate import Norm
from deqcert.errors import ConfigError

if TYPE_CHECKING:
    from deqcert.data import Dataset
    from deqcert.runs import Layout, Run

GRID = 3
"""Radii that every image is attacked at besides its certified one."""


@dataclass(frozen=True)
class Group:
    """Images that are attacked together, and all that is known of them.

    Attributes:
        images: Their certificates.
        x: Their pixels, shape (N, C, H, W), in [0, 1].
        labels: Their true classes.
    """

    images: Sequence[CertifiedImage]
    x: Tensor
    labels: Sequence[int]

    @classmethod
    def of(cls, images: Sequence[CertifiedImage], dataset: Dataset) -> Group:
        """Read images from their data set."""
        indices = [image.index for image in images]
        x = torch.from_numpy(dataset.batch(indices))
        return cls(tuple(images), x, [dataset.label(index) for index in indices])


@dataclass(frozen=True, kw_only=True)
class Evaluation(ABC):
    """Attacks, and what they are held against.

    Args:
        target: What the attacks climb on.
        attacks: One or more, each name once.
        grid: Radii that every image is attacked at, above 0, besides its certified one.
        norm: Of the certified balls, which every attack must know.
        rows: Rows that are differentiated together, from 1; memory grows with them.
        facts: What an alarm must name besides, such as the model's hash.

    Raises:
        ConfigError: If there are no attacks, two of one name, one that does not fit the target or
            the norm, or a radius or number out of range.
    """

    target: Target
    attacks: Sequence[Attack]
    grid: Sequence[float]
    norm: Norm = "l2"
    rows: int = 256
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [attack.name for attack in self.attacks]
        if not names or len(set(names)) < len(names):
            raise ConfigError("name at least one attack, and each only once.")
        for attack in self.attacks:
            attack.check(self.target, self.norm)
        if not self.grid or not all(0.0 < radius < float("inf") for radius in self.grid):
            raise ConfigError("attacked radii must be one or more finite numbers above 0.")
        if isinstance(self.rows, bool) or self.rows < 1:
            raise ConfigError(f"rows is {self.rows}, but it must be a whole number from 1.")

    @property
    def together(self) -> int:
        """Images attacked together."""
        most = max(attack.view.copies for attack in self.attacks)
        return max(1, self.rows // (most * (1 + len(self.grid))))

    @property
    def layout(self) -> Layout:
        """What the lines of the journal hold."""
        return outcome_layout(self.attacks, smoothed=self.target.sigma is not None)

    def parameters(self) -> dict[str, Any]:
        """Return what decides the outcomes besides model, images and certificates, as JSON."""
        return {
            "attacks": [attack.describe() for attack in self.attacks],
            "grid": list(self.grid),
            "rows": self.rows,
        }

    @abstractmethod
    def outcomes(self, group: Group) -> list[Outcome]:
        """Attack images together, and return what was found per image; :meth:`run` calls it."""

    def each(self, groups: Iterator[Group]) -> Generator[list[Outcome]]:
        """Attack one group after the other, in this process."""
        yield from map(self.outcomes, groups)

    def run(
        self,
        run: Run,
        images: Sequence[CertifiedImage],
        dataset: Dataset,
        tell: Callable[[Outcome], None] | None = None,
        each: Callable[[Iterator[Group]], Generator[list[Outcome]]] | None = None,
    ) -> None:
        """Attack what remains of a run; an image's line is on the disk before the next one's.

        Args:
            run: An open run, with the layout of the attacks' outcomes.
            images: The images of the run, all of them and in its order.
            dataset: Where the images are.
            tell: Called after each line is safe.
            each: Returns the outcomes of every group, in order; :meth:`each` if not given.

        Raises:
            RunError: If a line or an alarm could not be written; everything before it is safe.
        """
        size = self.together
        # Always the same images together, wherever a run was stopped: last bits may depend on it.
        firsts = range(run.done // size * size, len(images), size)
        groups = (Group.of(images[first : first + size], dataset) for first in firsts)
        with closing((each or self.each)(groups)) as found:
            for outcome in (outcome for outcomes in found for outcome in outcomes):
                if outcome.idx not in run.remaining:
                    continue
                for alarm in outcome.alarms:
                    alarm.save(run.folder)
                run.append(outcome)
                if tell is not None:
                    tell(outcome)

    def points(
        self,
        attack: Attack,
        x: Tensor,
        images: Sequence[CertifiedImage],
        away: Sequence[int],
        device: torch.device,
        dtype: torch.dtype,
    ) -> Tensor:
        """Attack images at their certified radius and at every radius of the grid.

        Args:
            attack: The attack.
            x: The images, shape (N, C, H, W).
            images: Their certificates.
            away: Class to get away from per image.
            device: Where the model is.
            dtype: What it computes in.

        Returns:
            Shape (N, 1 + len(grid), C, H, W), float32, on the CPU.
        """
        radii = torch.tensor([[image.radius, *self.grid] for image in images], dtype=torch.float64)
        each = radii.shape[1]
        rows = x.to(device, dtype).repeat_interleave(each, dim=0)
        y = torch.tensor(list(away), device=device).repeat_interleave(each)
        indices = np.repeat([image.index for image in images], each).tolist()
        balls = radii.flatten().to(device)
        found = attack.run(self.target, rows, y, indices, radius=balls, norm=self.norm)
        return found.float().cpu().unflatten(0, (len(images), each))  # type: ignore[no-untyped-call, no-any-return]


def radii_up_to(reach: float) -> tuple[float, ...]:
    """Return the radii of a grid that ends there.

    Args:
        reach: Largest radius attacked.

    Raises:
        ConfigError: If it is not above 0.
    """
    if not 0.0 < reach < float("inf"):
        raise ConfigError(f"reach is {reach}, but it must be above 0.")
    return tuple(reach * step / GRID for step in range(1, GRID + 1))


def check_certified(images: Sequence[CertifiedImage]) -> None:
    """Refuse images none of which has a certificate.

    Raises:
        ConfigError: If no radius is above 0.
    """
    if not any(image.radius > 0.0 for image in images):
        raise ConfigError("none of the chosen images has a certificate; attack others.")
