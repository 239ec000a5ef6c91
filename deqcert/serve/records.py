"""The record of every answer: appended, on the disk before the answer is given, never changed."""

from __future__ import annotations

import hashlib
import heapq
import json
import os
import queue
import secrets
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqcert.errors import RunError
from deqcert.serve.labels import COLUMNS, INSERT, TABLE, Label

NAME = "answers.sqlite"
"""The file in a service's folder."""

MOST_AT_ONCE = 256
"""Records that one write to the disk holds at most."""

_TABLES = """
CREATE TABLE IF NOT EXISTS services (
    number INTEGER PRIMARY KEY, began REAL NOT NULL, about TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS answers (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, service INTEGER NOT NULL,
    time REAL NOT NULL, client TEXT, mode TEXT NOT NULL, image BLOB NOT NULL,
    image_sha256 TEXT NOT NULL, seed TEXT, asked TEXT NOT NULL, answer TEXT NOT NULL,
    votes TEXT NOT NULL, digest TEXT NOT NULL
);
"""
_FIXED = "".join(
    f"CREATE TRIGGER IF NOT EXISTS no_{what}_{table} BEFORE {what} ON {table} "
    f"BEGIN SELECT RAISE(ABORT, 'records are not changed'); END;"
    for what in ("UPDATE", "DELETE")
    for table in ("services", "answers", "labels")
)
_COLUMNS = (
    "id, service, time, client, mode, image, image_sha256, seed, asked, answer, votes, digest"
)
_APPEND = f"INSERT INTO answers ({_COLUMNS}) VALUES ({', '.join('?' * 12)})"


def new_id() -> str:
    """Return a name for an answer, which nobody can guess."""
    return secrets.token_hex(8)


@dataclass(frozen=True)
class Record:
    """One answer and all that it came from.

    Attributes:
        mode: "predict", "certify" or "set".
        pixels: What the model saw, shape (C, H, W), float32.
        seed: Seed of the noise; None where none was drawn.
        asked: Parameters of the request, as JSON values.
        answer: The answer as it was given, as JSON values.
        votes: By stage of the noise the class per sample, shape (n,), int16; -1 for no vote.
        client: Name of who asked; None where nobody has one.
        id: Name of the answer.
        time: When it was made, in seconds since 1970.
        number: Place in the record, from 1; 0 before it is written.
        about: What answered, as JSON values; see :class:`Records`.
        digest: SHA-256 over this record and the digest of what was written before it: a record,
            or the true class of one that was told.
    """

    mode: str
    pixels: NDArray[np.float32]
    seed: int | None
    asked: Mapping[str, Any]
    answer: Mapping[str, Any]
    votes: Mapping[int, NDArray[np.int16]] = field(default_factory=dict)
    client: str | None = None
    id: str = field(default_factory=new_id)
    time: float = field(default_factory=time.time)
    number: int = 0
    about: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""

    @property
    def image_sha256(self) -> str:
        """SHA-256 of the pixels: shape, then float32 numbers, little-endian."""
        head = ",".join(map(str, self.pixels.shape)).encode()
        return hashlib.sha256(head + self.pixels.astype("<f4").tobytes()).hexdigest()


_Entry = tuple[Callable[[], Record] | Label, Future[Any]]


def promise() -> Future[Record]:
    """Make what a record is promised by: nobody who waits for it can call it off."""
    done: Future[Record] = Future()
    done.set_running_or_notify_cancel()
    return done


