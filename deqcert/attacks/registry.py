"""The attacks by name: each is a way to climb on a way to score."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deqcert.attacks import scores as views
from deqcert.attacks.apgd import apgd
from deqcert.attacks.ball import ascent, check_attack, column, project, unit
from deqcert.attacks.ddn import ddn
from deqcert.attacks.pgd import pgd
from deqcert.attacks.scores import Scores, Target
from deqcert.attacks.square import square
from deqcert.errors import ConfigError, DataError
from deqcert.models.implicit_grad import get_gradient
from deqcert.smoothing.stage import Stage


@dataclass(frozen=True)
class Task:
    """What one attack works on.

    Args:
        scores: What it may look at.
        x: Images in [0, 1], shape (B, C, H, W).
        y: Classes to get away from, shape (B,).
        radius: Of each row's ball, shape (B,).
        steps: Its budget.
        draws: Each row's own source of random numbers.
    """

    scores: Scores
    x: Tensor
    y: Tensor
    radius: Tensor
    steps: int
    draws: Sequence[np.random.Generator]

    def cross_entropy(self, x: Tensor) -> Tensor:
        """Return each row's loss, shape (B,)."""
        return F.cross_entropy(self.scores(x), self.y, reduction="none")

    def margin(self, x: Tensor) -> Tensor:
        """Return by how much the best other class leads, shape (B,); -inf if not finite."""
        return margin(self.scores(x), self.y)


Climb = Callable[[Task], Tensor]
View = Callable[[Target, Sequence[int], int], Scores]


@dataclass(frozen=True)
class Attack:
    """A named attack with its budget.

    Args:
        name: What the registry calls it.
        climb: The search.
        view: Makes what it climbs on from the target, the rows' image indices and the draws.
        steps: Gradient steps, or queries of an attack without gradients; from 1.
        draws: Noise vectors that the smoothed classifier is estimated from, from 1; None for an
            attack on the base classifier.
        source: Who published it.

    Raises:
        ConfigError: If a number is out of range.
    """

    name: str
    climb: Climb
    view: View
    steps: int
    draws: int | None
    source: str

    def __post_init__(self) -> None:
        for option in self.options:
            value = getattr(self, option)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{option} is {value!r}, but it must be a whole number from 1.")

    @property
    def smoothed(self) -> bool:
        """Whether it attacks the smoothed classifier rather than the base classifier."""
        return self.draws is not None

    @property
    def options(self) -> dict[str, Any]:
        """Its knobs and their values."""
        return {"steps": self.steps} | ({"draws": self.draws} if self.smoothed else {})

    def describe(self) -> str:
        """Write it as the command line takes it."""
        return f"{self.name}:{','.join(f'{key}={value}' for key, value in self.options.items())}"

    def run(
        self,
        target: Target,
        x: Tensor,
        y: Tensor,
        images: Sequence[int],
        *,
        radius: float | Tensor,
    ) -> Tensor:
        """Look for images of another class inside ball and box.

        Args:
            target: What is attacked.
            x: Images in [0, 1], shape (B, C, H, W).
            y: Classes to get away from, shape (B,), int64.
            images: Index of each row's image in its data set; with the target's seed it decides
                all that is random, so that a row's result does not depend on its batch-mates.
            radius: Of the l2 ball around each image, at least 0; a number or one a row.

        Returns:
            Shape (B, C, H, W), inside ball and box. By the attack's own scores no row is further
            from another class than where it started. Whether the class has really changed is for
            the classifier itself to say.

        Raises:
            ConfigError: If a number is out of range.
            DataError: If images, classes and indices do not fit together.
        """
        radii = check_attack(x, radius, self.steps)
        if not len(x) == len(y) == len(images):
            raise DataError(
                f"there are {len(x)} images, {len(y)} classes and {len(images)} indices; an attack "
                "needs one of each a row."
            )
        x = x.detach()
        streams = [
            np.random.Generator(
                np.random.Philox(np.random.SeedSequence([target.seed, i, int(Stage.ATTACK)]))
            )
            for i in map(int, images)
        ]
        scores = self.view(target, images, self.draws or 0)
        task = Task(scores, x, y, radii, self.steps, streams)
        found = self.climb(task)
        with torch.no_grad():
            better = task.margin(found) > task.margin(x)
        return torch.where(column(better), found, x)


def margin(scores: Tensor, y: Tensor) -> Tensor:
    """Return the best other class's score minus that of y, shape (B,); -inf where not finite."""
    own = scores.gather(1, y[:, None]).squeeze(1)
    others = scores.scatter(1, y[:, None], -torch.inf).amax(dim=1)
    gap = others - own
    return torch.where(torch.isfinite(gap), gap, -torch.inf)


