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
from deqcert.report.picture import curve
from deqcert.report.reader import Results, read_results
from deqcert.report.tables import entry, radii_until

DELTA = 0.05
"""Probability, over which images were drawn, that a band of certified accuracy fails somewhere."""

SHARES = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1.0)
"""Edges between which images are counted by their share of agreeing noisy copies."""

EXACT = 1e-3
"""Part of alpha that pays for how exact noise is drawn; that takes 1e-6 at most."""


def describe_run(path: str | Path, name: str | None = None) -> dict[str, Any]:
    """Describe a run of ``deqcert certify``, or anybody's certificate file.

    Args:
        path: The folder or file.
        name: What to call it; its own name if not given.

    Returns:
        All of :func:`deqcert.report.tables.entry`, and folder, radii, curve (radii, and shares of
        images certified as their true class so far), band (how far the curve of all images of that
        kind may be from it, see :func:`band`), shares (of agreeing copies: edges, and images
        between them) or no_shares, brier (radii and bounds) or no_brier, and command.

    Raises:
        RunError: If it cannot be read.
    """
    results = read_results(path, name)
    largest = float(results.radius[results.correct].max(initial=0.0))
    radii = list(radii_until(largest, results.norm))
    steps, heights = curve(results)
    alpha = parse_number(results.facts.get("alpha", ""), whole=False) or 0.0
    found = {
        **entry(results, radii),
        "folder": str(path),
        "norm": results.norm,
        "radii": radii,
        "curve": {"radii": steps.tolist(), "shares": heights.tolist()},
        "band": band(len(results), alpha),
        "command": shlex.join(["deqcert", "report", str(path)]),
    }
    votes, why = _votes(results, Path(path))
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


def _votes(
    results: Results, path: Path
) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]] | None, str | None]:
    """Read votes for the chosen class, votes in all and the class, per image; or say why not."""
    file = path / "certificates.tsv" if path.is_dir() else path
    header, *lines = file.read_text(encoding="utf-8-sig").split("\n")
    columns = header.split("\t")
    if not {"votes", "n", "predict"} <= set(columns):
        return None, "it draws no noise, or its file does not hold the votes"
    rows = [dict(zip(columns, line.split("\t"), strict=False)) for line in lines[: len(results)]]
    try:
        cells = [[int(row[key]) for row in rows] for key in ("votes", "n", "predict")]
    except (ValueError, KeyError):
        return None, "its file does not hold the votes"
    votes, n, predict = (np.array(column, dtype=np.int64) for column in cells)
    if len(votes) != len(results) or (votes < 0).any() or (votes > n).any() or (n < 1).any():
        return None, "the votes in its file cannot be"
    return (votes, n, predict), None
