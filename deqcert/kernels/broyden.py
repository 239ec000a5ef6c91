"""The step of Broyden's method."""

from __future__ import annotations

import torch
from torch import Tensor

from deqcert.kernels.residual import residual_norms, row_sum
from deqcert.kernels.step import FLAG, ROWS, SIZE, WINDOW, Kept, step_kernel
from deqcert.kernels.watch import Watch, finish, judge_norms

MAX_DIRECTIONS = 1024
"""The most directions that may be held: a bound on what a caller may ask for by mistake."""

# Armijo's constant, the shortest share of a step, and the smallest pivot of an update;
# csrc/broyden.h has the same.
SUFFICIENT_DECREASE = 1e-4
SHORTEST_STEP = 0.0625
SMALLEST_PIVOT = 1e-8


@step_kernel(
    keeps={
        "directions": Kept((ROWS, WINDOW, SIZE)),
        "squares": Kept((ROWS, WINDOW), torch.float64),
        "lengths": Kept((ROWS, WINDOW), torch.float64),
        "merit": Kept((ROWS,), torch.float64),
        "count": Kept((ROWS,), torch.int32),
    },
    constants={"line_search": FLAG},
    max_window=MAX_DIRECTIONS,
)
def broyden_step(
    z: Tensor,
    fz: Tensor,
    directions: Tensor,
    squares: Tensor,
    lengths: Tensor,
    merit: Tensor,
    count: Tensor,
    out: Tensor,
    *,
    line_search: bool,
    watch: Watch | None = None,
    workspace: Tensor | None = None,
) -> None:
    """One step of Broyden's first method for every row, from one vector an iteration.

    With g = fz - z and s_j = lengths_j d_j the steps accepted so far, the inverse Jacobian of g is
    approximated by ``H_0 = -I`` and
    ``H_{j+1} = (I + (d_{j+1} - (1 - lengths_j) d_j) d_j^T / ||d_j||^2) H_j``: the directions
    ``d_j = -H_j g_j`` are all that is kept (Kelley 1995, section 7.3, where lengths are 1). H is
    applied by one read of each. The new direction satisfies the secant equation of the last step.
    Inner products with the
    directions are summed in the states' precision over eight terms per lane, then in float64. When
    the window is full, or the update has no pivot (below 1e-8 of its terms), the row begins
    again with ``H = -I``, so a window of 1 is Picard iteration. All that a row reads and writes is
    its own.

    With a line search a trial that does not lower ``||g||^2`` by Armijo's rule (1e-4) is answered
    by half the step, down to one sixteenth, and then by going back to the last accepted state and
    beginning again with ``H = -I`` from its evaluation.

    Args:
        z: (B, D) float32, float64 or bfloat16 current states.
        fz: (B, D) the cell at ``z``.
        directions: (B, m, D) directions, 1 <= m <= 1024, oldest first; updated.
        squares: (B, m) float64 their squared lengths; updated.
        lengths: (B, m) float64 the share of each that was stepped; updated.
        merit: (B,) float64 squared residual of the last accepted state; updated.
        count: (B,) int32 directions held, 0 before the first; updated. What lies beyond may be
            anything.
        out: (B, D) receives the next state; may be ``z`` itself, not ``fz``.
        line_search: Whether a step must lower the residual.
        watch: Judges the rows first; ``out`` must then overlap nothing.
        workspace: What :func:`deqcert.kernels.workspace` returned; default: allocated here.

    Raises:
        KernelError: If an argument has the wrong dtype, shape, device or layout.
    """
    m = directions.shape[1]
    square, fz_square = residual_norms.reference(z, fz)
    last = judge_norms(z, out, square, fz_square, watch)
    index = torch.arange(z.shape[0], device=z.device)
    n = count.clamp(0, m).long()
    newest = (n - 1).clamp(min=0)
    length = torch.where(n > 0, lengths[index, newest], 0.0)

    # A trial that did not lower the residual enough is shortened, or taken back altogether.
    back = torch.zeros_like(n, dtype=torch.bool)
    refused = back
    if line_search:
        enough = square <= (1.0 - 2.0 * SUFFICIENT_DECREASE * length) * merit
        refused = (n > 0) & ~enough & ~((n == 1) & (length <= SHORTEST_STEP))
        back = refused & (0.5 * length < SHORTEST_STEP)
    less = torch.where(back, length, 0.5 * length)

    # w = -H g, the factors one after the other, in the rows that have that many.
    w = fz - z
    dot = row_sum(directions[:, 0].double() * w.double())
    for j in range(m - 1):
        factor = torch.where(j + 1 < n, dot / squares[:, j], 0.0)
        turn = factor * (1.0 - lengths[:, j])
        following = directions[:, j + 1].double()
        value = w.double() + factor[:, None] * following
        turned = value - turn[:, None] * directions[:, j].double()
        value = torch.where((turn != 0.0)[:, None], turned, value)
        active = j + 1 < n
        w = torch.where(active[:, None], value.to(w.dtype), w)
        dot = torch.where(active, row_sum(value * following), dot)

    # The update of the last step, where it has a pivot and a place.
    newest_square = squares[index, newest]
    pivot = newest_square - dot
    updates = (pivot.abs() > SMALLEST_PIVOT * (newest_square + dot.abs())) & (n > 0) & (n < m)
    keep, turn = newest_square / pivot, dot / pivot * (1.0 - length)
    previous = directions[index, newest]
    value = keep[:, None] * w.double()
    turned = value - turn[:, None] * previous.double()
    direction = torch.where((turn != 0.0)[:, None], turned, value).to(z.dtype)
    direction = torch.where(updates[:, None], direction, fz - z)
    step = torch.where(updates[:, None], z + direction, fz)
    shorter = z - less.to(z.dtype)[:, None] * previous
    step = torch.where(refused[:, None], shorter, step)

    slot = torch.where(updates, n, 0)
    length_there = torch.where(refused, length - less, 1.0)
    square_there = torch.where(updates, row_sum(direction.double().square()), square)
    taken = torch.nonzero(~refused).squeeze(1)
    directions[taken, slot[taken]] = direction[taken]
    squares[taken, slot[taken]] = square_there[taken]
    lengths[index, torch.where(refused, newest, slot)] = length_there
    merit.copy_(torch.where(refused, merit, square))
    held = torch.where(refused, torch.where(back, 0, n), slot + 1)
    count.copy_(held.to(count.dtype))
    out.copy_(step)
    finish(out, watch, last)
