"""Making a case: runs in, a folder out."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path

from deqcert.errors import ConfigError, RunError
from deqcert.files import explain, open_regular, write_atomically
from deqcert.safety_case import checksums, limits, materials
from deqcert.safety_case.case import LIMITS, Case, Facts, model_name
from deqcert.safety_case.documents import documents, limits_text
from deqcert.safety_case.run_folder import (
    RunFolder,
    believing,
    called,
    check_one_model,
    files_below,
    read_run,
)

EPOCH = "SOURCE_DATE_EPOCH"
"""Environment variable with the time that a case states; without it a case states none."""


def write_case(runs: Sequence[str | Path], out: str | Path, licence: str = "unknown") -> Case:
    """Make a case.

    The same runs and installed packages give the same bytes.

    Args:
        runs: Folders of finished runs, all of one model.
        out: Folder of the case, new or empty.
        licence: Of the model, as model cards name it, such as mit.

    Raises:
        ConfigError: If no run is given, runs are of different models, or a library is missing.
        RunError: If a run is none, unfinished or damaged, or the folder holds something.
    """
    if not runs:
        raise ConfigError("no run is given; name at least one folder of a finished run")
    epoch, folder = _epoch(), Path(out)
    taken: list[RunFolder] = []
    for given in map(Path, runs):
        name = _free(called(given), [run.name for run in taken])
        with believing(given):
            taken.append(read_run(given, name))
            taken[-1].kind.check(taken[-1])
    check_one_model(taken)
    files = {run.name: _files(run.folder) for run in taken}
    # Before anything is written, so that a missing library leaves nothing behind.
    bill = materials.bill(taken, model_name(taken), epoch)
    _make(folder, taken)
    for run in taken:
        for name in files[run.name]:
            _copy(run.folder / name, folder / run.place(name))
    write_atomically(folder / materials.NAME, bill)
    write_atomically(folder / LIMITS, limits_text(limits.not_claimed(taken)))
    with believing(folder):
        case = Case.of(folder, Facts(tuple(run.name for run in taken), licence, epoch))
        made = documents(case)
    for name, content in made.items():
        write_atomically(folder / name, content)
    checksums.write_sums(folder)  # last: a folder without it is no case
    return case


def _epoch() -> int | None:
    given = os.environ.get(EPOCH)
    if not given:
        return None
    if not given.isascii() or not given.isdigit() or len(given) > 11:
        raise ConfigError(f"{EPOCH} is {given[:40]!r}, but it must be seconds since 1970")
    return int(given)


def _free(name: str, taken: Sequence[str]) -> str:
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


def _make(folder: Path, runs: Sequence[RunFolder]) -> None:
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
