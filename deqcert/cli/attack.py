"""``deqcert attack``: certificates held against attacks, in a run folder that can be continued."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deqcert.attacks import ATTACKS
from deqcert.cli import Interrupted
from deqcert.cli.options import Source, parse_images, parse_radii
from deqcert.options import parse_pairs

if TYPE_CHECKING:
    from deqcert.attacks import Attack
    from deqcert.attacks.evaluation import Evaluation, Outcome
    from deqcert.runs import Manifest, Run


@click.command(short_help="Attack certified images; a break inside a radius is an alarm.")
@click.argument("run", metavar="RUN")
@click.option(
    "--attack",
    "attacks",
    multiple=True,
    metavar="NAME[:KEY=VALUE,...]",
    help=f"{', '.join(ATTACKS.names())}; with options as in square:steps=1000,draws=32; may be "
    "repeated; default: all of them.",
)
@click.option(
    "--images",
    default=":",
    show_default=True,
    metavar="START:STOP[:STEP]",
    help="Which of the run's images, by their place in the run, counted from 0.",
)
@click.option(
    "--n", type=int, default=1000, show_default=True, help="Fresh noisy copies of a verdict."
)
@click.option(
    "--alpha",
    type=float,
    default=0.001,
    show_default=True,
    help="Probability that any verdict of the whole run is wrong, shared by all of them.",
)
@click.option(
    "--search",
    type=int,
    default=100,
    show_default=True,
    metavar="S",
    help="Noisy copies of a guess on the way to a verdict.",
)
@click.option(
    "--reach",
    type=float,
    metavar="R",
    help="Largest radius attacked; default: 6 sigma, or the largest certified radius if that is "
    "more.",
)
@click.option(
    "--rows",
    type=int,
    default=256,
    show_default=True,
    metavar="R",
    help="Noisy copies that are differentiated together; less takes less memory.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Of the attacks and the verdicts."
)
@click.option("--model", metavar="FILE", help="The checkpoint, if it is elsewhere now.")
@click.option("--config", metavar="FILE", help="Its configuration, if it is elsewhere now.")
@click.option("--data", metavar="SPEC", help="The images, if they are elsewhere now.")
@click.option("--start", metavar="learned:FILE", help="A learned start, if it is elsewhere now.")
@click.option("--out", metavar="DIR", help="Folder of the attacks; default: RUN-attacks.")
@click.option("--radii", metavar="R,R,...", help="Radii of the table; default: 0,0.25,...")
@click.option("--quiet", is_flag=True, help="Print alarms and the table only.")
def command(
    run: str,
    attacks: tuple[str, ...],
    images: str,
    n: int,
    alpha: float,
    search: int,
    reach: float | None,
    rows: int,
    seed: int,
    model: str | None,
    config: str | None,
    data: str | None,
    start: str | None,
    out: str | None,
    radii: str | None,
    quiet: bool,
) -> None:
    """Attack the images of a run of deqcert certify and hold its certificates against the result.

    RUN is the run folder. Every attack looks for a point inside the certified radius at which the
    smoothed classifier answers another class, and for the nearest such point at all. One inside is
    an alarm: it is printed with all that is needed to find it again, its point is saved, and the
    exit code is 1. The same command given again continues a run that was stopped.
    """
    from deqcert.attacks.evaluation import CertifiedImage, Evaluation
    from deqcert.attacks.evaluation.certified import certified_predictor, check_same, learned_start
    from deqcert.cli import build
    from deqcert.errors import ConfigError, RunError
    from deqcert.models import file_hash, load_model
    from deqcert.report import read_results
    from deqcert.runs import Manifest, Run, machine, versions

    asked_radii = parse_radii(radii)
    chosen = [parse_attack(text) for text in attacks or ATTACKS.names()]
    folder = Path(run)
    manifest = Manifest.read(folder)
    if manifest is None:
        raise RunError(f"{run} is no run folder; give one that deqcert certify has finished")
    results = read_results(folder)
    if results.pending:
        raise RunError(f"{run} is not a finished run of deqcert certify; finish it first")
    if "predictor" not in manifest.parameters:
        raise RunError(f"{run} holds no certificates of a smoothed classifier; give one that does")
    if start and learned_start(manifest) is None:
        raise ConfigError(f"the certificates of {run} are of no learned start; leave --start out")
    certified = [
        CertifiedImage(
            int(results.idx[i]),
            int(results.predict[i]) if results.predict[i] >= 0 else None,
            float(results.radius[i]),
        )
        for i in parse_images(images, len(results))
    ]

    source = _source(manifest, model, config, data, seed)
    loaded = build.load(source)
    for change in check_same(manifest, loaded.parameters, run):
        print(f"deqcert: note: {change} since the certificates were made", file=sys.stderr)
    predictor, depth = certified_predictor(
        manifest, lambda: build.make_policy(start or "learned", source)[0]
    )
    engine = build.make_engine(source, loaded.model)
    evaluation = Evaluation.of_run(
        engine,
        predictor,
        # Gradients go through the model as it was trained; verdicts through the form certified.
        load_model(source.model, source.config).eval().to(engine.device),
        chosen,
        certified,
        n=n,
        alpha=alpha,
        guesses=search,
        depth=depth,
        reach=reach,
        rows=rows,
        facts={"model": file_hash(source.model)},
    )
    parameters = {
        "certificates": file_hash(folder / "certificates.tsv"),
        **evaluation.parameters(),
        "alpha": alpha,
        "judged": build.describe_predictor(predictor),
        **loaded.parameters,
    }
    place = Path(out or f"{folder}-attacks")
    with Run(
        place,
        parameters,
        [image.index for image in certified],
        environment={**versions(), **machine()},
        notes={**loaded.notes, "run": run},
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
            evaluation.run(made, certified, loaded.dataset, tell)
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted; {made.done} of {len(certified)} images are safe in {place}, "
                "and the same command goes on from there"
            ) from None
        _conclude(made, evaluation, asked_radii, alpha)


def parse_attack(text: str) -> Attack:
    """Read NAME[:KEY=VALUE,...].

    Raises:
        ConfigError: If there is no such attack or option, or a value is out of range.
    """
    name, _, pairs = text.partition(":")
    attack = ATTACKS.get(name)
    given = pairs.split(",") if pairs else []
    return attack.with_options(**parse_pairs("attack option", given, attack.options))


def _source(
    manifest: Manifest, model: str | None, config: str | None, data: str | None, seed: int
) -> Source:
    """Return the options that the run was made with, with another seed."""
    was, notes = manifest.parameters, manifest.notes
    return Source(
        model=model or notes["model"],
        config=config or (notes.get("config") if model is None else None),
        data=data or notes["data"],
        split=was["split"],
        images=":",
        sigma=was["sigma"],
        batch=was["batch"],
        shape=was["shape"],
        seed=seed,
        device=was["device"],
        threads=was["threads"],
        form=was["form"],
    )


def _progress(outcome: Outcome, made: Run) -> None:
    norms = {key: value for key, value in outcome.numbers.items() if key.startswith("norm:")}
    nearest = min(norms, key=lambda key: norms[key])
    found = "nothing found"
    if math.isfinite(norms[nearest]):
        found = f"another class from {norms[nearest]:.3f} on ({nearest.partition(':')[2]})"
    print(
        f"image {outcome.idx} ({made.done} of {len(made.images)}): class {outcome.answer}, label "
        f"{outcome.label}, certified within {outcome.radius:.3f}; {found}",
        file=sys.stderr,
        flush=True,
    )


def _conclude(made: Run, evaluation: Evaluation, radii: list[float] | None, alpha: float) -> None:
    """Write the summary and the picture, print the table, and exit with 1 after an alarm."""
    from deqcert.report.attacks import attack_rows, attack_table, draw_attacks, read_attacks

    attacked, reach = read_attacks(made.folder), max(evaluation.grid)
    at = radii or [0.25 * step for step in range(math.floor(reach / 0.25 + 1e-9) + 1)]
    alarms = {str(image): list(names) for image, names in attacked.alarms.items()}
    summary = {"radii": at, "rows": attack_rows(attacked, at), "alarms": alarms}
    made.finish(summary)
    picture = draw_attacks(attacked, made.folder / "attacks.png", reach=reach)
    print(attack_table(attacked, at))
    print(f"folder: {made.folder}\npicture: {picture}")
    attacks = "1 attack" if len(evaluation.attacks) == 1 else f"{len(evaluation.attacks)} attacks"
    if not attacked.alarms:
        print(
            f"no alarm: {attacked.certified.sum()} certificates held against {attacks} (a "
            f"verdict of the run is wrong with probability at most {alpha:g})"
        )
        return
    for image, names in attacked.alarms.items():
        files = ", ".join(f"{made.folder}/alarms/{image}-{name}.npz" for name in names)
        print(f"ALARM: image {image} is broken inside its certified radius: {files}")
    raise click.exceptions.Exit(1)