class Records:
    """Write answers to the disk; many requests share one write.

    The file is SQLite, with a write-ahead log that is synchronised with the disk at every commit
    (``synchronous = FULL``): what :meth:`add` has returned from survives a kill and a power cut.
    Triggers refuse changes, and each row's digest covers the one before it, be that a record or
    the true class of one.

    Args:
        folder: The service's folder.
        about: What answers, as JSON values: model, hashes, settings, versions.

    Raises:
        RunError: If the file cannot be written.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self.path = folder / NAME
        self.failed: str | None = None
        self._queue: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._about = dict(about)
        try:
            if not self.path.exists():  # it holds images and seeds: for its owner alone
                os.close(os.open(self.path, os.O_CREAT | os.O_WRONLY, 0o600))
            self._base = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None)
            self._base.execute("PRAGMA journal_mode = WAL")
            self._base.execute("PRAGMA synchronous = FULL")
            self._base.executescript(_TABLES + TABLE + _FIXED)
            made = self._base.execute(
                "INSERT INTO services (began, about) VALUES (?, ?)",
                (time.time(), json.dumps(self._about, sort_keys=True)),
            )
            last = self._base.execute(
                "SELECT number, digest FROM answers ORDER BY number DESC LIMIT 1"
            ).fetchone() or (0, "")
            told = self._base.execute(
                "SELECT after, digest FROM labels WHERE after = ? ORDER BY number DESC LIMIT 1",
                last[:1],
            ).fetchone()
        except (sqlite3.Error, OSError) as error:
            raise RunError(
                f"cannot keep records in {self.path}: {error}; give another folder with --out"
            ) from None
        self._service = made.lastrowid
        self._place, self._last = int(last[0]), str((told or last)[1])
        self._thread = threading.Thread(target=self._write, name="records", daemon=True)
        self._thread.start()

    def add(self, record: Record) -> Record:
        """Put a record on the disk; return it with its number and digest.

        Raises:
            RunError: If it could not be written; the answer must not be given then.
        """
        done = promise()
        self.put(lambda: record, done)
        return done.result()

    def put(self, make: Callable[[], Record], done: Future[Record]) -> None:
        """Have a record put on the disk, and do not wait for it.

        Args:
            make: Returns the record; called by the thread that writes.
            done: Gets what :meth:`add` returns or raises; see :func:`promise`.
        """
        self._queue.put((make, done))

    def tell(self, label: Label) -> None:
        """Put the true class of an answer on the disk; one that was told before stays.

        Raises:
            RunError: If it could not be written.
        """
        done: Future[Label] = Future()
        self._queue.put((label, done))
        done.result()

    def close(self) -> None:
        """Write what waits and close the file."""
        self._queue.put(None)
        self._thread.join()
        self._base.close()

    def _write(self) -> None:
        ends = False
        while not ends:
            group = [self._queue.get()]
            while len(group) < MOST_AT_ONCE and not self._queue.empty():
                group.append(self._queue.get())
            ends = None in group
            self._commit([entry for entry in group if entry is not None])

    def _commit(self, group: list[_Entry]) -> None:
        place, last, made = self._place, self._last, list[Record | Label]()
        try:
            self._base.execute("BEGIN IMMEDIATE")
            for make, _ in group:
                if isinstance(make, Label):
                    given = make.values(place)
                    digest = _digest(last, given)
                    if self._base.execute(INSERT, (*given, digest)).rowcount:
                        last = digest
                    made.append(make)
                    continue
                record = make()
                values = self._values(record)
                last = _digest(last, values)
                done = self._base.execute(
                    _APPEND,
                    (*values, last),
                )
                place = int(done.lastrowid or 0)
                made.append(replace(record, number=place, digest=last, about=self._about))
            self._base.execute("COMMIT")
        except sqlite3.Error as error:
            self.failed = f"the record cannot be written: {error}"
            if self._base.in_transaction:
                self._base.execute("ROLLBACK")
            for _, future in group:
                future.set_exception(RunError(self.failed))
            return
        self.failed, self._place, self._last = None, place, last
        for (_, future), entry in zip(group, made, strict=True):
            future.set_result(entry)

    def _values(self, record: Record) -> tuple[Any, ...]:
        votes = {str(stage): _packed(found) for stage, found in record.votes.items()}
        return (
            record.id,
            self._service,
            record.time,
            record.client,
            record.mode,
            _image(record.pixels),
            record.image_sha256,
            None if record.seed is None else f"{record.seed:032x}",
            json.dumps(record.asked, sort_keys=True),
            json.dumps(record.answer, sort_keys=True),
            json.dumps(votes, sort_keys=True),
        )


class RecordReader:
    """Read the answers of a service, which may be running.

    Args:
        folder: The service's folder.

    Raises:
        RunError: If there are none.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / NAME
        if not path.is_file():
            raise RunError(f"there are no answers in {folder}; name the folder of a service")
        self._path = path

    def find(self, name: str) -> Record | None:
        """Return the record of an answer; None if there is none.

        Raises:
            RunError: If the file cannot be read.
        """
        return next(self._select("WHERE answers.id = ?", name), None)

    def since(self, number: int) -> Iterator[Record]:
        """Yield the records after a number, in their order.

        Raises:
            RunError: If the file cannot be read.
        """
        return self._select("WHERE answers.number > ? ORDER BY answers.number", number)

    def label(self, name: str) -> int | None:
        """Return the true class of an answer; None where nobody told it.

        Raises:
            RunError: If the file cannot be read.
        """
        rows = self._rows("SELECT class FROM labels WHERE id = ?", (name,))
        return next((int(row[0]) for row in rows), None)

    def labels(self, number: int) -> Iterator[tuple[int, str, int]]:
        """Yield number, answer's id and true class of those that were told after a number.

        Raises:
            RunError: If the file cannot be read.
        """
        return self._rows(
            "SELECT number, id, class FROM labels WHERE number > ? ORDER BY number", (number,)
        )

    def check(self) -> str | None:
        """Compute every digest again, of answers and of the classes that were told of them.

        That the last rows were cut off cannot be seen in those before them.

        Returns:
            Id of the answer whose row, or whose told class, is the first that is not as it was
            written or that something before it is missing of; None where all are.
        """
        last = ""
        rows = heapq.merge(
            self._rows(f"SELECT number, 0, {_COLUMNS} FROM answers ORDER BY number", ()),
            self._rows(f"SELECT after, number, {COLUMNS}, digest FROM labels ORDER BY number", ()),
            key=lambda row: (row[0], row[1]),
        )
        for _, _, *values, digest in rows:
            last = _digest(last, tuple(values))
            if last != digest:
                return str(values[0])
        return None

    def _select(self, where: str, value: str | int) -> Iterator[Record]:
        names = ", ".join(f"answers.{name}" for name in _COLUMNS.split(", "))
        rows = self._rows(
            f"SELECT answers.number, {names}, services.about FROM answers JOIN services "
            f"ON services.number = answers.service {where}",
            (value,),
        )
        for (
            number,
            id,
            _,
            at,
            client,
            mode,
            image,
            _,
            seed,
            asked,
            answer,
            votes,
            hash,
            about,
        ) in rows:
            try:
                yield Record(
                    mode=mode,
                    pixels=_pixels(image),
                    seed=None if seed is None else int(seed, 16),
                    asked=json.loads(asked),
                    answer=json.loads(answer),
                    votes={int(k): _unpacked(v) for k, v in json.loads(votes).items()},
                    client=client,
                    id=id,
                    time=at,
                    number=number,
                    about=json.loads(about),
                    digest=hash,
                )
            except (ValueError, zlib.error) as error:
                raise RunError(f"record {id} in {self._path} is damaged: {error}") from None

    def _rows(self, statement: str, values: tuple[Any, ...]) -> Iterator[Any]:
        try:
            base = sqlite3.connect(f"{self._path.resolve().as_uri()}?mode=ro", uri=True)
            try:
                yield from base.execute(statement, values)
            finally:
                base.close()
        except sqlite3.Error as error:
            raise RunError(f"cannot read {self._path}: {error}") from None


def _digest(last: str, values: tuple[Any, ...]) -> str:
    found = hashlib.sha256(last.encode())
    for value in values:
        part = value if isinstance(value, bytes) else repr(value).encode()
        found.update(len(part).to_bytes(8, "little") + part)
    return found.hexdigest()


def _image(pixels: NDArray[np.float32]) -> bytes:
    head = np.array(pixels.shape, dtype="<i4").tobytes()
    return zlib.compress(head + pixels.astype("<f4").tobytes(), 1)


def _pixels(image: bytes) -> NDArray[np.float32]:
    data = zlib.decompress(image)
    shape = np.frombuffer(data[:12], dtype="<i4")
    return np.frombuffer(data[12:], dtype="<f4").reshape(shape).astype(np.float32)


def _packed(predictions: NDArray[np.int16]) -> str:
    return zlib.compress(predictions.astype("<i2").tobytes(), 1).hex()


def _unpacked(text: str) -> NDArray[np.int16]:
    return np.frombuffer(zlib.decompress(bytes.fromhex(text)), dtype="<i2").astype(np.int16)
