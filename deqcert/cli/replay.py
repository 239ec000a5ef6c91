"""``deqcert replay``: the votes of an answer on record, computed again."""

from __future__ import annotations

import json
from pathlib import Path

import click

from deqcert.cli.fields import FILLED, options_from
from deqcert.cli.options import json_option, say
from deqcert.settings import Machine


@click.command(short_help="Compute the votes of a service's answer again.")
@click.argument("id", type=FILLED, metavar="ID")
@click.option(
    "--service",
    type=FILLED,
    default="runs/service",
    show_default=True,
    metavar="DIR",
    help="Folder of the service that gave the answer.",
)
@click.option("--model", type=FILLED, metavar="FILE", help="The model, if it is elsewhere now.")
@click.option(
    "--model-config", type=FILLED, metavar="FILE", help="Its configuration, if it is elsewhere now."
)
@click.option(
    "--calibration", type=FILLED, metavar="FILE", help="For a prediction set: its calibration."
)
@options_from(Machine, only=("threads",))
@json_option
@click.pass_context
def command(
    context: click.Context,
    id: str,
    service: str,
    model: str | None,
    model_config: str | None,
    calibration: str | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Compute the votes of an answer again, alone and offline, and say whether they are the same.

    ID is what the answer was given as. Model, solve and noise are taken from the service's record
    and must be what answered. Exit code 1 where anything differs.
    """
    from deqcert.compose import prepare_process
    from deqcert.serve.replay import replay

    prepare_process(threads)
    found = replay(
        id,
        Path(service),
        model=model,
        model_config=model_config,
        calibration=None if calibration is None else Path(calibration),
    )
    record = found.record
    if as_json:
        print(
            json.dumps(
                {
                    "id": record.id,
                    "equal": found.equal,
                    "differences": found.differences,
                    "changes": found.changes,
                    "votes": found.counts,
                    "answer": record.answer,
                }
            )
        )
    else:
        for stage, counts in sorted(found.counts.items()):
            print(f"stage {stage}: {sum(counts)} votes, by class {' '.join(map(str, counts))}")
        for difference in found.differences:
            print(difference)
        about = f"answer {record.id} of mode {record.mode}"
        print(f"{about}: equal" if found.equal else f"{about}: NOT equal")
    for change in found.changes:
        say(f"another now than when it answered: {change}")
    if not found.equal:
        context.exit(1)
