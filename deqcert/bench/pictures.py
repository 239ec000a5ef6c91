"""Pictures of what the benches measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deqcert.files import write_atomically
from deqcert.report.picture import COLOURS, dashes, new_figure, plain, save_figure

if TYPE_CHECKING:
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


def draw_solver_bench(benches: Sequence[SolverBench], path: str | Path) -> Path:
    """Draw cost against size, batch, window and threads, each where it was varied alone.

    Args:
        benches: What :func:`deqcert.bench.solvers.bench_solvers` returned, for one or more windows
            and thread counts.
        path: File to write; its ending chooses the format.

    Returns:
        The file written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    timings = [timing for bench in benches for timing in bench.timings]
    axes_names = ("size", "rows", "window", "threads")
    figure, panels = pyplot.subplots(1, 4, figsize=(16, 3.8), constrained_layout=True)
    for panel, name in zip(panels, axes_names, strict=True):
        others = [other for other in axes_names if other != name]
        for solver in dict.fromkeys(timing.solver for timing in timings):
            groups: dict[tuple[int, ...], list[Timing]] = {}
            for timing in timings:
                if timing.solver == solver:
                    key = tuple(getattr(timing, other) for other in others)
                    groups.setdefault(key, []).append(timing)
            if not groups:
                continue
            # The family with the most points, and of those the largest problem.
            key, line = max(
                groups.items(),
                key=lambda item: (len({getattr(t, name) for t in item[1]}), item[0]),
            )
            line = sorted(line, key=lambda timing: int(getattr(timing, name)))
            x = [getattr(timing, name) for timing in line]
            if len(set(x)) < 2:
                continue
            fixed = ", ".join(f"{o} {v}" for o, v in zip(others, key, strict=True))
            (drawn,) = panel.plot(x, [t.ours for t in line], "o-", label=f"{solver} ({fixed})")
            panel.plot(x, [t.floor for t in line], ":", color=drawn.get_color())
            panel.plot(x, [t.torchdeq for t in line], "x--", color=drawn.get_color(), alpha=0.6)
        varied = sorted({getattr(timing, name) for timing in timings})
        panel.set(
            xlabel=name, ylabel="ms per iteration beyond the cell", xscale="log", yscale="log"
        )
        panel.set_xticks(varied, [str(value) for value in varied])
        panel.minorticks_off()
        if panel.get_legend_handles_labels()[0]:
            panel.legend(fontsize=6, frameon=False)
    figure.suptitle("solid: ours; dotted: floor at copy bandwidth; dashed: torchdeq", fontsize=9)
    target = Path(path)
    write_atomically(target, lambda file: figure.savefig(file, format=target.suffix[1:], dpi=110))
    pyplot.close(figure)
    return target
