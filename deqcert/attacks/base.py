"""What an attack is: a climb, which searches ball and box, on a view of the classifier."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deqcert.attacks.ball import Ball, column
from deqcert.attacks.target import Target
from deqcert.certifiers.certificate import NORMS, Norm
from deqcert.errors import ConfigError, DataError
from deqcert.options import Option, check_options, options_of
from deqcert.registry import unknown_option
from deqcert.smoothing.seed import noise_key
from deqcert.smoothing.stage import Stage

Scores = Callable[[Tensor], Tensor]
"""Images, shape (B, C, H, W), to logits or log-probabilities, shape (B, K), differentiable."""


@dataclass(frozen=True)
class Task:
    """What a climb works on.

    Args:
        scores: What it may look at.
        x: Images in [0, 1], shape (B, C, H, W).
        y: Class to get away from per row, shape (B,), int64.
        radius: Radius of the ball per row, shape (B,), float64, at least 0.
        generators: One source of random numbers per row, which nothing else uses.
        norm: Of the ball; one of the climb's :attr:`Climb.norms`.
        smoothed: Whether the classifier is a smoothed one; decides what :meth:`loss` is.
    """

    scores: Scores
    x: Tensor
    y: Tensor
    radius: Tensor
    generators: Sequence[np.random.Generator]
    norm: Norm = "l2"
    smoothed: bool = True

    def loss(self, x: Tensor) -> Tensor:
        """Return what is climbed on per row, shape (B,); see :meth:`loss_of`."""
        return self.loss_of(self.scores(x))

    def loss_of(self, scores: Tensor) -> Tensor:
        """Return the loss of scores, shape (B, K), per row, shape (B,).

        The cross-entropy; where the model itself is attacked, the margin. The logits of a model
        that proves something lie near each other: the cross-entropy then climbs towards all other
        classes at once, and often towards none.
        """
        if not self.smoothed:
            return margin(scores, self.y)
        return F.cross_entropy(scores, self.y, reduction="none")

    def margin(self, x: Tensor) -> Tensor:
        """Return by how much the best other class leads per row, shape (B,); see :func:`margin`."""
        return margin(self.scores(x), self.y)


@dataclass(frozen=True)
class Climb(ABC):
    """A search inside ball and box for images that score another class.

    A subclass is a frozen dataclass whose fields are its options, declared with
    :mod:`deqcert.options`.

    Attributes:
        norms: Norms of the balls that it can search.

    Raises:
        ConfigError: If an option is out of range.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("l2",)

    def __post_init__(self) -> None:
        check_options(self)

    @abstractmethod
    def climb(self, task: Task) -> Tensor:
        """Return the point found per row, shape (B, C, H, W), inside ball and box.

        It is a function of the task alone: rows do not see each other, and what is random comes
        from the task's generators.
        """


@dataclass(frozen=True)
class View(ABC):
    """What a climb gets to see of the classifier.

    A subclass is a frozen dataclass; what a user may set is declared with :mod:`deqcert.options`.

    Attributes:
        smoothed: Whether it is a view of the smoothed classifier rather than of the base one.

    Raises:
        ConfigError: If an option is out of range.
    """

    smoothed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def copies(self) -> int:
        """Copies per image that the model sees at once, from 1."""
        return 1

    @abstractmethod
    def scores(self, target: Target, indices: Sequence[int]) -> Scores:
        """Return the scores to climb on, the same function at every call.

        Args:
            target: What is attacked.
            indices: Index in its data set per row; decides the row's noise.
        """


