"""The table of certified accuracy by radius, for people and for machines."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal
from typing import Any

import numpy as np

from deqcert.certifiers.bounds import write_radius
from deqcert.certifiers.metrics import average_certified_radius, certified_accuracy
from deqcert.errors import ConfigError
from deqcert.options import parse_number
from deqcert.report.agreement import describe_agreement
from deqcert.report.aligned import aligned
from deqcert.report.reader import Results, common_norm

STEP = 0.25
"""Distance between the default radii, in pixel units of [0,1]: the field's usual grid."""

MOST_STEPS = 40
"""Most default radii besides 0."""

LIKELY = {"l2": 10.0, "linf": 1.0}
"""Radii beyond these raise the question of the unit: no noise in use reaches so far in l2, and
further than 1 there is nothing in linf."""


@dataclass(frozen=True)
class Table:
    """Certified accuracy of several runs at the same radii.

    Args:
        radii: The radii asked for, ascending.
        rows: One dictionary per run, as :func:`entry` makes it.
    """

    radii: tuple[float, ...]
    rows: tuple[dict[str, Any], ...]
    norm: str = "l2"

    def text(self) -> str:
        """Format for a terminal: percent of all images at each radius, then the ACR."""
        head = ["run", "images", *(f"r>={radius:g}" for radius in self.radii), "ACR", "abstain"]
        body = [
            [
                row["title"],
                str(row["images"]),
                *(f"{100 * value:.1f}" for value in row["certified_accuracy"]),
                write_radius(row["acr"], 3),
                f"{100 * row['abstained']:.1f}",
            ]
            for row in self.rows
        ]
        lines = aligned(head, body)
        lines.append(
            "certified accuracy and abstentions in % of all images; "
            f"radius: {self.norm}, [0,1] pixels"
        )
        for row in self.rows:
            if row["pending"]:
                total = row["images"] + row["pending"]
                lines.append(f"{row['name']}: unfinished, {row['images']} of {total} images done")
            if "expected_wrong" in row:
                lines.append(f"{row['name']}: {odds(row)}")
            lines += [f"{row['name']}: {said}" for said in row.get("agreement", {}).get("said", ())]
            if "doubt" in row:
                lines.append(f"{row['name']}: {row['doubt']}")
            if not row["sound"]:
                lines.append(
                    f"{row['name']}: UNSOUND: no theorem supports these radii; "
                    "they are only for comparison with published numbers"
                )
        return "\n".join(lines)

    def json(self) -> str:
        """Format for machines: the same facts, accuracies as fractions."""
        return json.dumps({"radii": list(self.radii), "runs": list(self.rows)}, indent=2)


def entry(results: Results, radii: Sequence[float]) -> dict[str, Any]:
    """Sum one run up.

    Args:
        results: The certificates.
        radii: Where to evaluate certified accuracy.

    Returns:
        Name, title, method facts, images, certified_accuracy (a fraction of *all* images
        at each radius; an abstention counts as wrong), acr (mean over *all* images of
        radius * correct), abstained (fraction), sound, pending, seconds (None if unknown),
        expected_wrong where certificates may be wrong (how many are to be expected at most: alpha
        for each image, whether its certificate abstained or not), alpha_total where that was asked
        for, doubt where the radii are hardly in that unit, the name of the classifier where it is
        known, and agreement where that is another one than the converged model.
    """
    doubt, alpha = _doubt(results), parse_number(results.facts.get("alpha", ""), whole=False)
    expected: dict[str, Any] = {}
    if results.sound and alpha is not None and 0.0 < alpha < 1.0:
        expected["expected_wrong"] = alpha * len(results)
        if "alpha_total" in results.parameters:
            expected["alpha_total"] = results.parameters["alpha_total"]
    seconds = float(np.sum(results.seconds))
    return {
        "name": results.name,
        "title": results.title,
        **{key: _number(value) for key, value in results.facts.items()},
        "sound": results.sound,
        "images": len(results),
        "pending": results.pending,
        "certified_accuracy": certified_accuracy(results.correct, results.radius, radii).tolist(),
        "acr": average_certified_radius(results.correct, results.radius),
        "abstained": float(np.mean(results.predict < 0)),
        "seconds": None if math.isnan(seconds) else round(seconds, 3),
        **expected,
        **({} if results.about is None else {"classifier": results.about}),
        **({} if results.compared is None else {"agreement": agreement_entry(results)}),
        **({} if doubt is None else {"doubt": doubt}),
    }


