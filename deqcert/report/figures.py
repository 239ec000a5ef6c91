"""Figures of a page as SVG text, in colours that the page decides: light, dark or printed."""

from __future__ import annotations

import html
import io
import itertools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from deqcert.report.picture import COLOURS, dashes, new_figure, plain, radius_label

SIZE = (5.2, 3.5)
"""Inches: letters are as large as the page's where the figure is as wide as a telephone."""

GRID = "#dddddd"
_MARKS = ("-", "--", ":", "-.")


def colour(i: int) -> str:
    """Return the colour of the i-th model."""
    return COLOURS[i % (len(COLOURS) - 1)]


def line_style(i: int) -> str:
    """Return the dashes of the i-th model, after a round of colours or within one model."""
    return _MARKS[i % len(_MARKS)]


class Plot:
    """One figure.

    Args:
        about: What it shows, for those who do not see it.
        x: Name of the horizontal axis.
        y: Name of the vertical axis.
        square: Whether both axes go from 0 to 100%.
    """

    def __init__(self, about: str, x: str, y: str, *, square: bool = False) -> None:
        self.about = about
        self.figure, self.axes = new_figure()
        self.figure.set_size_inches(SIZE[0], SIZE[0] * 0.86 if square else SIZE[1])
        self.axes.set_xlabel(x)
        self.axes.set_ylabel(y)
        if square:
            self.axes.set_xlim(-2, 102)
            self.axes.set_ylim(-2, 102)

    def legend(self, **more: Any) -> None:
        """Name what is drawn, where there is room."""
        handles, labels = self.axes.get_legend_handles_labels()
        if len(labels) < 2:  # the page says what it is
            return
        long = len(labels) > 4 or max(map(len, labels)) > 34
        place: dict[str, Any] = {"loc": "best"}
        if long:
            place = {"loc": "upper center", "bbox_to_anchor": (0.45, -0.17)}
            place["ncols"] = 1 if max(map(len, labels)) > 26 else 2
        self.axes.legend(handles, labels, frameon=False, fontsize=8.5, **place, **more)

    def svg(self) -> str:
        """Return the figure as an SVG element that takes its colours from the page."""
        import matplotlib as mpl

        file = io.StringIO()
        with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": self.about}):
            self.figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
        return themed(file.getvalue(), self.about)


def themed(text: str, about: str) -> str:
    """Make matplotlib's SVG an element of a page.

    Args:
        text: The SVG file.
        about: What it shows, for those who do not see it.
    """
    found = text[text.index("<svg") :]
    found = re.sub(r"<metadata>.*?</metadata>", "", found, flags=re.DOTALL)
    found = re.sub(r"<!--.*?-->", "", found, flags=re.DOTALL)
    opening = re.match(r"<svg[^>]*>", found)
    assert opening is not None
    box = re.search(r'viewBox="[^"]*"', opening[0])
    assert box is not None
    label = html.escape(about, quote=True)
    head = (
        f'<svg {box[0]} role="img" aria-label="{label}" xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    found = head + found[opening.end() :]
    for i, one in enumerate(COLOURS[:-1]):
        found = re.sub(one, f"var(--c{i})", found, flags=re.IGNORECASE)
    found = re.sub(GRID, "var(--grid)", found, flags=re.IGNORECASE)
    found = re.sub(r"#000000|(?<=stroke: )black", "currentColor", found)
    # The page's own letters, in the size that the figure asks for.
    found = re.sub(r"font: ([^;\"]*?)'DejaVu Sans'[^;\"]*", r"font: \1var(--font)", found)
    # Definitions of one figure must not hide those of another.
    mark = re.sub(r"\W+", "-", about)[:60]
    found = re.sub(r'\bid="', f'id="{mark}-', found)
    found = re.sub(r"url\(#", f"url(#{mark}-", found)
    return re.sub(r'href="#', f'href="#{mark}-', found)


def certified_curves(runs: Sequence[dict[str, Any]]) -> str:
    """Draw certified accuracy against radius, each curve in its band."""
    plot = Plot(
        "certified accuracy by radius", radius_label(runs[0]["norm"]), "certified accuracy (%)"
    )
    largest = max(run["curve"]["radii"][-1] for run in runs)
    seen, at = [], np.linspace(0.0, max(largest, 1e-9), 401)
    for run in runs:
        steps, heights = (np.array(run["curve"][key]) for key in ("radii", "shares"))
        seen.append(100 * np.append(heights, 0.0)[np.searchsorted(steps, at)])
    styles = dashes(seen)
    for i, run in enumerate(runs):
        steps, heights = (np.array(run["curve"][key]) for key in ("radii", "shares"))
        low = np.clip(heights - run["band"]["below"], 0.0, 1.0)
        high = np.clip(heights + run["band"]["above"], 0.0, 1.0)
        plot.axes.fill_between(
            steps, 100 * low, 100 * high, step="pre", color=colour(i), alpha=0.15, linewidth=0
        )
        plot.axes.plot(
            steps,
            100 * heights,
            drawstyle="steps-pre",
            color=colour(i),
            linewidth=1.8,
            linestyle=styles[i] or ("-" if run["sound"] else ":"),
            label=plain(run["name"] if run["sound"] else f"{run['name']} UNSOUND"),
        )
    plot.axes.set_xlim(0, 1.03 * largest if largest > 0 else 1.0)
    plot.axes.set_ylim(-1, 101)
    plot.legend()
    return plot.svg()


def share_bars(runs: Sequence[dict[str, Any]]) -> str:
    """Draw how many images have which share of agreeing noisy copies."""
    plot = Plot(
        "images by the share of noisy copies that agree",
        "noisy copies that agree (%)",
        "images (%)",
    )
    edges = runs[0]["shares"]["edges"]
    width = 0.84 / len(runs)
    for i, run in enumerate(runs):
        counts = np.array(run["shares"]["images"], dtype=float)
        place = np.arange(len(counts)) + width * (i - (len(runs) - 1) / 2)
        label = plain(run["name"])
        plot.axes.bar(place, 100 * counts / counts.sum(), width, color=colour(i), label=label)
    names = [f"{100 * low:g}\N{EN DASH}{100 * high:g}" for low, high in itertools.pairwise(edges)]
    plot.axes.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=8)
    plot.axes.grid(False, axis="x")
    plot.legend()
    return plot.svg()


