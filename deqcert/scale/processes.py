"""Workers of this machine: processes that end with the one that started them."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Hashable
from contextlib import suppress
from multiprocessing import connection, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from deqcert.scale.schedule import Event, Pool, attempt, open_work


class Processes(Pool):
    """Processes of this machine.

    Args:
        size: How many, from 1.
    """

    advice = "if memory is short, give fewer --workers or a smaller --batch"

    def __init__(self, size: int) -> None:
        self.size = size
        self._context = multiprocessing.get_context("spawn")
        self._workers: dict[int, tuple[SpawnProcess, Connection]] = {}
        self._born: set[int] = set()
        self._next = 0
        self._work = b""

    def start(self, work: bytes) -> None:
        """Start the workers."""
        self._work = work
        for _ in range(self.size):
            self._start_one()

    def give(self, worker: Hashable, task: Any) -> None:
        """Send a task; a worker that has ended meanwhile is found out by :meth:`wait`."""
        with suppress(OSError):
            self._workers[worker][1].send_bytes(pickle.dumps(task))  # type: ignore[index]

    def wait(self, seconds: float | None = None) -> list[Event]:
        """Wait until workers have sent something or ended; see :meth:`Pool.wait`."""
        at = {connected: name for name, (_, connected) in self._workers.items()}
        events = []
        for found in connection.wait(list(at), seconds):
            worker = at[found]  # type: ignore[index]
            try:
                value = pickle.loads(self._workers[worker][1].recv_bytes())
            except (EOFError, OSError):
                events.append(Event(worker, "lost", self._bury(worker)))
                self._start_one()
                continue
            events.append(Event(worker, "done" if worker in self._born else "ready", value))
            self._born.add(worker)
        return events

    def close(self) -> None:
        """Kill all workers: they hold nothing that could be lost."""
        for process, _ in self._workers.values():
            process.kill()
        for worker in list(self._workers):
            self._bury(worker)

    def _start_one(self) -> None:
        mine, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, self._work), daemon=True)
        # Ctrl-C is for this process, which ends the others; they must not hear of it even while
        # they are loaded, and what is blocked here is blocked there for good.
        resource_tracker.ensure_running()  # its first start would lift the block
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()  # so that the end of the worker is the end of the pipe
        self._workers[self._next] = process, mine
        self._next += 1

    def _bury(self, worker: int) -> str:
        """Forget a worker that has ended; say how it did."""
        process, connected = self._workers.pop(worker)
        connected.close()
        process.join()
        code = process.exitcode or 0
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _serve(connected: Connection, work: bytes) -> None:
    """Work until there is nobody to work for; the main function of a worker."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    compute, told = open_work(work)
    with suppress(EOFError, OSError):
        connected.send_bytes(pickle.dumps(told))
        while compute is not None:
            task = pickle.loads(connected.recv_bytes())
            result = attempt(lambda: compute(task))  # noqa: B023
            connected.send_bytes(pickle.dumps(result))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
