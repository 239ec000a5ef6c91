"""The record that a training, or a change of a trained model, leaves beside a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from deqcert.errors import RunError
from deqcert.files import read_regular
from deqcert.runs.manifest import Manifest
from deqcert.safety_case.claims import Claim
from deqcert.safety_case.kinds.base import Evidence, Kind
from deqcert.safety_case.run_folder import RunFolder

RECORD = "training.json"
"""What the record is called in a case; elsewhere it is named as its checkpoint."""

TOLD = ("data", "objective", "sigma", "epochs", "minutes", "batch", "lr", "augment", "seed")
"""Parameters that a model card tells."""

MADE = {"how": "changed by", "sparsity": "sparsity", "parent_sha256": "changed from the checkpoint"}
"""What a record of a changed model says besides, and what people are told that it is."""


class Trained(Kind):
    """How a model was trained, and on what."""

    name: ClassVar[str] = "training"
    journal: ClassVar[str] = RECORD

    def manifest_of(self, folder: Path) -> Manifest | None:
        """Return what a record says of its model; it has no manifest.

        Args:
            folder: The record, or a folder that holds one under the name that it has in a case.
        """
        if not (folder.is_file() or (folder / RECORD).is_file()):
            return None
        record = _read(folder)
        told = record.get("parameters", {})
        notes = {"model": told.get("name")} if isinstance(told, dict) else {}
        return Manifest({"checkpoint_sha256": str(record["checkpoint_sha256"])}, (), notes=notes)

    def holds(self, run: RunFolder) -> bool:
        """Whether a run is of this kind."""
        return run.folder.is_file() or super().holds(run)

    def check(self, run: RunFolder) -> None:
        """Refuse nothing: a record is whole, or there is none."""

    def claims(self, run: RunFolder, runs: Sequence[RunFolder]) -> list[Claim]:
        """Say how the model was trained."""
        record = _read(run.folder)
        facts = "; ".join(f"{name} {value}" for name, value in told(record).items())
        return [
            Evidence(self, run, runs).claim(
                "MAP 4.1",
                "how the model was made, and of what",
                f"No probability: {facts}. What the training measured of itself is no evidence "
                "here.",
                "document",
                (),
            )
        ]

    def command(self, run: RunFolder, runs: Sequence[RunFolder]) -> str:
        """Train again."""
        return str(_read(run.folder).get("command", ""))


def told(record: dict[str, Any]) -> dict[str, str]:
    """Return what people are told of a training, by name."""
    was, data = record.get("parameters", {}), record.get("data_sha256", {})
    found = {name: str(was[name]) for name in TOLD if was.get(name) is not None}
    found |= {f"hash of the {split} images": str(digest) for split, digest in data.items()}
    found |= {said: str(record[name]) for name, said in MADE.items() if name in record}
    return found | {name: str(v) for name, v in record.get("versions", {}).items()}


def training_of(runs: Sequence[RunFolder]) -> dict[str, Any]:
    """Return the record of the training among some runs; an empty one where there is none."""
    return next((_read(run.folder) for run in runs if isinstance(run.kind, Trained)), {})


def _read(place: Path) -> dict[str, Any]:
    path = place if place.is_file() else place / RECORD
    try:
        content = json.loads(read_regular(path))
    except (OSError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or not isinstance(content.get("checkpoint_sha256"), str):
        raise RunError(
            f"{path} is no record of a training; give the .json that deqcert train wrote beside "
            "the checkpoint, or folders of runs"
        )
    return content
