"""``deqcert bench solvers``: what a solver costs beside the cell on this machine."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from deqcert.cli.benches import whole_numbers

if TYPE_CHECKING:
    from deqcert.bench.solvers import Timing


@click.command(short_help="Time an iteration costs beside the cell, against torchdeq's.")
@click.option("--sizes", metavar="D,...", help="Elements of a state; default: small to large.")
@click.option("--batches", metavar="B,...", help="States solved together; default: 1 to 400.")
@click.option(
    "--window", type=int, default=6, show_default=True, metavar="K", help="Of Anderson's method."
)
@click.option(
    "--rounds",
    type=int,
    default=5,
    show_default=True,
    metavar="R",
    help="How often everything is run; the fastest counts.",
)
@click.option("--threads", type=int, metavar="T", help="CPU threads; default: torch's own.")
@click.option("--device", default="cpu", show_default=True, help="Where to solve: cpu or cuda.")
@click.option(
    "--dtype", default="float32", show_default=True, help="Of the states: or float64, bfloat16."
)
@click.option("--json", "as_json", is_flag=True, help="Print for machines.")
@click.option("--quiet", is_flag=True, help="Print the table only.")
def command(
    sizes: str | None,
    batches: str | None,
    window: int,
    rounds: int,
    threads: int | None,
    device: str,
    dtype: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure what solvers cost beside the cell, side by side with torchdeq's and plain torch."""
    from deqcert.bench.solvers import bench_solvers
    from deqcert.cli import build

    grid: dict[str, Any] = {}
    if sizes is not None:
        grid["sizes"] = whole_numbers("sizes", sizes)
    if batches is not None:
        grid["batches"] = whole_numbers("batches", batches)
    build.prepare_process(threads)
    result = bench_solvers(
        **grid,
        window=window,
        rounds=rounds,
        device=device,
        dtype=dtype,
        tell=None if quiet else _tell,
    )
    print(result.json() if as_json else result.text())


def _tell(timing: Timing) -> None:
    print(
        f"{timing.solver}, B {timing.rows}, D {timing.size}: {timing.ours:.3f} ms",
        file=sys.stderr,
        flush=True,
    )
