"""One pass of a model in training: inject, find the state, read out."""

from __future__ import annotations

import copy
import dataclasses
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deqcert.errors import ConfigError
from deqcert.models import LatentModel, TrainableModel
from deqcert.solvers import StopRule, get_solver
from deqcert.solvers.gradients import (
    GRADIENTS,
    AdjointMemory,
    Gradient,
    Implicit,
    Unroll,
    equilibrium,
    get_gradient,
    unrolls,
)
from deqcert.solvers.jacobian import jacobian_penalty
from deqcert.training.config import TrainConfig
from deqcert.training.proof import Proof, prove

EARLIER = 8
"""Attacked passes of a step that are remembered."""


@dataclass(frozen=True)
class _Earlier:
    """What was found for images: their states, and in time the adjoint there."""

    x: Tensor
    z: Tensor
    memory: AdjointMemory


class Passes:
    """The model as a function from images to logits, in its two phases.

    Attributes:
        start: Maps injections, shape (B, ...), to the states that :meth:`quick` begins at; None
            begins cold.
        unrolled: Cell evaluations from zero that a pass unrolls (pre-training); 0: it solves.
        nfe: Mean evaluations per row of the last pass.
    """

    def __init__(
        self, model: TrainableModel, config: TrainConfig, generator: torch.Generator
    ) -> None:
        self.model, self._generator = model, generator
        self._solver = get_solver(config.solver)
        self._stop = StopRule(tol=config.tol, max_nfe=config.max_nfe)
        self._gradient: Gradient = get_gradient(config.gradient, **self._options(config))
        self._device = torch.device(config.device).type
        self._mixed = config.precision == "bfloat16"
        self.unrolled, self.nfe = 0, 0.0
        self.start: Callable[[Tensor], Tensor] | None = None
        self._last: tuple[Tensor, tuple[Tensor, ...]] | None = None
        self._seen: Tensor | None = None
        self._earlier: deque[_Earlier] = deque(maxlen=EARLIER)
        self._held = False

    def __call__(self, x: Tensor) -> Tensor:
        """Map images, shape (B, C, H, W), to logits, shape (B, K)."""
        self._seen = x
        return self._pass(x, Unroll(steps=self.unrolled) if self.unrolled else self._gradient)

    def quick(self, x: Tensor, steps: int) -> Tensor:
        """Map images to the logits after each of the first plain evaluations.

        Args:
            x: Images, shape (B, C, H, W); those of the latest pass keep its injection and masks.
            steps: Evaluations, at least 1.

        Returns:
            Shape (steps, B, K), differentiable.
        """
        if self._seen is not x or self._last is None:
            self(x)
            assert self._last is not None
        _, context = self._last
        found = []
        with self._precision():
            cold = self.model.initial_state(context[0])
            z = cold if self.start is None else self.start(context[0]).to(cold.dtype)
            for _ in range(steps):
                z = self._cell(z, *context)
                found.append(self.model.readout(z).to(x.dtype))
        return torch.stack(found)

    def latents(self, x: Tensor) -> Tensor:
        """Map images to what the last, linear layer takes; those of the latest pass cost nothing.

        Raises:
            ConfigError: If the model does not say what its latents are.
        """
        if not isinstance(self.model, LatentModel):
            raise ConfigError(
                f"the objective is about latents, which {type(self.model).__name__} does not "
                "offer; train another architecture."
            )
        if self._seen is not x or self._last is None:
            self(x)
            assert self._last is not None
        with self._precision():
            return self.model.latent(self._last[0]).to(x.dtype)

    def prove(self, x: Tensor, y: Tensor) -> Proof:
        """Bound the margins of images; see :func:`deqcert.training.proof.prove`."""
        return prove(self.model, self, x, y)

    def _pass(self, x: Tensor, gradient: Gradient, start: Tensor | None = None) -> Tensor:
        with self._precision():
            injection = self.model.inject(x).to(x.dtype)
            masks = self.model.draw_masks(len(x), self._generator)
            context = (injection,) if masks is None else (injection, masks)
            z, result = equilibrium(
                self._certified_cell if self._held else self._cell,
                self.model.initial_state(injection) if start is None else start,
                *context,
                solver=self._solver,
                stop=self._stop,
                gradient=gradient,
            )
            self._last = (z, context)
            if unrolls(gradient):
                self.nfe = float(getattr(gradient, "steps", 0))
            elif result is not None:
                self.nfe = result.nfe.double().mean().item()
            return self.model.readout(z).to(x.dtype)

    def attacked(self, x: Tensor) -> Tensor:
        """Map images to logits as the model is certified: a target for attacks during training.

        Passes that follow each other on nearly the same images are quick: each starts where the
        nearest earlier one since :meth:`begin` ended, forward and backward.

        In evaluation mode, so that no row's gradient depends on its batch-mates, the statistics of
        batch normalisation stay as they are and no mask is drawn; with the parameters held fixed,
        so that only gradients of the images are computed. Neither :attr:`nfe` nor the states of
        the Jacobian penalty change.

        Args:
            x: Images, shape (B, C, H, W).

        Returns:
            Logits, shape (B, K), differentiable in the images only.
        """
        kept = (self.nfe, self._last)
        try:
            with self._as_certified():
                return self._repeated(x)
        finally:
            self.nfe, self._last = kept

    def begin(self) -> None:
        """Forget what earlier passes found: a new batch comes, or the weights have changed."""
        self._earlier.clear()
        self._seen = None

    def _repeated(self, x: Tensor) -> Tensor:
        gradient = self._gradient
        if self.unrolled or unrolls(gradient):
            return self(x)
        near = min(
            (entry for entry in self._earlier if entry.x.shape == x.shape),
            key=lambda entry: (entry.x - x.detach()).square().sum().item(),
            default=None,
        )
        memory = AdjointMemory() if near is None else copy.copy(near.memory)
        if isinstance(gradient, Implicit):
            gradient = dataclasses.replace(gradient, memory=memory)
        logits = self._pass(x, gradient, None if near is None else near.z)
        assert self._last is not None
        self._earlier.append(_Earlier(x.detach(), self._last[0].detach(), memory))
        return logits

    def jacobian_penalty(self) -> Tensor:
        """Return the Jacobian penalty at the states of the last pass."""
        assert self._last is not None
        z, context = self._last
        return jacobian_penalty(self._cell, z, *context, generator=self._generator)

    @contextmanager
    def _as_certified(self) -> Iterator[None]:
        """Put the model into evaluation mode and hold its parameters fixed, for a while."""
        if self._held:
            yield
            return
        training = self.model.training
        learned = [entry for entry in self.model.parameters() if entry.requires_grad]
        try:
            self._held = True
            self.model.eval()
            for entry in learned:
                entry.requires_grad_(False)
            yield
        finally:
            for entry in learned:
                entry.requires_grad_(True)
            self.model.train(training)
            self._held = False

    def _certified_cell(self, z: Tensor, *context: Tensor) -> Tensor:
        # The adjoint solve evaluates it after the pass, when the model is in training again.
        with self._as_certified():
            return self._cell(z, *context)

    def _cell(self, z: Tensor, *context: Tensor) -> Tensor:
        # The adjoint solve may evaluate it as well, later.
        with self._precision():
            return self.model.cell(z, *context).to(z.dtype)

    def _precision(self) -> torch.autocast:
        # No cache: weights that a solve has cast without a graph would have no gradient.
        return torch.autocast(
            self._device, torch.bfloat16, enabled=self._mixed, cache_enabled=False
        )

    @staticmethod
    def _options(config: TrainConfig) -> dict[str, Any]:
        """Return what the settings say about those options that the gradient has."""
        kind = GRADIENTS.get(config.gradient)
        forward = unrolls(kind)
        said = {
            "solver": get_solver(config.solver),
            "stop": StopRule(tol=config.tol, max_nfe=config.backward_nfe),
            "steps": config.max_nfe if forward else config.backward_nfe,
        }
        has = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
        return {name: value for name, value in said.items() if name in has}
