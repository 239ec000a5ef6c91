"""What is attacked: a classifier, solved so that one can go back through it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deqcert.errors import ConfigError
from deqcert.models.base import ImplicitModel
from deqcert.models.shaped import ShapedModel
from deqcert.smoothing import Predictor
from deqcert.solvers import StopRule
from deqcert.solvers.gradients import Gradient, Implicit, Unroll, equilibrium, unrolls

LONGEST = 10
"""Evaluations that a solve is unrolled for, or as many as it makes."""


@dataclass(frozen=True)
class Target:
    """What is attacked.

    Args:
        model: The model, in a form that gradients can go through.
        predictor: The base classifier of the certificate; its start is independent. Attacks solve
            as it does, an early stop apart.
        sigma: Noise of the smoothed classifier, in pixel units of [0, 1], above 0; None where the
            model itself is attacked.
        seed: Of the attacks' own noise, from 0.

    Raises:
        ConfigError: If sigma is out of range or the start is chained.
    """

    model: ImplicitModel
    predictor: Predictor
    sigma: float | None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.sigma is not None and not 0.0 < self.sigma < float("inf"):
            raise ConfigError(f"sigma is {self.sigma}, but it must be above 0.")
        if not self.predictor.independent:
            raise ConfigError(
                f"start '{self.predictor.start.name}' chains samples; attack the base classifier "
                "that the certificate is about, with an independent start."
            )

    @property
    def unrolled(self) -> Unroll:
        """The gradient through the solve as plain evaluations, and through its start."""
        return Unroll(min(self._evaluations or LONGEST, LONGEST))

    @property
    def suited(self) -> Gradient:
        """The gradient that suits the classifier.

        A fixed few evaluations from a learned start are a network that depends on its input
        through the start as well, which an adjoint does not see; elsewhere the implicit one.
        """
        few = 0 < (self._evaluations or 0) <= LONGEST
        return self.unrolled if few and self.predictor.start.follows_input else Implicit()

    @property
    def _evaluations(self) -> int | None:
        """How many evaluations every solve makes; None where they differ per row."""
        return self.predictor.stop.max_nfe if self.predictor.fixed_depth else None

    def logits(
        self, x: Tensor, gradient: Gradient, stop: StopRule | None = None, *, cold: bool = False
    ) -> Tensor:
        """Return the logits of images, shape (B, K), with their gradient.

        Args:
            x: Images, shape (B, C, H, W), noise and all.
            gradient: How to go back through the solve; by unrolling, through the start as well.
            stop: When the solve ends; default: as the predictor's.
            cold: Solve from the cold start, whatever the predictor's is.
        """
        model = self.model
        injection = model.inject(x)
        alone = ShapedModel(model, len(x))
        with torch.set_grad_enabled(unrolls(gradient) and torch.is_grad_enabled()):
            start = (
                alone.initial_state(injection)
                if cold
                else self.predictor.start.initial(alone, injection)
            )
        z, _ = equilibrium(
            model.cell,
            start,
            injection,
            solver=self.predictor.solver,
            stop=self.predictor.stop if stop is None else stop,
            gradient=gradient,
        )
        return model.readout(z)
