"""How far what enters the cell may be from the exact one, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from deqcert.errors import ConfigError
from deqcert.models.base import EnclosedModel, IntervalModel
from deqcert.proofs.definite import MARGIN
from deqcert.proofs.outward import affine_out, pixels_out, relu_out


def injection_error(model: EnclosedModel, x: Tensor, injection: Tensor) -> Tensor:
    """Bound what rounding changed in ``injection = model.inject(x)``, all in float64.

    A model says so itself, or its layers are evaluated again with outward rounding.

    Args:
        model: In float64.
        x: Images, shape (B, C, H, W), in [0, 1].
        injection: Shape (B, ...).

    Returns:
        Per row the l2 distance to the exact injection, shape (B,), float64.

    Raises:
        ConfigError: If the model does neither.
    """
    rounding = getattr(model, "injection_rounding", None)
    if rounding is not None:
        bound: Tensor = rounding(x)
        return bound
    if not isinstance(model, IntervalModel):
        raise ConfigError(
            f"{type(model).__name__} does not bound what rounding does to its injection, so that "
            "nothing is proven of its answer to an input; use a model trained with --architecture "
            "monotone, contractive or interval."
        )
    form = model.interval_form()
    box = pixels_out(form.normalize, x, torch.zeros(len(x), dtype=torch.float64))
    for place, affine in enumerate(form.block):
        box = affine_out(affine, relu_out(box) if place else box)
    beyond = (injection.flatten(1) - box[0].flatten(1)).abs() + box[1].flatten(1)
    found: Tensor = MARGIN * torch.linalg.vector_norm(beyond, dim=1)
    return found
