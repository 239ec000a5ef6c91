"""What is written when the last image of a run has its line: summary and picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from deqcert.certifiers.goals import Radii, parse_goal

if TYPE_CHECKING:
    from deqcert.report import Results
    from deqcert.runs import Run


def goal_radii(parameters: Mapping[str, Any]) -> list[float] | None:
    """Return the radii that a run's goal decides about; None where it is about none.

    Args:
        parameters: Those of the run's manifest.
    """
    goal = parse_goal(str(parameters.get("goal", "budget")))
    return list(goal.radii) if isinstance(goal, Radii) else None


def finish(
    run: Run, radii: Sequence[float] | None, note: Callable[[str], None] = lambda sentence: None
) -> Results:
    """Tell a secret seed, and write ``summary.json`` and ``curve.png``.

    Args:
        run: A run that has all its lines.
        radii: Radii of the summary, in input units; the default is those of the goal,
            or else 0, 0.25 and so on.
        note: Called with a sentence about what a reader of the results should know.

    Returns:
        The certificates.

    Raises:
        ConfigError: If a radius is none.
        RunError: If a file cannot be written.
    """
    from deqcert.report import draw_curves, read_results, table

    run.reveal()
    results = read_results(run.folder)
    told = run.manifest
    made = table([results], goal_radii(told.parameters) if radii is None else radii)
    about = {key: told.notes[key] for key in ("classifier", "assumptions")}
    run.finish(
        {"radii": list(made.radii), **made.rows[0], **about, "form": told.parameters["form"]}
    )
    draw_curves([results], run.folder / "curve.png")
    if (sentence := results.warning()) is not None:
        note(sentence)
    return results
