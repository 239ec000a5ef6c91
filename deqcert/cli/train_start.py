"""``deqcert train-start``: a network that guesses where the solves of a model should start."""

from __future__ import annotations

import json
from typing import Any

import click

from deqcert.cli.fields import options_from
from deqcert.cli.options import quiet_option
from deqcert.settings import Machine
from deqcert.training.starts.config import StartConfig


@click.command(short_help="Fit a network that guesses where a model's solves should start.")
@options_from(StartConfig, old_names={"config": "model_config"})
@options_from(Machine, only=("threads",))
@quiet_option("the file's path")
def command(threads: int | None, quiet: bool, **given: Any) -> None:
    """Fit a small network from the injection to the equilibrium, for --start learned.

    The start is a function of the noisy input alone, so votes that begin there stay independent.
    The cheapest depth from it that changes at most the stated share of votes is found on training
    images and kept in the file; a record of all of it is written beside. The same command goes on
    with a training that was interrupted.
    """
    from deqcert.compose import prepare_process
    from deqcert.training import train_start

    prepare_process(threads)
    path = train_start(StartConfig(progress=not quiet, **given))
    if not quiet:
        found = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["measured"]
        depth = found["depth"]
        rules = {name: depth[name] for name in ("early", "margin") if depth[name] is not None}
        early = "".join(f" --{name} {value:g}" for name, value in rules.items())
        for at, gap in depth["checks"]:
            early += f", or {at} with a gap of {gap:g}"
        held = found["held"]
        print(
            f"{found['parameters']} weights, {100 * found['share_of_parameters']:.1f}% of the "
            f"model's; {found['cost']:.2f} cell evaluations per start\n"
            f"agreement with the converged solve after 1, 2, 3 cells: "
            + (
                ", ".join(f"{100 * share:.1f}%" for share in found["agreement"][:3])
                or "unknown, for none of the noisy images has converged"
            )
            + f"\ndepth kept: --steps {depth['steps']}{early}: {depth['nfe']:.2f} evaluations per "
            f"vote after the start, {100 * depth['disagreement']:.2f}% of the votes on "
            f"{held['images']} other noisy images differ (at most {100 * held['bound']:.2f}%, with "
            f"{100 * held['confidence']:g}% confidence)"
        )
    print(f"start: {path}")
