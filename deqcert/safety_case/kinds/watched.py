"""Folders of ``deqcert watch``: alarms on a stream of answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from deqcert.errors import RunError
from deqcert.files import read_regular
from deqcert.runs.journal import NAME as CERTIFICATES
from deqcert.runs.manifest import Manifest
from deqcert.safety_case.claims import Claim, Figure
from deqcert.safety_case.kinds.base import AGAIN, Evidence, Kind, shell
from deqcert.safety_case.run_folder import RunFolder

FORMAT = "deqcert-watch"
RAISED = "alarms that were raised"


class Watched(Kind):
    """Alarms that may be looked at for ever, and their incidents."""

    name: ClassVar[str] = "watch"
    journal: ClassVar[str] = "state.json"

    def manifest_of(self, folder: Path) -> Manifest | None:
        """Return what a watch says of itself; its folder has no manifest."""
        if not (folder / self.journal).is_file():
            return None
        about = _read(folder).get("about")
        return Manifest(about if isinstance(about, dict) else {}, ())

    def check(self, run: RunFolder) -> None:
        """Refuse a watch whose incidents are not those that it counts."""
        for name, alarm in _read(run.folder)["alarms"].items():
            for incident in alarm["incidents"]:
                if not (run.folder / "incidents" / str(incident)).is_file():
                    raise RunError(
                        f"{run.folder}: the incident {incident} of alarm {name} is not there; "
                        "restore it"
                    )

    def claims(self, run: RunFolder, runs: Sequence[RunFolder]) -> list[Claim]:
        """Say what was watched and what was raised."""
        content, evidence = _read(run.folder), Evidence(self, run, runs)
        about, alarms = content["about"], content["alarms"]
        delta, budget = float(about["delta"]), float(about["drift_budget"])
        sources = [self.source(name, mark, runs) for name, mark in _position(content).items()]
        if _of_service(content):
            sources = [f"a service, up to number {content['position'][0]} of its record"]
        raised = sum(alarm["raised"] is not None for alarm in alarms.values())
        said = (
            f"With probability at least {1 - delta:g} none of these alarms is ever raised, however "
            "long and often one looks, while answers are like those of the reference"
            + (f" or within {budget:g} nats of them" if budget else "")
            + ". That none was raised does not prove that nothing changed. The reference is the "
            f"file of SHA-256 or hash {about['reference']}; the answers are of "
            f"{'; '.join(sources) or 'no run yet'}."
        )
        title = "answers are watched" + (", and ALARMS WERE RAISED" if raised else "")
        figures = [Figure.count("answers watched", content["answers"])]
        figures += [Figure.count(RAISED, raised)]
        for name, alarm in alarms.items():
            if alarm["count"]:
                mean = alarm["total"] / alarm["count"]
                figures.append(Figure(f"{name}: mean", mean, f"{mean:.4f}"))
                tolerated = alarm["tolerated"]
                figures.append(Figure(f"{name}: tolerated", tolerated, f"{tolerated:.4f}"))
        incidents = sum(len(alarm["incidents"]) for alarm in alarms.values())
        return [
            evidence.claim("MEASURE 2.4", title, said, "guarantee", figures),
            evidence.claim(
                "MEASURE 3.1",
                "what was noticed while answers were watched is kept as incidents",
                said,
                "guarantee",
                [
                    Figure.count("incidents", incidents),
                    Figure.count("alarms that stand", sum(a["standing"] for a in alarms.values())),
                ],
            ),
        ]

    def source(self, name: str, mark: tuple[int, str], runs: Sequence[RunFolder]) -> str:
        """Name a run that was watched, and say whether the case holds the very lines."""
        lines, digest = mark
        for run in runs:
            if (run.folder / CERTIFICATES).exists() and chain(run.folder, lines) == digest:
                return f"{lines} images of {run.name}"
        return f"{lines} images of {name}, which is not in this case"

    def command(self, run: RunFolder, runs: Sequence[RunFolder]) -> str:
        """Watch the same answers again."""
        content = _read(run.folder)
        about, source = content["about"], "SERVICE" if _of_service(content) else "RUN"
        for _, (lines, digest) in _position(content).items():
            for other in runs:
                held = other.folder / CERTIFICATES
                if held.exists() and chain(other.folder, lines) == digest:
                    source = other.place("").rstrip("/")
        return shell(
            "deqcert",
            "watch",
            source,
            reference="REFERENCE",
            delta=about["delta"],
            drift_budget=about["drift_budget"],
            alarms=",".join(about["alarms"]),
            state=f"{AGAIN}/{run.name}",
        )


def chain(folder: Path, lines: int) -> str:
    """Return the hash that a watch keeps of the first lines of a run, times left out.

    Args:
        folder: The run folder.
        lines: How many.
    """
    header, *rows = read_regular(folder / CERTIFICATES).decode().split("\n")[:-1]
    kept = [i for i, column in enumerate(header.split("\t")) if column != "time"]
    now = ""
    for row in rows[:lines]:
        cells = row.split("\t")
        text = "\t".join(cells[i] for i in kept)
        now = hashlib.blake2b(f"{now}\n{text}".encode(), digest_size=16).hexdigest()
    return now


def _of_service(content: dict[str, Any]) -> bool:
    """Whether the answers are on a service's record, which is in no case: it holds images."""
    return isinstance(content.get("position"), list)


def _position(content: dict[str, Any]) -> dict[str, tuple[int, str]]:
    found = {} if _of_service(content) else content.get("position") or {}
    return {str(name): (int(mark[0]), str(mark[1])) for name, mark in found.items()}


def _read(folder: Path) -> dict[str, Any]:
    path = folder / Watched.journal
    try:
        content = json.loads(read_regular(path))
    except (OSError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise RunError(f"{path} is no state of a watch; restore it, or give another folder")
    return content