def _pgd(task: Task) -> Tensor:
    """Climb by projected gradients and keep each row's best point: the last need not be it."""
    best, top = task.x, torch.full_like(task.radius, -torch.inf)

    def look(points: Tensor) -> Tensor:
        nonlocal best, top
        scores = task.scores(points)
        gap = margin(scores.detach(), task.y).to(top)
        better = gap > top
        best = torch.where(column(better), points.detach(), best)
        top = torch.where(better, gap, top)
        return F.cross_entropy(scores, task.y, reduction="none")

    last = pgd(look, task.x, radius=task.radius, steps=task.steps)
    with torch.no_grad():
        look(last)
    return best


def _apgd(task: Task) -> Tensor:
    return apgd(task.cross_entropy, task.x, radius=task.radius, steps=task.steps)


def _ddn(task: Task) -> Tensor:
    """Find the way to the nearest point of another class, and follow it as far as that helps.

    The nearest point is one for the scores, from few draws; a verdict needs a clear lead. Where it
    is x itself, the way is that of the gradient there.
    """
    near = ddn(task.scores, task.x, task.y, radius=task.radius, steps=task.steps)
    moved = (near != task.x).flatten(1).any(dim=1)
    way = torch.where(column(moved), unit(near - task.x), ascent(task.cross_entropy, task.x))
    whole = task.x[0].numel() ** 0.5  # no ball is wider than the box
    far = project(task.x + whole * way, task.x, task.radius)
    with torch.no_grad():
        further = task.margin(far) > task.margin(near)
    return torch.where(column(further), far, near)


def _square(task: Task) -> Tensor:
    return square(task.margin, task.x, radius=task.radius, steps=task.steps, draws=task.draws)


def _base(gradient: str) -> View:
    return lambda target, images, draws: views.base(target, get_gradient(gradient))


def _plain(target: Target, images: Sequence[int], draws: int) -> Scores:
    return views.base(target, target.plain)


def _intermediate(target: Target, images: Sequence[int], draws: int) -> Scores:
    return views.intermediate(target)


def _smoothed(target: Target, images: Sequence[int], draws: int) -> Scores:
    return views.smoothed(target, target.best, images, draws)


_PGD = "Madry et al. 2018"
_APGD = "Croce, Hein 2020"
_YANG = "Yang, Pang, Liu 2022"
_SALMAN = "Salman et al. 2019"
_ATTACKS: dict[str, Attack] = {
    attack.name: attack
    for attack in (
        Attack("pgd-implicit", _pgd, _base("implicit"), 20, None, f"{_PGD}; Bai et al. 2019"),
        Attack("pgd-phantom", _pgd, _base("phantom"), 20, None, f"{_PGD}; Geng et al. 2021"),
        Attack("pgd-unroll", _pgd, _plain, 20, None, _PGD),
        Attack("apgd-implicit", _apgd, _base("implicit"), 40, None, f"{_APGD}; Bai et al. 2019"),
        Attack("apgd-phantom", _apgd, _base("phantom"), 40, None, f"{_APGD}; Geng et al. 2021"),
        Attack("apgd-unroll", _apgd, _plain, 40, None, _APGD),
        Attack("intermediate", _apgd, _intermediate, 20, None, f"{_YANG}; {_APGD}"),
        Attack("smoothadv-pgd", _pgd, _smoothed, 20, 8, _SALMAN),
        Attack("smoothadv-apgd", _apgd, _smoothed, 20, 8, f"{_SALMAN}; {_APGD}"),
        Attack("smoothadv-ddn", _ddn, _smoothed, 20, 8, f"{_SALMAN}; Rony et al. 2019"),
        Attack("square", _square, _smoothed, 100, 8, "Andriushchenko et al. 2020"),
    )
}


def attack_names() -> tuple[str, ...]:
    """Return the names that :func:`get_attack` knows."""
    return tuple(_ATTACKS)


def get_attack(name: str, **options: Any) -> Attack:
    """Make the attack of that name.

    Args:
        name: One of :func:`attack_names`.
        **options: ``steps``; for attacks on the smoothed classifier also ``draws``.

    Raises:
        ConfigError: If there is no such attack, it has no such option, or a value is out of range.
    """
    if name not in _ATTACKS:
        raise ConfigError(f"there is no attack '{name}'; there are {', '.join(_ATTACKS)}.")
    found = _ATTACKS[name]
    for option in options:
        if option not in found.options:
            raise ConfigError(
                f"attack '{name}' has no option '{option}'; it has {', '.join(found.options)}."
            )
    return dataclasses.replace(found, **options)
