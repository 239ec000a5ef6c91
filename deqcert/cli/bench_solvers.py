"""``deqcert bench solvers``: what a solver costs beside the cell on this machine."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from deqcert.cli.fields import options_from
from deqcert.cli.options import json_option, parse_numbers, quiet_option
from deqcert.options import choice, number
from deqcert.settings import Machine

if TYPE_CHECKING:
    from deqcert.bench.solvers import Timing


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """How solvers are measured.

    Args:
        window: Window of Anderson's method.
        rounds: How often everything is run; the fastest counts.
        dtype: Type of the states.
    """

    window: int = number(6, low=1, metavar="K")
    rounds: int = number(5, low=1, metavar="R")
    dtype: str = choice("float32", ("float32", "float64", "bfloat16"))


@click.command(short_help="Time an iteration costs beside the cell, against torchdeq's.")
@click.option("--sizes", metavar="D,...", help="Elements of a state; default: small to large.")
@click.option("--batches", metavar="B,...", help="States solved together; default: 1 to 400.")
@options_from(Measuring)
@options_from(Machine, only=("device", "threads"))
@json_option
@quiet_option()
def command(
    sizes: str | None,
    batches: str | None,
    window: int,
    rounds: int,
    dtype: str,
    threads: int | None,
    device: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure what solvers cost beside the cell, side by side with torchdeq's and plain torch."""
    from deqcert import compose
    from deqcert.bench.solvers import bench_solvers

    grid: dict[str, Any] = {}
    if sizes is not None:
        grid["sizes"] = parse_numbers("sizes", sizes, whole=True, low=1, example="1024,4096")
    if batches is not None:
        grid["batches"] = parse_numbers("batches", batches, whole=True, low=1, example="1,100")
    compose.prepare_process(threads)
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
