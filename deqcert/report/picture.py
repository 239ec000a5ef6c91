"""The picture of certified accuracy against radius: one step curve per run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from deqcert.errors import ConfigError
from deqcert.files import check_writable, write_atomically
from deqcert.report.reader import Results, common_norm

Dashes = str | tuple[float, tuple[float, float]]
"""A line style as matplotlib takes it."""

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours (2008), which people with colour-blindness tell apart; yellow left out.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_SYMBOLS = {"l2": r"$\ell_2$", "linf": r"$\ell_\infty$ (l-infinity)"}
_DASHES: tuple[Dashes, ...] = ("-", (0, (6, 2)), (0, (2, 1.5)))  # after one round of colours

SAME = 0.5
"""Curves that are no further apart than this, in percent of the picture's height, hide each
other..."""

MOSTLY = 0.9
"""...where they are so near at this share of the places."""


def curve(results: Results) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the exact step curve of one run.

    Args:
        results: The certificates.

    Returns:
        Radii (m,) ascending from 0 and shares (m,) of all images that are correct with a
        radius at least that large; between radii[i-1] and radii[i] the share is shares[i].
    """
    radii = np.unique(np.concatenate([[0.0], results.radius[results.correct]]))
    held = np.sort(results.radius[results.correct])
    shares = (len(held) - np.searchsorted(held, radii, side="left")) / max(len(results), 1)
    # The curve falls to 0 just after the largest radius: end the line there.
    return np.append(radii, radii[-1]), np.append(shares, 0.0)


def draw_curves(
    runs: Sequence[Results], path: str | Path, *, title: str = "Certified accuracy"
) -> Path:
    """Draw the curves of several runs in one picture.

    Args:
        runs: One or more; an unsound one is drawn dotted and called UNSOUND in the legend.
        path: File to write; its ending (.png, .pdf, .svg) chooses the format.
        title: What stands above the picture.

    Returns:
        The file written.

    Raises:
        ConfigError: If there are no runs, norms differ, or the ending is not a picture's.
        RunError: If the file cannot be written.
    """
    if not runs:
        raise ConfigError("no runs to draw; give at least one")
    target, norm = check_picture(path), common_norm(runs)
    figure, axes = new_figure()
    curves = [curve(run) for run in runs]
    largest = max(float(radii[-1]) for radii, _ in curves)
    at = np.linspace(0.0, largest, 401)
    seen = [100 * np.append(shares, 0.0)[np.searchsorted(radii, at)] for radii, shares in curves]
    both = [(run.sound, heights) for run, heights in zip(runs, seen, strict=True)]
    sound = dashes([heights if proven else None for proven, heights in both])
    unsound = dashes([None if proven else heights for proven, heights in both], dash=1.5)
    for i, (run, (radii, shares)) in enumerate(zip(runs, curves, strict=True)):
        alone = _DASHES[i // len(COLOURS) % len(_DASHES)] if run.sound else ":"
        name = run.title if not run.pending else f"{run.title}, unfinished"
        axes.plot(
            radii,
            100 * shares,
            drawstyle="steps-pre",
            color=COLOURS[i % len(COLOURS)],
            linestyle=(sound if run.sound else unsound)[i] or alone,
            linewidth=1.8 if run.sound else 1.5,
            zorder=2.0 if run.sound else 2.5,  # dots over a line leave it to be seen
            label=plain(name),
        )
    axes.set_xlim(0, 1.03 * largest if largest > 0 else 1.0)
    axes.set_ylim(-1, 101)  # lines at 0 and at 100 are as thick as others
    axes.set_xlabel(radius_label(norm))
    axes.set_ylabel("certified accuracy (% of all images)")
    axes.set_title(plain(title), loc="left", fontsize=11, fontweight="bold")
    below = len(runs) > 3 or max(len(run.title) for run in runs) > 60
    if below:
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.16), frameon=False, fontsize=8.5)
    else:
        axes.legend(loc="best", frameon=False, fontsize=9)
    return save_figure(figure, target)


def radius_label(norm: str) -> str:
    """Return what an axis of radii is called: the norm, and the unit."""
    return f"{_SYMBOLS[norm]} radius (pixels in [0, 1])"


def dashes(
    curves: Sequence[NDArray[np.float64] | None], dash: float = 5.0
) -> list[tuple[float, tuple[float, float]] | None]:
    """Find curves that hide each other, and give each of them its turn on the common line.

    Args:
        curves: Heights in percent at the same places, one array per curve; None is left alone.
        dash: Length of a dash, in line widths; shorter where many curves coincide.

    Returns:
        Per curve the dashes to draw it with: those of coinciding curves fill each other's gaps.
        None for a curve that is alone.
    """
    groups: list[list[int]] = []
    for i, heights in enumerate(curves):
        if heights is None:
            continue
        for group in groups:
            first = curves[group[0]]
            assert first is not None
            near = np.isclose(first, heights, rtol=0.0, atol=SAME, equal_nan=True)
            if near.mean() >= MOSTLY:
                group.append(i)
                break
        else:
            groups.append([i])
    found: list[tuple[float, tuple[float, float]] | None] = [None] * len(curves)
    for group in groups:
        if len(group) > 1:
            each = min(dash, max(1.5, 9.0 / len(group)))  # a legend's line is long enough for all
            for place, i in enumerate(group):
                turn = each * ((len(group) - place) % len(group))
                found[i] = (turn, (each, each * (len(group) - 1)))
    return found


def plain(text: str) -> str:
    """Return text that matplotlib shows as it is: no formulas, no name that a legend leaves out."""
    text = text.encode(errors="replace").decode()  # names of files need not be text
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def check_picture(path: str | Path) -> Path:
    """Refuse a name that no picture can be written to, before anything is computed for it.

    Raises:
        ConfigError: If the ending is not a picture's, or the folder is not there.
        RunError: If nothing can be written there.
    """
    target = Path(path)
    if target.suffix.lower() not in {".png", ".pdf", ".svg"}:
        raise ConfigError(f"cannot draw to {target}: the name must end in .png, .pdf or .svg")
    if not target.parent.is_dir():
        raise ConfigError(f"cannot draw to {target}: there is no folder {target.parent}")
    if target.is_dir():
        raise ConfigError(f"cannot draw to {target}: there is a folder of that name")
    check_writable(target, "give the picture another name")
    return target


def new_figure() -> tuple[Figure, Axes]:
    """Make a figure in the house style, without touching pyplot's global state.

    Returns:
        Matplotlib Figure and Axes.
    """
    # A first import builds a font cache, elsewhere where the usual place cannot be written, and
    # says so on stderr, which is meant for errors.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.8, 4.2), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure, whole or not at all.

    Raises:
        RunError: If the file cannot be written.
    """
    kind = path.suffix.lower().removeprefix(".")
    write_atomically(
        path,
        lambda file: figure.savefig(file, format=kind, bbox_inches="tight"),
        "give the picture another name",
    )
    return path
