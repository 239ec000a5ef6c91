"""Verifying a case: every byte, every hash, and every figure computed again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deqcert.errors import DeqcertError, RunError
from deqcert.files import read_regular
from deqcert.safety_case import checksums, materials
from deqcert.safety_case.case import LIMITS, Case, Facts, read_content
from deqcert.safety_case.claims import differences
from deqcert.safety_case.documents import documents, limits_text
from deqcert.safety_case.run_folder import believing, files_below, sha256_of


@dataclass(frozen=True)
class Verdict:
    """What verifying a case found.

    Args:
        faults: A sentence each; none where the case is as it was made.
        files: How many files it holds.
        claims: How many claims were computed again; 0 where a file has changed.
        sha256: Of its checksum file: whoever knows this knows every byte.
    """

    faults: tuple[str, ...]
    files: int
    claims: int
    sha256: str


def verify_case(folder: str | Path) -> Verdict:
    """Verify a case.

    First every file is held against its checksum. Where all are as they were, every run is held
    against its own summary, every claim against what its artefact gives when it is computed again,
    and every document against what follows from the artefacts, so that checksums that were made
    anew do not help whoever changed something.

    Args:
        folder: What :func:`write_case` has made, wherever it is now.

    Raises:
        RunError: If it is no case, or was made by another version.
    """
    place = Path(folder)
    if not place.is_dir():
        raise RunError(f"{place} is no folder; give one that deqcert safety-case wrote")
    faults, claims = checksums.check_sums(place), 0
    if not faults:
        content = read_content(place)
        try:
            with believing(place):
                case = Case.of(place, Facts.read(place))
                claims = len(case.claims)
                faults = _claims(case, content.get("claims"))
                faults += _documents(case, place)
                faults += _bill(case)
        except DeqcertError as error:
            faults.append(f"what it claims cannot be computed again: {str(error).rstrip('.')}")
        except OSError as error:
            faults.append(f"cannot read {error.filename}: {error.strerror}")
    return Verdict(
        faults=tuple(faults),
        files=sum(1 for _ in files_below(place)),
        claims=claims,
        sha256=sha256_of(place / checksums.NAME),
    )


def _claims(case: Case, stated: object) -> list[str]:
    computed = [claim.to_dict() for claim in case.claims]
    told = stated if isinstance(stated, list) else []
    faults = []
    for number, mine in enumerate(computed):
        theirs = told[number] if number < len(told) else None
        called = f"claim {number + 1} ({mine['item']}, {mine['artefact']})"
        if not isinstance(theirs, dict):
            faults.append(f"{called} is missing in the case")
        elif found := differences(mine, theirs):
            faults.append(f"{called} is not what its artefact gives: {'; '.join(found)}")
    if len(told) > len(computed):
        faults.append(f"{len(told) - len(computed)} claims of the case have no artefact")
    return faults


def _documents(case: Case, folder: Path) -> list[str]:
    made = {**documents(case), LIMITS: limits_text(list(case.limits))}
    faults = []
    for name, content in made.items():
        try:
            same = read_regular(folder / name) == content
        except OSError as error:
            faults.append(f"{name} cannot be read ({error.strerror})")
            continue
        if not same:
            faults.append(f"{name} is not what follows from the artefacts")
    return faults


def _bill(case: Case) -> list[str]:
    """Hold model and data of the bill against those of the runs; versions it alone states."""
    model, *parts = case.parts
    faults = []
    if case.subject is not None and model["sha256"] != case.subject[1]:
        faults.append(f"the model of {materials.NAME} is not that of the runs")
    listed = {part["name"] for part in parts if part["type"] == "data"}
    for name, split, _ in materials.data_sets(case.runs):
        if f"{name} ({split})" not in listed:
            faults.append(f"{name} ({split}) is data of a run and not in {materials.NAME}")
    return faults
