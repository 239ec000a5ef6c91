"""Folders of ``deqcert conformal calibrate``: calibrations of prediction sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from deqcert.conformal.calibration import NAME, Calibration
from deqcert.docstrings import guarantee
from deqcert.errors import RunError
from deqcert.runs.manifest import NAME as MANIFEST
from deqcert.runs.manifest import Manifest, describe_images
from deqcert.safety_case.claims import Claim, Figure
from deqcert.safety_case.kinds.base import AGAIN, Evidence, Kind, shell, tested
from deqcert.safety_case.run_folder import RunFolder

_JOURNAL = "calibration.tsv"


class Calibrated(Kind):
    """What prediction sets were calibrated on."""

    name: ClassVar[str] = "calibration"
    journal: ClassVar[str] = NAME

    def holds(self, run: RunFolder) -> bool:
        """Whether a run is of this kind, finished or not."""
        return super().holds(run) or (run.folder / _JOURNAL).exists()

    def manifest_of(self, folder: Path) -> Manifest | None:
        """Return what a calibration by votes says of itself; its folder has no manifest."""
        if not (folder / NAME).exists():
            return None
        held = Calibration.read(folder)
        return Manifest(held.parameters, held.images, notes=held.notes)

    def check(self, run: RunFolder) -> None:
        """Refuse a calibration that is not finished or was changed; see :meth:`Kind.check`."""
        if not (run.folder / NAME).exists():
            raise RunError(
                f"{run.folder} is not finished (it has no {NAME}); give the command that began it "
                "again, then make the case"
            )
        run.check_whole(Calibration.read(run.folder).images)

    def claims(self, run: RunFolder, runs: Sequence[RunFolder]) -> list[Claim]:
        """Say what was calibrated on."""
        held = Calibration.read(run.folder)
        promise = guarantee(type(held.method).__doc__ or "")
        evidence = Evidence(self, run, runs)
        return [
            evidence.claim(
                "MEASURE 2.1",
                "what prediction sets were calibrated on",
                f"No probability of its own: {tested(run, len(held))}. Sets that are made of it: "
                f"{promise}",
                "document",
                [Figure.count("calibration images", len(held))],
            )
        ]

    def command(self, run: RunFolder, runs: Sequence[RunFolder]) -> str:
        """Calibrate again; votes of a run are taken where it says that they were."""
        held = Calibration.read(run.folder)
        if not (run.folder / MANIFEST).exists():
            return shell(
                "deqcert", "conformal", "calibrate", votes="RUN", out=f"{AGAIN}/{run.name}"
            )
        method = held.method.parameters()
        words = ["deqcert", "conformal", "calibrate", "--method", str(method.pop("method"))]
        for key, value in method.items():
            if value is not None:
                words += ["--method-option", f"{key}={value}"]
        return shell(
            *words,
            config=run.place(MANIFEST),
            data=held.notes.get("data"),
            split=held.parameters.get("split"),
            images=describe_images([*held.notes.get("tuned", ()), *held.images]),
            out=f"{AGAIN}/{run.name}",
        )