def agreement_entry(results: Results) -> dict[str, Any]:
    """Sum the agreement of a run up.

    Returns:
        with (the name of the converged model), said (all of it in sentences, a warning included),
        and where it was measured: audited, agreed, unsolved, share, interval, nfe, seconds, and
        least (index, agreed, audited and interval of the images that agree least).
    """
    assert results.compared is not None
    found, warning = results.agreement, results.warning()
    said = describe_agreement(found, results.compared)
    if warning is not None:
        said.append(f"WARNING: {warning}")
    entry: dict[str, Any] = {"with": results.compared, "said": said}
    if found is None or not found.audited.sum():
        return entry
    counts = {key: int(getattr(found, key).sum()) for key in ("audited", "agreed", "unsolved")}
    return entry | {
        **counts,
        "share": found.share,
        "interval": list(found.interval()),
        "nfe": float(found.nfe.sum()),
        "seconds": round(float(found.seconds.sum()), 3),
        "least": [[idx, agreed, of, *bounds] for idx, agreed, of, bounds in found.least()],
    }


def table(runs: Sequence[Results], radii: Sequence[float] | None = None) -> Table:
    """Tabulate runs.

    Args:
        runs: One or more.
        radii: Ascending or not, >= 0; default: `default_radii`.

    Returns:
        One row per run.

    Raises:
        ConfigError: If a radius is negative or not finite, or the runs' norms differ.
    """
    chosen = tuple(sorted(set(default_radii(runs) if radii is None else map(float, radii))))
    if not chosen or not all(math.isfinite(radius) and radius >= 0 for radius in chosen):
        raise ConfigError("radii must be finite numbers >= 0, for instance 0,0.25,0.5")
    return Table(chosen, tuple(entry(run, chosen) for run in runs), common_norm(runs))


def default_radii(runs: Sequence[Results]) -> tuple[float, ...]:
    """Return the radii up to the largest that any image of any run reaches; see `radii_until`.

    Raises:
        ConfigError: If the runs' norms differ.
    """
    return radii_until(max(map(_largest, runs), default=0.0), common_norm(runs))


def radii_until(largest: float, norm: str = "l2") -> tuple[float, ...]:
    """Return the radii of a table that ends at the largest: 0, 0.25, 0.5 ... in l2.

    Where that would be more than 40 steps, they are 10, 100, ... times as wide. In linf, where
    radii are small and of any scale, steps are 1, 2 or 5 times a power of ten: at most 10 of them.

    Args:
        largest: In pixel units of [0, 1].
        norm: "l2" or "linf".
    """
    step = STEP
    if norm == "linf":
        power = 10.0 ** math.floor(math.log10(largest)) if largest > 0.0 else 0.1
        step = next(
            step for step in (0.1 * power, 0.2 * power, 0.5 * power, power) if largest / step <= 10
        )
    while largest / step > MOST_STEPS:
        step *= 10
    steps = max(1, math.floor(largest / step + 1e-9))
    return tuple(round(step * i, 12) for i in range(steps + 1))


def odds(row: Mapping[str, Any]) -> str:
    """Say how many certificates of a run are to be expected to be wrong at most."""
    up = Context(prec=2, rounding=ROUND_CEILING)
    expected = up.create_decimal(Decimal(repr(row["alpha"])) * row["images"])
    said = (
        f"alpha is {row['alpha']:g} per image, so at most {float(expected):g} wrong certificates "
        f"are to be expected among {row['images']} images"
    )
    return f"{said}, and the same bounds the chance of any" if "alpha_total" in row else said


def _largest(run: Results) -> float:
    return float(run.radius[run.correct].max(initial=0.0))


def _doubt(run: Results) -> str | None:
    """Say so where radii are larger than pixels in [0, 1] are likely to give."""
    largest = _largest(run)
    if largest <= LIKELY[run.norm]:
        return None
    return (
        f"a radius of {largest:g} is much for pixels in [0,1]; if the pixels went "
        f"from 0 to 255, divide the radii by 255 ({largest:g} becomes {largest / 255:.3g})"
    )


def _number(text: str) -> str | int | float:
    """Give machines numbers where the file has numbers."""
    for whole in (True, False):
        value = parse_number(text, whole=whole)
        if value is not None and math.isfinite(value):
            return value
    return text
