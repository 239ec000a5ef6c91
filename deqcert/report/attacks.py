"""What attacks left of a classifier, beside what is certified: a table and a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqcert.certifiers.metrics import certified_accuracy
from deqcert.errors import RunError
from deqcert.report.picture import COLOURS, check_picture, new_figure, save_figure

NAME = "attacks.tsv"


@dataclass(frozen=True)
class Attacked:
    """The journal of a run of attacks; arrays have one entry an image.

    Args:
        idx: index of the image in its data set.
        correct: whether the answer of the smoothed classifier is the true class.
        certified: whether its certificate does not abstain.
        base_correct: whether the base classifier answers the true class, without noise.
        radius: certified radius; 0 where the certificate abstains.
        norm: by attack, the smallest norm at which the smoothed classifier was found to answer
            another class; infinite where it was not.
        base: by attack on the base classifier, the same for that.
        lead: by attack, the largest share of votes by which another class led inside the certified
            radius; NaN where there is none.
        alarms: by image, the attacks that broke its certificate.
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

    def certified_accuracy(self, radii: Sequence[float]) -> NDArray[np.float64]:
        """Return the share of images certified as their true class within each radius."""
        return certified_accuracy(self.correct & self.certified, self.radius, radii)

    @property
    def smallest(self) -> NDArray[np.float64]:
        """Smallest norm that any attack found for the smoothed classifier, an image each."""
        return np.asarray(np.min([*self.norm.values()], axis=0), dtype=np.float64)

    @property
    def base_smallest(self) -> NDArray[np.float64] | None:
        """The same for the base classifier; None without an attack on it."""
        return np.min([*self.base.values()], axis=0) if self.base else None


def read_attacks(folder: str | Path) -> Attacked:
    """Read the journal of a run of attacks.

    Raises:
        RunError: it is missing, empty or damaged.
    """
    file = Path(folder) / NAME
    try:
        lines = [line.split("\t") for line in file.read_text(encoding="utf-8").splitlines()]
        head, body = lines[0], lines[1:]
        table = {key: [row[at] for row in body] for at, key in enumerate(head)}
        numbers = {key: np.array(table[key], dtype=np.float64) for key in head if ":" in key}
        label, answer, base = (
            np.array(table[key], dtype=np.int64) for key in ("label", "answer", "base")
        )
        idx = np.array(table["idx"], dtype=np.int64)
        radius = np.array(table["radius"], dtype=np.float64)
        alarms = {
            int(image): tuple(names.split(","))
            for image, names in zip(table["idx"], table["alarms"], strict=True)
            if names != "-"
        }
    except OSError as error:
        raise RunError(f"cannot read {file}: {error.strerror}; give a folder of attacks") from None
    except (KeyError, IndexError, ValueError):
        raise RunError(
            f"{file} is damaged; give a folder that deqcert attack has written"
        ) from None
    if not len(idx):
        raise RunError(f"{file} holds no images yet; attack at least one first")

    def of(kind: str) -> dict[str, NDArray[np.float64]]:
        found = {key.partition(":")[2]: value for key, value in numbers.items()}
        return {name: numbers[f"{kind}:{name}"] for name in found if f"{kind}:{name}" in numbers}

    return Attacked(
        idx=idx,
        correct=answer == label,
        certified=radius > 0.0,
        base_correct=base == label,
        radius=radius,
        norm=of("norm"),
        base=of("base"),
        lead=of("lead"),
        alarms=alarms,
    )


def robust_accuracy(
    correct: NDArray[np.bool_], norm: NDArray[np.float64], radii: Sequence[float]
) -> NDArray[np.float64]:
    """Return the share of images that are correct and for which nothing nearer was found.

    Args:
        correct: whether each answer is right, shape (N,).
        norm: smallest norm at which another class was found, shape (N,).
        radii: where to evaluate; an image with a norm of r counts as broken at r.
    """
    return np.array([np.mean(correct & (norm > r)) for r in radii], dtype=np.float64)


def attack_rows(attacked: Attacked, radii: Sequence[float]) -> list[dict[str, Any]]:
    """Sum a run of attacks up, one dictionary a line of the table.

    Returns:
        list: certificates, then each attack and all of them together, on the smoothed classifier
        and on the base classifier: name, accuracy (a fraction at each radius), mean (of the
        smallest norms found; None for certificates), missed (images for which nothing was found),
        lead (largest inside a certified radius) and breaks (certificates broken).
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
    """Format `attack_rows` for a terminal."""
    head = ["", *(f"r={radius:g}" for radius in radii), "mean norm", "missed", "lead", "breaks"]
    body = []
    for row in attack_rows(attacked, radii):
        cells = [row["name"], *(f"{100 * value:.1f}" for value in row["accuracy"])]
        mean, lead = row.get("mean"), row.get("lead")
        cells.append("" if mean is None else f"{mean:.3f}")
        cells.append(str(row.get("missed", "")))
        cells.append("" if lead is None else f"{lead:+.2f}")
        body.append([*cells, str(row.get("breaks", ""))])
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in [head, *body]
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    lines.append(
        f"accuracy in % of {len(attacked.idx)} images: certified, and left by attacks (no point of "
        "another class found within r);"
    )
    lines.append(
        "mean norm: of the nearest found; missed: images without any; lead: largest of another "
        "class inside a certified radius, as a share of the votes"
    )
    return "\n".join(lines)


def draw_attacks(
    attacked: Attacked, path: str | Path, *, reach: float, title: str = "Attacks and certificates"
) -> Path:
    """Draw accuracy against radius: certified, and what attacks left of both classifiers.

    Args:
        attacked: the outcomes.
        path: file to write; its ending (.png, .pdf, .svg) chooses the format.
        reach: largest radius that was attacked; the curves end there.
        title: what stands above the picture.

    Raises:
        ConfigError: an ending that is not a picture's.
        RunError: the file cannot be written.
    """
    target = check_picture(path)
    figure, axes = new_figure()
    at = np.linspace(0.0, reach, 801)

    def line(shares: NDArray[np.float64], **style: Any) -> None:
        axes.plot(at, 100 * shares, **style)

    certified = attacked.certified_accuracy(at.tolist())
    axes.fill_between(at, 0, 100 * certified, color=COLOURS[0], alpha=0.18, linewidth=0)
    line(certified, color=COLOURS[0], linewidth=1.8, label="certified")
    thin: dict[str, Any] = {"linewidth": 0.7, "alpha": 0.55}
    for norm in attacked.norm.values():
        line(robust_accuracy(attacked.correct, norm, at.tolist()), color=COLOURS[1], **thin)
    left = robust_accuracy(attacked.correct, attacked.smallest, at.tolist())
    line(left, color=COLOURS[1], linewidth=1.8, label="smoothed classifier, all attacks")
    axes.plot([], [], color=COLOURS[1], label="smoothed classifier, each attack", **thin)
    if attacked.base_smallest is not None:
        left = robust_accuracy(attacked.base_correct, attacked.base_smallest, at.tolist())
        line(left, color=COLOURS[2], linewidth=1.8, label="base classifier, all attacks")
    axes.set_xlim(0, reach)
    axes.set_ylim(0, 100)
    axes.set_xlabel(r"$\ell_2$ radius (pixels in [0, 1])")
    axes.set_ylabel("accuracy (% of all images)")
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.legend(loc="best", frameon=False, fontsize=9)
    return save_figure(figure, target)


def _largest(values: NDArray[np.float64]) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.max()) if len(known) and math.isfinite(known.max()) else None
