"""The votes of a run, sample by sample: one small file an image, where somebody asks for them."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deqcert.certifiers.kept_votes import KeptVotes, doubts
from deqcert.certifiers.registry import RECERTIFIERS
from deqcert.errors import ConfigError, RunError
from deqcert.files import explain, read_regular, write_atomically
from deqcert.runs.journal import NAME as CERTIFICATES
from deqcert.runs.manifest import Manifest
from deqcert.smoothing.input import Input
from deqcert.smoothing.naming import classifier
from deqcert.smoothing.seed import RANDOM
from deqcert.smoothing.stage import Stage

if TYPE_CHECKING:
    from deqcert.certifiers import Certifier
    from deqcert.data import Dataset
    from deqcert.runs.folder import Run
    from deqcert.runs.journal import Row
    from deqcert.smoothing import Predictor, SmoothingEngine, VoteBatch

FOLDER = "votes"
ADVICE = "give its deqcert certify command again with --keep-votes"
VOTING = (
    "standard",
    "independent",
    "serialized",
    "serialized-strata",
    "serialized-paper",
    "serialized-released",
)
"""Methods that count the votes of a predictor as they are cast."""


PASSED_ON = ("method", "checkpoint_sha256", "weights_sha256", "predictor", "form", "shape")
"""What a recertification's own manifest says of the run that voted."""


def votes_file(folder: Path, index: int) -> Path:
    """Return where a run keeps the votes for an image, by its index in the data set."""
    return folder / FOLDER / f"{index}.npz"


def write_votes(path: Path, kept: KeptVotes) -> None:
    """Write the votes for an image, whole or not at all; equal votes give equal bytes.

    Raises:
        RunError: If they cannot be written.
    """
    content = io.BytesIO()
    np.savez_compressed(
        content,
        selected=np.int64(-1 if kept.selected is None else kept.selected),
        classes=np.int64(kept.classes),
        predictions=kept.predictions,
        doubt=kept.doubt,
    )
    try:
        path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise explain(error, f"make the folder {path.parent}") from None
    write_atomically(path, content.getvalue())


def read_votes(path: Path) -> KeptVotes:
    """Read what :func:`write_votes` wrote.

    Raises:
        RunError: If it is not there, or damaged.
    """
    try:
        with np.load(io.BytesIO(read_regular(path)), allow_pickle=False) as found:
            selected, classes = int(found["selected"]), int(found["classes"])
            predictions, doubt = found["predictions"], found["doubt"]
    except FileNotFoundError:
        raise RunError(f"there is no {path}: the run does not keep its votes; {ADVICE}") from None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        raise RunError(f"{path} is damaged; delete it and {ADVICE}") from None
    whole = predictions.dtype == np.int16 and doubt.dtype == np.uint8 and classes >= 1
    if not whole or predictions.ndim != 1 or doubt.shape != predictions.shape:
        raise RunError(f"{path} is damaged; delete it and {ADVICE}")
    if not -1 <= selected < classes or np.any((predictions < -1) | (predictions >= classes)):
        raise RunError(f"{path} has votes for classes that there are not; delete it and {ADVICE}")
    return KeptVotes(None if selected < 0 else selected, classes, predictions, doubt)


class _Cast(NamedTuple):
    """What is kept of a solved batch."""

    samples: NDArray[np.int64]
    predictions: NDArray[np.int16]
    margins: NDArray[np.float32]
    classes: int


