"""``deqcert train``: a model for certification, trained with noise."""

from __future__ import annotations

from typing import Any

import click

from deqcert.cli.fields import options_from
from deqcert.cli.options import quiet_option
from deqcert.settings import Machine
from deqcert.training.config import TrainConfig


@click.command(short_help="Train a model with noise, ready to be certified.")
@options_from(TrainConfig, old_names={"preset": "architecture", "model": "model_config"})
@click.option(
    "--objective-option",
    "pairs",
    multiple=True,
    metavar="KEY=VALUE",
    help="An option of the objective, for instance draws=4; may be repeated.",
)
@options_from(Machine, only=("threads",))
@quiet_option("the checkpoint's path")
def command(pairs: tuple[str, ...], threads: int | None, quiet: bool, **given: Any) -> None:
    """Train a deep equilibrium model with Gaussian noise and save it in the public format.

    The folder gets the weights, the YAML configuration and a record of the training with the
    measured accuracy. The same command goes on with a training that was interrupted.
    """
    from deqcert.compose import prepare_process
    from deqcert.options import parse_pairs
    from deqcert.training import objective_options, train
    from deqcert.training.workers import is_first

    prepare_process(threads)
    name = given["objective"]
    options = parse_pairs(f"{name} option", pairs, objective_options(name))
    path = train(TrainConfig(progress=not quiet, objective_options=options, **given))
    if is_first():
        print(f"checkpoint: {path}")
