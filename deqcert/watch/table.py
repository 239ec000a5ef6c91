"""The alarms as a table, and their evidence over time as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deqcert.report.aligned import aligned
from deqcert.report.picture import COLOURS, check_picture, new_figure, plain, save_figure
from deqcert.watch.state import State

HEAD = ("alarm", "answers", "mean", "tolerated", "evidence", "needed", "raised", "delay")


def alarm_table(rows: Sequence[Mapping[str, Any]], delta: float) -> str:
    """Format the rows of :meth:`deqcert.watch.Watch.rows` for a terminal."""
    lines = aligned(HEAD, [_cells(row) for row in rows], left=(0, 6))
    return "\n".join(
        [
            *lines,
            f"false alarms: none of these alarms is ever raised, with probability at least "
            f"{1.0 - delta:g}, while answers are like the reference",
            "delay: answers, at most on average, until it is raised once the mean is twice what is "
            "tolerated (or halfway to 1)",
        ]
    )


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    raised = "no"
    if row["raised"] is not None:
        raised = f"at {row['raised']}"
        raised += f", likely since {row['since']}" if row["standing"] else ", over"
    mean = "-" if row["mean"] is None else f"{row['mean']:.4f}"
    evidence = f"{row['evidence']:.3g}"
    late = "never" if math.isinf(row["delay"]) else f"{row['delay']:.0f}"
    return (
        str(row["alarm"]),
        str(row["answers"]),
        mean,
        f"{row['tolerated']:.4f}",
        evidence,
        f"{row['threshold']:.0f}",
        raised,
        late,
    )


def draw_evidence(state: State, share: float, path: str | Path) -> Path:
    """Draw the evidence of every alarm against the answers that it has seen.

    Args:
        state: What is remembered.
        share: Probability that each alarm may be false; its inverse is the dashed line.
        path: File to write; its ending (.png, .pdf, .svg) chooses the format.

    Raises:
        ConfigError: If the ending is not a picture's.
        RunError: If the file cannot be written.
    """
    target = check_picture(path)
    figure, axes = new_figure()
    limit = -math.log10(share)
    for i, (name, trace) in enumerate(state.traces.items()):
        points = [*trace.curve, (trace.evidence.count, math.log10(float(trace.evidence.value)))]
        axes.plot(
            [count for count, _ in points],
            [min(max(value, -3.0), 3.0 * limit) for _, value in points],
            color=COLOURS[i % len(COLOURS)],
            linewidth=1.4,
            label=plain(name),
        )
    axes.axhline(limit, color="#000000", linewidth=1.0, linestyle="--")
    axes.set_xlabel("answers (dashed: what an alarm takes)")
    axes.set_ylabel("evidence (powers of 10)")
    axes.set_title("Evidence against the reference", fontsize=11, fontweight="bold")
    axes.legend(frameon=False, fontsize=8.5)
    return save_figure(figure, target)
