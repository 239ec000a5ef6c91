"""Form bfloat16: half the bits where they are cheap to lose, and not in the states."""

from __future__ import annotations

import torch
from torch import Tensor

from deqcert.models.base import ImplicitModel
from deqcert.models.forms.base import Form, Wrapped, foldable, folded


class Bfloat16(Form):
    """The folded copy with its cell and readout in bfloat16."""

    summary = "folded, cell and readout in bfloat16 with states in float32"
    rounds = True

    def applies(self, model: ImplicitModel) -> bool:
        """Return whether the model can be folded."""
        return foldable(model)

    def make(self, model: ImplicitModel, *, rows: int, device: str) -> ImplicitModel:
        """Return the copy."""
        return InBfloat16(folded(model, device))


class InBfloat16(Wrapped):
    """Cell and readout in bfloat16; states, injections and logits in the type that came in.

    Args:
        model: Any module of the protocol.
    """

    def cell(self, z: Tensor, injection: Tensor) -> Tensor:
        """Evaluate the cell once, (B, D) to (B, D)."""
        with torch.autocast(z.device.type, torch.bfloat16):
            out: Tensor = self.model.cell(z, injection)
        return out.to(z.dtype)

    def readout(self, z: Tensor) -> Tensor:
        """Map states, shape (B, D), to logits, shape (B, K)."""
        with torch.autocast(z.device.type, torch.bfloat16):
            out: Tensor = self.model.readout(z)
        return out.to(z.dtype)


BFLOAT16 = Bfloat16()
