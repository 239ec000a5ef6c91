"""``deqcert bench``: how many evaluations each solver, start and depth needs on a model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deqcert.cli.benches import Benches
from deqcert.cli.options import Solving, Source, parse_knobs, parse_radii, source_options

if TYPE_CHECKING:
    from deqcert.bench.starts import Measurement
    from deqcert.solvers import Solver


@click.command(
    "starts",
    short_help="Agreement, residual, time and certificates by solver, start and depth.",
    epilog="deqcert bench forms measures a model in its forms, deqcert bench solvers the solvers "
    "beside the cell; each has its own --help.",
)
@source_options(images="0:10")
@click.option(
    "--solver",
    "solvers",
    multiple=True,
    default=("anderson",),
    show_default=True,
    metavar="NAME[:KEY=VALUE,...]",
    help="picard, anderson or broyden, with knobs, as in anderson:window=3,damping=0.8; may be "
    "repeated.",
)
@click.option(
    "--starts",
    default="cold,previous,mean,clean",
    show_default=True,
    metavar="NAME,...",
    help="Start policies; cold is always measured. learned or learned:FILE: as deqcert train-start "
    "wrote it.",
)
@click.option(
    "--depths",
    default="1,2,3,5,8",
    show_default=True,
    metavar="D,...",
    help="Cell evaluations of a solve.",
)
@click.option(
    "--early",
    metavar="R,...",
    help="Also end solves from cold and learned starts after their first step from a relative "
    "residual of at most R, the largest of --depths their most.",
)
@click.option(
    "--depth",
    type=int,
    default=30,
    show_default=True,
    metavar="D",
    help="Most evaluations of a cold solve: a baseline, and the warm-ups and audits.",
)
@click.option(
    "--tol",
    "tolerances",
    default="0.01,0.001",
    show_default=True,
    metavar="T,...",
    help="Relative residuals at which cold baselines stop; the smallest also ends warm-ups and "
    "audits.",
)
@click.option(
    "--reference-tol",
    type=float,
    default=1e-5,
    show_default=True,
    help="Relative residual of the converged solve that agreement is measured against.",
)
@click.option(
    "--reference-depth",
    type=int,
    default=200,
    show_default=True,
    help="Most evaluations of that solve.",
)
@click.option(
    "--n0", type=int, default=50, show_default=True, help="Noisy copies that choose the class."
)
@click.option("--n", type=int, default=500, show_default=True, help="Noisy copies that vote.")
@click.option("--alpha", type=float, default=0.001, show_default=True, help="Of each certificate.")
@click.option(
    "--audit", type=int, metavar="K", help="Audited votes of a warm start; default: half of n."
)
@click.option("--radii", metavar="R,R,...", help="Of certified accuracy; default: 0 and sigma.")
@click.option(
    "--picture", metavar="FILE", help="Draw evaluations against agreement into a .png, .pdf, .svg."
)
@click.option("--json", "as_json", is_flag=True, help="Print for machines.")
@click.option("--quiet", is_flag=True, help="Print the table only.")
def starts_command(
    source: Source,
    solvers: tuple[str, ...],
    starts: str,
    depths: str,
    early: str | None,
    depth: int,
    tolerances: str,
    reference_tol: float,
    reference_depth: int,
    n0: int,
    n: int,
    alpha: float,
    audit: int | None,
    radii: str | None,
    picture: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure what warm starts and fewer evaluations buy on a model, and what they cost.

    Every setting votes on the same noisy copies. Baselines are measured beside them: cold at
    every depth asked for, cold at the largest depth, and cold stopped at each tolerance.
    """
    from deqcert.bench.starts import bench, draw_bench, grid
    from deqcert.cli import build
    from deqcert.errors import ConfigError
    from deqcert.report.picture import check_picture
    from deqcert.smoothing import Predictor
    from deqcert.solvers import StopRule, get_solver

    if picture is not None:
        check_picture(picture)
    tols = _numbers("tol", tolerances, float)
    if not tols or min(tols) <= 0:
        raise ConfigError(f"tol is {tolerances!r}, but baselines need tolerances above 0")
    if reference_tol <= 0:
        raise ConfigError(f"reference-tol is {reference_tol}, but it must be above 0")
    cold = StopRule(tol=min(tols), max_nfe=depth)
    settings = grid(
        {text: _solver(text) for text in solvers},
        [build.make_policy(name.strip(), source)[0] for name in starts.split(",")],
        _numbers("depths", depths, int),
        cold=cold,
        tolerances=tols,
        early=[] if early is None else _numbers("early", early, float),
    )
    exact = get_solver("anderson")
    asked_radii = parse_radii(radii)
    subject = build.load(source)
    result = bench(
        subject.model,
        subject.dataset,
        subject.images,
        settings,
        sigma=subject.parameters["sigma"],
        reference=Predictor(exact, StopRule(tol=reference_tol, max_nfe=reference_depth)),
        auditor=Predictor(exact, cold),
        n0=n0,
        n=n,
        alpha=alpha,
        audit=max(1, n // 2) if audit is None else audit,
        radii=asked_radii,
        seed=source.seed,
        batch=source.batch,
        shape=source.shape,
        device=source.device,
        tell=None if quiet else _tell,
    )
    print(result.json() if as_json else result.text())
    if picture is not None:
        draw_bench(
            result,
            picture,
            title=f"{Path(source.model).name}, sigma {subject.parameters['sigma']:g}",
        )


command = Benches(
    starts_command,
    name="bench",
    short_help="What starts, depths, forms of a model and solvers cost and give here.",
)


def _tell(row: Measurement) -> None:
    print(
        f"{row.solver}, {row.start}, {row.depth}: {row.nfe:.2f} evaluations a vote, "
        f"{100 * row.agreement:.2f}% agreement",
        file=sys.stderr,
        flush=True,
    )


def _solver(text: str) -> Solver[Any]:
    """Read NAME[:KEY=VALUE,...]."""
    from deqcert.solvers import get_solver, solver_options

    name, _, knobs = text.partition(":")
    solving = Solving(name, knobs.split(",") if knobs else (), None, 1, 0.0)
    return get_solver(name, **parse_knobs(solving, solver_options(name)))


def _numbers(option: str, text: str, kind: type) -> list[Any]:
    from deqcert.errors import ConfigError

    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(
            f"{option} is {text!r}, but it must be numbers separated by commas"
        ) from None
