"""The step of Picard iteration."""

from __future__ import annotations

from torch import Tensor

from deqcert.kernels.residual import residual_norms
from deqcert.kernels.step import FINITE, step_kernel
from deqcert.kernels.watch import Watch, finish, judge_norms


@step_kernel(keeps={}, constants={"damping": FINITE})
def picard_step(
    z: Tensor,
    fz: Tensor,
    out: Tensor,
    *,
    damping: float,
    watch: Watch | None = None,
    workspace: Tensor | None = None,
) -> None:
    """One damped Picard step for every row: ``out = z + damping (fz - z)``.

    Args:
        z: (B, D) float32, float64 or bfloat16 current states.
        fz: (B, D) the cell at ``z``.
        out: (B, D) receives the next state; may be ``z`` or ``fz`` itself.
        damping: Share of the step taken, finite; 1 copies ``fz``.
        watch: Judges the rows first; ``out`` must then overlap nothing.
        workspace: What :func:`deqcert.kernels.workspace` returned; default: allocated here.

    Raises:
        KernelError: If an argument has the wrong dtype, shape, device, layout or range.
    """
    last = judge_norms(z, out, *residual_norms.reference(z, fz), watch)
    if damping == 1.0:
        out.copy_(fz)
    else:
        start = z.double()
        out.copy_(start + damping * (fz.double() - start))
    finish(out, watch, last)
