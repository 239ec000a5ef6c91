"""The votes of a finished run of ``deqcert certify``, as evidence for prediction sets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deqcert.conformal.base import Evidence
from deqcert.conformal.binarised import Binarised, votes_evidence
from deqcert.conformal.calibration import ABOUT, Calibration
from deqcert.errors import ConfigError, RunError
from deqcert.runs.manifest import Manifest

FILE = "certificates.tsv"


@dataclass(frozen=True)
class RunVotes:
    """What a finished run says of the votes for each class of its images.

    Args:
        folder: The run folder.
        images: Indices of its images.
        predict: Certified class per image, -1 for an abstention.
        votes: Votes for the chosen class per image.
        n: Votes per image.
        parameters: The manifest's parameters.
        notes: The manifest's notes.
    """

    folder: Path
    images: tuple[int, ...]
    predict: tuple[int, ...]
    votes: tuple[int, ...]
    n: int
    parameters: dict[str, Any]
    notes: dict[str, Any]

    @property
    def method(self) -> Binarised:
        """How sets are made of votes."""
        return Binarised(score="margin", n=self.n, threshold=0.0)

    @property
    def about(self) -> dict[str, Any]:
        """What decided the votes, as a calibration's parameters."""
        kept = (*ABOUT, "seed", "data_hash", "split")
        found = {key: self.parameters[key] for key in kept if key in self.parameters}
        return {**found, "stage": "certificates"}

    def evidence(self, position: int, classes: int) -> Evidence:
        """Return the evidence of one of the images, by its place in the run.

        Raises:
            RunError: If its line is not one of a model with so many classes.
        """
        if not (-1 <= self.predict[position] < classes and 0 <= self.votes[position] <= self.n):
            raise RunError(
                f"{self.folder / FILE} has impossible votes for image {self.images[position]}; "
                "restore it, or certify again"
            )
        return votes_evidence(self.predict[position], self.votes[position], self.n, classes)


def read_votes(run: str | Path) -> RunVotes:
    """Read the votes of a run.

    Args:
        run: The folder of a finished run of method standard, whose votes were all drawn.

    Raises:
        RunError: If it is no finished run of certificates.
        ConfigError: If its votes are no independent draws of a fixed number.
    """
    folder = Path(run)
    manifest = Manifest.read(folder)
    if manifest is None:
        raise RunError(f"{folder} is no run folder; give one that deqcert certify has finished")
    parameters = manifest.parameters
    if parameters.get("method") != "standard":
        raise ConfigError(
            f"{folder} is a run of method {parameters.get('method')}, but sets are made of the "
            "votes of method standard: independent ones, whose number was fixed before"
        )
    try:
        header, *lines = (folder / FILE).read_text(encoding="ascii").splitlines()
        columns = header.split("\t")
        rows = [dict(zip(columns, line.split("\t"), strict=True)) for line in lines]
        found = [tuple(int(row[key]) for key in ("idx", "predict", "votes", "n")) for row in rows]
        n = int(parameters["n"])
    except (OSError, ValueError, KeyError, TypeError):
        raise RunError(f"{folder / FILE} cannot be read; give a finished run") from None
    if tuple(row[0] for row in found) != manifest.images or not found:
        raise RunError(f"{folder} is not a finished run of deqcert certify; finish it first")
    if any(row[3] != n for row in found):
        raise ConfigError(f"{folder} did not draw {n} votes for each image, so they cannot serve")
    return RunVotes(
        folder,
        manifest.images,
        tuple(row[1] for row in found),
        tuple(row[2] for row in found),
        n,
        dict(parameters),
        dict(manifest.notes),
    )


def check_apart(calibration: Calibration, run: RunVotes) -> None:
    """Refuse votes that were drawn with the very noise that was calibrated on.

    Raises:
        ConfigError: If they were: the same seed, stage and index.
    """
    mine = calibration.parameters
    same = mine.get("stage") == "certificates" and mine.get("seed") == run.parameters.get("seed")
    if same and {*calibration.images} & {*run.images}:
        raise ConfigError(
            "the run and the calibration have images of the same number, whose votes share one "
            "noise at the same seed; certify the images with another seed"
        )
