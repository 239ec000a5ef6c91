"""A run folder as evidence: what kind it is, what it is about, whether it is whole."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deqcert.errors import DeqcertError, RunError
from deqcert.files import open_regular, read_regular
from deqcert.runs.folder import SUMMARY
from deqcert.runs.manifest import Manifest
from deqcert.runs.secret import NAME as SECRET

if TYPE_CHECKING:
    from deqcert.safety_case.kinds.base import Kind

ARTEFACTS = "artefacts"
"""Folder of a case that holds the runs."""

_ADVICE = "give folders of finished runs, such as deqcert certify or deqcert attack write"


@dataclass(frozen=True)
class RunFolder:
    """A run.

    Args:
        name: What it is called in the case.
        folder: Where it is.
        manifest: Its manifest; of what has none, such as a calibration by votes, what its own file
            says.
        subject: The model that the case is about, as :attr:`models` name it; None if not known.
    """

    name: str
    folder: Path
    manifest: Manifest
    subject: tuple[str, str] | None = None

    @property
    def parameters(self) -> dict[str, Any]:
        """What decides its numbers."""
        return dict(self.manifest.parameters)

    @property
    def notes(self) -> dict[str, Any]:
        """What else its manifest says."""
        return dict(self.manifest.notes)

    @property
    def kind(self) -> Kind:
        """What kind of run it is."""
        from deqcert.safety_case.kinds import kind_of

        return kind_of(self)

    @property
    def named_models(self) -> dict[str, tuple[str, str]]:
        """Its models by name: what is hashed of each ("checkpoint" or "weights") and the hash.

        A run has one model, of no name, or none that is known; an evaluation may have several.
        """
        given = self.parameters.get("evaluation")
        models = given if isinstance(given, dict) else {"": self.parameters}
        return {
            name: (what, found)
            for name, about in models.items()
            for what in ("checkpoint", "weights")
            if isinstance(found := about.get(f"{what}_sha256"), str)
        }

    @property
    def models(self) -> list[tuple[str, str]]:
        """Its models, each once."""
        return list(dict.fromkeys(self.named_models.values()))

    @property
    def beside(self) -> bool:
        """Whether it is of another model than the case."""
        return self.subject is not None and bool(self.models) and self.subject not in self.models

    @property
    def model_name(self) -> str | None:
        """The name or the file's name of its model; None where the run does not say."""
        settings = self.notes.get("settings")
        given = self.notes.get("model") or (
            settings.get("model") if isinstance(settings, dict) else None
        )
        return Path(given).stem if isinstance(given, str) and Path(given).stem else None

    @property
    def summary(self) -> Any:
        """What summary.json holds.

        Raises:
            RunError: If it is missing or damaged.
        """
        path = self.folder / SUMMARY
        try:
            return json.loads(read_regular(path))
        except FileNotFoundError:
            raise RunError(
                f"{self.folder} is not finished (it has no {SUMMARY}); give the command that began "
                "it again, then make the case"
            ) from None
        except (OSError, ValueError, RecursionError):
            raise RunError(f"{path} is damaged; restore it, or make the run again") from None

    def place(self, file: str) -> str:
        """Return where a file of the run is in the case."""
        return f"{ARTEFACTS}/{self.name}/{file}"

    def check_whole(self, done: Sequence[int]) -> None:
        """Refuse a run whose lines are not those of its images.

        Raises:
            RunError: If some are missing, or of other images.
        """
        asked = list(self.manifest.images)
        if list(done) == asked:
            return
        if len(done) < len(asked) and list(done) == asked[: len(done)]:
            raise RunError(
                f"{self.folder} is not finished: {len(done)} of {len(asked)} images are done; give "
                "the command that began it again, then make the case"
            )
        raise RunError(
            f"{self.folder}: the lines are not of the manifest's images; restore it, or make the "
            "run again"
        )

    def check_summary(self, computed: Any, keys: Sequence[str]) -> None:
        """Refuse a run whose summary contradicts its journal.

        Args:
            computed: What the journal gives, as the command that wrote the summary computes it.
            keys: What to compare.

        Raises:
            RunError: If a value differs.
        """
        told, again = self.summary, json.loads(json.dumps(computed))
        for key in keys:
            found = told.get(key) if isinstance(told, dict) else None
            if found != again[key]:
                raise RunError(
                    f"{self.folder}: {key} in {SUMMARY} is not what the journal gives; restore it, "
                    "or make the run again"
                )


def read_run(folder: Path, name: str | None = None) -> RunFolder:
    """Recognise a run folder.

    Args:
        folder: The folder; of a training its record, which is a file.
        name: What to call it; the folder's name if not given.

    Raises:
        RunError: If it is none, or is not finished.
    """
    from deqcert.safety_case.kinds import KINDS

    name = called(folder) if name is None else name
    if not folder.exists():
        raise RunError(f"there is no {folder}; {_ADVICE}")
    try:
        manifest = Manifest.read(folder) if folder.is_dir() else None
    except RunError:
        raise RunError(f"the manifest in {folder} cannot be read; {_ADVICE}") from None
    if manifest is None:
        own = (kind.manifest_of(folder) for kind in KINDS)
        manifest = next((found for found in own if found is not None), None)
    if manifest is None:
        raise RunError(f"{folder} is no run folder; {_ADVICE}")
    if (folder / SECRET).exists():
        raise RunError(
            f"{folder} is not finished: its seed is still a secret; give the command that began it "
            "again, then make the case"
        )
    return RunFolder(name, folder, manifest)


def read_runs(folder: Path, name: str) -> list[RunFolder]:
    """Recognise a run folder and the runs inside of it, and check all of them.

    Args:
        folder: The folder.
        name: What to call it.

    Raises:
        DeqcertError: If one is none, unfinished, damaged or contradicts itself.
    """
    with believing(folder):
        first = read_run(folder, name)
        found = [first, *first.kind.inside(first)]
        for run in found:
            run.kind.check(run)
    return found


def called(folder: Path) -> str:
    """Return a folder's name in letters that are plain everywhere."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", Path(os.path.abspath(folder)).name).lstrip(".") or "run"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a regular file, in hexadecimal.

    Raises:
        OSError: If it cannot be read, or is no regular file.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_below(folder: Path) -> Iterator[str]:
    """Yield every file below a folder, by its path from there with slashes, in order.

    Links are yielded as files and not followed.
    """
    found = []
    for root, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(root, name))]
        for name in (*files, *links):
            found.append(Path(root, name).relative_to(folder).as_posix())
    yield from sorted(found)


@contextmanager
def believing(what: Path) -> Iterator[None]:
    """Turn what a stranger's damaged or forged file does to a reader into a sentence.

    Args:
        what: The folder that is read.

    Raises:
        RunError: In place of the errors of values that are of no run.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, StopIteration) as error:
        raise _strange(what) from error
    except ValueError as error:
        if isinstance(error, DeqcertError):
            raise
        raise _strange(what) from error


def _strange(what: Path) -> RunError:
    return RunError(
        f"{what} holds values that no run would have written; restore it, or make the run again"
    )
