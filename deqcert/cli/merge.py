"""``deqcert merge``: the run folder of a run that was certified in shards."""

from __future__ import annotations

import click

from deqcert.cli.fields import FILLED
from deqcert.cli.options import parse_radii, quiet_option, radii_option, say


@click.command(short_help="Put the shards of a run together into one run folder.")
@click.argument("shards", nargs=-1, metavar="SHARD...")
@click.option("--out", type=FILLED, required=True, metavar="DIR", help="The run folder to write.")
@radii_option
@quiet_option()
def command(shards: tuple[str, ...], out: str, radii: str | None, quiet: bool) -> None:
    """Put the shards of a run together into one run folder.

    SHARD is a run folder that `deqcert certify --shard I/N` has finished. All of one run must be
    there, in any order; one that was certified twice counts once if both are equal. The folder gets
    the bytes that one process would have written, the time columns apart.
    """
    from deqcert.finishing import goal_radii
    from deqcert.report import table
    from deqcert.scale.merge import merge

    asked = parse_radii(radii)
    results = merge(shards, out, radii=asked, note=lambda text: None if quiet else say(text))
    print(table([results], asked or goal_radii(results.parameters)).text())
    print(f"run folder: {out}\ncurve: {out}/curve.png")
