"""``deqcert bench cell``: what a cell costs beside its multiplications on this machine."""

from __future__ import annotations

from dataclasses import dataclass

import click

from deqcert.cli.bench_forms import tell_form
from deqcert.cli.fields import FILLED, options_from, renamed
from deqcert.cli.options import json_option, model_options
from deqcert.models import FORMS
from deqcert.options import number
from deqcert.settings import Machine


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How a cell is timed.

    Args:
        batch: Rows of an evaluation.
        rounds: How often everything is run; the median counts.
    """

    batch: int = number(100, low=1, metavar="B")
    rounds: int = number(15, low=1, metavar="R")


@click.command(short_help="Time of cell and readout against their multiplications here.")
@model_options
@renamed("config", "model_config", FILLED)
@click.option(
    "--form",
    "forms",
    multiple=True,
    metavar="NAME",
    help=f"{', '.join(FORMS)}; may be repeated. eager is always measured. Default: all that the "
    "model has.",
)
@options_from(Timing)
@options_from(Machine, only=("threads",))
@json_option
def command(
    model: str,
    model_config: str | None,
    forms: tuple[str, ...],
    batch: int,
    rounds: int,
    threads: int | None,
    as_json: bool,
) -> None:
    """Measure the cell and the readout of a model on the CPU against their floor.

    The floor is what their multiplications would take at the rate of this machine's matrix product,
    which is measured in the same rounds, in bfloat16 as well where the processor has units for it.
    """
    import torch

    from deqcert import compose
    from deqcert.bench.cell import bench_cell
    from deqcert.models import load_model

    compose.prepare_process(threads)
    loaded = load_model(model, model_config)
    images = torch.rand(batch, *loaded.input_shape, generator=torch.Generator().manual_seed(0))
    result = bench_cell(loaded, images, forms or None, rounds=rounds, tell=tell_form)
    print(result.json() if as_json else result.text())
