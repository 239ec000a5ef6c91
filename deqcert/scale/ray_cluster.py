"""Workers of a Ray cluster: one actor for each GPU, or for each share of a node's cores."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any

from deqcert.errors import ConfigError, RunError
from deqcert.runs.environment import cores
from deqcert.scale.schedule import Event, Pool, attempt, open_work

LOCAL = "local"
"""In place of an address: a cluster of this machine alone, for as long as it is needed."""

PATIENCE = 60.0
"""Seconds without any worker after which there is none to be waited for."""

SMALLEST_STORE = 2**27
"""Bytes of a local cluster's object store; what is kept there is the packed work."""


class RayCluster(Pool):
    """Actors of a Ray cluster.

    Args:
        address: That of a cluster, as ``ray.init`` takes it, or "local".
        threads: Cores of an actor.
        gpu: Whether each has a GPU of its own.

    Raises:
        ConfigError: If Ray is not installed.
    """

    advice = "deqcert must be installed on every node, in the same version, and memory suffice"
    repeats = True

    def __init__(self, address: str, threads: int, gpu: bool) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if address == LOCAL:  # Ray's name for it is of other systems; it stays on the loopback
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        try:
            import ray
        except ImportError:
            raise ConfigError(
                "--ray needs Ray, which is not installed; give pip install 'deqcert[ray]', or "
                "--workers N for the cores of this machine"
            ) from None
        self._ray: Any = ray
        self._address, self._gpu = address, gpu
        self._needs = {"num_cpus": threads, "num_gpus": 1 if gpu else 0}
        self._actors: dict[int, Any] = {}
        self._waiting: dict[Any, tuple[int, bool]] = {}
        self._open: set[int] = set()
        self._next = self.size = 0
        self._mine = False

    def start(self, work: bytes) -> None:
        """Join the cluster, put the work there once, and start an actor for each share of it."""
        ray = self._ray
        self._join(len(work))
        self._work = ray.put(work)
        kind, need = ("GPU", 1) if self._gpu else ("CPU", self._needs["num_cpus"])
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.size = sum(int(node.get(kind, 0) // need) for node in nodes)
        if not self.size:
            raise ConfigError(
                f"no node of the Ray cluster has {need} {kind} for a worker; give fewer --threads "
                "or another --device"
            )
        self._kind = ray.remote(_Worker).options(
            **self._needs, max_restarts=0, max_task_retries=0, scheduling_strategy="SPREAD"
        )
        for _ in range(self.size):
            self._start_one()

    def give(self, worker: Hashable, task: Any) -> None:
        """Send a task."""
        found = self._actors[worker].do.remote(pickle.dumps(task))  # type: ignore[index]
        self._waiting[found] = worker, False  # type: ignore[assignment]

    def wait(self, seconds: float | None = None) -> list[Event]:
        """Wait until actors have answered or are lost; see :meth:`Pool.wait`.

        Raises:
            RunError: If there has been no worker for a minute.
        """
        ray, events = self._ray, []
        done, _ = ray.wait(list(self._waiting), timeout=seconds if self._open else PATIENCE)
        if not done and not self._open:
            raise RunError(
                "the Ray cluster has had no free worker for a minute; the images so far are safe, "
                "and the same command goes on when there are cores"
            )
        for found in done:
            worker, born = self._waiting.pop(found)
            try:
                value = pickle.loads(ray.get(found))
            except ray.exceptions.RayError as error:
                self._forget(worker)
                events.append(Event(worker, "lost", _reason(error)))
                self._start_one()
                continue
            self._open.add(worker)
            events.append(Event(worker, "ready" if born else "done", value))
        return events

    def close(self) -> None:
        """End the actors, and the cluster where it is this process's own."""
        for worker in list(self._actors):
            self._forget(worker)
        if self._mine:
            self._ray.shutdown()

    def _join(self, size: int) -> None:
        ray, more = self._ray, {}
        if ray.is_initialized():
            return
        self._mine = True
        logging.getLogger("ray").setLevel(logging.ERROR)
        if self._address == LOCAL:
            store = max(SMALLEST_STORE, 4 * size)
            more = {
                "num_cpus": cores(),
                "include_dashboard": False,
                "object_store_memory": store,
            }
        try:
            ray.init(address=self._address, logging_level="ERROR", log_to_driver=False, **more)
        except Exception as error:  # Ray raises that very class where a node does not start in time
            first = " ".join(str(error).split())[:200] or type(error).__name__
            raise ConfigError(
                f"cannot use the Ray cluster {self._address!r} ({first}); give --ray HOST:PORT of "
                "a node that ray start --head began, or --ray local"
            ) from None

    def _start_one(self) -> None:
        actor = self._kind.remote(self._work)
        self._actors[self._next] = actor
        self._waiting[actor.ready.remote()] = self._next, True
        self._next += 1

    def _forget(self, worker: int) -> None:
        self._open.discard(worker)
        with suppress(Exception):  # one that is lost is gone already
            self._ray.kill(self._actors.pop(worker))


class _Worker:
    """What runs in an actor."""

    def __init__(self, work: bytes) -> None:
        self._compute: Callable[[Any], Any] | None
        self._compute, self._told = open_work(work)

    def ready(self) -> bytes:
        """Return this process's facts, or why it cannot work."""
        return pickle.dumps(self._told)

    def do(self, task: bytes) -> bytes:
        """Compute a task."""
        compute = self._compute
        assert compute is not None
        return pickle.dumps(attempt(lambda: compute(pickle.loads(task))))


def _reason(error: BaseException) -> str:
    """Say in a few words why an actor is lost."""
    return " ".join(str(error).split("\n")[0].split())[:160] or type(error).__name__
