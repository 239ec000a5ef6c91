"""A case as it follows from a folder's artefacts: nothing in it but what can be computed again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deqcert import __version__
from deqcert.errors import RunError
from deqcert.files import read_regular
from deqcert.safety_case import limits, materials
from deqcert.safety_case.claims import Claim
from deqcert.safety_case.kinds.base import AGAIN
from deqcert.safety_case.kinds.trained import told, training_of
from deqcert.safety_case.measures import ITEMS, Item
from deqcert.safety_case.run_folder import (
    ARTEFACTS,
    RunFolder,
    called,
    files_below,
    read_runs,
    sha256_of,
)
from deqcert.safety_case.subject import about_one_model

NAME = "case.json"
FORMAT = "deqcert-safety-case"
VERSION = 1
LIMITS = "not_claimed.md"


@dataclass(frozen=True)
class Facts:
    """What a case is told when it is made, and cannot be computed from its artefacts.

    Args:
        runs: Names of its runs, in order.
        licence: Of the model, as model cards name it.
        epoch: Time that it states, in seconds since 1970; None for none.
        deqcert: Version that made it.
    """

    runs: tuple[str, ...]
    licence: str = "unknown"
    epoch: int | None = None
    deqcert: str = __version__

    @classmethod
    def read(cls, folder: Path) -> Facts:
        """Read them from a case.

        Raises:
            RunError: If the folder holds no case that this version can read.
        """
        content = read_content(folder)
        try:
            return cls(
                runs=tuple(name for run in content["runs"] if "/" not in (name := run["name"])),
                licence=str(content["license"]),
                epoch=None if content["epoch"] is None else int(content["epoch"]),
                deqcert=str(content["deqcert"]),
            )
        except (KeyError, TypeError, ValueError):
            raise RunError(f"{folder / NAME} is damaged; make the case again") from None


@dataclass(frozen=True)
class Case:
    """A safety case.

    Args:
        facts: What it was told.
        runs: Its runs.
        claims: What it claims, in the order of the framework's items.
        limits: What it does not claim; see :func:`limits.not_claimed`.
        parts: The components of its bill of materials, the model first.
        artefacts: Every file below ``artefacts`` with its SHA-256.
    """

    facts: Facts
    runs: tuple[RunFolder, ...]
    claims: tuple[Claim, ...]
    limits: tuple[tuple[str, str], ...]
    parts: tuple[dict[str, str], ...]
    artefacts: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, folder: Path, facts: Facts) -> Case:
        """Compute a case from the artefacts, the bill and the limits in its folder.

        Args:
            folder: The case's folder.
            facts: What it was told.

        Raises:
            DeqcertError: If a run is damaged, unfinished, or of another model.
        """
        base = folder / ARTEFACTS
        runs = about_one_model(
            [run for name in facts.runs for run in read_runs(base / _plain(name), name)]
        )
        claims = [claim for run in runs for claim in run.kind.claims(run, runs)]
        places = [f"{ARTEFACTS}/{name}" for name in facts.runs]
        again = shlex.join(["deqcert", "safety-case", *places, "--out", f"{AGAIN}/case"])
        parts, unclaimed = materials.read_bill(folder), limits.not_claimed(runs)
        claims += [
            Claim(
                item="MAP 4.1",
                title="what the model was made and tested with is known by name and version",
                statement="No probability: a list of the package, of all that it needs as "
                "installed where the case was made, of the model and of the data.",
                ground="document",
                figures=(),
                run=None,
                artefact=materials.NAME,
                sha256=sha256_of(folder / materials.NAME),
                command=again,
            ),
            Claim(
                item="MEASURE 1.1",
                title="what is measured stands in this table, and what is not, beside it",
                statement="No probability: a list of what is not claimed.",
                ground="document",
                figures=(),
                run=None,
                artefact=LIMITS,
                sha256=sha256_of(folder / LIMITS),
                command=again,
            ),
        ]
        order = [item.name for item in ITEMS]
        return cls(
            facts=facts,
            runs=tuple(runs),
            claims=tuple(sorted(claims, key=lambda claim: order.index(claim.item))),
            limits=tuple(unclaimed),
            parts=tuple(parts),
            artefacts=tuple(
                (f"{ARTEFACTS}/{name}", sha256_of(base / name)) for name in files_below(base)
            ),
        )

    @property
    def model(self) -> str:
        """Name of the model."""
        return model_name(self.runs)

    @property
    def subject(self) -> tuple[str, str] | None:
        """What is hashed of the model ("checkpoint" or "weights") and the hash; None if unknown."""
        return self.runs[0].subject if self.runs else None

    @property
    def configuration(self) -> dict[str, Any]:
        """The model's configuration, as the first run that holds one says."""
        held = (run.parameters.get("model_config") for run in self.runs if not run.beside)
        return next((found for found in held if isinstance(found, dict)), {})

    @property
    def training(self) -> dict[str, str]:
        """What the record of the model's training says, by name; empty without one."""
        record = training_of(self.runs)
        return told(record) if record else {}

    @property
    def rows(self) -> list[tuple[Item, list[Claim]]]:
        """Every item with its claims, in the framework's order."""
        return [
            (item, [claim for claim in self.claims if claim.item == item.name]) for item in ITEMS
        ]

    def content(self) -> dict[str, Any]:
        """Return the case for machines, as JSON values."""
        return {
            "format": FORMAT,
            "format_version": VERSION,
            "deqcert": self.facts.deqcert,
            "license": self.facts.licence,
            "epoch": self.facts.epoch,
            "model": self.model,
            "runs": [{"name": run.name, "kind": run.kind.name} for run in self.runs],
            "claims": [claim.to_dict() for claim in self.claims],
            "no_evidence": [item.name for item, claims in self.rows if not claims],
            "not_claimed": [heading for heading, _ in self.limits],
        }


def _plain(name: str) -> str:
    """Refuse a run's name that leads out of the case.

    Raises:
        RunError: If it does.
    """
    if name != called(Path(name)):
        raise RunError(f"{name[:40]!r} in {NAME} is no name of a run; make the case again")
    return name


def model_name(runs: Sequence[RunFolder]) -> str:
    """Return the name of the model of some runs."""
    mine = [run for run in runs if not run.beside]
    return next((name for run in mine if (name := run.model_name) is not None), "model")


def read_content(folder: Path) -> Mapping[str, Any]:
    """Read a case's file for machines.

    Raises:
        RunError: If it is missing, damaged, or of another version's.
    """
    path = folder / NAME
    try:
        content = json.loads(read_regular(path))
    except (OSError, ValueError, RecursionError):
        raise RunError(
            f"{path} cannot be read; give a folder that deqcert safety-case wrote"
        ) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise RunError(f"{path} is no safety case; give a folder that deqcert safety-case wrote")
    made, format_version = content.get("deqcert"), content.get("format_version")
    if (made, format_version) != (__version__, VERSION):
        raise RunError(
            f"{path} was made by deqcert {made} (format {format_version}) and this is "
            f"{__version__} (format {VERSION}); verify it with the version that made it"
        )
    return content
