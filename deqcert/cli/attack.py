"""``deqcert attack``: certificates held against attacks, in a run folder that can be continued."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from deqcert.api import parse_images
from deqcert.attacks import ATTACKS
from deqcert.certifiers.bounds import write_radius
from deqcert.cli.attacked import NOISE, Attacking, Certified, prepare
from deqcert.cli.fields import FILLED, options_from, renamed
from deqcert.cli.options import parse_radii, quiet_option, radii_option
from deqcert.errors import ConfigError, Interrupted, RunError
from deqcert.options import parse_pairs

if TYPE_CHECKING:
    from deqcert.attacks import Attack
    from deqcert.attacks.evaluation import Evaluation, Outcome
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
    from deqcert.attacks.evaluation.certified import learned_start
    from deqcert.models import file_hash
    from deqcert.report import read_results
    from deqcert.runs import Manifest, Run, machine, versions

    asked_radii = parse_radii(radii)
    if out is not None and os.path.realpath(out) == os.path.realpath(run):
        raise ConfigError(
            f"--out {out} is the run itself; give another folder, or leave --out out for "
            f"{run}-attacks"
        )
    named = [parse_attack(text) for text in attacks]
    folder = Path(run)
    manifest = Manifest.read(folder)
    if manifest is None:
        raise RunError(f"{run} is no run folder; give one that deqcert certify has finished")
    results = read_results(folder)
    if results.pending:
        raise RunError(f"{run} is not a finished run of deqcert certify; finish it first")
    if start and learned_start(manifest) is None:
        raise ConfigError(f"the certificates of {run} are of no learned start; leave --start out")
    certified = Certified(
        run=run,
        manifest=manifest,
        results=results,
        chosen=parse_images(images, len(results)),
        asked=Attacking(**given),
        model=model,
        model_config=model_config,
        data=data,
        start=start,
    )
    if not certified.noise:
        _refuse_noise(run)
    made_ready = prepare(certified, named)
    evaluation, attacked = made_ready.evaluation, certified.images
    parameters = {
        "certificates": file_hash(folder / "certificates.tsv"),
        **made_ready.parameters,
    }
    place = Path(out or f"{folder}-attacks")
    with Run(
        place,
        parameters,
        [image.index for image in attacked],
        environment={**versions(), **machine()},
        notes={**made_ready.notes, "run": run},
        layout=evaluation.layout,
    ) as made:
        for change in made.changes:
            print(f"deqcert: note: {change} since this run began; recorded", file=sys.stderr)

        def tell(outcome: Outcome) -> None:
            for alarm in outcome.alarms:
                print(alarm.sentence(), flush=True)
            if not quiet:
                _progress(outcome, made)

        try:
            evaluation.run(made, attacked, made_ready.dataset, tell)
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted; {made.done} of {len(attacked)} images are safe in {place}, "
                "and the same command goes on from there"
            ) from None
        _conclude(made, evaluation, asked_radii, results.about or "the model")


def parse_attack(text: str) -> Attack:
    """Read NAME[:KEY=VALUE,...].

    Raises:
        ConfigError: If there is no such attack or option, or a value is out of range.
    """
    name, _, pairs = text.partition(":")
    attack = ATTACKS.get(name)
    given = pairs.split(",") if pairs else []
    return attack.with_options(**parse_pairs("attack option", given, attack.options))


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


def _conclude(made: Run, evaluation: Evaluation, radii: list[float] | None, about: str) -> None:
    """Write the summary and the picture, print the table, and exit with 1 after an alarm."""
    from deqcert.report.attacks import attack_rows, attack_table, draw_attacks, read_attacks
    from deqcert.report.tables import radii_until

    attacked, reach = read_attacks(made.folder), max(evaluation.grid)
    at = radii or [r for r in radii_until(reach, evaluation.norm) if r <= reach * (1.0 + 1e-9)]
    alarms = {str(image): list(names) for image, names in attacked.alarms.items()}
    summary = {"radii": at, "rows": attack_rows(attacked, at), "alarms": alarms}
    made.finish(summary)
    picture = made.folder / "attacks.png"
    certified = f"{about}, smoothed" if attacked.smoothed else about
    draw_attacks(attacked, picture, reach=reach, title=f"Attacks on {certified}")
    print(attack_table(attacked, at))
    print(f"certified and attacked: {certified}")
    print(f"folder: {made.folder}\npicture: {picture}")
    attacks = "1 attack" if len(evaluation.attacks) == 1 else f"{len(evaluation.attacks)} attacks"
    if not attacked.alarms:
        alpha = made.manifest.parameters.get("alpha", 0)
        odds = (
            f"a verdict of the run is wrong with probability at most {alpha:g}"
            if attacked.smoothed
            else "a class counts as another only where that is proven"
        )
        print(f"no alarm: {attacked.certified.sum()} certificates held against {attacks} ({odds})")
        return
    for image, names in attacked.alarms.items():
        files = ", ".join(f"{made.folder}/alarms/{image}-{name}.npz" for name in names)
        print(f"ALARM: image {image} is broken inside its certified radius: {files}")
    raise click.exceptions.Exit(1)
