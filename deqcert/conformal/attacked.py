"""The attacks of ``deqcert attack``, aimed at the true class's place in a prediction set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from numpy.typing import NDArray

from deqcert.attacks.ball import to_grid
from deqcert.attacks.base import Attack
from deqcert.attacks.target import Target
from deqcert.errors import ConfigError
from deqcert.models.base import ImplicitModel
from deqcert.smoothing import Copies, Input, Predictor

ROWS = 256
"""Noisy copies that are differentiated together."""


@dataclass(frozen=True)
class SetAttack:
    """Attacks on sets: each lowers the true class's logit against the others, up to the radius.

    All that a score falls with is a fall of the true class's gaps, which is what every attack
    climbs on; where another attack would stop at a changed class, these go on to the end. They
    draw noise of their own stage, so nothing that they find depends on the noise of the sets.

    Args:
        target: What attacks climb on.
        attacks: The attacks, each name once.
        radius: l2 norm that they may use, above 0.
        levels: Steps of the grid that points are brought to; None for none.
        device: Where the model runs.

    Raises:
        ConfigError: If two attacks have one name.
    """

    target: Target
    attacks: tuple[Attack, ...]
    radius: float
    levels: int | None
    device: torch.device

    def __post_init__(self) -> None:
        if len({attack.name for attack in self.attacks}) < len(self.attacks):
            raise ConfigError("name each attack only once.")

    @classmethod
    def of_noise(
        cls, source: Copies, model: Any, attacks: tuple[Attack, ...], radius: float
    ) -> Self:
        """Attack sets of noisy copies.

        Args:
            source: The noisy copies.
            model: Their model in a form that gradients can go through.
            attacks: The attacks.
            radius: l2 norm that they may use.
        """
        engine = source.engine
        model = model.eval().to(engine.device) if isinstance(model, torch.nn.Module) else model
        target = Target(model, source.predictor, engine.sigma, _public(engine.seed))
        return cls(target, attacks, radius, engine.levels, engine.device)

    @classmethod
    def of_model(
        cls,
        model: ImplicitModel,
        predictor: Predictor,
        attacks: tuple[Attack, ...],
        radius: float,
    ) -> Self:
        """Attack sets that are proven without noise.

        Raises:
            ConfigError: If an attack is one on smoothed classifiers.
        """
        for attack in attacks:
            if attack.smoothed:
                raise ConfigError(
                    f"attack {attack.name} is for classifiers with noise; use pgd-implicit or "
                    "another one on the base classifier"
                )
        # Sigma is what smoothed views alone look at.
        return cls(Target(model, predictor, 1.0), attacks, radius, None, torch.device("cpu"))

    @property
    def together(self) -> int:
        """Images that are attacked together."""
        return max(1, ROWS // max(attack.view.copies for attack in self.attacks))

    def points(
        self, attack: Attack, inputs: Sequence[Input], labels: Sequence[int]
    ) -> tuple[list[Input], list[float]]:
        """Attack images together.

        Args:
            attack: One of the attacks.
            inputs: The images.
            labels: Their true classes.

        Returns:
            The attacked images, with the index of their image, and their l2 distance to it, which
            is at most the radius.
        """
        x = torch.stack([torch.as_tensor(one.x, dtype=torch.float32) for one in inputs])
        x = x.to(self.device)
        y = torch.tensor(list(labels), device=self.device)
        indices = [one.index for one in inputs]
        found = attack.run(self.target, x, y, indices, radius=self.radius)
        if self.levels is not None:
            radii = torch.full((len(x),), self.radius, dtype=torch.float64, device=self.device)
            found = to_grid(found, x, radii, self.levels)
        norms = (found.double() - x.double()).flatten(1).norm(dim=1).tolist()
        pixels: NDArray[Any] = found.float().cpu().numpy()
        return [Input(pixels[i], indices[i]) for i in range(len(indices))], norms


def _public(seed: int) -> int:
    """Return the seed of the attacks: none that the noise of the sets could be told from."""
    return 0 if seed >= 2**64 else seed
