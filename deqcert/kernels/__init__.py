"""The compiled kernels behind plain torch tensors, and the torch reference where they are missing.

Each function checks its arguments, then runs the compiled kernel where the extension is installed
and supports the device, else its definition in torch, which is its ``reference``: both give the
same result (the noise bit for bit, the rest to rounding of the sums). References are made of
elementwise operations and of sums folded in a fixed order, so that the numbers of a row depend
neither on the other rows nor on the number of threads, on any device.

States are float32, float64 or bfloat16. In bfloat16 only what is stored is rounded to it, the
states and windows; coefficients and sums are those of float32 states.

Nothing here is differentiable: inputs are used without their history.
"""

from deqcert.errors import KernelError
from deqcert.kernels.anderson import MAX_WINDOW, anderson_step
from deqcert.kernels.arrays import empty_states
from deqcert.kernels.block import BlockWeights, residual_block
from deqcert.kernels.broyden import MAX_DIRECTIONS, broyden_step
from deqcert.kernels.grid import GridTable, philox_grid
from deqcert.kernels.native import KernelStatus, status
from deqcert.kernels.philox import philox_normal
from deqcert.kernels.picard import picard_step
from deqcert.kernels.residual import residual_norms
from deqcert.kernels.step import STEPS, workspace
from deqcert.kernels.watch import (
    FRESH,
    NFE,
    RESIDUAL,
    SCALE,
    START,
    STATUS,
    WAITED,
    Watch,
    finish,
    judge,
)

__all__ = [
    "FRESH",
    "MAX_DIRECTIONS",
    "MAX_WINDOW",
    "NFE",
    "RESIDUAL",
    "SCALE",
    "START",
    "STATUS",
    "STEPS",
    "WAITED",
    "BlockWeights",
    "GridTable",
    "KernelError",
    "KernelStatus",
    "Watch",
    "anderson_step",
    "broyden_step",
    "empty_states",
    "finish",
    "judge",
    "philox_grid",
    "philox_normal",
    "picard_step",
    "residual_block",
    "residual_norms",
    "status",
    "workspace",
]
