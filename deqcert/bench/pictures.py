"""Pictures of what the benches measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deqcert.report.picture import COLOURS, dashes, new_figure, plain, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from deqcert.bench.solvers import SolverBench, Timing
    from deqcert.bench.starts import Bench, Measurement

MARKERS = "osD^v<>P"


def draw_bench(result: Bench, path: str | Path, *, title: str = "Agreement") -> Path:
    """Draw evaluations per vote against agreement: a colour per start, a marker per solver.

    Args:
        result: What `bench` returned.
        path: File to write; its ending chooses the format.
        title: What stands above the picture.

    Returns:
        The file written.

    Raises:
        RunError: It cannot be written.
    """
    figure, axes = new_figure()
    starts = list(dict.fromkeys(row.start for row in result.rows))
    solvers = list(dict.fromkeys(row.solver for row in result.rows))
    lines: dict[tuple[str, str], list[Measurement]] = {}
    for row in result.rows:
        if math.isfinite(row.nfe) and math.isfinite(row.agreement):  # what else is there to see?
            lines.setdefault((row.solver, row.start), []).append(row)
    depths = sorted({row.depth for row in result.rows if row.depth.isdigit()}, key=int)
    heights = []
    for rows in lines.values():
        places = {row.depth: (100 * row.agreement, 10 * row.nfe) for row in rows}
        where = [places.get(depth, (np.nan, np.nan)) for depth in depths]
        heights.append(np.array(where, dtype=np.float64).ravel())
    for ((solver, start), rows), dash in zip(lines.items(), dashes(heights), strict=True):
        i, j = solvers.index(solver), starts.index(start)
        fixed = [row for row in rows if row.depth.isdigit()]
        style: dict[str, Any] = {
            "color": COLOURS[j % len(COLOURS)],
            "marker": MARKERS[i % len(MARKERS)],
        }
        if fixed:
            # The markers of lines that coincide are rings, one within the other.
            around = 4.5 if dash is None else 4.5 + 1.6 * dash[0] / dash[1][0]
            axes.plot(
                [row.nfe for row in fixed],
                [100 * row.agreement for row in fixed],
                markersize=around,
                markerfacecolor=style["color"] if dash is None or dash[0] == 0 else "none",
                linewidth=1.4,
                linestyle=dash or ("-", "--", ":")[i % 3],
                label=plain(f"{start}, {solver}"),
                **style,
            )
        for row in rows:
            if not row.depth.isdigit():
                axes.plot(
                    [row.nfe],
                    [100 * row.agreement],
                    markersize=9,
                    markerfacecolor="none",
                    linestyle="none",
                    label=plain(f"{start}, {solver}, {row.depth}"),
                    **style,
                )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("cell evaluations of a vote (warm-up and audit not counted)")
    axes.set_ylabel("agreement with the converged cold solve (%)")
    axes.set_title(plain(title), loc="left", fontsize=11, fontweight="bold")
    if lines:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=8)
    return save_figure(figure, Path(path))


VARIED = {
    "size": "elements of a state",
    "rows": "states solved together",
    "window": "window",
    "threads": "threads",
}
"""What a bench of solvers can vary, and how an axis says it."""

KINDS: dict[str, dict[str, Any]] = {
    "ours": {"marker": "o", "markersize": 4.0, "linestyle": "-", "linewidth": 1.8},
    "torchdeq": {"marker": "x", "markersize": 8.0, "linestyle": "--", "linewidth": 1.4},
    "floor": {
        "marker": "D",
        "markersize": 10.0,
        "markerfacecolor": "none",
        "linestyle": ":",
        "linewidth": 1.4,
    },
}
"""Whose time a line shows. Where lines coincide, one marker still lies within the other."""


def draw_solver_bench(benches: Sequence[SolverBench], path: str | Path) -> Path:
    """Draw cost against size, batch, window and threads, each where it was varied alone.

    Args:
        benches: What :func:`deqcert.bench.solvers.bench_solvers` returned, for one or more windows
            and thread counts.
        path: File to write; its ending chooses the format.

    Returns:
        The file written.

    Raises:
        RunError: It cannot be written.
    """
    from matplotlib.lines import Line2D

    timings = [timing for bench in benches for timing in bench.timings]
    solvers = list(dict.fromkeys(timing.solver for timing in timings))
    figure, first = new_figure()
    first.remove()
    panels = {name: lines for name in VARIED if (lines := _lines(timings, name))}
    down, across = max(1, (len(panels) + 1) // 2), min(2, max(1, len(panels)))
    figure.set_size_inches(6.8, 1.2 + 2.9 * down)
    grid = figure.subplots(down, across, squeeze=False).ravel()
    for axes in grid[len(panels) :]:
        axes.axis("off")
    for axes, (name, lines) in zip(grid, panels.items(), strict=False):
        _draw_panel(axes, name, lines, solvers)
    shown = [line for lines in panels.values() for line in lines]
    handles = [
        Line2D([], [], color=_colour(solver, solvers), linewidth=4.0, label=plain(solver))
        for solver in solvers
        if any(line.solver == solver for line in shown)
    ]
    handles += [
        Line2D([], [], color="#555555", label=kind, **style)
        for kind, style in KINDS.items()
        if any(line.kind == kind for line in shown)
    ]
    if handles:
        figure.legend(
            handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=11
        )
        figure.supylabel("ms per iteration beyond the cell", fontsize=12)
        figure.suptitle("floor: what is read and written, at copy bandwidth", fontsize=11)
    else:
        grid[0].text(0.5, 0.5, "nothing was varied, so there is no curve", ha="center")
    return save_figure(figure, Path(path))


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of a panel: whose time it is, and what was held fixed, with two points or more."""

    solver: str
    kind: str
    fixed: tuple[tuple[str, int], ...]
    points: dict[int, float]


