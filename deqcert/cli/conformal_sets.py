"""``deqcert conformal sets``: prediction sets for images, clean and attacked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from deqcert.attacking import parse_attack
from deqcert.attacks import ATTACKS
from deqcert.cli.fields import FILLED, options_from
from deqcert.cli.options import quiet_option, say
from deqcert.errors import ConfigError
from deqcert.options import number
from deqcert.settings import Data, Machine


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What sets promise.

    Args:
        alpha: How often a set may miss the true class.
        radius: l2 size of perturbations that the promise holds for, in [0, 1] pixels.
        sigma: Standard deviation of the noise; one that is not the calibrated one is refused.
    """

    alpha: float = number(0.1, above=0, below=1, metavar="A")
    radius: float = number(0.0, low=0, metavar="R")
    sigma: float | None = number(None, above=0, whole=False, metavar="S")


@click.command(short_help="Answer with sets that hold the true class; attack them, too.")
@click.argument("calibration", type=FILLED, metavar="CALIBRATION")
@options_from(Promise)
@options_from(Data)
@options_from(Machine, only=("batch", "seed", "device", "threads"))
@click.option("--model", type=FILLED, metavar="FILE", help="The model, if it is elsewhere now.")
@click.option(
    "--model-config", type=FILLED, metavar="FILE", help="Its configuration, if it is elsewhere now."
)
@click.option(
    "--attack",
    "attacks",
    multiple=True,
    metavar="NAME[:KEY=VALUE,...]",
    help=f"Try to get the true class out of the sets, at the radius: {', '.join(ATTACKS.names())}; "
    "with options as in smoothadv-pgd:steps=10; may be repeated.",
)
@click.option(
    "--votes",
    type=FILLED,
    metavar="RUN",
    help="Instead of solving, take the votes of a finished run of deqcert certify; --images are "
    "then places in the run.",
)
@click.option(
    "--out", type=FILLED, metavar="DIR", help="The run folder; default: CALIBRATION-sets."
)
@quiet_option()
def command(
    calibration: str,
    alpha: float,
    radius: float,
    sigma: float | None,
    data: str,
    split: str,
    images: str,
    model: str | None,
    model_config: str | None,
    attacks: tuple[str, ...],
    votes: str | None,
    out: str | None,
    quiet: bool,
    **machine: Any,
) -> None:
    """Answer for images with sets of classes.

    CALIBRATION is what deqcert conformal calibrate has written. The true class is in a set with
    probability 1 - alpha at least, for images like those that were calibrated on and for every
    perturbation within the radius whose author does not know the noise. The same command given
    again continues a run that was stopped.
    """
    from deqcert.conformal import SetPredictor
    from deqcert.progress import Ticks
    from deqcert.report.sets import sets_table

    context = click.get_current_context()

    def asked(name: str) -> bool:
        return context.get_parameter_source(name) is ParameterSource.COMMANDLINE

    chosen = [parse_attack(text) for text in attacks]
    overrides = {name: value for name, value in machine.items() if asked(name)}
    places = {"model": model, "model_config": model_config, "sigma": sigma}
    overrides |= {name: value for name, value in places.items() if value is not None}
    predictor = SetPredictor(calibration, alpha, radius, overrides=overrides)
    run = None
    if votes is not None:
        from deqcert.conformal.votes import read_votes

        run = read_votes(votes)
        if not asked("data"):
            data, split = run.notes["data"], run.parameters["split"]
        if overrides:
            raise ConfigError(
                f"votes are there already; leave --{next(iter(overrides)).replace('_', '-')} out"
            )
    elif not asked("data"):
        data = str(predictor.calibration.notes.get("data", data))
    folder = Path(out or f"{calibration.rstrip('/')}-sets")
    results = predictor.of_dataset(
        data,
        split=split,
        images=images,
        attacks=chosen,
        votes=run,
        out=folder,
        told=Ticks(quiet),
        note=say,
    )
    print(sets_table(results).text())
    print(f"run folder: {folder}\npicture: {folder / 'sets.png'}")
