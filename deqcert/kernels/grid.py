"""Counter-based Gaussian noise on a grid, exact: the same bits on every path and device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deqcert.errors import KernelError
from deqcert.kernels.arrays import capsule, check_array
from deqcert.kernels.native import kernel, run, uses_native
from deqcert.kernels.philox import CHUNK_BLOCKS, check_place, philox4x32

_REST = 28
"""Bits of a draw below its upper 32."""
_APART = 1 << 31
"""Added to a block's number for the lower bits: no row has so many blocks."""
_MANTISSAS = range(3, 10)


@dataclass(frozen=True)
class GridTable:
    """The law of noise on a grid as the kernels read it, on one device.

    A draw of 60 bits is held against the thresholds: the noise is ``lowest`` plus the number of
    thresholds that it is not below. A bucket holds the draws whose distance from the nearer end of
    all draws has the same exponent and the same first bits: a Gaussian's thresholds lie evenly
    among them.

    Attributes:
        upper: Upper 32 bits per threshold, less 2^31, and a stopper, shape (T + 1,), int32.
        lower: Lower 28 bits per threshold, shape (T,), int32.
        buckets: How many thresholds lie below a bucket, and the upper bits of the next, shape
            (64 * 2^mantissa, 2), int32.
        values: The grid points ``low / L``, ``(low + 1) / L``, ... as floats, float32.
        mantissa: Bits of a distance that tell buckets apart.
        steps: Most thresholds that a draw of any bucket has to be held against.
        lowest: Noise below all thresholds, in steps of the grid.
        low: The first grid point, in steps.
    """

    upper: Tensor
    lower: Tensor
    buckets: Tensor
    values: Tensor
    mantissa: int
    steps: int
    lowest: int
    low: int

    @classmethod
    def of(
        cls,
        thresholds: NDArray[np.int64],
        *,
        lowest: int,
        low: int,
        values: NDArray[np.float32],
        device: torch.device,
    ) -> GridTable:
        """Make the tables.

        Args:
            thresholds: Ascending, 0 < t < 2^60, shape (T,), T at least 1.
            lowest: Noise of a draw below all thresholds, in steps of the grid.
            low: The first grid point, in steps.
            values: What the grid points are as floats, in order.
            device: Where they are used.
        """
        # A draw may tie with the stopper, too; the lower bits have none, so it stays the last.
        stopped = np.append(thresholds >> _REST, (1 << 32) - 1)
        for mantissa in _MANTISSAS:
            first, last = _buckets(mantissa)
            begin = np.searchsorted(stopped, first)
            below = np.searchsorted(stopped, last)
            steps = int((below - begin + (stopped[below] == last)).max())
            if steps <= 1:
                break

        def there(array: NDArray[np.int64]) -> Tensor:
            return torch.from_numpy(array.astype(np.int32)).to(device)

        return cls(
            there(stopped - (1 << 31)),
            there(thresholds & ((1 << _REST) - 1)),
            there(np.stack([begin, stopped[begin] - (1 << 31)], axis=1)),
            torch.from_numpy(values.astype(np.float32)).to(device),
            mantissa,
            steps,
            lowest,
            low,
        )


def _buckets(mantissa: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first and the last draw of every bucket, upper 32 bits; see csrc/grid.h."""
    exponent, part = np.divmod(np.arange(31 << mantissa, dtype=np.int64), 1 << mantissa)
    # Where a distance has fewer bits than that, some buckets are empty: near is beyond far.
    near = (1 << exponent) - ((-part << exponent) >> mantissa)
    far = (1 << exponent) - ((-(part + 1) << exponent) >> mantissa) - 1
    none = np.zeros(1 << mantissa, dtype=np.int64)  # for the distance 0 that has no exponent
    near, far = np.append(none, near), np.append(none, far)
    top = (1 << 32) - 1
    return np.append(near, top - far), np.append(far, top - near)


def _checked(
    reference: Callable[..., None],
    out: Tensor,
    x: Tensor,
    table: GridTable,
    *,
    seed: int,
    index: int,
    stage: int,
    first: int,
) -> None:
    check_place(out, seed=seed, index=index, stage=stage, first=first)
    check_array("x", x, (out.shape[1],), torch.int32, out.device)
    if table.upper.device != out.device:
        raise KernelError(f"table: expected one on {out.device}, got one on {table.upper.device}")
    if not len(out):
        return
    place = {"seed": seed, "index": index, "stage": stage, "first": first}
    if uses_native(out.device):
        tensors = (out, x, table.upper, table.lower, table.buckets, table.values)
        law = {name: getattr(table, name) for name in ("mantissa", "steps", "lowest", "low")}
        run("philox_grid", *map(capsule, tensors), **law, **place, device=out.device)
    else:
        reference(out, x, table, **place)


@kernel(_checked)
def philox_grid(
    out: Tensor, x: Tensor, table: GridTable, *, seed: int, index: int, stage: int, first: int
) -> None:
    """Fill ``out`` with an input plus noise, on the grid, each a function of its place alone.

    The upper 32 of an element's 60 bits are the word of Philox-4x32-10 (Salmon, Moraes, Dror, Shaw
    2011) that :func:`philox_normal` makes its normals of; the lower 28 come from the block with
    2^31 added to its number, which is drawn only where the upper bits are those of a threshold.
    Integers are compared, added and clipped; the result is looked up in a table, so that equal grid
    points are equal floats, whatever input and noise they are made of.

    Args:
        out: (n, d) float32, contiguous; overwritten.
        x: (d,) int32: the input in steps of the grid, such as 0 to 255.
        table: The law of the noise, on the same device.
        seed: 0 <= seed < 2^64.
        index: Of the input in its data, 0 <= index < 2^32.
        stage: Which use of the noise (selection, estimation, audit), 0 <= stage < 2^32.
        first: Index of the first row's sample, 0 <= first, first + n <= 2^32.

    Raises:
        KernelError: If an argument has the wrong dtype, shape, layout or range.
    """
    n, d = out.shape
    blocks = (d + 3) // 4
    key = (seed & 0xFFFFFFFF, seed >> 32)
    last = len(table.values) - 1
    place = torch.arange(d, dtype=torch.int64, device=out.device)
    step = max(1, CHUNK_BLOCKS // blocks)
    upper = table.upper[:-1].long() + (1 << 31)
    thresholds = (upper << _REST) + table.lower
    for start in range(0, n, step):
        stop = min(n, start + step)
        sample = torch.arange(first + start, first + stop, dtype=torch.int64, device=out.device)

        def words(c0: Tensor, c1: Tensor) -> Tensor:
            """Return the four words of each block in the last dimension."""
            counter = (c0, c1, torch.full_like(c0, index), torch.full_like(c0, stage))
            return torch.stack(philox4x32(counter, key), dim=-1)

        shape = (stop - start, blocks)
        drawn = words(place[:blocks].expand(shape), sample[:, None].expand(shape))
        drawn = drawn.flatten(1)[:, :d].contiguous()
        found = torch.searchsorted(upper, drawn)
        tied = found != torch.searchsorted(upper, drawn, right=True)
        row, element = tied.nonzero(as_tuple=True)
        if len(row):
            rest = words((element >> 2) | _APART, sample[row]).gather(1, (element & 3)[:, None])
            exact = (drawn[row, element] << _REST) + (rest[:, 0] >> 4)
            found[row, element] = torch.searchsorted(thresholds, exact, right=True)
        points = (found + (x.long() + (table.lowest - table.low))).clamp_(0, last)
        out[start:stop] = table.values[points]
