"""``deqcert attack``: certificates held against attacks, in a run folder that can be continued."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deqcert.cli import Interrupted
from deqcert.cli.options import Solving, Source, parse_images, parse_knobs, parse_radii

if TYPE_CHECKING:
    from deqcert.attacks import Attack
    from deqcert.attacks.evaluation import Evaluation, Outcome
    from deqcert.cli.build import Subject
    from deqcert.runs import Manifest, Run
    from deqcert.smoothing import Predictor

SAME = ("checkpoint_sha256", "model_config", "data_hash", "split", "sigma", "form", "shape")
"""What must be as it was certified; a change of anything else is only told."""


@click.command(short_help="Attack certified images; a break inside a radius is an alarm.")
@click.argument("run", metavar="RUN")
@click.option(
    "--attack",
    "attacks",
    multiple=True,
    metavar="NAME[:KEY=VALUE,...]",
    help="On the base classifier pgd-implicit, pgd-phantom, pgd-unroll, apgd-implicit, "
    "apgd-phantom, apgd-unroll or intermediate, on the smoothed one smoothadv-pgd, smoothadv-apgd, "
    "smoothadv-ddn or square; with knobs as in square:steps=1000,draws=32; may be repeated; "
    "default: all of them.",
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
    from deqcert.attacks import Target, attack_names
    from deqcert.attacks.evaluation import CertifiedImage as Certified
    from deqcert.attacks.evaluation import (
        Evaluation,
        Judge,
        evaluate_images,
        most_verdicts,
        outcome_layout,
    )
    from deqcert.cli import build
    from deqcert.errors import ConfigError, RunError
    from deqcert.models import file_hash, load_model
    from deqcert.report import read_results
    from deqcert.runs import Manifest, Run, machine, versions

    asked_radii = parse_radii(radii)
    chosen = [_attack(text) for text in attacks or attack_names()]
    folder = Path(run)
    manifest = Manifest.read(folder)
    if manifest is None:
        raise RunError(f"{run} is no run folder; give one that deqcert certify has finished")
    results = read_results(folder)
    if results.pending or "predictor" not in manifest.parameters:
        raise RunError(f"{run} is not a finished run of deqcert certify; finish it first")
    places = parse_images(images, len(results))
    subjects = [
        Certified(int(results.idx[i]), int(results.predict[i]), float(results.radius[i]))
        for i in places
    ]
    certified = sum(subject.radius > 0.0 for subject in subjects)
    if not certified:
        raise ConfigError(f"no image among {images!r} has a certificate; attack others")

    source = _source(manifest, model, config, data, seed)
    subject = build.load(source)
    _same(manifest, subject, run)
    predictor, depth = _predictor(manifest, source, start)
    engine = build.make_engine(source, subject.model)
    furthest = max(6.0 * engine.sigma, float(results.radius.max()))
    grid = _grid(furthest if reach is None else reach)
    each = alpha / (certified * len(chosen) * most_verdicts(1 + len(grid)))
    judge = Judge(engine, predictor, n=n, alpha=each, guesses=search, depth=depth)
    # Gradients go through the model as it was trained; verdicts through the form certified.
    plain = load_model(source.model, source.config).eval().to(engine.device)
    facts = {
        "model": file_hash(source.model),
        "seed": seed,
        "sigma": engine.sigma,
        "n": n,
        "alpha": each,
    }
    target = Target(plain, predictor, engine.sigma, seed)
    evaluation = Evaluation(judge, target, chosen, grid, rows, facts)

    parameters = {
        "certificates": file_hash(results_file(folder)),
        "attacks": [attack.describe() for attack in chosen],
        "grid": list(grid),
        "n": n,
        "alpha": alpha,
        "alpha_each": each,
        "search": search,
        "rows": rows,
        "judged": build.describe_predictor(predictor),
        **subject.parameters,
    }
    notes = {**subject.notes, "run": run}
    place = Path(out or f"{folder}-attacks")
    environment = {**versions(), **machine()}
    indices = [subject.index for subject in subjects]
    layout = outcome_layout(chosen)
    with Run(
        place, parameters, indices, environment=environment, notes=notes, layout=layout
    ) as made:
        for change in made.changes:
            print(f"deqcert: note: {change} since this run began; recorded", file=sys.stderr)

        def tell(outcome: Outcome) -> None:
            for alarm in outcome.alarms:
                print(alarm.sentence(), flush=True)
            if not quiet:
                _progress(outcome, made)

        try:
            evaluate_images(made, evaluation, subjects, subject.dataset, tell)
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted; {made.done} of {len(indices)} images are safe in {place}, "
                "and the same command goes on from there"
            ) from None
        _conclude(made, evaluation, asked_radii, alpha, certified)


def results_file(folder: Path) -> Path:
    """Return the certificates of a run folder."""
    return folder / "certificates.tsv"


def _attack(text: str) -> Attack:
    """Read NAME[:KEY=VALUE,...]."""
    from deqcert.attacks import get_attack

    name, _, knobs = text.partition(":")
    known = get_attack(name).options
    given = Solving(name, knobs.split(",") if knobs else (), None, 1, 0.0)
    return get_attack(name, **parse_knobs(given, known))


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


def _same(manifest: Manifest, subject: Subject, run: str) -> None:
    """Refuse another model or other images than were certified; tell of smaller changes."""
    from deqcert.errors import ConfigError
    from deqcert.runs import Manifest

    keys = [key for key in subject.parameters if key not in ("seed", "batch")]
    before = {key: manifest.parameters.get(key) for key in keys}
    now = {key: subject.parameters[key] for key in keys}
    asked = {key: value for key, value in now.items() if key in SAME}
    held = {key: value for key, value in before.items() if key in SAME}
    differing = Manifest(held, ()).differences(Manifest(asked, ()))
    if differing:
        raise ConfigError(
            f"{run} is about something else ({'; '.join(differing)}); say with --model, --config "
            "and --data where its own are"
        )
    for change in Manifest(before, ()).differences(Manifest(now, ())):
        print(f"deqcert: note: {change} since the certificates were made", file=sys.stderr)


def _predictor(
    manifest: Manifest, source: Source, start: str | None
) -> tuple[Predictor, int | None]:
    """Return the base classifier that the certificates are about; for 'enclosed' also its depth."""
    from deqcert.cli import build
    from deqcert.errors import ConfigError
    from deqcert.smoothing import DecidedStop, EarlyStop, Predictor
    from deqcert.solvers import StopRule, get_solver
    from deqcert.starts import Learned, get_start

    was = manifest.parameters
    about = was.get("reference", was["predictor"])
    stop, policy, early = StopRule(**about["stop"]), get_start("cold"), None
    if about["start"] == Learned.name:
        policy, _ = build.make_policy(start or Learned.name, source)
        found = policy.sha256 if isinstance(policy, Learned) else None
        if found != about["start_sha256"]:
            raise ConfigError(
                "the learned start is not the one that was certified; say with --start learned:FILE"
                " where it is"
            )
    if "warmup" in about:  # of a chained start, whose states only begin the proofs of 'enclosed'
        stop = StopRule(**about["warmup"])
    if "early" in about:
        kind = DecidedStop if "margin" in about["early"] else EarlyStop
        early = kind(**about["early"])
    solver = get_solver(about["solver"], **about["solver_options"])
    return Predictor(solver, stop, policy, early=early), was.get("depth")


def _grid(reach: float) -> tuple[float, ...]:
    """Return the radii that every image is attacked at besides its own: thirds of the reach."""
    from deqcert.errors import ConfigError

    if not 0.0 < reach < math.inf:
        raise ConfigError(f"reach is {reach}, but it must be above 0")
    return tuple(reach * step / 3.0 for step in (1, 2, 3))


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


def _conclude(
    made: Run, evaluation: Evaluation, radii: list[float] | None, alpha: float, certified: int
) -> None:
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
    settings = len(evaluation.attacks)
    if not attacked.alarms:
        print(
            f"no alarm: {certified} certificates held against {settings} attacks (a verdict of the "
            f"run is wrong with probability at most {alpha:g})"
        )
        return
    for image, names in attacked.alarms.items():
        files = ", ".join(f"{made.folder}/alarms/{image}-{name}.npz" for name in names)
        print(f"ALARM: image {image} is broken inside its certified radius: {files}")
    raise click.exceptions.Exit(1)
