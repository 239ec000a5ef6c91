"""``deqcert attack``: certificates held against attacks, in a run folder that can be continued."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from deqcert.attacking import (
    NOISE,
    Attacking,
    Certified,
    Finished,
    attack_certificates,
    parse_attack,
)
from deqcert.attacks import ATTACKS
from deqcert.certifiers.bounds import write_radius
from deqcert.cli.fields import FILLED, options_from, renamed
from deqcert.cli.options import parse_radii, quiet_option, radii_option, say
from deqcert.data.indices import parse_images
from deqcert.errors import ConfigError
from deqcert.settings import Spreading

if TYPE_CHECKING:
    from deqcert.attacks.evaluation import Outcome
    from deqcert.runs import Run


@click.command(short_help="Attack certified images; a break inside a radius is an alarm.")
@click.argument("run", type=FILLED, metavar="RUN")
@click.option(
    "--attack",
    "attacks",
    multiple=True,
    metavar="NAME[:KEY=VALUE,...]",
    help=f"{', '.join(ATTACKS.names())}; with options as in square:steps=1000,draws=32; may be "
    "repeated; default: all that know the certificates' norm and need no noise where none was.",
)
@click.option(
    "--images",
    default=":",
    show_default=True,
    metavar="START:STOP[:STEP]",
    help="Which of the run's images, by their place in the run, counted from 0.",
)
@options_from(Attacking)
@click.option(
    "--model", type=FILLED, metavar="FILE", help="The checkpoint, if it is elsewhere now."
)
@click.option(
    "--model-config", type=FILLED, metavar="FILE", help="Its configuration, if it is elsewhere now."
)
@renamed("config", "model_config", FILLED)
@click.option("--data", type=FILLED, metavar="SPEC", help="The images, if they are elsewhere now.")
@click.option(
    "--start", type=FILLED, metavar="learned:FILE", help="A learned start, if it is elsewhere now."
)
@click.option(
    "--out", type=FILLED, metavar="DIR", help="Folder of the attacks; default: RUN-attacks."
)
@options_from(Spreading)
@radii_option
@quiet_option("alarms and the table")
def command(
    run: str,
    attacks: tuple[str, ...],
    images: str,
    model: str | None,
    model_config: str | None,
    data: str | None,
    start: str | None,
    out: str | None,
    workers: int | None,
    ray: str | None,
    radii: str | None,
    quiet: bool,
    **given: Any,
) -> None:
    """Attack the images of a run of deqcert certify and hold its certificates against the result.

    RUN is the run folder. Every attack looks for a point inside the certified radius at which the
    certified classifier answers another class, and for the nearest such point at all. One inside is
    an alarm: it is printed with all that is needed to find it again, its point is saved, and the
    exit code is 1. The same command given again continues a run that was stopped.
    """
    asked_radii = parse_radii(radii)
    if out is not None and os.path.realpath(out) == os.path.realpath(run):
        raise ConfigError(
            f"--out {out} is the run itself; give another folder, or leave --out out for "
            f"{run}-attacks"
        )
    named = [parse_attack(text) for text in attacks]
    certified = Certified.of_run(
        run,
        lambda count: parse_images(images, count),
        Attacking(**given),
        model=model,
        model_config=model_config,
        data=data,
        start=start,
    )
    if not certified.noise:
        _refuse_noise(run)

    def tell(outcome: Outcome, made: Run) -> None:
        for alarm in outcome.alarms:
            print(alarm.sentence(), flush=True)
        if not quiet:
            _progress(outcome, made)

    place = Path(out or f"{Path(run)}-attacks")
    finished = attack_certificates(
        certified,
        named,
        place,
        tell=tell,
        note=say,
        radii=asked_radii,
        spread=Spreading(workers=workers, ray=ray),
    )
    _conclude(finished, certified.about)


def _progress(outcome: Outcome, made: Run) -> None:
    norms = {key: value for key, value in outcome.numbers.items() if key.startswith("norm:")}
    nearest = min(norms, key=lambda key: norms[key])
    found = "nothing found"
    if math.isfinite(norms[nearest]):
        found = f"another class from {norms[nearest]:.3f} on ({nearest.partition(':')[2]})"
    print(
        f"image {outcome.idx} ({made.done} of {len(made.images)}): class {outcome.answer}, label "
        f"{outcome.label}, certified within {write_radius(outcome.radius, 3)}; {found}",
        file=sys.stderr,
        flush=True,
    )


def _refuse_noise(run: str) -> None:
    """Refuse what only the verdicts on a smoothed classifier have a use for."""
    context = click.get_current_context()
    for name in NOISE:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise ConfigError(
                f"--{name} is about noise, and the certificates of {run} are proofs, whose "
                "verdicts are proven; leave it out"
            )


def _conclude(finished: Finished, about: str) -> None:
    """Print the table, and exit with 1 after an alarm."""
    from deqcert.report.attacks import attack_table

    attacked, folder = finished.attacked, finished.folder
    print(attack_table(attacked, finished.radii))
    print(f"certified and attacked: {about}")
    print(f"folder: {folder}\npicture: {folder / 'attacks.png'}")
    count = len(finished.evaluation.attacks)
    attacks = "1 attack" if count == 1 else f"{count} attacks"
    if not attacked.alarms:
        odds = (
            f"a verdict of the run is wrong with probability at most {finished.alpha:g}"
            if attacked.smoothed
            else "a class counts as another only where that is proven"
        )
        print(f"no alarm: {attacked.certified.sum()} certificates held against {attacks} ({odds})")
        return
    for image, names in attacked.alarms.items():
        files = ", ".join(f"{folder}/alarms/{image}-{name}.npz" for name in names)
        print(f"ALARM: image {image} is broken inside its certified radius: {files}")
    raise click.exceptions.Exit(1)
