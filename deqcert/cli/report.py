"""``deqcert report``: tables and curves from certificate files, without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from deqcert.cli.fields import FILLED
from deqcert.cli.options import json_option, parse_radii, radii_option

if TYPE_CHECKING:
    from deqcert.report import Results


@click.command(short_help="Table, ACR and curves of one or more runs.")
@click.argument("runs", nargs=-1, metavar="[NAME=]RUN...")
@radii_option
@click.option(
    "--picture",
    type=FILLED,
    metavar="FILE",
    help="Draw the curves of all runs into a .png, .pdf or .svg.",
)
@click.option(
    "--html",
    type=FILLED,
    metavar="FILE",
    help="Write curves with their bands, votes and tables as one page that needs nothing else.",
)
@click.option("--title", default="Certified accuracy", show_default=True, help="Of the picture.")
@json_option
def command(
    runs: tuple[str, ...],
    radii: str | None,
    picture: str | None,
    html: str | None,
    title: str,
    as_json: bool,
) -> None:
    """Tabulate certified accuracy by radius and the average certified radius (ACR).

    RUN is a run folder, or anybody's tab-separated file with the columns idx label predict radius
    correct time. NAME= in front of it is what the run is called; runs of the same NAME are one,
    certified in parts with different --images.
    """
    from deqcert.errors import ConfigError
    from deqcert.report import draw_curves, join_parts, read_results, table
    from deqcert.report.page import check_page

    if not runs:
        raise ConfigError("no run is given; name at least one run folder or certificate file")
    page = None if html is None else check_page(html)
    parts: dict[str, list[Results]] = {}
    places: dict[str, list[str]] = {}
    for run in runs:
        name, equals, path = run.partition("=")
        found = read_results(path, name) if equals else read_results(run)
        key = name if equals else f"={len(parts)}"
        parts.setdefault(key, []).append(found)
        places.setdefault(key, []).append(path if equals else run)
    results = [join_parts(found) for found in parts.values()]
    asked = parse_radii(radii)
    made = table(results, asked)
    if picture is not None:
        draw_curves(results, picture, title=title)
    if page is not None:
        from deqcert.report.evaluation import evaluation_of_runs, write_evaluation_page

        given = list(zip(results, places.values(), strict=True))
        words = ["deqcert", "report", *runs, *(["--radii", radii] if radii else [])]
        words += ["--html", str(page)]
        at = None if asked is None else list(made.radii)
        write_evaluation_page(evaluation_of_runs(given, words, at), page)
    print(made.json() if as_json else made.text())
