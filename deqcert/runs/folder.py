"""The run folder: begin a run, or go on with one, but never write into somebody else's."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from deqcert.errors import ConfigError, RunError
from deqcert.files import Closing, Lock, explain, write_atomically
from deqcert.runs import manifest as manifests
from deqcert.runs import secret
from deqcert.runs.journal import CERTIFICATES, Journal, Layout, Line, Row
from deqcert.runs.manifest import Manifest
from deqcert.smoothing.input import Input
from deqcert.smoothing.seed import RANDOM

if TYPE_CHECKING:
    from deqcert.certifiers import Certificate, Certifier
    from deqcert.data import Dataset

T = TypeVar("T")
SUMMARY = "summary.json"
DRAWN = "seed_drawn"
"""Note of a manifest whose seed was a secret until the run was finished."""

TOLD = 8
"""Differences from another run that a sentence tells."""


class Run(Closing):
    """A run folder, held open by this process alone.

    Opening a folder that is new or empty begins a run; opening one that holds a run continues
    it if every parameter is the same. Use it as a context manager.

    Args:
        folder: Where the run lives; made, with its parents, if it is not there.
        parameters: What decides the numbers; see :class:`Manifest`.
        images: Indices of the images in their data set, in the order to work on them.
        environment: Versions and machine; a change on continuing is recorded, not refused.
        notes: Anything else worth keeping.
        layout: What the journal's lines hold; certificates from noise by default, else see
            :func:`certificate_layout`.

    Raises:
        RunError: If the folder holds something else, another run, or a run that another process is
            writing; or it cannot be written.
    """

    def __init__(
        self,
        folder: str | Path,
        parameters: Mapping[str, Any],
        images: Sequence[int],
        *,
        environment: Mapping[str, Any] | None = None,
        notes: Mapping[str, Any] | None = None,
        layout: Layout = CERTIFICATES,
    ) -> None:
        self.folder, self._layout = Path(folder), layout
        self.seed: int | None = None
        """Seed of the noise, known to this process even while it is a secret; None for none."""
        self.changes: list[str] = []
        """What differs in the environment since the run was last written, in words."""
        asked = Manifest(
            dict(parameters), tuple(images), dict(environment or {}), dict(notes or {})
        )
        self._make()
        self._lock = Lock(
            self.folder,
            f"another process is writing {self.folder}; "
            "wait for it or give another folder with --out",
        )
        try:
            self.manifest, self._journal = self._open(asked)
        except BaseException:
            self._lock.close()
            raise

    @property
    def images(self) -> tuple[int, ...]:
        """All images of the run, in order."""
        return self.manifest.images

    @property
    def done(self) -> int:
        """How many of them have their line."""
        return self._journal.done

    @property
    def remaining(self) -> tuple[int, ...]:
        """The images that are still to be worked on."""
        return self.images[self.done :]

    @property
    def certificates(self) -> Path:
        """The journal's file, of certificates or of whatever the layout says."""
        return self._journal.path

    def append(self, *rows: Line) -> None:
        """Put the next images' lines on the disk, all of them or none.

        Raises:
            RunError: If they could not be written; everything before them is safe.
        """
        self._journal.append(*rows)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json, whole or not at all.

        Raises:
            RunError: If it cannot be written.
        """
        write_atomically(self.folder / SUMMARY, json.dumps(summary, indent=2) + "\n")

    def reveal(self) -> None:
        """Write a secret seed into the manifest of a run that has all its lines.

        Raises:
            RunError: If it cannot be written; the seed is then kept as it was.
        """
        assert self.done == len(self.images), "a seed is told when nothing can be chosen any more"
        if self.manifest.parameters.get("seed") == RANDOM:
            told, notes = {"seed": self.seed}, dict(self.manifest.notes)
            if isinstance(settings := notes.get("settings"), dict):
                notes["settings"] = {**settings, **told}
            self.manifest = replace(
                self.manifest,
                parameters={**self.manifest.parameters, **told},
                notes={**notes, DRAWN: True},
            )
            self.manifest.write(self.folder)
        secret.forget_seed(self.folder)

    def close(self) -> None:
        """Let the folder go."""
        self._journal.close()
        self._lock.close()

    def _make(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise RunError(f"{self.folder} is a file; give a folder with --out") from None
        except OSError as error:
            raise explain(error, f"make the folder {self.folder}") from None

    def _open(self, asked: Manifest) -> tuple[Manifest, Journal]:
        found = Manifest.read(self.folder)
        if found is None:
            self._refuse_foreign()
            self._know(asked, new=True)
            asked.write(self.folder)
            return asked, Journal(self.folder, asked.images, self._layout)
        if asked.parameters.get("seed") == RANDOM and found.notes.get(DRAWN):
            drawn = {"seed": found.parameters.get("seed")}
            asked = replace(asked, parameters={**asked.parameters, **drawn})
        differing = found.differences(asked)
        if differing:
            told = differing if len(differing) <= TOLD else [*differing[:TOLD], "and so on"]
            raise RunError(
                f"{self.folder} holds a run with other parameters ({'; '.join(told)}); "
                "give the earlier values to continue it, or another folder with --out"
            )
        self._know(found, new=False)
        journal = Journal(self.folder, found.images, self._layout)
        try:
            return self._moved(found, asked, journal.done), journal
        except BaseException:
            journal.close()
            raise

    def _know(self, manifest: Manifest, new: bool) -> None:
        """Find out the seed that noise is drawn by; a secret one is drawn when the run begins."""
        seed = manifest.parameters.get("seed")
        if seed == RANDOM:
            seed = secret.keep_seed(self.folder) if new else secret.read_seed(self.folder)
        self.seed = seed

    def _refuse_foreign(self) -> None:
        # Left by a process that was killed at its very beginning.
        ours = {f".{manifests.NAME}.tmp", secret.NAME, f".{secret.NAME}.tmp"}
        others = sorted(entry.name for entry in self.folder.iterdir() if entry.name not in ours)
        if others:
            raise RunError(
                f"{self.folder} is not a run folder (it holds {others[0]} and no "
                f"{manifests.NAME}); give an empty or new folder with --out"
            )

    def _moved(self, found: Manifest, asked: Manifest, done: int) -> Manifest:
        """Record a continuation in another environment."""
        before, now = found.last_environment, asked.environment
        self.changes = [
            f"{key} was {before.get(key)} and is now {now.get(key)}"
            for key in dict.fromkeys([*before, *now])
            if before.get(key) != now.get(key)
        ]
        if not self.changes or done == len(found.images):
            return found
        entry = {"after_images": done, "environment": dict(now)}
        moved = replace(found, continued=(*found.continued, entry))
        moved.write(self.folder)
        return moved


def certify_images(
    run: Run,
    certifier: Certifier[T],
    subject: T,
    dataset: Dataset,
    tell: Callable[[Row], None] | None = None,
) -> None:
    """Certify what remains of a run, one line on the disk after each image.

    Args:
        run: An open run, whose layout is the certifier's: see
            :func:`deqcert.runs.certificate_layout`.
        certifier: How to certify.
        subject: What the certifier looks at: the engine, or the model where no noise is drawn.
        dataset: The images; labels are only compared with the answers.
        tell: Called after each line is safe.

    Raises:
        ConfigError: If a certificate is of another method or norm than its certifier.
        RunError: If a line could not be written; everything before it is safe.
    """
    for index in run.remaining:
        certificate = certifier.certify(subject, Input(dataset.image(index), index))
        row = keep_certificate(run, certifier, certificate, dataset)
        if tell is not None:
            tell(row)


def keep_certificate(
    run: Run, certifier: Certifier[Any], certificate: Certificate, dataset: Dataset
) -> Row:
    """Put the next image's certificate on the disk.

    Args:
        run: An open run.
        certifier: What certified.
        certificate: Its certificate.
        dataset: The images; the label is only compared with the answer.

    Returns:
        Its line.

    Raises:
        ConfigError: If the certificate is of another method or norm than its certifier.
        RunError: If the line could not be written; everything before it is safe.
    """
    if (certificate.method, certificate.norm) != (certifier.name, certifier.norm):
        raise ConfigError(
            f"method '{certifier.name}' ({certifier.norm}) returned a certificate of method "
            f"'{certificate.method}' ({certificate.norm}); it must return its own."
        )
    index = run.remaining[0]
    row = Row(index, dataset.label(index), certificate)
    run.append(row)
    return row
