"""A Ray cluster of three nodes on this machine, one of them killed: the bytes of one process."""

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
