"""Prediction sets of a run: how often they hold the true class, how large they are, by class."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqcert.certifiers.bounds import confidence_interval
from deqcert.errors import RunError
from deqcert.files import read_regular
from deqcert.report.aligned import aligned
from deqcert.report.columns import parse_whole, read_text, shown
from deqcert.report.picture import COLOURS, check_picture, new_figure, plain, save_figure

NAME = "sets.tsv"
CLEAN = "clean"
_ADVICE = "give a folder that deqcert conformal sets wrote"


@dataclass(frozen=True)
class SetResults:
    """The sets of a run; arrays have shape (N,), one entry per image.

    Args:
        idx: Index of the image in its data set.
        label: Its true class.
        covered: Per way of looking ("clean", or an attack's name), whether the set holds it.
        size: Per way of looking, how many classes the set holds.
        promised: Coverage that is promised, under attack as well.
        radius: l2 size of perturbations that it is promised for.
        classes: Number of classes.
        nfe: Cell evaluations of the clean set.
        method: How the sets were made, in a few words.
    """

    idx: NDArray[np.int64]
    label: NDArray[np.int64]
    covered: dict[str, NDArray[np.bool_]]
    size: dict[str, NDArray[np.int64]]
    promised: float
    radius: float
    classes: int
    nfe: NDArray[np.float64]
    method: str

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.idx)


def read_sets(folder: str | Path) -> SetResults:
    """Read the sets of a run; a torn last line is left out.

    Args:
        folder: The run folder.

    Raises:
        RunError: If it is missing, empty or damaged; the message names the line.
    """
    file = Path(folder) / NAME
    asked = _asked(Path(folder))
    lines = read_text(file, _ADVICE).split("\n")[:-1]
    columns = lines[0].split("\t") if lines else []
    if len(set(columns)) < len(columns):
        raise RunError(f"{file} is damaged: its header names a column twice; {_ADVICE}")
    places = {CLEAN: "set"} | {c.partition(":")[2]: c for c in columns if c.startswith("set:")}
    if not {"idx", "label", "set", "nfe"} <= set(columns):
        raise RunError(f"{file} is damaged: its header lacks a column; {_ADVICE}")
    table: dict[str, list[Any]] = {column: [] for column in columns}
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split("\t")
        if len(cells) != len(columns):
            raise RunError(
                f"{file}, line {number}: {len(cells)} tab-separated values where {len(columns)} "
                "are expected; restore it, or answer again into another folder"
            )
        for column, cell in zip(columns, cells, strict=True):
            table[column].append(_value(file, number, column, cell, asked["classes"]))
    if not table["idx"]:
        raise RunError(f"{file} holds no images yet; answer for at least one first")
    label = np.array(table["label"], dtype=np.int64)
    sets = {name: table[column] for name, column in places.items()}
    return SetResults(
        idx=np.array(table["idx"], dtype=np.int64),
        label=label,
        covered={
            name: np.array([y in one for y, one in zip(label, held, strict=True)])
            for name, held in sets.items()
        },
        size={
            name: np.array([len(one) for one in held], dtype=np.int64)
            for name, held in sets.items()
        },
        promised=1.0 - asked["alpha"],
        radius=asked["radius"],
        classes=asked["classes"],
        nfe=np.array(table["nfe"], dtype=np.float64),
        method=f"{asked['method']}, score {asked['score']}",
    )


def _asked(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_regular(folder / "manifest.json"))["parameters"]
        return {
            "alpha": float(found["alpha"]),
            "radius": float(found["radius"]),
            "classes": int(found["classes"]),
            "method": str(found["method"]),
            "score": str(found["score"]),
        }
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise RunError(f"{folder} is no run of prediction sets; {_ADVICE}") from None


def _value(file: Path, number: int, column: str, cell: str, classes: int) -> Any:
    """Read one cell of the journal.

    Raises:
        RunError: If it is not what its column holds.
    """
    if column.partition(":")[0] == "set":
        found = () if cell == "-" else tuple(parse_whole(part) for part in cell.split(","))
        if all(part is not None and part < classes for part in found):
            return found
    elif column in ("idx", "label"):
        if (whole := parse_whole(cell)) is not None:
            return whole
    elif column != "nfe":
        return cell
    else:
        try:
            return float(cell)
        except ValueError:
            pass
    raise RunError(
        f"{file}, line {number}: {column} is {shown(cell)}, which no run would have written; "
        "restore it, or answer again into another folder"
    )


@dataclass(frozen=True)
class SetsTable:
    """Coverage and size, of all images and of each class.

    Args:
        results: The sets.
        rows: One dictionary per way of looking.
        by_class: One dictionary per class that has images.
    """

    results: SetResults
    rows: tuple[dict[str, Any], ...]
    by_class: tuple[dict[str, Any], ...]

    def summary(self) -> dict[str, Any]:
        """Return the table as JSON values."""
        found = self.results
        return {
            "method": found.method,
            "promised": found.promised,
            "radius": found.radius,
            "images": len(found),
            "nfe": float(found.nfe.mean()),
            "rows": list(self.rows),
            "by_class": list(self.by_class),
        }

    def text(self) -> str:
        """Format for a terminal."""
        found, names = self.results, [row["name"] for row in self.rows]
        head = ["", "images", "coverage", "95% interval", "average size", "empty", "one class"]
        body = [
            [
                row["name"],
                str(row["images"]),
                f"{100 * row['coverage']:.1f}",
                f"{100 * row['interval'][0]:.1f}-{100 * row['interval'][1]:.1f}",
                f"{row['size']:.2f}",
                f"{100 * row['empty']:.1f}",
                f"{100 * row['single']:.1f}",
            ]
            for row in self.rows
        ]
        lines = aligned(head, body)
        head = ["class", "images", *(f"{name}{kind}" for name in names for kind in ("", " size"))]
        body = [
            [
                str(row["class"]),
                str(row["images"]),
                *(
                    text
                    for name in names
                    for text in (f"{100 * row['coverage'][name]:.1f}", f"{row['size'][name]:.2f}")
                ),
            ]
            for row in self.by_class
        ]
        return "\n".join(
            [
                *lines,
                "",
                *aligned(head, body),
                f"{found.method}; promised: {100 * found.promised:g}% of the sets hold the true "
                f"class, l2 radius {found.radius:g}",
            ]
        )


def sets_table(results: SetResults) -> SetsTable:
    """Put the table together."""
    rows = tuple(
        {
            "name": name,
            "images": len(results),
            "coverage": float(covered.mean()),
            "interval": list(confidence_interval(int(covered.sum()), len(results), 0.05)),
            "size": float(results.size[name].mean()),
            "empty": float((results.size[name] == 0).mean()),
            "single": float((results.size[name] == 1).mean()),
        }
        for name, covered in results.covered.items()
    )
    by_class = []
    for y in np.unique(results.label):
        mine = results.label == y
        by_class.append(
            {
                "class": int(y),
                "images": int(mine.sum()),
                "coverage": {k: float(v[mine].mean()) for k, v in results.covered.items()},
                "size": {k: float(v[mine].mean()) for k, v in results.size.items()},
            }
        )
    return SetsTable(results, rows, tuple(by_class))


def draw_sets(results: SetResults, path: str | Path) -> Path:
    """Draw coverage by class and the sizes of sets.

    Args:
        results: The sets.
        path: File to write; its ending (.png, .pdf, .svg) chooses the format.

    Returns:
        The file written.

    Raises:
        ConfigError: If the ending is not a picture's.
        RunError: If the file cannot be written.
    """
    target = check_picture(path)
    figure, axes = new_figure()
    figure.delaxes(axes)
    left, right = figure.subplots(1, 2)
    for one in (left, right):
        one.grid(True, color="#dddddd", linewidth=0.6)
        one.set_axisbelow(True)
        for side in ("top", "right"):
            one.spines[side].set_visible(False)
    classes = np.unique(results.label)
    names = list(results.covered)
    for i, name in enumerate(names):
        colour, shift = COLOURS[i % len(COLOURS)], 0.18 * (i - (len(names) - 1) / 2)
        shares = [100 * results.covered[name][results.label == y].mean() for y in classes]
        left.plot(np.arange(len(classes)) + shift, shares, "o", color=colour, markersize=4.5)
        most = int(max(size.max() for size in results.size.values()))
        counts = np.bincount(results.size[name], minlength=most + 1)
        width = 0.8 / len(names)
        right.bar(
            np.arange(most + 1) + width * (i - (len(names) - 1) / 2),
            100 * counts / len(results),
            width=width,
            color=colour,
            label=plain(name if name == CLEAN else f"{name}, radius {results.radius:g}"),
        )
    left.axhline(100 * results.promised, color="#000000", linewidth=1.0, linestyle="--")
    left.set_ylim(min(left.get_ylim()[0], 100 * results.promised - 5), 101.5)
    if len(classes) <= 20:
        left.set_xticks(np.arange(len(classes)), [str(y) for y in classes])
    left.set_xlabel("class (dashed: what is promised over all)")
    left.set_ylabel("sets that hold the true class (%)")
    right.set_xlabel("classes in a set")
    right.set_ylabel("images (%)")
    handles, labels = right.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=8.5)
    figure.suptitle(plain(f"Prediction sets, {results.method}"), fontsize=11, fontweight="bold")
    return save_figure(figure, target)
