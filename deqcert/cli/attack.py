"""``deqcert attack``: certificates held against attacks, in a run folder that can be continued."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deqcert.api import SmoothedClassifier
from deqcert.attacks import ATTACKS
from deqcert.certifiers.bounds import write_radius
from deqcert.cli.fields import FILLED, options_from, renamed
from deqcert.cli.options import parse_radii, quiet_option, radii_option
from deqcert.data.indices import parse_images
from deqcert.errors import ConfigError, Interrupted, RunError
from deqcert.options import number, parse_pairs

if TYPE_CHECKING:
    from deqcert.attacks import Attack
    from deqcert.attacks.evaluation import Evaluation, Outcome
    from deqcert.runs import Manifest, Run


@dataclass(frozen=True, kw_only=True)
class Attacking:
    """How certificates are attacked.

    Args:
        n: Fresh noisy copies of a verdict.
        alpha: Probability that any verdict of the whole run is wrong, shared by all of them.
        search: Noisy copies of a guess on the way to a verdict.
        reach: Largest radius attacked; if not given, 6 sigma, or the largest certified radius if
            that is more.
        rows: Noisy copies that are differentiated together; less takes less memory.
        seed: Seed of the attacks and the verdicts.
    """

    n: int = number(1000, low=1, metavar="N")
    alpha: float = number(0.001, above=0, below=1, metavar="A")
    search: int = number(100, low=1, metavar="S")
    reach: float | None = number(None, above=0, whole=False, metavar="R")
    rows: int = number(256, low=1, metavar="R")
    seed: int = number(0, low=0, high=2**64 - 1)


@click.command(short_help="Attack certified images; a break inside a radius is an alarm.")
@click.argument("run", type=FILLED, metavar="RUN")
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
    smoothed classifier answers another class, and for the nearest such point at all. One inside is
    an alarm: it is printed with all that is needed to find it again, its point is saved, and the
    exit code is 1. The same command given again continues a run that was stopped.
    """
    from deqcert import compose
    from deqcert.attacks.evaluation import CertifiedImage, Evaluation
    from deqcert.attacks.evaluation.certified import certified_predictor, check_same, learned_start
    from deqcert.data import load_dataset
    from deqcert.models import file_hash
    from deqcert.report import read_results
    from deqcert.runs import Manifest, Run, machine, versions
    from deqcert.starts import make_start

    asked_radii = parse_radii(radii)
    if out is not None and os.path.realpath(out) == os.path.realpath(run):
        raise ConfigError(
            f"--out {out} is the run itself; give another folder, or leave --out out for "
            f"{run}-attacks"
        )
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

    asked = Attacking(**given)
    smooth = _classifier(manifest, model, model_config, asked.seed)
    spec, split = data or manifest.notes["data"], manifest.parameters["split"]
    loaded = compose.load(smooth.model, smooth, model_config=smooth.model_config)
    levels = manifest.parameters.get("levels")
    engine = compose.make_engine(loaded.model, smooth, manifest.parameters["sigma"], levels)
    dataset = load_dataset(spec, split)
    compose.check_fit(loaded.model, dataset, range(len(dataset)))
    about = {
        **loaded.identity,
        **compose.describe_data(spec, split, dataset),
        **compose.describe_evaluation(smooth, engine.sigma, loaded.form, levels),
    }
    for change in check_same(manifest, about, run):
        print(f"deqcert: note: {change} since the certificates were made", file=sys.stderr)
    predictor, depth = certified_predictor(
        manifest,
        lambda: make_start(start or "learned", model=smooth.model, device=smooth.device)[0],
    )
    evaluation = Evaluation.of_run(
        engine,
        predictor,
        # Gradients go through the model as it was trained; verdicts through the form certified.
        loaded.plain.eval().to(engine.device),  # type: ignore[attr-defined]
        chosen,
        certified,
        n=asked.n,
        alpha=asked.alpha,
        guesses=asked.search,
        depth=depth,
        reach=asked.reach,
        rows=asked.rows,
        facts={"model": file_hash(smooth.model)},
    )
    parameters = {
        "certificates": file_hash(folder / "certificates.tsv"),
        **evaluation.parameters(),
        "alpha": asked.alpha,
        "judged": compose.describe_predictor(predictor),
        **about,
    }
    place = Path(out or f"{folder}-attacks")
    with Run(
        place,
        parameters,
        [image.index for image in certified],
        environment={**versions(), **machine()},
        notes={**loaded.notes, "data": spec, "run": run},
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
            evaluation.run(made, certified, dataset, tell)
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted; {made.done} of {len(certified)} images are safe in {place}, "
                "and the same command goes on from there"
            ) from None
        _conclude(made, evaluation, asked_radii, asked.alpha, results.about or "the model")


def parse_attack(text: str) -> Attack:
    """Read NAME[:KEY=VALUE,...].

    Raises:
        ConfigError: If there is no such attack or option, or a value is out of range.
    """
    name, _, pairs = text.partition(":")
    attack = ATTACKS.get(name)
    given = pairs.split(",") if pairs else []
    return attack.with_options(**parse_pairs("attack option", given, attack.options))


def _classifier(
    manifest: Manifest, model: str | None, model_config: str | None, seed: int
) -> SmoothedClassifier:
    """Return the classifier that the run is about, as it was evaluated, with another seed."""
    was, notes = manifest.parameters, manifest.notes
    return SmoothedClassifier(
        model or notes["model"],
        sigma=was["sigma"],
        model_config=model_config or (notes.get("config") if model is None else None),
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
        f"{outcome.label}, certified within {write_radius(outcome.radius, 3)}; {found}",
        file=sys.stderr,
        flush=True,
    )


def _conclude(
    made: Run, evaluation: Evaluation, radii: list[float] | None, alpha: float, about: str
) -> None:
    """Write the summary and the picture, print the table, and exit with 1 after an alarm."""
    from deqcert.report.attacks import attack_rows, attack_table, draw_attacks, read_attacks

    attacked, reach = read_attacks(made.folder), max(evaluation.grid)
    at = radii or [0.25 * step for step in range(math.floor(reach / 0.25 + 1e-9) + 1)]
    alarms = {str(image): list(names) for image, names in attacked.alarms.items()}
    summary = {"radii": at, "rows": attack_rows(attacked, at), "alarms": alarms}
    made.finish(summary)
    picture = made.folder / "attacks.png"
    draw_attacks(attacked, picture, reach=reach, title=f"Attacks on {about}, smoothed")
    print(attack_table(attacked, at))
    print(f"certified and attacked: {about}, smoothed")
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
