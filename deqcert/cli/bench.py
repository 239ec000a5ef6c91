"""``deqcert bench``: how many evaluations each solver, start and depth needs on a model."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deqcert.api import SmoothedClassifier
from deqcert.cli.benches import Benches
from deqcert.cli.fields import FILLED, options_from
from deqcert.cli.options import (
    json_option,
    parse_numbers,
    parse_radii,
    quiet_option,
    say,
    settings_options,
)
from deqcert.errors import ConfigError
from deqcert.options import number, split_pairs
from deqcert.settings import Certifying, Solving, Starting
from deqcert.solvers import SOLVERS

if TYPE_CHECKING:
    from deqcert.bench.starts import Measurement
    from deqcert.solvers import Solver


UNUSED = tuple(
    name for kind in (Solving, Starting, Certifying) for name in kind.__dataclass_fields__
)
"""Settings that the command varies, or has others in place of."""


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """Sizes of a measurement.

    Args:
        depth: Most evaluations of a cold solve: a baseline, and the warm-ups and audits.
        reference_tol: Relative residual of the converged solve that agreement is measured against.
        reference_depth: Most evaluations of that solve.
        n0: Noisy copies that choose the class.
        n: Noisy copies that vote.
        alpha: Failure probability of each certificate.
        audit: Audited votes of a warm start; if not given, half of n.
    """

    depth: int = number(30, low=1, metavar="D")
    reference_tol: float = number(1e-5, above=0, metavar="T")
    reference_depth: int = number(200, low=1, metavar="D")
    n0: int = number(50, low=1, metavar="N")
    n: int = number(500, low=1, metavar="N")
    alpha: float = number(0.001, above=0, below=1, metavar="A")
    audit: int | None = number(None, low=1, whole=True, metavar="K")


@click.command(
    "starts",
    short_help="Agreement, residual, time and certificates by solver, start and depth.",
    epilog="deqcert bench forms measures a model in its forms, deqcert bench solvers the solvers "
    "beside the cell, deqcert bench cell the cell beside its multiplications; each has its own "
    "--help.",
)
@settings_options(skip=UNUSED, data="0:10")
@click.option(
    "--solver",
    "solvers",
    multiple=True,
    default=("anderson",),
    show_default=True,
    metavar="NAME[:KEY=VALUE,...]",
    help=f"{', '.join(SOLVERS)}; with options as in anderson:window=3,damping=0.8; may be "
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
    "--tol",
    "tolerances",
    default="0.01,0.001",
    show_default=True,
    metavar="T,...",
    help="Relative residuals at which cold baselines stop; the smallest also ends warm-ups and "
    "audits.",
)
@options_from(Measuring)
@click.option("--radii", metavar="R,R,...", help="Of certified accuracy; default: 0 and sigma.")
@click.option(
    "--picture",
    type=FILLED,
    metavar="FILE",
    help="Draw evaluations against agreement into a .png, .pdf, .svg.",
)
@json_option
@quiet_option()
def starts_command(
    model: str,
    model_config: str | None,
    data: str,
    split: str,
    images: str,
    solvers: tuple[str, ...],
    starts: str,
    depths: str,
    early: str | None,
    tolerances: str,
    radii: str | None,
    picture: str | None,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Measure what warm starts and fewer evaluations buy on a model, and what they cost.

    Every setting votes on the same noisy copies. Baselines are measured beside them: cold at
    every depth asked for, cold at the largest depth, and cold stopped at each tolerance.
    """
    from deqcert.bench.pictures import draw_bench
    from deqcert.bench.starts import bench, grid
    from deqcert.report.picture import check_picture
    from deqcert.smoothing import Predictor
    from deqcert.solvers import StopRule, get_solver
    from deqcert.starts import make_start

    if picture is not None:
        check_picture(picture)
    sizes = Measuring(**{name: given.pop(name) for name in Measuring.__dataclass_fields__})
    tols = parse_numbers("tol", tolerances, example="0.01,0.001")
    if min(tols) <= 0:
        raise ConfigError(f"tol is {tolerances!r}, but baselines need tolerances above 0")
    smooth = SmoothedClassifier(model, model_config=model_config, **given)
    cold = StopRule(tol=min(tols), max_nfe=sizes.depth)
    settings = grid(
        {text: _solver(text) for text in solvers},
        [make_start(s.strip(), model=model, device=smooth.device)[0] for s in starts.split(",")],
        parse_numbers("depths", depths, whole=True, low=1, example="1,2,3"),
        cold=cold,
        tolerances=tols,
        early=[] if early is None else parse_numbers("early", early, example="0.1"),
    )
    exact = get_solver("anderson")
    asked_radii = parse_radii(radii)
    dataset, indices = smooth.dataset(data, split=split, images=images)
    smooth = smooth.on_grid(dataset.levels)
    result = bench(
        smooth.engine.raw,
        dataset,
        indices,
        settings,
        sigma=smooth.engine.sigma,
        reference=Predictor(
            exact, StopRule(tol=sizes.reference_tol, max_nfe=sizes.reference_depth)
        ),
        auditor=Predictor(exact, cold),
        n0=sizes.n0,
        n=sizes.n,
        alpha=sizes.alpha,
        audit=max(1, sizes.n // 2) if sizes.audit is None else sizes.audit,
        radii=asked_radii,
        seed=smooth.engine.seed,
        batch=smooth.batch,
        shape=smooth.shape,
        device=smooth.device,
        levels=smooth.engine.levels,
        tell=None if quiet else _tell,
    )
    print(result.json() if as_json else result.text())
    for note in result.notes:
        say(note)
    if picture is not None:
        draw_bench(result, picture, title=f"{Path(model).name}, sigma {smooth.engine.sigma:g}")


command = Benches(
    starts_command,
    name="bench",
    short_help="What starts, depths, forms of a model and solvers cost and give here.",
)


def _tell(row: Measurement) -> None:
    told = "no vote was cast"
    if math.isfinite(row.nfe):
        told = f"{row.nfe:.2f} evaluations per vote"
    if math.isfinite(row.agreement):
        told += f", {100 * row.agreement:.2f}% agreement"
    print(f"{row.solver}, {row.start}, {row.depth}: {told}", file=sys.stderr, flush=True)


def _solver(text: str) -> Solver[Any]:
    """Read NAME[:KEY=VALUE,...]."""
    from deqcert import compose

    name, _, given = text.partition(":")
    options = split_pairs("solver option", [pair for pair in given.split(",") if pair])
    return compose.make_solver(Solving(solver=name, solver_options=options))
