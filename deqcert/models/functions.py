"""An implicit classifier out of functions or modules that somebody else wrote."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from deqcert.errors import ConfigError


class ImplicitClassifier(nn.Module):
    """Join a cell and its readout, such as a torchdeq model's, to a model that can be certified.

    The equilibrium z* = cell(z*, inject(x)) may have any shape per row; the logits are
    readout(z*). Modules among the functions are taken along: moved, put into evaluation mode,
    hashed.

    Args:
        cell: Maps states, shape (B, *state_shape), and injections, shape (B, ...), to states.
        readout: Maps states, shape (B, *state_shape), to logits, shape (B, K).
        state_shape: Shape of one row's state.
        inject: Maps images, shape (B, C, H, W) in [0, 1], to injections; the default is the images
            themselves. Normalisation belongs here.
        input_shape: Shape of one image (C, H, W); if given, images of others are refused.
        num_classes: Number of classes K, if known.

    Raises:
        ConfigError: If one of them cannot be called.
    """

    def __init__(
        self,
        cell: Callable[[Tensor, Tensor], Tensor],
        readout: Callable[[Tensor], Tensor],
        *,
        state_shape: Sequence[int],
        inject: Callable[[Tensor], Tensor] | None = None,
        input_shape: Sequence[int] | None = None,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        for name, function in (("cell", cell), ("readout", readout), ("inject", inject)):
            if function is not None and not callable(function):
                raise ConfigError(f"{name} is {function!r}, but it must be a function or a module.")
        self._cell, self._readout, self._inject = cell, readout, inject
        # A bound method's module is not found by torch itself.
        owners = [getattr(f, "__self__", None) for f in (cell, readout, inject)]
        self.owners = nn.ModuleList({id(m): m for m in owners if isinstance(m, nn.Module)}.values())
        self.state_shape = tuple(int(n) for n in state_shape)
        if input_shape is not None:
            self.input_shape = tuple(int(n) for n in input_shape)
        if num_classes is not None:
            self.num_classes = int(num_classes)

    def inject(self, x: Tensor) -> Tensor:
        """Map images, shape (B, C, H, W) in [0, 1], to injections, shape (B, ...)."""
        return x if self._inject is None else self._inject(x)

    def initial_state(self, injection: Tensor) -> Tensor:
        """Return zeros of shape (B, D)."""
        size = math.prod(self.state_shape)
        return torch.zeros(len(injection), size, dtype=injection.dtype, device=injection.device)

    def cell(self, z: Tensor, injection: Tensor) -> Tensor:
        """Evaluate the cell once, (B, D) to (B, D)."""
        state = z.reshape(len(z), *self.state_shape)
        return self._cell(state, injection).reshape(z.shape)

    def readout(self, z: Tensor) -> Tensor:
        """Map states, shape (B, D), to logits, shape (B, K)."""
        return self._readout(z.reshape(len(z), *self.state_shape))
