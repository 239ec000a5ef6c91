"""What attacks left of a classifier, beside what is certified: a table and a picture."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqcert.certifiers.metrics import certified_accuracy
from deqcert.errors import RunError
from deqcert.files import read_regular
from deqcert.options import parse_number
from deqcert.report.aligned import aligned
from deqcert.report.columns import parse_seconds, parse_whole, read_text, shown
from deqcert.report.picture import (
    COLOURS,
    check_picture,
    dashes,
    new_figure,
    plain,
    radius_label,
    save_figure,
)

NAME = "attacks.tsv"

_HEAD = ("idx", "label", "answer", "radius", "base", "alarms", "time")
_REAL: dict[str, tuple[Callable[[float], bool], str]] = {
    "radius": (lambda value: 0.0 <= value < math.inf, "a finite number from 0"),
    "norm": (lambda value: value >= 0.0, "a number from 0, or inf"),
    "base": (lambda value: value >= 0.0, "a number from 0, or inf"),
    "lead": (lambda value: math.isnan(value) or abs(value) <= 1.0, "a number from -1 to 1, or nan"),
}


@dataclass(frozen=True)
class Attacked:
    """The journal of a run of attacks; arrays have shape (N,), one entry per image.

    Args:
        idx: Index of the image in its data set.
        correct: Whether the answer of the certified classifier is the true class.
        certified: Whether its certificate holds within a radius above 0.
        base_correct: Whether the base classifier answers the true class, without noise.
        radius: Certified radius; 0 where the certificate abstains.
        norm: Per attack, the smallest norm at which the certified classifier was found to answer
            another class; infinite where it was not.
        base: Per attack on the base classifier, the same for that; empty where no noise is drawn,
            so that there is no other.
        lead: Per attack, the largest share of votes by which another class led inside the certified
            radius, or without noise its largest lead as a share of the certified class's at the
            image; NaN where there is none.
        alarms: Per broken image, by index, the attacks that broke its certificate.
        ball: Norm of the radii and of what was found, "l2" or "linf".
        smoothed: Whether the certified classifier is a smoothed one.
    """

    idx: NDArray[np.int64]
    correct: NDArray[np.bool_]
    certified: NDArray[np.bool_]
    base_correct: NDArray[np.bool_]
    radius: NDArray[np.float64]
    norm: dict[str, NDArray[np.float64]]
    base: dict[str, NDArray[np.float64]]
    lead: dict[str, NDArray[np.float64]]
    alarms: dict[int, tuple[str, ...]]
    ball: str = "l2"
    smoothed: bool = True

    def certified_accuracy(self, radii: Sequence[float]) -> NDArray[np.float64]:
        """Return the share of images certified as their true class within each radius."""
        return certified_accuracy(self.correct & self.certified, self.radius, radii)

    @property
    def subject(self) -> str:
        """What was certified and attacked, in a legend."""
        return "smoothed classifier" if self.smoothed else "exact equilibrium"

    @property
    def smallest(self) -> NDArray[np.float64]:
        """Smallest norm that any attack found for the certified classifier, per image."""
        return np.asarray(np.min([*self.norm.values()], axis=0), dtype=np.float64)

    @property
    def base_smallest(self) -> NDArray[np.float64] | None:
        """The same for the base classifier; None without an attack on it."""
        return np.min([*self.base.values()], axis=0) if self.base else None


def read_attacks(folder: str | Path) -> Attacked:
    """Read the journal of a run of attacks, its columns by name; a torn last line is left out.

    Args:
        folder: The run folder.

    Raises:
        RunError: If it is missing, empty or damaged; the message names the line.
    """
    file = Path(folder) / NAME
    text = read_text(file, "give a folder that deqcert attack wrote")
    lines = text.split("\n")[:-1]  # what follows the last newline is torn
    columns = lines[0].split("\t") if lines else []
    names = _attack_names(file, columns)
    table: dict[str, list[Any]] = {column: [] for column in columns}
    seen: set[int] = set()
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split("\t")
        if len(cells) != len(columns):
            raise RunError(
                f"{file}, line {number}: {len(cells)} tab-separated values where {len(columns)} "
                "are expected; restore it, or attack again into another folder"
            )
        for column, cell in zip(columns, cells, strict=True):
            table[column].append(_value(file, number, column, cell, names))
        if table["idx"][-1] in seen:
            raise RunError(
                f"{file}, line {number}: image {cells[columns.index('idx')]} stands there again; "
                "every image may count once"
            )
        seen.add(table["idx"][-1])
    if not seen:
        raise RunError(f"{file} holds no images yet; attack at least one first")

    def of(kind: str) -> dict[str, NDArray[np.float64]]:
        found = {name: f"{kind}:{name}" for name in names}
        return {
            name: np.array(table[column], dtype=np.float64)
            for name, column in found.items()
            if column in table
        }

    known = _parameters(Path(folder))
    label = np.array(table["label"], dtype=np.int64)
    radius = np.array(table["radius"], dtype=np.float64)
    return Attacked(
        idx=np.array(table["idx"], dtype=np.int64),
        correct=np.array(table["answer"], dtype=np.int64) == label,
        certified=radius > 0.0,
        base_correct=np.array(table["base"], dtype=np.int64) == label,
        radius=radius,
        norm=of("norm"),
        base=of("base"),
        lead=of("lead"),
        alarms={
            image: broken
            for image, broken in zip(table["idx"], table["alarms"], strict=True)
            if broken
        },
        ball="linf" if known.get("norm") == "linf" else "l2",
        smoothed="norm" not in known,
    )


def _parameters(folder: Path) -> dict[str, Any]:
    """Return a run's parameters; without a readable manifest none, which costs the captions."""
    try:
        found = json.loads(read_regular(folder / "manifest.json"))["parameters"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _attack_names(file: Path, columns: Sequence[str]) -> tuple[str, ...]:
    """Return the attacks that a header has columns of, in its order."""
    names = tuple(column[5:] for column in columns if column.startswith("norm:"))
    needed = [*_HEAD, *(f"lead:{name}" for name in names)]
    known = {*needed, *(f"{kind}:{name}" for kind in ("norm", "base") for name in names)}
    missing = [column for column in needed if column not in columns]
    strange = [column for column in columns if column not in known]
    fault = ""
    if missing or not names:
        fault = f"has no column {missing[0] if missing else 'norm:ATTACK'}"
    elif strange:
        fault = f"has a column {strange[0][:40]!r}"
    elif len(set(columns)) < len(columns):
        fault = "names a column twice"
    if fault:
        raise RunError(
            f"{file} is damaged: its header {fault}; give a folder that deqcert attack has written"
        )
    return names


def _value(file: Path, number: int, column: str, cell: str, names: Sequence[str]) -> Any:
    """Read one cell of the journal.

    Raises:
        RunError: If it is not what its column holds.
    """
    kind = column.partition(":")[0]
    value: Any
    if kind == "alarms":
        value = () if cell == "-" else tuple(cell.split(","))
        fine, wants = set(value) <= set(names), "attacks of the header, or -"
    elif kind == "time":
        value = parse_seconds(cell)
        fine, wants = math.isfinite(value) and value >= 0.0, "h:mm:ss"
    elif column in ("idx", "label", "answer", "base"):
        low = -1 if column == "base" else 0
        value = parse_whole(cell, low)
        fine = value is not None
        wants = f"a whole number from {low}"
    else:
        value = {"inf": math.inf, "nan": math.nan}.get(cell)
        if value is None:
            value = parse_number(cell, whole=False)
        fine, wants = value is not None and _REAL[kind][0](value), _REAL[kind][1]
    if not fine:
        raise RunError(f"{file}, line {number}: {column} is {shown(cell)} and must be {wants}")
    return value


def robust_accuracy(
    correct: NDArray[np.bool_], norm: NDArray[np.float64], radii: Sequence[float]
) -> NDArray[np.float64]:
    """Return the share of images that are correct and for which nothing nearer was found.

    Args:
        correct: Whether the answer is right per image, shape (N,).
        norm: Smallest norm at which another class was found per image, shape (N,).
        radii: Where to evaluate; an image with a norm of r counts as broken at r.
    """
    return np.array([np.mean(correct & (norm > r)) for r in radii], dtype=np.float64)


def attack_rows(attacked: Attacked, radii: Sequence[float]) -> list[dict[str, Any]]:
    """Sum a run of attacks up, one dictionary per line of the table.

    Returns:
        Certificates, then each attack and all of them together, on the certified classifier and,
        where that is a smoothed one, on the base classifier: name, accuracy (a fraction at each
        radius), mean (of the smallest norms found; None for certificates), missed (images for which
        nothing was found), lead (largest inside a certified radius) and breaks (certificates
        broken).
    """
    sound = attacked.certified_accuracy(radii)
    rows: list[dict[str, Any]] = [{"name": "certified", "accuracy": sound.tolist()}]

    def add(
        name: str,
        correct: NDArray[np.bool_],
        norm: NDArray[np.float64],
        **more: Any,
    ) -> None:
        held = np.isinf(norm)
        mean = None if held.all() else float(norm[~held].mean())
        accuracy = robust_accuracy(correct, norm, radii).tolist()
        rows.append(
            {"name": name, "accuracy": accuracy, "mean": mean, "missed": int(held.sum()), **more}
        )

    for name, norm in attacked.norm.items():
        breaks = sum(name in names for names in attacked.alarms.values())
        add(name, attacked.correct, norm, lead=_largest(attacked.lead[name]), breaks=breaks)
    leads = [lead for lead in map(_largest, attacked.lead.values()) if lead is not None]
    worst = max(leads, default=None)
    broken = len(attacked.alarms)
    add("all attacks", attacked.correct, attacked.smallest, lead=worst, breaks=broken)
    for name, norm in attacked.base.items():
        add(f"base: {name}", attacked.base_correct, norm)
    if attacked.base_smallest is not None:
        add("base: all attacks", attacked.base_correct, attacked.base_smallest)
    return rows


def attack_table(attacked: Attacked, radii: Sequence[float]) -> str:
    """Format what :func:`attack_rows` returns for a terminal."""
    head = ["", *(f"r={radius:g}" for radius in radii), "mean norm", "missed", "lead", "breaks"]
    body = []
    for row in attack_rows(attacked, radii):
        cells = [row["name"], *(f"{100 * value:.1f}" for value in row["accuracy"])]
        mean, lead = row.get("mean"), row.get("lead")
        cells.append("" if mean is None else f"{mean:.3f}")
        cells.append(str(row.get("missed", "")))
        cells.append("" if lead is None else f"{lead:+.2f}")
        body.append([*cells, str(row.get("breaks", ""))])
    lines = aligned(head, body)
    unit = "" if attacked.smoothed else f"; radius: {attacked.ball}, [0,1] pixels"
    lines.append(
        f"accuracy in % of {len(attacked.idx)} images: certified, and left by attacks (no point of "
        f"another class found within r){unit};"
    )
    share = "the votes" if attacked.smoothed else "the certified class's lead at the image"
    lines.append(
        "mean norm: of the nearest found; missed: images without any; lead: largest of another "
        f"class inside a certified radius, as a share of {share}"
    )
    return "\n".join(lines)


def draw_attacks(
    attacked: Attacked, path: str | Path, *, reach: float, title: str = "Attacks and certificates"
) -> Path:
    """Draw accuracy against radius: certified, and what attacks left of both classifiers.

    Args:
        attacked: The outcomes.
        path: File to write; its ending (.png, .pdf, .svg) chooses the format.
        reach: Largest radius that was attacked; the curves end there.
        title: What stands above the picture.

    Raises:
        ConfigError: If the ending is not a picture's.
        RunError: If the file cannot be written.
    """
    target = check_picture(path)
    figure, axes = new_figure()
    at = np.linspace(0.0, reach, 801)

    def line(shares: NDArray[np.float64], **style: Any) -> None:
        axes.plot(at, 100 * shares, **style)

    curves = {
        "certified": attacked.certified_accuracy(at.tolist()),
        f"{attacked.subject}, all attacks": robust_accuracy(
            attacked.correct, attacked.smallest, at.tolist()
        ),
    }
    if attacked.base_smallest is not None:
        curves["base classifier, all attacks"] = robust_accuracy(
            attacked.base_correct, attacked.base_smallest, at.tolist()
        )
    axes.fill_between(at, 0, 100 * curves["certified"], color=COLOURS[0], alpha=0.18, linewidth=0)
    styles = dashes([100 * shares for shares in curves.values()])
    for colour, (name, shares), style in zip(COLOURS, curves.items(), styles, strict=False):
        line(shares, color=colour, linewidth=1.8, linestyle=style or "-", label=name)
    # Darker and on top: the strongest attack alone often is where all of them together are.
    thin: dict[str, Any] = {"linewidth": 0.7, "color": "#6b2f00"}
    for norm in attacked.norm.values():
        line(robust_accuracy(attacked.correct, norm, at.tolist()), **thin)
    axes.plot([], [], label=f"{attacked.subject}, each attack", **thin)
    axes.set_xlim(0, reach)
    axes.set_ylim(-1, 101)
    axes.set_xlabel(radius_label(attacked.ball))
    axes.set_ylabel("accuracy (% of all images)")
    axes.set_title(plain(title), loc="left", fontsize=11, fontweight="bold")
    axes.legend(loc="best", frameon=False, fontsize=9)
    return save_figure(figure, target)


def _largest(values: NDArray[np.float64]) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.max()) if len(known) and math.isfinite(known.max()) else None
