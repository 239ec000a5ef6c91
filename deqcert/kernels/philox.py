"""Counter-based standard normals: the same bits on every path and device."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from deqcert.errors import KernelError
from deqcert.kernels.arrays import capsule, check_array
from deqcert.kernels.native import kernel, run, uses_native

# The constants below are mirrored in csrc/philox.h; a test compares the bits of both.
_MASK = 0xFFFFFFFF
_MULTIPLY = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
CHUNK_BLOCKS = 1 << 17  # bounds the int64 and float64 temporaries to a few MB each

# ln m = 2 atanh(s) = 2 s (1 + s^2/3 + s^4/5 + ...), |s| <= 0.1716; sin and cos are Taylor series on
# [-pi/4, pi/4]. Truncation is below 1e-13 relative, far under a float32 step.
_LOG = tuple(2.0 / (2 * k + 1) for k in range(9))
_SIN = tuple((-1.0) ** k / math.factorial(2 * k + 1) for k in range(8))
_COS = tuple((-1.0) ** k / math.factorial(2 * k) for k in range(9))
_LN2 = 0.6931471805599453
_SQRT_HALF = 0.7071067811865476
_ANGLE = 1.4629180792671596e-09  # 2 pi / 2^32


def philox4x32(counter: tuple[Tensor, ...], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Philox-4x32-10 (Salmon, Moraes, Dror, Shaw 2011), elementwise.

    Args:
        counter: Four int64 tensors of one shape, values 0..2^32-1.
        key: Two integers 0..2^32-1.

    Returns:
        Four int64 tensors, values 0..2^32-1.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # The product of two 32-bit numbers wraps in int64, but all its 64 bits are right.
        p0, p1 = c0 * _MULTIPLY[0], c2 * _MULTIPLY[1]
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _MASK) ^ c1 ^ k0,
            p1 & _MASK,
            ((p0 >> 32) & _MASK) ^ c3 ^ k1,
            p0 & _MASK,
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def _horner(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    # A product and a sum apart: a fused multiply-add would round differently.
    value = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * x
        value = value + coefficient
    return value


def _normal_pair(u0: Tensor, u1: Tensor) -> tuple[Tensor, Tensor]:
    """Box and Muller (1958) on two 32-bit integers: two float32 normals, the same bits anywhere.

    The radius uses (u0 + 1/2) / 2^32 and the angle (u1 + 1/2) / 2^32 of a turn, the middle of each
    cell of 2^-32; magnitudes end at 6.76.
    """
    mantissa, exponent = torch.frexp((2 * u0 + 1).double())
    low = mantissa < _SQRT_HALF
    mantissa = torch.where(low, mantissa + mantissa, mantissa)
    power = (exponent - 33 - low.to(exponent.dtype)).double()
    s = (mantissa - 1.0) / (mantissa + 1.0)
    log = s * _horner(s * s, _LOG)
    log = power * _LN2 + log
    radius = torch.sqrt(-2.0 * log)

    quadrant = ((u1 + (1 << 29)) >> 30) & 3
    # The representative of u1 in [-2^29, 2^29) around its quadrant, exact in float64.
    offset = ((u1 + (1 << 29)) & 0x3FFFFFFF) - (1 << 29)
    angle = (offset.double() + 0.5) * _ANGLE
    square = angle * angle
    sin = angle * _horner(square, _SIN)
    cos = _horner(square, _COS)
    swap = (quadrant & 1) == 1
    first = torch.where(swap, sin, cos)
    second = torch.where(swap, cos, sin)
    first = torch.where((quadrant == 1) | (quadrant == 2), -first, first)
    second = torch.where(quadrant >= 2, -second, second)
    return (radius * first).float(), (radius * second).float()


def check_place(out: Tensor, *, seed: int, index: int, stage: int, first: int) -> None:
    """Check what noise is written to, and the counters that it is drawn by.

    Raises:
        KernelError: If ``out`` is no packed (n, d) float32, or a counter is out of range.
    """
    if not isinstance(out, Tensor) or out.dim() != 2 or out.shape[1] < 1:
        raise KernelError("out: expected a float32 tensor of shape (n, d) with d >= 1")
    n, d = out.shape
    check_array("out", out, (n, d), torch.float32, out.device, written=True)
    if not 0 <= seed < 1 << 64:
        raise KernelError(f"seed: expected an integer of 64 bits, got {seed}")
    for name, value in (("index", index), ("stage", stage)):
        if not 0 <= value < 1 << 32:
            raise KernelError(f"{name}: expected an integer of 32 bits, got {value}")
    if not (first >= 0 and first + n <= 1 << 32):
        raise KernelError(f"first: expected 0 <= first and first + n <= 2^32, got {first}, n {n}")


def _checked(
    reference: Callable[..., None], out: Tensor, *, seed: int, index: int, stage: int, first: int
) -> None:
    check_place(out, seed=seed, index=index, stage=stage, first=first)
    if not len(out):
        return
    place = {"seed": seed, "index": index, "stage": stage, "first": first}
    if uses_native(out.device):
        run("philox_normal", capsule(out), **place, device=out.device)
    else:
        reference(out, **place)


@kernel(_checked)
def philox_normal(out: Tensor, *, seed: int, index: int, stage: int, first: int) -> None:
    """Fill ``out`` with standard normals that are a function of their place alone.

    Element ``d`` of row ``i`` comes from Philox-4x32-10 (Salmon, Moraes, Dror, Shaw 2011) with key
    ``seed`` and counter ``(d // 4, first + i, index, stage)`` through the transform of Box and
    Muller (1958). Logarithm, sine and cosine are fixed float64 polynomials of correctly rounded
    operations without contraction, so every path and device gives the same float32 bits.
    Magnitudes end at 6.76, beyond which a normal has 1.4e-11 of its mass.

    Args:
        out: (n, d) float32, contiguous; overwritten.
        seed: 0 <= seed < 2^64.
        index: Of the input in its data, 0 <= index < 2^32.
        stage: Which use of the noise (selection, estimation, audit), 0 <= stage < 2^32.
        first: Index of the first row's sample, 0 <= first, first + n <= 2^32.

    Raises:
        KernelError: If an argument has the wrong dtype, shape, layout or range.
    """
    n, d = out.shape
    blocks = (d + 3) // 4
    key = (seed & _MASK, seed >> 32)
    step = max(1, CHUNK_BLOCKS // blocks)
    block = torch.arange(blocks, dtype=torch.int64, device=out.device)
    for start in range(0, n, step):
        stop = min(n, start + step)
        sample = torch.arange(first + start, first + stop, dtype=torch.int64, device=out.device)
        shape = (stop - start, blocks)
        c0 = block.expand(shape)
        c1 = sample[:, None].expand(shape)
        u = philox4x32((c0, c1, torch.full_like(c0, index), torch.full_like(c0, stage)), key)
        normals = torch.stack((*_normal_pair(u[0], u[1]), *_normal_pair(u[2], u[3])), dim=2)
        out[start:stop] = normals.reshape(stop - start, 4 * blocks)[:, :d]
