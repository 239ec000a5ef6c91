"""A residual block of an MDEQ: two 3x3 convolutions with group normalisations between and after."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from deqcert.errors import KernelError
from deqcert.kernels.arrays import capsule, check_array
from deqcert.kernels.native import extension, kernel, run, uses_native

LANES = 16
"""Output channels that a kernel computes at once."""

SIDE = 8
"""Channels of a pixel that lie side by side."""

HEAVY = 1 << 18
"""Bytes of weights above which several rows are worked on for one reading of them."""

TOGETHER = 4
"""How many."""


@dataclass(frozen=True)
class BlockWeights:
    """What a block computes with; laid out for the kernel when it is made.

    Args:
        first: Kernel of the first convolution, shape (I, C, 3, 3), float32 on the CPU, with C and
            I multiples of 8.
        second: Of the second, shape (C, I, 3, 3).
        scales: Of the three normalisations, shapes (I,), (C,) and (C,).
        shifts: The same.
        groups: Of every normalisation.
        eps: What each adds to a variance.
    """

    first: Tensor
    second: Tensor
    scales: tuple[Tensor, Tensor, Tensor]
    shifts: tuple[Tensor, Tensor, Tensor]
    groups: int
    eps: tuple[float, float, float]
    packed: tuple[Tensor, Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the shapes and pack the kernels.

        Raises:
            KernelError: If they do not fit.
        """
        device = torch.device("cpu")
        inner, channels = self.first.shape[:2]
        for name, number in (("channels", channels), ("inner channels", inner)):
            if number < SIDE or number % SIDE or self.groups < 1 or number % self.groups:
                raise KernelError(f"{name}: expected a multiple of {SIDE} and of the groups")
        check_array("first", self.first, (inner, channels, 3, 3), torch.float32, device)
        check_array("second", self.second, (channels, inner, 3, 3), torch.float32, device)
        for norms in (self.scales, self.shifts):
            for norm, width in zip(norms, (inner, channels, channels), strict=True):
                check_array("norms", norm, (width,), torch.float32, device)
        object.__setattr__(self, "packed", (packed(self.first), packed(self.second)))


def packed(weight: Tensor) -> Tensor:
    """Lay a kernel, shape (O, I, 3, 3), out in the order in which it is read (csrc/block.h)."""
    entering = weight.shape[1]
    # (O, I / 8, 3, 3, 8)
    taps = weight.detach().reshape(len(weight), entering // SIDE, SIDE, 3, 3).permute(0, 1, 3, 4, 2)
    whole = len(weight) // LANES
    panels, done = [], 0
    while done < whole:
        left = whole - done
        wide = 2 if left == 4 else min(left, 3)
        part = taps[done * LANES : (done + wide) * LANES]
        panels.append(part.permute(1, 2, 3, 4, 0).flatten())
        done += wide
    if len(weight) % LANES:
        pairs = taps[whole * LANES :].reshape(SIDE, -1, 3, 3, SIDE // 2, 2)
        panels.append(pairs.permute(1, 2, 3, 4, 0, 5).flatten())
    return torch.cat(panels)


def _checked(
    reference: Callable[[Tensor, Tensor | None, BlockWeights], Tensor],
    x: Tensor,
    injection: Tensor | None,
    weights: BlockWeights,
) -> Tensor:
    channels = weights.first.shape[1]
    if x.ndim != 4 or x.shape[1] != channels:
        raise KernelError(f"x: expected shape (B, {channels}, H, W), got {tuple(x.shape)}")
    # Rows may lie apart: they are parts of states.
    if len(x) and not x[0].is_contiguous():
        raise KernelError("x: expected rows that are contiguous, call .contiguous() first")
    if x.dtype != torch.float32 or x.device.type != "cpu":
        raise KernelError(f"x: expected float32 on the CPU, got {x.dtype} on {x.device}")
    if injection is not None:
        check_array("injection", injection, tuple(x.shape), x.dtype, x.device)
    if not uses_native(x.device) or not x.numel():
        return reference(x, injection, weights)
    assert extension is not None
    out = torch.empty(x.shape)
    heavy = weights.first.nbytes + weights.second.nbytes > HEAVY
    together = TOGETHER if heavy else 1
    tasks = max(1, min(torch.get_num_threads(), len(x) // together))
    each = extension.block_workspace(channels, len(weights.first), *x.shape[2:], together)
    norms = [t for both in zip(weights.scales, weights.shifts, strict=True) for t in both]
    run(
        "residual_block",
        capsule(x),
        None if injection is None else capsule(injection),
        *map(capsule, weights.packed),
        [capsule(norm) for norm in norms],
        capsule(torch.empty(tasks, each)),
        capsule(out),
        groups=weights.groups,
        eps=list(weights.eps),
        together=together,
        device=x.device,
    )
    return out


@kernel(_checked)
def residual_block(x: Tensor, injection: Tensor | None, weights: BlockWeights) -> Tensor:
    """Evaluate ``GN3(relu(GN2(conv2(relu(GN1(conv1(x)))) + injection) + x))``.

    Sums of products are fused where the processor can, so the last bits are those of an instruction
    set; a row's do not depend on the other rows or on the number of threads.

    Args:
        x: Maps, shape (B, C, H, W), float32 on the CPU; each row contiguous.
        injection: Maps of the same shape, contiguous, or None.
        weights: What it computes with.

    Returns:
        Maps of the same shape, contiguous.

    Raises:
        KernelError: If an argument has the wrong dtype, shape, device or layout.
    """
    norms = list(zip(weights.scales, weights.shifts, weights.eps, strict=True))

    def normalised(maps: Tensor, which: int) -> Tensor:
        scale, shift, eps = norms[which]
        return F.group_norm(maps, weights.groups, scale, shift, eps)

    out = F.relu(normalised(F.conv2d(x, weights.first, padding=1), 0))
    out = F.conv2d(out, weights.second, padding=1)
    if injection is not None:
        out = out + injection
    return normalised(F.relu(normalised(out, 1) + x), 2)