def curves(
    about: str,
    x: str,
    y: str,
    lines: Sequence[tuple[str, Sequence[float], Sequence[float], int, int]],
    *,
    top: float | None = 101.0,
) -> str:
    """Draw lines: name, places, heights, the colour's number and the dashes' number each."""
    plot = Plot(about, x, y)
    for name, places, heights, hue, dash in lines:
        marker = "o" if len(places) <= 12 else ""
        plot.axes.plot(
            places,
            heights,
            color=colour(hue),
            linestyle=line_style(dash),
            marker=marker,
            markersize=3.5,
            linewidth=1.8,
            label=plain(name),
        )
    plot.axes.set_ylim(-1 if top is not None else 0, top)
    plot.legend()
    return plot.svg()


def reliability_diagram(about: str, sources: Sequence[tuple[str, dict[str, Any], int]]) -> str:
    """Draw accuracy against confidence: name, source and colour's number each."""
    plot = Plot(about, "how sure the model is (%)", "how often it is right (%)", square=True)
    plot.axes.plot([0, 100], [0, 100], color="#000000", linewidth=0.8, linestyle=":")
    for name, source, hue in sources:
        held = [one for one in source["bins"] if one["count"]]
        most = max(one["count"] for one in held)
        sizes = [8 + 110 * one["count"] / most for one in held]
        places = [100 * one["confidence"] for one in held]
        heights = [100 * one["accuracy"] for one in held]
        plot.axes.scatter(places, heights, s=sizes, color=colour(hue), label=plain(name), zorder=3)
    plot.legend()
    return plot.svg()


def roc_curves(about: str, rows: Sequence[dict[str, Any]]) -> str:
    """Draw, for each score, the share of own images that pass against that of foreign ones."""
    plot = Plot(about, "foreign images that pass (%)", "own images that pass (%)", square=True)
    plot.axes.plot([0, 100], [0, 100], color="#000000", linewidth=0.8, linestyle=":")
    heights = []
    at = np.linspace(0.0, 1.0, 101)
    for row in rows:
        points = np.array(row["roc"])
        heights.append(100 * np.interp(at, points[:, 0], points[:, 1]))
    styles = dashes(heights)
    for i, row in enumerate(rows):
        points = 100 * np.array(row["roc"])
        plot.axes.plot(
            points[:, 0],
            points[:, 1],
            color=colour(i),
            linestyle=styles[i] or "-",
            linewidth=1.6,
            label=plain(row["score"]),
        )
    plot.legend()
    return plot.svg()
