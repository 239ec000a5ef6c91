"""Form int8: weights of eight bits, everything else in float32."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deqcert.models.base import ImplicitModel
from deqcert.models.forms.base import Form, foldable, folded

LARGEST = 127
"""Codes are the whole numbers from -127 to 127."""


class Int8(Form):
    """The folded copy, each weight rounded to eight bits.

    Every convolution and linear layer gets the weights s_c q, with q whole numbers from -127 to 127
    and one float32 scale s_c = max |w_c| / 127 for each output channel c. Biases, normalisations,
    injections, states and products stay float32, so it is as quick as the folded form: what eight
    bits save is the size of the weights where they are stored or sent. It is the classifier of a
    deployment that keeps its weights so and computes in float32.
    """

    summary = "folded, weights rounded to 8 bits per output channel, products in float32"
    rounds = True

    def applies(self, model: ImplicitModel) -> bool:
        """Return whether the model can be folded."""
        return foldable(model)

    def make(self, model: ImplicitModel, *, rows: int, device: str) -> ImplicitModel:
        """Return the copy."""
        copy = folded(model, device)
        assert isinstance(copy, nn.Module)
        with torch.no_grad():
            for layer in copy.modules():
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    layer.weight.copy_(rounded(layer.weight))
        return copy


def rounded(weight: Tensor) -> Tensor:
    """Return weights, shape (out, ...), rounded to eight bits for each output channel."""
    largest = weight.detach().flatten(1).abs().amax(dim=1)
    scale = torch.where(largest > 0.0, largest / LARGEST, torch.ones_like(largest))
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(
        weight.detach().contiguous(), scale, zero, 0, -LARGEST, LARGEST
    )


INT8 = Int8()
