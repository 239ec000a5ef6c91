"""The journal: one line per image, on the disk before the next image begins."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from deqcert.certifiers.bounds import write_down, write_radius
from deqcert.certifiers.certificate import NoiseDetails
from deqcert.errors import RunError
from deqcert.files import explain, sync_folder, write_all
from deqcert.smoothing.seed import seed_text

if TYPE_CHECKING:
    from deqcert.certifiers import Certificate, Norm

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
        name: Of the file.
        columns: In order; "idx" is among them.
        whole: Those that are whole numbers.
        real: Those that are numbers, infinite ones included.
        other: What a cell of another column must look like.
    """

    name: str
    columns: tuple[str, ...]
    whole: tuple[str, ...]
    real: tuple[str, ...]
    other: Mapping[str, Callable[[str], bool]] = field(default_factory=dict)

    @property
    def header(self) -> str:
        """The first line, its newline included."""
        return "\t".join(self.columns) + "\n"

    def is_row(self, line: bytes, index: int) -> bool:
        """Whether a line, without its newline, is a whole row of the image with that index."""
        try:
            cells = line.decode("ascii").split("\t")
            if len(cells) != len(self.columns):
                return False
            entry = dict(zip(self.columns, cells, strict=True))
            for key in self.whole:
                int(entry[key])
            for key in self.real:
                float(entry[key])
            if not all(valid(entry[key]) for key, valid in self.other.items()):
                return False
            return int(entry["idx"]) == index
        except ValueError:
            return False


CERTIFICATES = Layout(
    NAME,
    COLUMNS,
    whole=("label", "predict", "n0", "n", "votes", "audited"),
    real=("radius", "p_lower", "sigma", "alpha", "nfe"),
    other={"seed": lambda cell: re.fullmatch(r"[0-9]+|blake2b:[0-9a-f]{32}", cell) is not None},
)
"""One certificate from noise per line, for the l2 norm."""

PROOFS = Layout(
    NAME,
    (*COLUMNS[:6], "norm", "alpha", "method", "sound", "nfe", "details"),
    whole=("label", "predict"),
    real=("radius", "alpha", "nfe"),
)
"""One certificate without noise per line; what its method has to say in particular is JSON."""


def certificate_layout(*, noise: bool, norm: Norm = "l2") -> Layout:
    """Return what the lines of a run hold.

    Args:
        noise: Whether its certifier draws noise.
        norm: The certifier's norm; a run of certificates from noise names it only if not l2.
    """
    if not noise:
        return PROOFS
    if norm == "l2":
        return CERTIFICATES
    return replace(CERTIFICATES, columns=(*COLUMNS, "norm"))


class Line(Protocol):
    """What a journal takes: one image's results."""

    @property
    def idx(self) -> int:
        """Index of the image in its data set."""
        ...

    def line(self) -> str:
        """Return the line, its newline included."""
        ...


@dataclass(frozen=True)
class Row:
    """One image's line.

    Args:
        idx: Index of the image in its data set.
        label: Its true class; it never reached the certifier.
        certificate: What was certified.
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
        c, d = self.certificate, self.certificate.details
        noise = isinstance(d, NoiseDetails)
        cells = {
            "idx": str(self.idx),
            "label": str(self.label),
            "predict": str(-1 if c.prediction is None else c.prediction),
            "radius": write_radius(c.radius),
            "correct": str(int(self.correct)),
            "time": str(timedelta(milliseconds=round(1000 * c.seconds))),
            "norm": c.norm,
            "alpha": repr(c.alpha),
            "method": c.method,
            "sound": str(int(c.sound)),
            # A learned start costs a fraction of an evaluation; whole sums stay whole numbers.
            "nfe": str(int(c.nfe)) if float(c.nfe).is_integer() else f"{c.nfe:.1f}",
        }
        if noise:
            cells |= {
                "p_lower": write_down(d.p_lower, 9),
                "sigma": repr(float(d.sigma)),
                "n0": str(d.n0),
                "n": str(d.n),
                "votes": str(d.votes),
                "audited": str(d.audited),
                "disagreements": str(d.disagreements),
                "seed": seed_text(d.seed),
            }
        else:
            cells["details"] = json.dumps(c.to_dict()["details"])
        layout = certificate_layout(noise=noise, norm=c.norm)
        return "\t".join(cells[column] for column in layout.columns) + "\n"


class Journal:
    """An append-only file of rows that survives being cut off at any byte.

    Opening it repairs it: a torn end (no newline, or a last line that is not a row) is cut off.

    Args:
        folder: The run folder; the journal is created in it if it is not there.
        images: The indices that the run works on, in order; line i must be image i's.
        layout: What the lines hold.

    Raises:
        RunError: If the file cannot be written, or lines before the last are not this run's.
    """

    def __init__(self, folder: Path, images: Sequence[int], layout: Layout = CERTIFICATES) -> None:
        self.path = folder / layout.name
        self._images, self._layout = images, layout
        self._header = layout.header.encode()
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

    def append(self, *rows: Line) -> None:
        """Put lines on the disk, all of them or none.

        Args:
            *rows: The results of the next images in order.

        Raises:
            RunError: If they could not be written; the lines before them are safe.
        """
        expected = self._images[self.done : self.done + len(rows)]
        assert [row.idx for row in rows] == list(expected), "rows come in the order of the run"
        lines = [row.line() for row in rows]
        width = len(self._layout.columns)
        assert all(line.count("\t") + 1 == width for line in lines), "lines hold what it says"
        try:
            self._put("".join(lines).encode())
        except OSError as error:
            raise explain(
                error,
                f"write {self.path}",
                f"{self.done} of {len(self._images)} images are safe there, so make room and "
                "give the same command again",
            ) from None
        self.done += len(rows)

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
        for line, index in zip(lines[1:], self._images, strict=False):
            if not self._layout.is_row(line, index):
                break
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
