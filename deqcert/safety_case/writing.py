"""Making a case: runs in, a folder out."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Container, Sequence
from pathlib import Path

from deqcert.errors import ConfigError, RunError
from deqcert.files import explain, open_regular, write_atomically
from deqcert.models import ZOO, checkpoint_path
from deqcert.safety_case import checksums, limits, materials
from deqcert.safety_case.case import LIMITS, Case, Facts, model_name
from deqcert.safety_case.documents import documents, limits_text
from deqcert.safety_case.kinds.trained import RECORD
from deqcert.safety_case.run_folder import ARTEFACTS, believing, called, files_below, read_runs
from deqcert.safety_case.subject import about_one_model

EPOCH = "SOURCE_DATE_EPOCH"
"""Environment variable with the time that a case states; without it a case states none."""


def write_case(runs: Sequence[str | Path], out: str | Path, licence: str = "unknown") -> Case:
    """Make a case.

    The same runs and installed packages give the same bytes.

    Args:
        runs: Folders of finished runs, all of one model; records of trainings, as ``deqcert train``
            leaves them beside checkpoints, among them. The name of a model that ships stands for
            its record.
        out: Folder of the case, new or empty.
        licence: Of the model, as model cards name it, such as mit.

    Raises:
        ConfigError: If no run is given, runs are of different models, or a library is missing.
        RunError: If a run is none, unfinished or damaged, or the folder holds something.
    """
    if not runs:
        raise ConfigError("no run is given; name at least one folder of a finished run")
    epoch, folder = _epoch(), Path(out)
    taken: dict[str, Path] = {}
    for given in map(_found, runs):
        taken[_free(called(given if given.is_dir() else given.with_suffix("")), taken)] = given
    with believing(next(iter(taken.values()))):
        found = about_one_model(
            [run for name, given in taken.items() for run in read_runs(given, name)]
        )
    files = {name: _files(given) for name, given in taken.items() if given.is_dir()}
    # Before anything is written, so that a missing library leaves nothing behind.
    bill = materials.bill(found, model_name(found), epoch)
    _make(folder)
    for name, given in taken.items():
        place = folder / ARTEFACTS / name
        if given.is_dir():
            for file in files[name]:
                _copy(given / file, place / file)
        else:
            _copy(given, place / RECORD)
    write_atomically(folder / materials.NAME, bill)
    write_atomically(folder / LIMITS, limits_text(limits.not_claimed(found)))
    with believing(folder):
        case = Case.of(folder, Facts(tuple(taken), licence, epoch))
        made = documents(case)
    for name, content in made.items():
        write_atomically(folder / name, content)
    checksums.write_sums(folder)  # last: a folder without it is no case
    return case


def _found(given: str | Path) -> Path:
    """Return where a run is; for the name of a model that ships, where its training's record is."""
    path = Path(given)
    if not path.exists() and str(given) in ZOO:
        return checkpoint_path(given).with_suffix(".json")
    return path


def _epoch() -> int | None:
    given = os.environ.get(EPOCH)
    if not given:
        return None
    if not given.isascii() or not given.isdigit() or len(given) > 11:
        raise ConfigError(f"{EPOCH} is {given[:40]!r}, but it must be seconds since 1970")
    return int(given)


def _free(name: str, taken: Container[str]) -> str:
    number, found = 2, name
    while found in taken:
        found, number = f"{name}-{number}", number + 1
    return found


def _files(folder: Path) -> list[str]:
    """Return the files of a run that go into a case: all but hidden ones."""
    found = []
    for name in files_below(folder):
        if any(part.startswith(".") for part in name.split("/")):
            continue
        if not stat.S_ISREG(os.lstat(folder / name).st_mode):
            raise RunError(
                f"{folder / name} is no regular file, and a case holds copies of such; put the "
                "file itself there"
            )
        if "\n" in name or "\\" in name or not name.isprintable():
            raise RunError(
                f"{folder / name!r} has a name that no list of files can hold; rename it"
            )
        found.append(name)
    return found


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = sorted(os.listdir(folder))
    except (FileExistsError, NotADirectoryError):
        raise RunError(f"{folder} is a file; give a folder with --out") from None
    except OSError as error:
        raise explain(error, f"make the folder {folder}") from None
    if held:
        raise RunError(
            f"{folder} is not empty (it holds {held[0]}); give a new or empty folder with --out"
        )


def _copy(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open_regular(source) as read:
            write_atomically(target, lambda file: shutil.copyfileobj(read, file))
    except OSError as error:
        raise explain(error, f"copy {source}") from None
