"""Answers in the record of a service, which may be running; labels come later, in a file."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deqcert.errors import ConfigError, RunError
from deqcert.report.columns import parse_whole, read_text, shown
from deqcert.serve.records import RecordReader
from deqcert.watch.observations import Observation

if TYPE_CHECKING:
    from deqcert.serve.records import Record

ASKED = ("n0", "n", "alpha", "goal", "deadline")
"""What a request may ask for: answers to the same question are compared."""


class RecordSource:
    """The certificates that a service has given, in the order of its record.

    Answers of modes predict and set are none. Certificates that answer another question (n, alpha,
    goal, deadline) and those of pictures that had to be made to fit are passed over, and counted.

    Args:
        folder: The service's folder.
        labels: A file to which lines of an answer's id, a tab and its true class are appended as
            they become known; the first line of an answer counts. If not given, what clients told
            the service counts.
        like: Parameters of a reference, whose question counts; if not given, the first one's.

    Raises:
        RunError: If there is no record, no certificate in it, or it cannot be read.
    """

    def __init__(
        self,
        folder: str | Path,
        labels: str | Path | None = None,
        like: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self._labels = Path(folder), labels
        self.name = self.folder.resolve().name
        self.position: Any = None
        self._reader = RecordReader(self.folder)
        first = next((one for one in self._reader.since(0) if one.mode == "certify"), None)
        if first is None:
            raise RunError(f"{self.folder} has no certificates on record yet; ask for one first")
        self._asked = _asked(first) if like is None else {key: like.get(key) for key in ASKED}
        self._about = _about(first)
        self.parameters = [{**self._about, **self._asked, "record": first.id}]
        self.notes: dict[str, Any] = {"settings": dict(first.about["settings"])}

    @property
    def skipped(self) -> int:
        """Certificates up to the position that were passed over."""
        return int(self.position[2]) if self.position else 0

    def observations(self) -> Iterator[Observation]:
        """Yield the certificates that were given since.

        Raises:
            RunError: If the record is damaged, or has lost answers that were read.
            ConfigError: If the service answers with another model now.
        """
        number, lines, skipped, told = self.position or (0, 0, 0, 0)
        if number and not any(True for _ in self._reader.since(number - 1)):
            raise RunError(
                f"{self.folder} has lost answers that were watched; restore it, or begin anew with "
                "another --state"
            )
        for record in self._reader.since(number):
            known = record.mode == "certify"
            skipped += known and not self._counts(record)
            self.position = [record.number, lines, skipped, told]
            if not known or not self._counts(record):
                continue
            if _about(record) != self._about:
                raise ConfigError(
                    f"from answer {record.id} on {self.folder} answers with another model, solve "
                    "or noise; keep the record of each in a folder of its own"
                )
            yield self._seen(record)

    def labelled(self) -> Iterator[Observation]:
        """Yield the answers whose label came since; those that are not on record are none.

        Raises:
            RunError: If the labels cannot be read.
        """
        known = self._told_the_service() if self._labels is None else self._lines(self._labels)
        for id, label in known:
            record = self._reader.find(id)
            if record is not None and record.mode == "certify" and self._counts(record):
                yield self._seen(record, label)

    def _told_the_service(self) -> Iterator[tuple[str, int]]:
        number, lines, skipped, done = self.position or (0, 0, 0, 0)
        for place, id, label in self._reader.labels(done):
            self.position = [number, lines, skipped, place]
            yield id, label

    def _lines(self, labels: str | Path) -> Iterator[tuple[str, int]]:
        number, done, skipped, told = self.position or (0, 0, 0, 0)
        file, known = Path(labels), set()
        text = read_text(file, "give lines of an answer's id, a tab, and its class")
        for place, line in enumerate(text.split("\n")[:-1], start=1):
            id, _, cell = line.rstrip("\r").partition("\t")
            label = parse_whole(cell)
            if label is None:
                raise RunError(
                    f"{file}, line {place}: {shown(line)} is not an answer's id, a tab and a class"
                )
            self.position = [number, max(done, place), skipped, told]
            if id not in known and place > done:
                yield id, label
            known.add(id)

    def images(self, observations: Sequence[Observation]) -> NDArray[np.float32]:
        """Return the images from the record."""
        found = [self._reader.find(seen.key) for seen in observations]
        return np.stack([record.pixels for record in found if record is not None])

    def _counts(self, record: Record) -> bool:
        return _asked(record) == self._asked and record.answer.get("changed") is None

    def _seen(self, record: Record, label: int | None = None) -> Observation:
        answer = record.answer
        clean = answer["clean"]["class"]
        told = {key: answer[key] for key in ("votes", "n", "p_lower", "alpha", "sigma")}
        seed = None if record.seed is None else str(record.seed)
        return Observation(
            key=record.id,
            predict=answer["class"],
            radius=float(answer["radius"]),
            label=label,
            clean=-1 if clean is None else int(clean),
            evidence={"time": record.time, "client": record.client, **told, "seed": seed},
            replay=f"deqcert replay {record.id} --service {shlex.quote(str(self.folder))}",
        )


def _asked(record: Record) -> dict[str, Any]:
    found = {key: record.asked.get(key) for key in ASKED}
    if found["goal"] == "budget" and found["deadline"] is None:
        found["goal"] = None  # all n copies, as a run's manifest says it
    return found


def _about(record: Record) -> dict[str, Any]:
    """Return what answered, in the words of a run's manifest."""
    found: Mapping[str, Any] = record.about
    kept = {k: v for k, v in found.items() if k not in ("settings", "versions", "machine")}
    evaluation = dict(kept.pop("evaluation", {}))
    for key in ("deqcert", "threads", "kernels", "device"):
        evaluation.pop(key, None)
    return {**kept, **evaluation, "method": "independent"}
