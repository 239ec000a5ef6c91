"""By how much do two runs differ on the images that both have done?

    python benchmarks/paired.py RUN... --against RUN...

The n-th RUN is held against the n-th --against, image by image; of several pairs (one a seed) each
image's differences are averaged first. A run in parts is RUN,RUN,... Printed are certified accuracy
by radius and the ACR of both, the mean difference, and its standard error over the images.
"""

from __future__ import annotations

import sys

import click
import numpy as np
from numpy.typing import NDArray

from deqcert.errors import DeqcertError
from deqcert.report import Results, join_parts, read_results


def read(run: str) -> Results:
    return join_parts([read_results(part, run) for part in run.split(",")])


def scores(results: Results, radii: list[float], images: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return for each image whether it is certified at each radius (in %), and radius*correct."""
    rows = np.flatnonzero(np.isin(results.idx, images))
    radius, correct = results.radius[rows], results.correct[rows]
    return np.column_stack([*(100.0 * (correct & (radius >= r)) for r in radii), radius * correct])


@click.command()
@click.argument("runs", nargs=-1, required=True)
@click.option("--against", multiple=True, required=True, metavar="RUN")
@click.option("--radii", default="0,0.25,0.5,0.75,1", show_default=True)
def main(runs: tuple[str, ...], against: tuple[str, ...], radii: str) -> None:
    if len(runs) != len(against):
        raise click.UsageError("give one --against for each RUN")
    asked = [float(r) for r in radii.split(",")]
    first, second = [read(run) for run in runs], [read(run) for run in against]
    images = first[0].idx
    for results in (*first, *second):
        images = np.intersect1d(images, results.idx)
    ours = np.mean([scores(results, asked, images) for results in first], axis=0)
    theirs = np.mean([scores(results, asked, images) for results in second], axis=0)
    error = (ours - theirs).std(axis=0, ddof=1) / len(images) ** 0.5
    print(f"{len(images)} images, {len(runs)} pairs")
    for i, name in enumerate([*(f"r>={r:g}" for r in asked), "ACR"]):
        mean, other = ours[:, i].mean(), theirs[:, i].mean()
        print(f"{name:8} {mean:8.3f} {other:8.3f}  {mean - other:+.3f} +- {error[i]:.3f}")


if __name__ == "__main__":
    try:
        main()
    except DeqcertError as error:
        sys.exit(f"paired.py: {error}")
