"""What is measured of the Jacobian df/dz: how large it is, and how strongly it contracts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def jacobian_penalty(
    f: Callable[..., Tensor],
    z: Tensor,
    *context: Tensor,
    draws: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Estimate ``||df/dz||_F^2 / D``, averaged over the rows, differentiably.

    Hutchinson's estimator: the mean of ``||v^T J||^2`` over Gaussian v.

    Args:
        f: The cell.
        z: States where the Jacobian is taken, shape (B, D); no gradient flows to them.
        *context: Tensors with one entry per row, such as the injection.
        draws: Random vectors, from 1; one suffices in training.
        generator: Source of the random vectors.

    **Source:** Bai, Koltun, Kolter 2021, section 3.2, equation 7.
    """
    z = z.detach().requires_grad_()
    fz = f(z, *context)
    total = fz.new_zeros(())
    for _ in range(draws):
        v = _normal(fz, generator)
        (product,) = torch.autograd.grad(fz, z, v, create_graph=True)
        total = total + product.square().mean()
    return total / draws


def spectral_radius(
    f: Callable[..., Tensor],
    z: Tensor,
    *context: Tensor,
    steps: int = 20,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Estimate the spectral radius of df/dz of each row by power iteration.

    Below 1, plain iteration converges near the state; the smaller, the quicker.

    Args:
        f: The cell.
        z: States where the Jacobian is taken, shape (B, D).
        *context: Tensors with one entry per row, such as the injection.
        steps: Products with the transposed Jacobian, from 2. The estimate is the mean growth over
            the second half of them, because a complex pair makes single ones swing.
        generator: Source of the first vector.

    Returns:
        Shape (B,), float64. No bound: an eigenvalue that the first vector hardly sees is missed.

    **Source:** Bai, Koltun, Kolter 2021, section 3.1, for its use; von Mises, Pollaczek-Geiringer
    1929, for the iteration.
    """
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        fz = f(z, *context)
    v = _normal(fz, generator)
    growth = z.new_zeros(len(z), dtype=torch.float64)
    for step in range(steps):
        v = v / torch.linalg.vector_norm(v, dim=1, keepdim=True).clamp(min=1e-30)
        (v,) = torch.autograd.grad(fz, z, v, retain_graph=True)
        if step >= steps // 2:
            growth += torch.linalg.vector_norm(v, dim=1).double().clamp(min=1e-30).log()
    return (growth / (steps - steps // 2)).exp()


def _normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw where the generator is, so that every device sees the same numbers."""
    device = like.device if generator is None else generator.device
    draw = torch.randn(like.shape, generator=generator, dtype=like.dtype, device=device)
    return draw.to(like.device)
