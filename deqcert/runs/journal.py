"""The journal: one line an image, on the disk before the next image begins."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from decimal import ROUND_FLOOR, Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from deqcert.errors import RunError
from deqcert.runs.files import explain, sync_folder, write_all

if TYPE_CHECKING:
    from deqcert.certifiers import Certificate

NAME = "certificates.tsv"

COLUMNS = (
    # The field's six, in its order and with its meanings...
    "idx",
    "label",
    "predict",
    "radius",
    "correct",
    "time",
    # ...then ours: enough to understand one line without the manifest.
    "p_lower",
    "sigma",
    "n0",
    "n",
    "alpha",
    "method",
    "sound",
    "votes",
    "audited",
    "disagreements",
    "nfe",
    "seed",
)


@dataclass(frozen=True)
class Layout:
    """What a journal's file is called and what its lines hold.

    Args:
        name: of the file.
        columns: in order; "idx" is among them.
        whole: those that are whole numbers.
        real: those that are numbers, infinite ones included.
    """

    name: str
    columns: tuple[str, ...]
    whole: tuple[str, ...]
    real: tuple[str, ...]


CERTIFICATES = Layout(
    NAME,
    COLUMNS,
    whole=("label", "predict", "n0", "n", "votes", "audited", "seed"),
    real=("radius", "p_lower", "sigma", "alpha", "nfe"),
)
"""One certificate a line."""


class Line(Protocol):
    """What a journal takes: one image's results."""

    @property
    def idx(self) -> int:
        """Index of the image in its data set."""
        ...

    def line(self) -> str:
        """Return the line, its newline included."""
        ...


def round_down(value: float, digits: int) -> str:
    """Write a number with so many decimals, never larger than it is.

    Args:
        value: a finite number.
        digits: decimals to keep.

    Returns:
        str: the largest decimal fraction of that many digits that is not above the value.
    """
    return f"{Decimal(value).quantize(Decimal(1).scaleb(-digits), rounding=ROUND_FLOOR):f}"


@dataclass(frozen=True)
class Row:
    """One image's line.

    Args:
        idx: index of the image in its data set.
        label: its true class; it never reached the certifier.
        certificate: what was certified.
    """

    idx: int
    label: int
    certificate: Certificate

    @property
    def correct(self) -> bool:
        """Whether the certified class is the true one; an abstention is not."""
        return self.certificate.prediction == self.label

    def line(self) -> str:
        """Format as a line of the journal: radius and p_lower rounded down, -1 for abstain."""
        c = self.certificate
        cells = {
            "idx": str(self.idx),
            "label": str(self.label),
            "predict": str(-1 if c.prediction is None else c.prediction),
            "radius": round_down(c.radius, 6),
            "correct": str(int(self.correct)),
            "time": str(timedelta(milliseconds=round(1000 * c.seconds))),
            "p_lower": round_down(c.p_lower, 9),
            "sigma": repr(float(c.sigma)),
            "n0": str(c.n0),
            "n": str(c.n),
            "alpha": repr(float(c.alpha)),
            "method": c.method,
            "sound": str(int(c.sound)),
            "votes": str(c.votes),
            "audited": str(c.audited),
            "disagreements": str(c.disagreements),
            # A learned start costs a fraction of an evaluation; whole sums stay whole numbers.
            "nfe": str(int(c.nfe)) if float(c.nfe).is_integer() else f"{c.nfe:.1f}",
            "seed": str(c.seed),
        }
        return "\t".join(cells[column] for column in COLUMNS) + "\n"


class Journal:
    """An append-only file of rows that survives being cut off at any byte.

    Opening it repairs it: a torn end (no newline, or a last line that is not a row) is cut off.

    Args:
        folder: the run folder; the journal is created in it if it is not there.
        images: the indices that the run works on, in order; line i must be image i's.
        layout: what the lines hold.

    Raises:
        RunError: the file cannot be written, or lines before the last are not this run's.
    """

    def __init__(self, folder: Path, images: Sequence[int], layout: Layout = CERTIFICATES) -> None:
        self.path = folder / layout.name
        self._images, self._layout = images, layout
        self._header = ("\t".join(layout.columns) + "\n").encode()
        try:
            new = not self.path.exists()
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            if new:
                sync_folder(folder)
        except OSError as error:
            raise explain(error, f"write {self.path}") from None
        try:
            self.done = self._repair()
        except OSError as error:
            self.close()
            raise explain(error, f"write {self.path}") from None
        except RunError:
            self.close()
            raise

    def append(self, row: Line) -> None:
        """Put one line on the disk.

        Args:
            row: the result of the next image in order.

        Raises:
            RunError: it could not be written; the lines before it are safe.
        """
        assert row.idx == self._images[self.done], "rows come in the order of the run"
        try:
            self._put(row.line().encode())
        except OSError as error:
            raise explain(
                error,
                f"write {self.path}",
                f"{self.done} of {len(self._images)} images are safe there, so make room and "
                "give the same command again",
            ) from None
        self.done += 1

    def close(self) -> None:
        """Close the file; the journal takes no more rows."""
        os.close(self._descriptor)

    def _put(self, data: bytes) -> None:
        """Append whole bytes and wait for the disk; on failure leave the file as it was."""
        try:
            write_all(self._descriptor, data)
            os.fsync(self._descriptor)
        except OSError:
            with suppress(OSError):  # what cannot be cut off now is cut off by the next opening
                os.ftruncate(self._descriptor, self._length)
            raise
        self._length += len(data)

    def _repair(self) -> int:
        """Cut a torn end off, write the header if there is none, and count the rows."""
        content = self.path.read_bytes()
        lines = content.split(b"\n")[:-1]  # what follows the last newline is torn
        self._length = 0
        if not lines:
            os.ftruncate(self._descriptor, 0)
            self._put(self._header)
            return 0
        if lines[0] + b"\n" != self._header:
            raise RunError(
                f"{self.path} does not begin with this run's columns; "
                "restore it or give another folder with --out"
            )
        whole = 1
        while whole < len(lines) and self._is_row(whole - 1, lines[whole]):
            whole += 1
        if whole < len(lines) - 1 or len(lines) - 1 > len(self._images):
            bad = min(whole, len(self._images) + 1) + 1
            raise RunError(
                f"{self.path}, line {bad}, is not what this run would have written; "
                "restore it or give another folder with --out"
            )
        self._length = sum(len(line) + 1 for line in lines[:whole])
        if self._length < len(content):
            os.ftruncate(self._descriptor, self._length)
            os.fsync(self._descriptor)
        return whole - 1

    def _is_row(self, position: int, line: bytes) -> bool:
        """Whether a line is a whole row of the image at that position."""
        try:
            cells = line.decode("ascii").split("\t")
            if len(cells) != len(self._layout.columns) or position >= len(self._images):
                return False
            entry = dict(zip(self._layout.columns, cells, strict=True))
            for key in self._layout.whole:
                int(entry[key])
            for key in self._layout.real:
                float(entry[key])
            return int(entry["idx"]) == self._images[position]
        except ValueError:
            return False
