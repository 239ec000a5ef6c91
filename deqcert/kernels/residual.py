"""Squared norms of residuals and states, per row."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from deqcert.kernels.arrays import capsule, check_array, check_states
from deqcert.kernels.native import kernel, run, scratch, uses_native


def row_sum(x: Tensor) -> Tensor:
    """Sum the rows of ``x`` (B, D) by folding halves: (B,), in an order that only D decides."""
    while x.shape[1] > 1:
        half = x.shape[1] // 2
        folded = x[:, :half] + x[:, half : 2 * half]
        if x.shape[1] % 2:
            folded[:, 0] += x[:, -1]
        x = folded
    return x[:, 0]


def _checked(
    reference: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], z: Tensor, fz: Tensor
) -> tuple[Tensor, Tensor]:
    check_states("z", z)
    check_array("fz", fz, tuple(z.shape), z.dtype, z.device)
    if not uses_native(z.device):
        return reference(z, fz)
    residual = torch.empty(len(z), dtype=torch.float64, device=z.device)
    norm = torch.empty_like(residual)
    if len(z):
        arrays = (z, fz, residual, norm, scratch("residual", z))
        run("residual_norms", *map(capsule, arrays), device=z.device)
    return residual, norm


@kernel(_checked)
def residual_norms(z: Tensor, fz: Tensor) -> tuple[Tensor, Tensor]:
    """Squared norms of the residual and of the new state, per row.

    Args:
        z: (B, D) float32, float64 or bfloat16 states, contiguous.
        fz: (B, D) the cell at ``z``, same dtype and device.

    Returns:
        ``||fz - z||^2`` and ``||fz||^2``, each (B,) float64 accumulated in float64. A NaN or an
        infinity shows in its own row only.

    Raises:
        KernelError: If an argument has the wrong dtype, shape, device or layout.
    """
    fz64 = fz.double()
    # The difference is taken in the state's own precision: it is the residual that a solver uses.
    difference = (fz - z).double()
    return row_sum(difference * difference), row_sum(fz64 * fz64)
