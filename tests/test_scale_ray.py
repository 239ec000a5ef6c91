"""Ray on this machine, with a node or the driver killed: the bytes of one process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_scale import SMALL, certify, essence

NODE = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": 10**8}
NODE |= {"include_log_monitor": False}


@pytest.mark.long
def test_a_local_cluster_finds_the_bytes_of_one_process(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    whole = certify(tmp_path / "one" / "run", "--threads 1")
    out = tmp_path / "ray" / "run"
    more = f"--threads 1 --ray local --quiet --out {out}"
    command = [sys.executable, "-m", "deqcert", *SMALL.split(), *more.split()]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    actors = set[int]()
    journal = out / "certificates.tsv"
    while not journal.exists() or journal.read_bytes().count(b"\n") < 2:
        assert process.poll() is None
        actors |= {pid for pid in under(process.pid) if b"_Worker" in called(pid)}
        time.sleep(0.01)
    assert actors
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 30
    while any(b"_Worker" in called(pid) for pid in actors):
        assert time.monotonic() < deadline, "actors outlive the driver"
        time.sleep(0.1)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert essence(out) == essence(whole)


def under(pid: int) -> set[int]:
    """Return the processes that a process has begun, and those that these have."""
    found = " ".join(
        file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/children")
    ).split()
    return {int(child) for child in found}.union(*(under(int(child)) for child in found))


def called(pid: int) -> bytes:
    """Return what a process is called; nothing for one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.long
def test_a_cluster_that_loses_a_node_finds_the_bytes_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    Cluster = pytest.importorskip("ray.cluster_utils").Cluster
    whole = certify(tmp_path / "one" / "run", "--threads 1 --images 0:12")
    head = {**NODE, "include_dashboard": False, "no_monitor": True}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        lost, _ = cluster.add_node(**NODE), cluster.add_node(**NODE)
        out = tmp_path / "ray" / "run"
        more = f"--threads 1 --images 0:12 --ray {cluster.address} --quiet --out {out}"
        command = [sys.executable, "-m", "deqcert", *SMALL.split(), *more.split()]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        journal = out / "certificates.tsv"
        while not journal.exists() or journal.read_bytes().count(b"\n") < 2:
            assert process.poll() is None
            time.sleep(0.01)
        for started in lost.all_processes.values():
            for one in started:
                os.kill(one.process.pid, signal.SIGKILL)
        _, said = process.communicate()
        assert process.returncode == 0, said.decode()
    finally:
        cluster.shutdown()
    assert essence(out) == essence(whole)
