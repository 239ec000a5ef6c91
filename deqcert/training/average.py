"""An exponential moving average of a model while it is trained."""

from __future__ import annotations

from typing import cast

from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from deqcert.models import TrainableModel


class Average:
    """A copy of a model whose weights and batch-normalisation statistics follow it slowly.

    After t steps the decay is at most (1 + t) / (10 + t), so that a short training is not held
    back by its random beginning.

    Args:
        model: The model that is trained.
        decay: Share that the average keeps of itself at each step, in (0, 1).

    **Source:** Polyak, Juditsky 1992, "Acceleration of Stochastic Approximation by Averaging", for
    averages; the exponential one with this warm-up is common practice.
    """

    def __init__(self, model: TrainableModel, decay: float) -> None:
        def follow(average: Tensor, current: Tensor, step: Tensor | int) -> Tensor:
            if not average.is_floating_point():
                return current
            return average.lerp(current, 1.0 - min(decay, (1 + int(step)) / (10 + int(step))))

        self._averaged = AveragedModel(model, avg_fn=follow, use_buffers=True)

    @property
    def model(self) -> TrainableModel:
        """The averaged model."""
        return cast(TrainableModel, self._averaged.module)

    def update(self, model: TrainableModel) -> None:
        """Take the model in, after a step."""
        self._averaged.update_parameters(model)

    def state(self) -> dict[str, Tensor]:
        """Return all that :meth:`restore` needs."""
        return dict(self._averaged.state_dict())

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go back to what :meth:`state` returned."""
        self._averaged.load_state_dict(state)
