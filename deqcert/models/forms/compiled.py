"""Form compiled: folded where the model can be, then compiled for one number of rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from deqcert.errors import ConfigError
from deqcert.models.base import EnclosedModel, ImplicitModel
from deqcert.models.forms.base import Form, Wrapped, folded


class Compiling(Form):
    """A compiled copy; for every torch module that proves nothing of its own arithmetic."""

    summary = "folded, then compiled by torch for one number of rows"
    hides = True

    def applies(self, model: ImplicitModel) -> bool:
        """Return whether torch can compile the model without ending what it proves."""
        return isinstance(model, nn.Module) and not isinstance(model, EnclosedModel)

    def make(self, model: ImplicitModel, *, rows: int, device: str) -> ImplicitModel:
        """Compile the model."""
        assert isinstance(model, nn.Module)
        return Compiled(folded(model.eval(), device), rows, device)


class Compiled(Wrapped):
    """Injection, cell and readout compiled by torch, at once and for one number of rows.

    Args:
        model: Any module of the protocol with an ``input_shape``; its weights become constants.
        rows: Rows of every evaluation.
        device: Where it will run, as torch names it.

    Raises:
        ConfigError: If the model does not say its input's shape, or if it cannot be compiled here.
    """

    def __init__(self, model: Any, rows: int, device: str = "cpu") -> None:
        super().__init__(model)
        if not hasattr(model, "input_shape"):
            raise ConfigError("form 'compiled' needs a model that says its input_shape.")
        self.rows = rows
        # Freezing lays weights out for the machine. Worker processes would outlive the compilation
        # and take the processors from what follows.
        options: dict[str, Any] = {"freezing": True, "compile_threads": 1}
        self._functions: dict[str, Callable[..., Tensor]] = {
            name: torch.compile(getattr(model, name), dynamic=False, options=options)
            for name in ("inject", "cell", "readout")
        }
        try:
            model.to(device)
            dtype = next((parameter.dtype for parameter in model.parameters()), torch.float32)
            images = torch.zeros(rows, *model.input_shape, dtype=dtype, device=device)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                injection = self.inject(images)
                z = self.cell(self.initial_state(injection), injection)
                self.readout(z)
        except Exception as error:  # the compiler's own, and whatever a missing g++ makes it raise
            reason = str(error).strip().partition("\n")[0].rstrip(".") or "without a word"
            raise ConfigError(
                f"form 'compiled' does not work here ({reason}); install a "
                "C++ compiler such as g++, or take form 'folded' or 'eager'."
            ) from None

    def inject(self, x: Tensor) -> Tensor:
        """Map images, shape (B, C, H, W), to injections."""
        return self._run("inject", x)

    def cell(self, z: Tensor, injection: Tensor) -> Tensor:
        """Evaluate the cell once, (B, D) to (B, D)."""
        return self._run("cell", z, injection)

    def readout(self, z: Tensor) -> Tensor:
        """Map states, shape (B, D), to logits, shape (B, K)."""
        return self._run("readout", z)

    def _run(self, name: str, *tensors: Tensor) -> Tensor:
        # Any other number would be compiled anew, which takes longer than most batches.
        if len(tensors[0]) != self.rows:
            raise ConfigError(
                f"this model is compiled for {self.rows} rows and was given {len(tensors[0])}; "
                f"give the engine shape={self.rows}."
            )
        with torch.no_grad():
            return self._functions[name](*(tensor.contiguous() for tensor in tensors))


COMPILED = Compiling()
