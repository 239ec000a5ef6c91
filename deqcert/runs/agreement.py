"""The agreement of a run, in a file of its own: one line per image, after its certificate's."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Self

from deqcert.runs.journal import Journal, Layout, Row
from deqcert.smoothing.input import Input

if TYPE_CHECKING:
    from deqcert.certifiers.agreement import AgreementAudit, Looked
    from deqcert.data import Dataset
    from deqcert.runs.folder import Run

NAME = "agreement.tsv"

AGREEMENT = Layout(
    NAME,
    ("idx", "audited", "agreed", "unsolved", "nfe", "time"),
    whole=("audited", "agreed", "unsolved"),
    real=("nfe",),
)
"""One image's audit per line; see :class:`deqcert.certifiers.agreement.Looked`."""


@dataclass(frozen=True)
class _Line:
    idx: int
    looked: Looked

    def line(self) -> str:
        """Return the line, its newline included."""
        seen = self.looked
        counts = (self.idx, seen.audited, seen.agreed, seen.unsolved)
        time = timedelta(milliseconds=round(1000 * seen.seconds))
        return "\t".join([*map(str, counts), f"{seen.nfe:.1f}", str(time)]) + "\n"


class Agreements:
    """Audits the images of a run, each after its certificate is safe; a context manager.

    Images that have their certificate and no line here come first: of a run that was stopped
    between the two, or that began without an audit. A line is a function of the number of samples
    of its certificate, so that it is the same whenever it is written, its time apart.

    Args:
        run: An open run of certificates from noise.
        audit: What to do; None to do nothing, and make no file.
        dataset: The images.

    Raises:
        RunError: If the file cannot be written, or is not this run's.
    """

    def __init__(self, run: Run, audit: AgreementAudit | None, dataset: Dataset) -> None:
        self._run, self._audit, self._dataset = run, audit, dataset
        if audit is not None and run.seed is not None:
            audit.draw_by(run.seed)
        self._journal = None if audit is None else Journal(run.folder, run.images, AGREEMENT)

    def catch_up(self) -> None:
        """Audit the images that were certified before.

        Raises:
            RunError: If a line could not be written; everything before it is safe.
        """
        if self._behind:
            assert self._journal is not None
            for drawn in _drawn(self._run)[self._journal.done :]:
                self._append(self._look(drawn))

    def take(self, row: Row, looked: Looked | None = None) -> None:
        """Audit the image whose certificate was just made safe.

        Args:
            row: Its line.
            looked: Its audit, where it was made together with the certificate.

        Raises:
            RunError: If the line could not be written; everything before it is safe.
        """
        if self._behind:
            self._append(self._look(row.certificate.details.n) if looked is None else looked)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._journal is not None:
            self._journal.close()

    @property
    def _behind(self) -> bool:
        """Whether a certificate has no line here; where somebody cut its file, a line has none."""
        return self._journal is not None and self._journal.done < self._run.done

    def _look(self, drawn: int) -> Looked:
        assert self._journal is not None
        assert self._audit is not None
        index = self._run.images[self._journal.done]
        return self._audit.look(Input(self._dataset.image(index), index), drawn)

    def _append(self, looked: Looked) -> None:
        assert self._journal is not None
        self._journal.append(_Line(self._run.images[self._journal.done], looked))


def _drawn(run: Run) -> list[int]:
    """Return how many samples each certificate has drawn, from the run's journal."""
    header, *lines = run.certificates.read_text(encoding="ascii").splitlines()
    at = header.split("\t").index("n")
    return [int(line.split("\t")[at]) for line in lines]
