"""``deqcert recertify``: certificates of a changed model from the votes of a finished run."""

from __future__ import annotations

import os
from typing import Any

import click

from deqcert.cli.fields import FILLED, options_from
from deqcert.cli.options import (
    parse_radii,
    quiet_option,
    radii_option,
    say,
    settings_options,
    take_settings,
)
from deqcert.errors import ConfigError
from deqcert.recertifying import (
    NOT_CHANGED,
    RecertifiedClassifier,
    Recertifying,
    data_of,
    moved,
    settings_of,
)
from deqcert.runs.votes import VotedRun, read_lines
from deqcert.settings import Spreading


def _take_run(context: click.Context, parameter: click.Parameter, folder: str) -> VotedRun:
    """Make the run's own settings the defaults of all others."""
    run = VotedRun(folder)
    take_settings(context, {**settings_of(run), **data_of(run)})
    return run


@click.command(short_help="Certify a changed model from the votes of a finished run.")
@click.argument("run", type=FILLED, metavar="RUN", is_eager=True, callback=_take_run)
@options_from(Recertifying)
@settings_options(data=":", skip=NOT_CHANGED)
@click.option(
    "--out", type=FILLED, metavar="DIR", help="The new run's folder; default: RUN-recertified."
)
@options_from(Spreading)
@radii_option
@quiet_option()
def command(
    run: VotedRun,
    method: str,
    data: str,
    split: str,
    images: str,
    out: str | None,
    workers: int | None,
    ray: str | None,
    radii: str | None,
    quiet: bool,
    **settings: Any,
) -> None:
    """Certify a changed model from the votes of a run of deqcert certify --keep-votes.

    RUN is the run folder. Say what has changed: another --model, --form, --depth or machine; all
    else is as it was in the run, whatever default stands below. The changed model casts --audit of
    the run's votes again, and pays for what it cannot rule out with radius. Its certificates are as
    sound as those of deqcert certify, provided that the change was not chosen by looking at that
    run.
    """
    from deqcert.report import table

    asked = parse_radii(radii)
    if out is not None and os.path.realpath(out) == os.path.realpath(run.folder):
        raise ConfigError(
            f"--out {out} is the run itself; give another folder, or leave --out out for "
            f"{run.folder}-recertified"
        )
    for change in moved(run):
        say(change)
    changed = RecertifiedClassifier.of_run(run, method, **settings)
    results = changed.certify_dataset(
        data,
        split=split,
        images=images,
        out=out,
        workers=workers,
        ray=ray,
        radii=asked,
        progress=not quiet,
        note=say,
    )
    folder = changed.folder(out)
    print(table([results], asked or changed.goal_radii).text())
    print(compared(run, folder))
    print(f"run folder: {folder}\ncurve: {folder / 'curve.png'}")


def compared(run: VotedRun, folder: os.PathLike[str]) -> str:
    """Say what a recertification took and what it lost, beside the run that voted."""
    from pathlib import Path

    lines = read_lines(Path(folder))
    before = [run.lines[line.idx] for line in lines]
    audited, votes = sum(line.audited for line in lines), sum(line.n for line in before)
    nfe, was = sum(line.nfe for line in lines), sum(line.nfe for line in before)
    held = sum(line.radius for line in lines if line.predict == line.label)
    had = sum(line.radius for line in before if line.predict == line.label)
    changed = sum(line.disagreements for line in lines)
    kept = f"; {100 * held / had:.1f}% of its ACR" if had else ""
    return (
        f"cast again: {audited} of {votes} votes, {changed} of them changed; {nfe:.0f} evaluations "
        f"where {run.folder} took {was:.0f}{kept}"
    )
