"""``deqcert watch-reference``: what is normal, from a clean run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from deqcert.cli.fields import FILLED, options_from
from deqcert.cli.options import labels_option
from deqcert.errors import RunError
from deqcert.files import check_writable
from deqcert.options import flag, number


@dataclass(frozen=True, kw_only=True)
class Normal:
    """What is counted in a clean run.

    Args:
        radius: The alarm on radii counts images with no class certified at this radius.
        clean: Solve each image without noise as well, for the alarms on disagreement and on scores;
            without it no model is loaded.
    """

    radius: float = number(0.25, low=0, metavar="R")
    clean: bool = flag(True)


@click.command(short_help="Make the reference that deqcert watch holds answers against.")
@click.argument("run", type=FILLED, metavar="RUN")
@options_from(Normal)
@labels_option
@click.option(
    "--out", type=FILLED, metavar="FILE", help="The reference; default: RUN-reference.json."
)
def command(run: str, radius: float, clean: bool, labels: str | None, out: str | None) -> None:
    """Count what a run of deqcert certify says of images that are as they should be.

    The images must be like those that will be watched and independent of each other, and the run
    must have the model, noise and method that will be watched: a reference is refused elsewhere.
    The more images, the smaller the changes that can be told from chance.
    """
    from deqcert.watch import Reference, open_source, reference_of

    file = Path(out or f"{run.rstrip('/')}-reference.json")
    source = open_source(run, labels)
    if not file.parent.is_dir():
        raise RunError(f"there is no folder {file.parent}; give a file in another with --out")
    if file.exists() or file.is_symlink():
        try:
            Reference.read(file)
        except RunError:
            raise RunError(
                f"{file} is there already and is no reference; give another file with --out"
            ) from None
    check_writable(file, "give another file with --out")
    made = reference_of(source, radius, clean=clean)
    made.write(file)
    for name, (events, rows) in made.events.items():
        print(f"{name}: {events} of {rows}")
    for name, values in made.scores.items():
        print(f"{name}: {len(values)} scores")
    print(f"reference: {file}")
