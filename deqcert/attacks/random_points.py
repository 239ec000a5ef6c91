"""Points drawn at random from ball and box: what needs no gradient and cannot be masked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deqcert.attacks.ball import column, project
from deqcert.attacks.base import Attack, Climb, Task
from deqcert.attacks.views import Base
from deqcert.certifiers.certificate import Norm
from deqcert.options import number


@dataclass(frozen=True)
class RandomPoints(Climb):
    """Try points at the edge of the ball, in directions drawn uniformly, and corners in linf.

    Args:
        steps: Points tried.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("l2", "linf")

    steps: int = number(20, low=1)

    def climb(self, task: Task) -> Tensor:
        """Return the point of largest margin seen per row, the image included."""
        size = task.x[0].numel()
        with torch.no_grad():
            best, top = task.x, task.margin(task.x)
            for _ in range(self.steps):
                drawn = [_direction(size, task.norm, source) for source in task.generators]
                way = torch.from_numpy(np.stack(drawn)).to(task.radius).view_as(task.x)
                # An infinite ball is the box, which is no wider than its diagonal.
                length = column(task.radius.clamp(max=size**0.5))
                tried = project(task.x + length * way, task.x, task.radius, task.norm)
                found = task.margin(tried)
                better = found > top
                best = torch.where(column(better), tried, best)
                top = torch.where(better, found, top)
        return best


def _direction(size: int, norm: Norm, source: np.random.Generator) -> NDArray[np.float64]:
    """Return a direction of size 1, shape (size,); in linf a corner of the ball."""
    if norm == "linf":
        return source.choice([-1.0, 1.0], size=size)
    drawn = source.standard_normal(size)
    return np.asarray(drawn / np.linalg.norm(drawn), dtype=np.float64)


RANDOM = Attack("random", RandomPoints(), Base("implicit"))
