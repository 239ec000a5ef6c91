"""What the certificates of one run say, as JSON values for a page: curve, band, votes, Brier."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqcert.certifiers.confidence import certified_brier, share_bounds
from deqcert.latents.prediction import label_band
from deqcert.options import parse_number
from deqcert.report.columns import read_text
from deqcert.report.picture import curve
from deqcert.report.reader import Results, read_results
from deqcert.report.tables import entry, radii_until

DELTA = 0.05
"""Probability, over which images were drawn, that a band of certified accuracy fails somewhere."""

SHARES = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1.0)
"""Edges between which images are counted by their share of agreeing noisy copies."""

Votes = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""Votes for the class that was chosen, votes in all, and the class, per image."""

EXACT = 1e-3
"""Part of alpha that pays for how exact noise is drawn; that takes 1e-6 at most."""


def describe_run(path: str | Path, name: str | None = None) -> dict[str, Any]:
    """Describe a run of ``deqcert certify``, or anybody's certificate file.

    Args:
        path: The folder or file.
        name: What to call it; its own name if not given.

    Returns:
        See :func:`describe_results`.

    Raises:
        RunError: If it cannot be read.
    """
    return describe_results(read_results(path, name), [path])


def describe_results(
    results: Results, paths: Sequence[str | Path], asked: Sequence[float] | None = None
) -> dict[str, Any]:
    """Describe certificates.

    Args:
        results: All of them.
        paths: Folders or files that they were read from, in order.
        asked: Radii that a table must have; None for the usual ones.

    Returns:
        All of :func:`deqcert.report.tables.entry`, and folder, radii, curve (radii, and shares of
        images certified as their true class so far), band (how far the curve of all images of that
        kind may be from it, see :func:`band`), shares (of agreeing copies: edges, and images
        between them) or no_shares, brier (radii and bounds) or no_brier, and command.
    """
    largest = float(results.radius[results.correct].max(initial=0.0))
    radii = list(radii_until(largest, results.norm)) if asked is None else list(asked)
    steps, heights = curve(results)
    alpha = parse_number(results.facts.get("alpha", ""), whole=False) or 0.0
    found = {
        **entry(results, radii),
        "folder": " ".join(map(str, paths)),
        "norm": results.norm,
        "radii": radii,
        "asked": asked is not None,
        "curve": {"radii": steps.tolist(), "shares": heights.tolist()},
        "band": band(len(results), alpha),
        "command": shlex.join(["deqcert", "report", *_named(results, paths)]),
    }
    votes, why = _votes(results, paths)
    if votes is None:
        return {**found, "no_shares": why, "no_brier": why}
    chosen, n, predict = votes
    counts, _ = np.histogram(chosen / n, bins=SHARES)
    found["shares"] = {"edges": list(SHARES), "images": counts.tolist()}
    if results.facts.get("method") != "standard" or len(set(n.tolist())) > 1:
        why = "its votes are no independent draws of a number that was fixed before"
        return {**found, "no_brier": why}
    sigma = float(results.facts["sigma"])
    low, high = share_bounds(chosen, n, alpha * (1.0 - EXACT))
    at = [round(0.25 * i * sigma, 12) for i in range(9)]
    bounds = [certified_brier(low, high, results.correct, r, sigma, known=predict >= 0) for r in at]
    return {**found, "brier": {"radii": at, "bounds": bounds}}


def band(images: int, alpha: float) -> dict[str, float]:
    """Say how far the share of *all* such images may be from the share of those that were drawn.

    Args:
        images: Images, drawn independently of everything that was fitted.
        alpha: Probability that one certificate is wrong.

    Returns:
        above and below, to be added to and taken from the curve at every radius, and delta. Below
        includes alpha: what is certified may be wrong that often.

    **Guarantee:** with probability 1 - delta over the images, at all radii at once: the share of
    certified images in the population is at most the curve plus above, and the share that truly
    keeps its class is at least the curve minus below.

    **Source:** A. Dvoretzky, J. Kiefer, J. Wolfowitz (1956); its constant is P. Massart's (1990).
    """
    width = label_band(images, DELTA / 2)
    return {"above": width, "below": width + alpha, "delta": DELTA}


def accuracy_at(run: dict[str, Any], radii: Sequence[float]) -> list[float]:
    """Return certified accuracy of a described run at radii."""
    steps, heights = run["curve"]["radii"], run["curve"]["shares"]
    places = np.searchsorted(steps[:-1], radii)
    return [float(heights[i]) if i < len(steps) - 1 else 0.0 for i in places]


def _named(results: Results, paths: Sequence[str | Path]) -> list[str]:
    return [str(paths[0])] if len(paths) == 1 else [f"{results.name}={path}" for path in paths]


def _votes(results: Results, paths: Sequence[str | Path]) -> tuple[Votes | None, str | None]:
    """Read votes for the chosen class, votes in all and the class, per image; or say why not."""
    keys = ("votes", "n", "predict")
    cells: list[list[int]] = []
    for path in paths:
        given = Path(path)
        file = given / "certificates.tsv" if given.is_dir() else given
        header, *lines = read_text(file, "give it again").split("\n")[:-1]  # a torn line is none
        columns = header.split("\t")
        if not set(keys) <= set(columns):
            return None, "it draws no noise, or its file does not hold the votes"
        try:
            for line in lines:
                row = dict(zip(columns, line.split("\t"), strict=True))
                cells.append([int(row[key]) for key in keys])
        except ValueError:
            return None, "its file does not hold the votes"
    votes, n, predict = np.array(cells, dtype=np.int64).T
    if len(votes) != len(results) or (votes < 0).any() or (votes > n).any() or (n < 1).any():
        return None, "the votes in its file cannot be"
    return (votes, n, predict), None
