"""``deqcert certify``: certificates for images, in a run folder that can be continued."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deqcert.cli import Interrupted
from deqcert.cli.options import (
    Solving,
    Source,
    Starting,
    parse_radii,
    solving_options,
    source_options,
    starting_options,
)

if TYPE_CHECKING:
    from deqcert.certifiers import Certifier
    from deqcert.certifiers.goals import Goal
    from deqcert.cli.progress import Progress
    from deqcert.runs import Run
    from deqcert.smoothing import Predictor

METHODS_WITH_AUDIT = (
    "serialized",
    "serialized-strata",
    "serialized-paper",
    "serialized-released",
)


@click.command(short_help="Certify images; started again, it goes on where it stopped.")
@source_options(images=":")
@click.option(
    "--method",
    metavar="NAME",
    help="standard (independent starts only), independent (the same, and samples may stop early: "
    "--goal), enclosed (any start, for models that prove their equilibria: --preset contractive), "
    "serialized (any start, made sound by an audit), serialized-strata (the same, doubtful votes "
    "first; the audit may stop early: --goal), serialized-paper, or serialized-released (UNSOUND, "
    "to reproduce published tables); default: standard with --start cold, independent with learned "
    "or a --goal, else serialized, or serialized-strata with a --goal.",
)
@click.option(
    "--n0", type=int, default=100, show_default=True, help="Noisy copies that choose the class."
)
@click.option(
    "--n", type=int, default=10000, show_default=True, help="Noisy copies that bound its share."
)
@click.option(
    "--alpha",
    type=float,
    default=0.001,
    show_default=True,
    help="Probability that a certificate may be wrong, in all.",
)
@click.option(
    "--audit",
    type=int,
    metavar="K",
    help="Votes that are solved again cold, for the methods with an audit; default: 1000, or n if "
    "that is less.",
)
@click.option(
    "--goal",
    default="budget",
    show_default=True,
    help="When an image has had enough: budget (all of --n), radii=R,R,... (each of these is "
    "certified or out of reach; 0 asks for a class), or relative=SHARE (within that share of the "
    "radius that all of --n could give).",
)
@solving_options()
@starting_options()
@click.option(
    "--out",
    metavar="DIR",
    help="The run folder; default: runs/MODEL-METHOD-sigmaS.",
)
@click.option("--radii", metavar="R,R,...", help="Radii of the table; default: 0,0.25,...")
@click.option("--quiet", is_flag=True, help="Print the table only.")
def command(
    source: Source,
    solving: Solving,
    starting: Starting,
    method: str | None,
    n0: int,
    n: int,
    alpha: float,
    audit: int | None,
    goal: str,
    out: str | None,
    radii: str | None,
    quiet: bool,
) -> None:
    """Certify images against l2 perturbations.

    For each image it finds a class and a radius within which the smoothed classifier cannot
    answer another class; the answer is wrong with probability at most alpha. Results are appended
    to a run folder. The same command given again continues a run that was stopped, and one that
    is finished prints its table.
    """
    from deqcert.certifiers import get_certifier
    from deqcert.certifiers.goals import Radii, parse_goal
    from deqcert.cli import build
    from deqcert.cli.progress import progress_kind
    from deqcert.errors import ConfigError
    from deqcert.report import read_results
    from deqcert.runs import Run, certify_images, machine, versions

    asked_radii = parse_radii(radii)
    asked_goal = parse_goal(goal)
    if asked_radii is None and isinstance(asked_goal, Radii):
        asked_radii = list(asked_goal.radii)
    predictor = build.make_predictor(source, solving, starting)
    name = method or _method(predictor, asked_goal)
    options: dict[str, Any] = {"n0": n0, "n": n, "alpha": alpha}
    if name in METHODS_WITH_AUDIT:
        options["reference"] = build.make_cold(solving)
        options["audit"] = min(1000, n) if audit is None else audit
    if name == "enclosed":
        options["depth"] = solving.depth
    if asked_goal is not None:
        options["goal"] = asked_goal
    certifier = get_certifier(name, predictor, **options)
    if audit is not None and "audit" not in options:
        raise ConfigError(f"method '{name}' has no audit; leave --audit out")
    folder = Path(out or f"runs/{Path(source.model).name}-{name}-sigma{build.noise(source):g}")
    source = build.continued(source, folder)
    subject = build.load(source)
    engine = build.make_engine(source, subject.model)
    certifier.check(engine)

    parameters = {"method": name, "n0": n0, "n": n, "alpha": alpha, **subject.parameters}
    parameters["predictor"] = build.describe_predictor(predictor)
    if name in METHODS_WITH_AUDIT:
        parameters["audit"] = options["audit"]
        parameters["reference"] = build.describe_predictor(options["reference"])
    if name == "enclosed":
        parameters["depth"] = options["depth"]
    if asked_goal is not None:
        parameters["goal"] = asked_goal.describe()
    notes = {**subject.notes, "assumptions": certifier.assumptions(), "sound": certifier.sound}
    environment = {**versions(), **machine()}

    with Run(folder, parameters, subject.images, environment=environment, notes=notes) as run:
        for change in run.changes:
            print(f"deqcert: note: {change} since this run began; recorded", file=sys.stderr)
        before = []
        if run.done:
            earlier = read_results(run.certificates)
            before = list(zip(earlier.correct.tolist(), earlier.radius.tolist(), strict=True))
        each = n0 + n + int(options.get("audit", 0))
        kind = progress_kind(quiet)
        with kind(len(run.images), each, engine.sigma, before) as progress:
            engine.callbacks.append(progress)
            try:
                certify_images(run, certifier, engine, subject.dataset, progress.image)
            except KeyboardInterrupt:
                raise Interrupted(
                    f"interrupted; {run.done} of {len(run.images)} images are safe in {folder}, "
                    "and the same command goes on from there"
                ) from None
        _conclude(run, certifier, asked_radii, progress)


def _method(predictor: Predictor, goal: Goal | None) -> str:
    """Choose the method where none is asked for."""
    if not predictor.independent:
        return "serialized" if goal is None else "serialized-strata"
    return "standard" if goal is None and predictor.start.name == "cold" else "independent"


def _conclude(
    run: Run, certifier: Certifier, radii: list[float] | None, progress: Progress
) -> None:
    """Write the summary and the picture, and print the table."""
    from deqcert.report import draw_curves, read_results, table

    results = read_results(run.folder)
    made = table([results], radii)
    about = {"assumptions": certifier.assumptions(), "form": run.manifest.parameters["form"]}
    run.finish({"radii": list(made.radii), **made.rows[0], **about})
    picture = draw_curves([results], run.folder / "curve.png")
    print(made.text())
    print(f"run folder: {run.folder}\ncurve: {picture}")
    if progress.silent > 0.01 * progress.cast:
        print(
            f"deqcert: note: {100 * progress.silent / progress.cast:.1f}% of the votes were for "
            "nobody, because their solves did not converge; a larger --depth or --tol 0 may "
            "certify more",
            file=sys.stderr,
        )