class VoteKeeper:
    """Keeps the votes of a run, each image's after its certificate is safe.

    Images that have their certificate and no file here are voted on again first: of a run that was
    stopped between the two, or that began without keeping votes. The run's other files are the same
    bytes with and without.

    Args:
        run: An open run, whose seed the engine draws noise by.
        certifier: Its certifier, whose method has votes: see :func:`refuse_without_votes`.
        engine: What casts its votes; the keeper becomes one of its callbacks.
        dataset: The images.
    """

    def __init__(
        self, run: Run, certifier: Certifier[Any], engine: SmoothingEngine, dataset: Dataset
    ) -> None:
        self._run, self._engine, self._dataset = run, engine, dataset
        self._predictor: Predictor = certifier.predictor  # type: ignore[attr-defined]  # it votes
        self._selection: int = certifier.n0  # type: ignore[attr-defined]  # it votes
        self._cast: dict[int, list[_Cast]] = {}
        engine.callbacks.append(self)

    def __call__(self, batch: VoteBatch, *, predictor: Predictor, stage: int, number: int) -> None:
        """Take note of votes; see :class:`deqcert.smoothing.engine.Callback`."""
        if predictor is self._predictor:  # not of an audit, which casts some of them again
            classes = batch.logits.shape[1]
            cast = _Cast(batch.samples, batch.predictions, batch.margins, classes)
            self._cast.setdefault(int(stage), []).append(cast)

    def catch_up(self) -> None:
        """Vote again on the images that were certified before and whose votes are not kept.

        Raises:
            RunError: If a file cannot be written.
        """
        for line in read_lines(self._run.folder)[: self._run.done]:
            if votes_file(self._run.folder, line.idx).exists():
                continue
            input = Input(self._dataset.image(line.idx), line.idx)
            selection = self._engine.votes(self._predictor, input, Stage.SELECT, self._selection)
            if selection.counts.sum():
                self._engine.votes(self._predictor, input, Stage.ESTIMATE, line.n)
            self._write(line.idx)

    def take(self, row: Row) -> None:
        """Keep the votes for the image whose certificate was just made safe.

        Raises:
            RunError: If the file cannot be written; the certificate is safe all the same.
        """
        self._write(row.idx)

    def _write(self, index: int) -> None:
        selection, estimate = (self._cast.get(int(s), []) for s in (Stage.SELECT, Stage.ESTIMATE))
        self._cast = {}
        assert selection, "every method selects first"
        classes = selection[0].classes
        chosen = np.concatenate([batch.predictions for batch in selection])
        counts = np.bincount(chosen[chosen >= 0], minlength=classes)
        predictions, doubt = np.zeros(0, dtype=np.int16), np.zeros(0, dtype=np.uint8)
        if estimate:
            order = np.argsort(np.concatenate([batch.samples for batch in estimate]))
            predictions = np.concatenate([batch.predictions for batch in estimate])[order]
            doubt = doubts(np.concatenate([batch.margins for batch in estimate])[order])
        selected = int(counts.argmax()) if counts.sum() else None
        write_votes(
            votes_file(self._run.folder, index), KeptVotes(selected, classes, predictions, doubt)
        )


@dataclass(frozen=True, slots=True)
class RunLine:
    """What a line of a run's journal says of the work on an image.

    Attributes:
        idx: Index of the image in its data set.
        n: Samples that voted.
        votes: Those of them that voted for the class.
        predict: The certified class, -1 for an abstention.
        label: The true class.
        radius: The certified radius, in input units.
        audited: Votes that were cast again.
        disagreements: Those of them whose class changed.
        nfe: Cell evaluations.
    """

    idx: int
    n: int
    votes: int
    predict: int
    label: int
    radius: float
    audited: int
    disagreements: int
    nfe: float


def read_lines(folder: Path) -> list[RunLine]:
    """Read the journal of a run of certificates from noise, its torn end left out.

    Raises:
        RunError: If it cannot be read as one.
    """
    file = folder / CERTIFICATES
    try:
        header, *lines = read_regular(file).decode("ascii").split("\n")[:-1]
        found = [dict(zip(header.split("\t"), line.split("\t"), strict=True)) for line in lines]
        kinds = {f.name: int if f.type == "int" else float for f in fields(RunLine)}
        return [RunLine(**{key: kinds[key](cells[key]) for key in kinds}) for cells in found]  # type: ignore[arg-type]  # by name
    except OSError as error:
        raise RunError(f"cannot read {file} ({error.strerror}); give another run") from None
    except (ValueError, KeyError):
        raise RunError(f"{file} holds no certificates from noise; give another run") from None


