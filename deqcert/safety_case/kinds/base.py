"""What a kind of run must say of itself."""

from __future__ import annotations

import shlex
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from deqcert.runs.manifest import Manifest
from deqcert.safety_case.claims import Claim, Figure, Ground
from deqcert.safety_case.run_folder import RunFolder, sha256_of

AGAIN = "../again"
"""Folder, beside the case, in which commands make the evidence again."""


class Kind(ABC):
    """A kind of run.

    Attributes:
        name: What it is, in a few words.
        journal: The file that its claims rest on.
    """

    name: ClassVar[str]
    journal: ClassVar[str]

    def holds(self, run: RunFolder) -> bool:
        """Whether a run is of this kind."""
        return (run.folder / self.journal).exists()

    def manifest_of(self, folder: Path) -> Manifest | None:
        """Return what a folder of this kind without a manifest says of itself; None if it is none.

        Raises:
            DeqcertError: If it is damaged.
        """
        return None

    def inside(self, run: RunFolder) -> list[RunFolder]:
        """Return the runs inside of a run of this kind; here none."""
        return []

    @abstractmethod
    def check(self, run: RunFolder) -> None:
        """Refuse a run that is not finished, is damaged, or contradicts itself.

        Raises:
            DeqcertError: If there is something of that kind.
        """

    @abstractmethod
    def claims(self, run: RunFolder, runs: Sequence[RunFolder]) -> list[Claim]:
        """Compute what a run shows, from its journal.

        Args:
            run: A run of this kind.
            runs: All runs of the case.
        """

    @abstractmethod
    def command(self, run: RunFolder, runs: Sequence[RunFolder]) -> str:
        """Return what makes the run again, in the folder of the case."""


@dataclass(frozen=True)
class Evidence:
    """A run among those of its case, from which claims are made.

    Args:
        kind: What kind of run it is.
        run: The run.
        runs: All runs of the case.
    """

    kind: Kind
    run: RunFolder
    runs: Sequence[RunFolder]

    def claim(
        self,
        item: str,
        title: str,
        statement: str,
        ground: Ground,
        figures: Sequence[Figure],
        file: str | None = None,
    ) -> Claim:
        """Make a claim that rests on a file of the run, by default its journal."""
        shown = self.kind.journal if file is None else file
        return Claim(
            item=item,
            title=title,
            statement=statement,
            ground=ground,
            figures=tuple(figures),
            run=self.run.name,
            artefact=self.run.place(shown),
            sha256=sha256_of(self.run.folder / shown),
            command=self.kind.command(self.run, self.runs),
        )


def shell(*words: object, **options: object) -> str:
    """Write a command line: words, then options that are not None."""
    line = [str(word) for word in words]
    for name, value in options.items():
        if value is not None:
            line += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(line)


def tested(run: RunFolder, images: int) -> str:
    """Say what a run was made on and with."""
    was, with_ = run.parameters, run.manifest.last_environment
    tools = ", ".join(
        f"{name} {with_[name]}"
        for name in ("deqcert", "torch", "numpy", "scipy", "python")
        if name in with_
    )
    data = f"{images} images of the {was.get('split', 'unnamed')} part of {was.get('data', '?')}"
    digest = was.get("data_hash")
    said = data if digest is None else f"{data} (hash {digest})"
    return said + (f"; computed with {tools}" if tools else "")


def whole(images: int) -> str:
    """Say of which images figures are."""
    return f"Figures are of these {images} images and of no others."


def number(parameters: Mapping[str, Any], key: str) -> float | None:
    """Return a parameter that is a number; None where it is not."""
    found = parameters.get(key)
    return float(found) if isinstance(found, int | float) else None