@dataclass(frozen=True)
class Attack:
    """A named attack: a climb on a view, each with its options.

    Args:
        name: What the registry calls it.
        climb: The search.
        view: What it climbs on.
    """

    name: str
    climb: Climb
    view: View

    @property
    def smoothed(self) -> bool:
        """Whether it attacks the smoothed classifier rather than the base classifier."""
        return self.view.smoothed

    @property
    def norms(self) -> tuple[Norm, ...]:
        """Norms of the balls that it can search."""
        return self.climb.norms

    def check(self, target: Target, norm: str) -> None:
        """Refuse a target or a norm that it is not made for.

        Raises:
            ConfigError: If it climbs on a smoothed classifier and the target is none, it cannot
                search balls of that norm, or there is no such norm.
        """
        if norm not in NORMS:
            raise ConfigError(f"norm is {norm!r}, but it must be one of {', '.join(NORMS)}.")
        if norm not in self.norms:
            raise ConfigError(
                f"attack '{self.name}' knows balls of {', '.join(self.norms)} only, not of {norm}; "
                "give another attack, such as apgd-implicit."
            )
        if self.smoothed and target.sigma is None:
            raise ConfigError(
                f"attack '{self.name}' climbs on a smoothed classifier, and this is none; give "
                "another attack, such as apgd-implicit."
            )

    @property
    def options(self) -> Mapping[str, Option]:
        """The options of climb and view by name; their defaults are this attack's values."""
        return {
            name: dataclasses.replace(option, default=getattr(part, name))
            for part in (self.climb, self.view)
            for name, option in options_of(type(part)).items()
        }

    def with_options(self, **options: Any) -> Attack:
        """Return the same attack with other values.

        Raises:
            ConfigError: If it has no such option, or a value is out of range.
        """
        known = self.options
        for name in options:
            if name not in known:
                raise ConfigError(unknown_option(f"attack '{self.name}'", name, known))

        def changed(part: Any) -> Any:
            mine = {name: options[name] for name in options_of(type(part)) if name in options}
            return dataclasses.replace(part, **mine)

        return dataclasses.replace(self, climb=changed(self.climb), view=changed(self.view))

    def describe(self) -> str:
        """Write it as the command line takes it, as in "square:steps=100,draws=8"."""
        pairs = ",".join(f"{name}={option.default}" for name, option in self.options.items())
        return f"{self.name}:{pairs}" if pairs else self.name

    def run(
        self,
        target: Target,
        x: Tensor,
        y: Tensor,
        indices: Sequence[int],
        *,
        radius: float | Tensor,
        norm: Norm = "l2",
    ) -> Tensor:
        """Look for images of another class inside ball and box.

        Args:
            target: What is attacked.
            x: Images in [0, 1], shape (B, C, H, W).
            y: Class to get away from per row, shape (B,), int64.
            indices: Index in its data set per row; with the target's seed it decides all that is
                random, so that a row's result does not depend on its batch-mates.
            radius: Of the ball around each image, at least 0; a number, or one per row.
            norm: Of the ball, one of :attr:`norms`.

        Returns:
            Shape (B, C, H, W), inside ball and box. By the attack's own scores no row is further
            from another class than where it started. Whether the class has really changed is for
            the classifier itself to say.

        Raises:
            ConfigError: If the radius is out of range, or the attack does not know the norm.
            DataError: If images, classes and indices do not fit together.
        """
        self.check(target, norm)
        radii = Ball(x, radius, norm).radii
        if not len(x) == len(y) == len(indices):
            raise DataError(
                f"there are {len(x)} images, {len(y)} classes and {len(indices)} indices; an "
                "attack needs one of each per row."
            )
        x = x.detach()
        generators = [
            np.random.Generator(
                np.random.Philox(
                    np.random.SeedSequence(
                        [noise_key(target.seed, i, Stage.ATTACK), i, int(Stage.ATTACK)]
                    )
                )
            )
            for i in map(int, indices)
        ]
        task = Task(
            self.view.scores(target, indices),
            x,
            y,
            radii,
            generators,
            norm,
            target.sigma is not None,
        )
        found = self.climb.climb(task)
        with torch.no_grad():
            better = task.margin(found) > task.margin(x)
        return torch.where(column(better), found, x)


def margin(scores: Tensor, y: Tensor) -> Tensor:
    """Return the best other class's score minus that of y, shape (B,); -inf where not finite."""
    own = scores.gather(1, y[:, None]).squeeze(1)
    others = scores.scatter(1, y[:, None], -torch.inf).amax(dim=1)
    gap = others - own
    return torch.where(torch.isfinite(gap), gap, -torch.inf)