class VotedRun:
    """A finished run whose votes are kept: see :class:`deqcert.certifiers.kept_votes.ParentRun`.

    Args:
        folder: The run folder.

    Raises:
        RunError: If it is no finished run, or does not keep its votes.
        ConfigError: If its method casts none.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        found = Manifest.read(self.folder)
        if found is None:
            raise RunError(f"{folder} is no run folder; give one that deqcert certify has finished")
        self.manifest = found
        method = str(found.parameters.get("method"))
        if method in RECERTIFIERS:
            raise ConfigError(
                f"{folder} was recertified itself and holds no votes of its own; give the run that "
                f"it came from, {found.notes.get('parent', 'whose votes were kept')}"
            )
        if "predictor" not in found.parameters:
            raise ConfigError(
                f"method '{method}' of {folder} proves without noise, so there are no votes to "
                "audit; certify the changed model itself"
            )
        refuse_without_votes(method)
        lines = read_lines(self.folder)
        if len(lines) < len(found.images) or found.parameters.get("seed") == RANDOM:
            raise RunError(f"{folder} is not a finished run of deqcert certify; finish it first")
        self.lines = {line.idx: line for line in lines}
        """The run's lines by the image's index."""
        digest = hashlib.sha256()
        for index in found.images:
            path = votes_file(self.folder, index)
            try:
                digest.update(read_regular(path))
            except OSError:
                raise RunError(f"{folder} does not keep its votes (no {path}); {ADVICE}") from None
        certificates = read_regular(self.folder / CERTIFICATES)
        about = {key: found.parameters[key] for key in PASSED_ON if key in found.parameters}
        self.identity: Mapping[str, Any] = {
            "certificates_sha256": hashlib.sha256(certificates).hexdigest(),
            "votes_sha256": digest.hexdigest(),
            **about,
        }

    def __getstate__(self) -> dict[str, Any]:
        """Say where the folder is from any other."""
        return {**self.__dict__, "folder": self.folder.absolute()}

    @property
    def parameters(self) -> Mapping[str, Any]:
        """What decided its numbers."""
        return self.manifest.parameters

    @property
    def voted_by(self) -> str:
        """What cast the votes, in words."""
        about = self.parameters["predictor"]
        about = classifier(about["start"], about["stop"], about.get("early"))
        return f"an earlier run ({about}; certificates.tsv {self._hash[:12]})"

    @property
    def place(self) -> str:
        """Where the run is, as it was given."""
        return str(self.folder)

    @property
    def stopped(self) -> bool:
        """Whether what was voted decided after how many samples an image stopped."""
        return "goal" in self.parameters

    @property
    def independent(self) -> bool:
        """Whether each vote is a function of its own noisy copy."""
        return self.parameters["method"] in ("standard", "independent")

    @cached_property
    def classes(self) -> int:
        """Classes of the model that voted."""
        return self.votes(self.manifest.images[0]).classes

    def votes(self, index: int) -> KeptVotes:
        """Return the votes for an image by its index in the data set.

        Raises:
            RunError: If they are damaged, or not those that the run counted.
        """
        path = votes_file(self.folder, index)
        kept, line = read_votes(path), self.lines[index]
        counted = (len(kept.predictions), kept.votes)
        selected = kept.selected is None or line.predict in (-1, kept.selected)
        if (kept.selected is not None and counted != (line.n, line.votes)) or not selected:
            raise RunError(
                f"{path} has {counted[1]} of {counted[0]} votes where the run counted {line.votes} "
                f"of {line.n}; delete it and {ADVICE}"
            )
        return kept

    @property
    def _hash(self) -> str:
        return str(self.identity["certificates_sha256"])


def refuse_without_votes(method: str) -> None:
    """Refuse a method that casts no votes, or counts others than it casts.

    Raises:
        ConfigError: If it is one.
    """
    if method not in VOTING:
        raise ConfigError(
            f"method '{method}' has no votes that could be kept; those that have are "
            f"{', '.join(VOTING)}"
        )
