"""Workers: results in order whatever is lost, repeated or different; the bytes of one process."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from test_scale import SMALL, certify, essence

from deqcert.cli import main
from deqcert.errors import ConfigError, DataError, RunError
from deqcert.scale import facts, ray_cluster, schedule
from deqcert.scale.base import Serial
from deqcert.scale.schedule import AHEAD, TRIES, Event, Pool, Pooled, attempt, open_work


@dataclass(frozen=True)
class Squares:
    """Work that refuses a number."""

    refused: int = -1
    device: str = "cpu"

    def open(self) -> Any:
        """Return what squares."""
        return self.square

    def square(self, task: int) -> int:
        """Square a number."""
        if task == self.refused:
            raise DataError(f"{task} is refused")
        return task * task

    def same(self, first: int, second: int) -> bool:
        """Whether they are equal."""
        return first == second


class Here(Pool):
    """Workers that live in this process, work in any order, and are lost now and then."""

    advice = "be patient"

    def __init__(self, size: int, seed: int = 0, lost: float = 0.0, repeats: bool = False) -> None:
        self.size, self.repeats = size, repeats
        self.draw, self.lost, self.closed = random.Random(seed), lost, False
        self.events: list[Event] = []
        self.next = self.most = self.given = 0

    def start(self, work: bytes) -> None:
        """Start them."""
        self.compute, self.told = open_work(work)
        for _ in range(self.size):
            self.add()

    def add(self) -> None:
        """Start one."""
        self.events.append(Event(self.next, "ready", self.told))
        self.next += 1

    def give(self, worker: Hashable, task: Any) -> None:
        """Compute at once; tell later, or never."""
        self.given += 1
        if self.draw.random() < self.lost:
            self.events.append(Event(worker, "lost", "SIGKILL"))
            self.add()
        else:
            assert self.compute is not None
            self.events.append(Event(worker, "done", attempt(lambda: self.compute(task))))

    def wait(self, seconds: float | None = None) -> list[Event]:
        """Tell one thing that has happened."""
        return [self.events.pop(self.draw.randrange(len(self.events)))]

    def close(self) -> None:
        """Note it."""
        self.closed = True


@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize("size", [1, 2, 7])
def test_results_come_in_order_whatever_is_lost(size: int, repeats: bool) -> None:
    for seed in range(20):
        pool = Here(size, seed, lost=0.02, repeats=repeats)
        arrived: list[int] = []
        found = list(Pooled(lambda pool=pool: pool).results(Squares(), range(40), arrived.append))  # type: ignore[misc]
        assert found == list(Serial().results(Squares(), range(40))) == [i * i for i in range(40)]
        assert sorted(arrived) == found
        assert pool.closed


def test_what_a_task_raises_comes_in_its_turn() -> None:
    pool = Here(3)
    found = Pooled(lambda: pool).results(Squares(refused=5), range(9))
    assert [next(found) for _ in range(5)] == [0, 1, 4, 9, 16]
    with pytest.raises(DataError, match="5 is refused"):
        next(found)
    assert pool.closed


def test_tasks_are_read_only_a_few_ahead() -> None:
    read: list[int] = []

    def tasks() -> Iterator[int]:
        for i in range(1000):
            read.append(i)
            yield i

    pool = Here(2)
    found = Pooled(lambda: pool).results(Squares(), tasks())
    next(found)
    assert len(read) <= 2 * AHEAD + 1
    found.close()
    assert pool.closed


def test_a_task_that_ends_every_worker_is_given_up() -> None:
    pool = Here(2, lost=1.0)
    with pytest.raises(RunError, match=rf"ended {TRIES} workers \(SIGKILL\); be patient"):
        list(Pooled(lambda: pool).results(Squares(), range(5)))


class Told(Here):
    """Workers of a script: what each wait brings, and how much later it is then."""

    def __init__(self, size: int, script: list[tuple[float, list[Event]]]) -> None:
        super().__init__(size, repeats=True)
        self.script, self.now, self.tasks = script, 0.0, list[tuple[Hashable, Any]]()

    def start(self, work: bytes) -> None:
        """Start them, all at once."""
        self.events = [Event(i, "ready", facts.facts("cpu")) for i in range(self.size)]

    def give(self, worker: Hashable, task: Any) -> None:
        """Note it."""
        self.tasks.append((worker, task))

    def wait(self, seconds: float | None = None) -> list[Event]:
        """Go on in the script."""
        if self.events:
            told, self.events = self.events, []
            return told
        later, told = self.script.pop(0)
        if seconds is not None and seconds < later:
            self.script.insert(0, (later - seconds, told))
            later, told = seconds, []
        self.now += later
        return told


def done(worker: int, value: int) -> Event:
    """What a worker tells when it is done."""
    return Event(worker, "done", value)


def told(monkeypatch: pytest.MonkeyPatch, pool: Told, tasks: int) -> list[int]:
    """Compute by a script, by its clock."""
    monkeypatch.setattr(schedule.time, "monotonic", lambda: pool.now)
    return list(Pooled(lambda: pool).results(Squares(), range(tasks)))


def test_only_what_is_late_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two workers, four tasks of a second; the last one takes 1.9 s, or for ever.
    begun = [(1.0, [done(0, 0), done(1, 1)])]
    pool = Told(2, [*begun, (1.0, [done(0, 4)]), (0.9, [done(1, 9)])])
    assert told(monkeypatch, pool, 4) == [0, 1, 4, 9]
    assert pool.tasks == [(0, 0), (1, 1), (0, 2), (1, 3)]
    pool = Told(2, [*begun, (1.0, [done(0, 4)]), (3.0, [done(0, 9)])])
    assert told(monkeypatch, pool, 4) == [0, 1, 4, 9]
    assert pool.tasks[-1] == (0, 3)
    assert pool.now == pytest.approx(5.0)


def test_a_late_task_that_all_wait_for_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    # The first task hangs; the other worker goes on until it may not go further ahead.
    most = 2 * AHEAD
    script = [(1.0, [done(1, i * i)]) for i in range(1, most)]
    script += [(1.0, [done(1, 0)]), (1.0, [done(1, most * most)])]
    pool = Told(2, script)
    assert told(monkeypatch, pool, most + 1) == [i * i for i in range(most + 1)]
    assert pool.tasks[most:] == [(1, 0), (1, most)]


def test_different_results_of_one_task_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Told(2, [(1.0, [done(0, 0)]), (9.0, [done(0, 1), done(1, 2)])])
    with pytest.raises(RunError, match="two workers gave different results"):
        told(monkeypatch, pool, 2)


def test_a_worker_with_another_version_is_refused() -> None:
    class Old(Here):
        def start(self, work: bytes) -> None:
            self.events.append(Event("b", "ready", {**facts.facts("cpu"), "torch": "1.0"}))

    with pytest.raises(ConfigError, match=r"worker b has torch 1\.0 and this process"):
        list(Pooled(lambda: Old(1)).results(Squares(), range(5)))


def test_work_that_cannot_be_sent_is_refused() -> None:
    class Local(Squares):
        pass

    with pytest.raises(ConfigError, match="cannot be sent"):
        list(Pooled(lambda: Here(1)).results(Local(), range(2)))


def test_workers_and_ray_are_one_too_many(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certify", "--workers", "2", "--ray", "local"]) == 2
    assert "give one of them" in capsys.readouterr().err


def test_without_ray_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"deqcert\[ray\]"):
        ray_cluster.RayCluster("local", 1, gpu=False)


def _children(pid: int) -> list[int]:
    """Return the workers of a process."""
    tasks = Path(f"/proc/{pid}/task")
    found = " ".join(file.read_text() for file in tasks.glob("*/children")).split()
    return [
        int(child)
        for child in found
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
def test_killed_workers_and_a_killed_driver_change_no_byte(tmp_path: Path) -> None:
    whole = certify(tmp_path / "one" / "run", "--threads 1")
    out = tmp_path / "many" / "run"
    more = f"--threads 1 --workers 2 --quiet --out {out}"
    command = [sys.executable, "-m", "deqcert", *SMALL.split(), *more.split()]

    def started() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def wait_for(lines: int, process: subprocess.Popen[bytes]) -> None:
        journal = out / "certificates.tsv"
        while not journal.exists() or journal.read_bytes().count(b"\n") <= lines:
            assert process.poll() is None
            time.sleep(0.01)

    process = started()
    wait_for(1, process)
    workers = _children(process.pid)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline, "workers outlive the driver"
        time.sleep(0.01)
    process = started()
    while len(found := _children(process.pid)) < 2:
        time.sleep(0.01)
    os.kill(found[0], signal.SIGKILL)
    _, said = process.communicate()
    assert process.returncode == 0, said.decode()
    assert essence(out) == essence(whole)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
def test_ctrl_c_ends_the_workers_and_says_one_sentence(tmp_path: Path) -> None:
    more = f"--n 100000 --threads 1 --workers 2 --quiet --out {tmp_path / 'run'}"
    process = subprocess.Popen(
        [sys.executable, "-m", "deqcert", *SMALL.split(), *more.split()],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    while len(found := _children(process.pid)) < 2:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert said.decode().count("\n") == 1
    assert "0 of 5 images are safe" in said.decode()
    assert not any(Path(f"/proc/{worker}").exists() for worker in found)
