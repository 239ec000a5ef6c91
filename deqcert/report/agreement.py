"""What a run says about its agreement with the converged model, read and put into words."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deqcert.certifiers.agreement import Agreement
from deqcert.certifiers.bounds import write_down
from deqcert.errors import RunError
from deqcert.options import parse_number
from deqcert.report.columns import parse_seconds, parse_whole, read_text, shown

NAME = "agreement.tsv"

_COUNTS = ("idx", "audited", "agreed", "unsolved")


def read_agreement(folder: Path) -> Agreement | None:
    """Read the agreement of a run, its columns by name; a torn last line is left out.

    Args:
        folder: The run folder.

    Returns:
        One entry per image that was audited; None where the run has no such file.

    Raises:
        RunError: If the file is damaged; the message names the line.
    """
    file = folder / NAME
    if not file.exists():
        return None
    advice = "restore it, or remove it to report without it"
    lines = read_text(file, advice).split("\n")[:-1]  # what follows the last newline is torn
    columns = lines[0].split("\t") if lines else []
    needed = [*_COUNTS, "nfe", "time"]
    if lines and sorted(columns) != sorted(needed):
        raise RunError(f"{file}: its columns are not {' '.join(needed)}; {advice}")
    table: dict[str, list[float]] = {name: [] for name in needed}
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split("\t")
        if len(cells) != len(columns):
            raise RunError(f"{file}, line {number}: not {len(columns)} values; {advice}")
        entry = dict(zip(columns, cells, strict=True))
        counts = [parse_whole(entry[name]) for name in _COUNTS]
        nfe, seconds = parse_number(entry["nfe"], whole=False), parse_seconds(entry["time"])
        values = [*counts, nfe, seconds]
        if any(value is None or not 0 <= value < math.inf for value in values):
            raise RunError(f"{file}, line {number}: {shown(line)} holds no counts; {advice}")
        _, audited, agreed, unsolved = (count or 0 for count in counts)
        if agreed + unsolved > audited or counts[0] in table["idx"]:
            raise RunError(f"{file}, line {number}: {shown(line)} cannot be; {advice}")
        for name, value in zip(needed, values, strict=True):
            table[name].append(value)  # type: ignore[arg-type]
    whole = {name: np.array(table[name], dtype=np.int64) for name in _COUNTS}
    nfes, times = (np.array(table[name], dtype=np.float64) for name in ("nfe", "time"))
    return Agreement(**whole, nfe=nfes, seconds=times)


def join_agreements(parts: Sequence[Agreement | None]) -> Agreement | None:
    """Join the agreements of runs over different images; None where no part has one."""
    known = [part for part in parts if part is not None]
    if not known:
        return None
    names = [field.name for field in dataclasses.fields(Agreement)]
    return Agreement(**{name: np.concatenate([getattr(p, name) for p in known]) for name in names})


def describe_agreement(agreement: Agreement | None, other: str) -> list[str]:
    """Put an agreement into sentences without a stop, percentages rounded outwards.

    Args:
        agreement: What was measured, if anything.
        other: Name of the converged model.
    """
    if agreement is None or not agreement.audited.sum():
        return [f"agreement with {other}: not measured; a larger --agreement measures it"]
    audited, agreed = int(agreement.audited.sum()), int(agreement.agreed.sum())
    said = (
        f"agrees with {other} on {agreed} of {audited} audited votes, "
        f"{100 * agreement.share:.1f}% (95% interval {_range(agreement.interval())})"
    )
    if unsolved := int(agreement.unsolved.sum()):
        said += f"; {unsolved} of the others did not converge"
    cost = f"{agreement.nfe.sum():.0f} evaluations, {agreement.seconds.sum():.1f} s"
    sentences = [f"{said}; the audit took {cost}"]
    if least := agreement.least():
        images = ", ".join(
            f"image {idx} on {part} of {of} ({_range(bounds)})" for idx, part, of, bounds in least
        )
        sentences.append(f"agrees least: {images}; intervals hold for all images together")
    return sentences


def _range(bounds: tuple[float, float]) -> str:
    low, high = bounds
    upper = f"{100 - float(write_down(100 * (1 - high), 1)):.1f}"
    return f"{write_down(100 * low, 1)} to {upper}%"