def _lines(timings: Sequence[Timing], name: str) -> list[_Line]:
    """Return the lines of what was varied; those without two points that can be seen left out."""
    found: list[_Line] = []
    others = [other for other in VARIED if other != name]
    for solver in dict.fromkeys(timing.solver for timing in timings):
        groups: dict[tuple[int, ...], list[Timing]] = {}
        for timing in timings:
            if timing.solver == solver:
                key = tuple(getattr(timing, other) for other in others)
                groups.setdefault(key, []).append(timing)
        # The family with the most points, and of those the largest problem.
        key, family = max(
            groups.items(), key=lambda item: (len({getattr(t, name) for t in item[1]}), item[0])
        )
        for kind in KINDS:
            points = {getattr(t, name): getattr(t, kind) for t in family}
            seen = {x: y for x, y in sorted(points.items()) if math.isfinite(y) and y > 0}
            if len(seen) > 1:
                found.append(_Line(solver, kind, tuple(zip(others, key, strict=True)), seen))
    return found


def _draw_panel(axes: Axes, name: str, lines: Sequence[_Line], solvers: Sequence[str]) -> None:
    varied = sorted({x for line in lines for x in line.points})
    logs = [math.log(y) for line in lines for y in line.points.values()]
    span = max(max(logs) - min(logs), 1e-9)
    heights = [
        np.array([100 * math.log(line.points.get(x, math.nan)) / span for x in varied])
        for line in lines
    ]
    for line, dash in zip(lines, dashes(heights), strict=True):
        style = KINDS[line.kind] | ({} if dash is None else {"linestyle": dash})
        axes.plot(
            list(line.points),
            list(line.points.values()),
            color=_colour(line.solver, solvers),
            **style,
        )
    held: dict[str, set[int]] = {}
    for line in lines:
        for other, value in line.fixed:
            held.setdefault(other, set()).add(value)
    said = (f"{other} {' or '.join(map(str, sorted(values)))}" for other, values in held.items())
    axes.set_title(", ".join(said), fontsize=9)
    axes.set(xscale="log", yscale="log")
    axes.set_xlabel(VARIED[name], fontsize=11)
    axes.set_xticks(varied, [str(value) for value in varied])
    axes.minorticks_off()
    axes.tick_params(labelsize=11)
    axes.grid(True, color="#dddddd", linewidth=0.6)


def _colour(solver: str, solvers: Sequence[str]) -> str:
    return COLOURS[solvers.index(solver) % len(COLOURS)]
