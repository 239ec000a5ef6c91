"""The scripts for schedulers, run as these would: an index in the environment, a folder for all."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_scale import essence

from deqcert.cli import main
from deqcert.runs.journal import CERTIFICATES
from deqcert.scale.merge import timeless

CLUSTER = Path(__file__).parent.parent / "examples" / "cluster"
SETTINGS = {"images": "0:4", "n0": 10, "n": 60, "tol": 0.0, "depth": 3, "batch": 50, "sigma": 0.25}

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs a shell")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all jobs see, with settings and a deqcert on the path."""
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "settings.yaml").write_text(yaml.safe_dump({**SETTINGS, "agreement": 1.0}))
    command = folder / "bin" / "deqcert"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m deqcert "$@"\n')
    command.chmod(0o755)
    return folder


def run(place: Path, words: list[str], **environment: str) -> None:
    """Run a job's command."""
    path = f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}"
    found = subprocess.run(
        words, env={**os.environ, **environment, "PATH": path}, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr


@pytest.fixture(scope="module")
def slurm(place: Path) -> Path:
    """What an array of two tasks leaves."""
    shared = {"RUN": str(place / "array"), "SETTINGS": str(place / "settings.yaml"), "SHARDS": "2"}
    words = ["bash", str(CLUSTER / "slurm.sh")]
    for task in ("1", "2"):
        run(place, words, SLURM_ARRAY_TASK_ID=task, SLURM_CPUS_PER_TASK="1", **shared)
    run(place, [*words, "merge"], **shared)
    return place / "array"


def test_a_slurm_array_and_its_merge_are_the_bytes_of_one_process(
    place: Path, slurm: Path, tmp_path: Path
) -> None:
    out = tmp_path / "whole"
    given = f"certify --config {place / 'settings.yaml'} --threads 1 --quiet --out {out}"
    assert main(given.split()) == 0
    assert essence(slurm / "whole") == essence(out)


def test_a_pod_certifies_its_shard(place: Path, slurm: Path) -> None:
    job: Any = yaml.safe_load((CLUSTER / "kubernetes.yaml").read_text())["spec"]
    (pod,) = job["template"]["spec"]["containers"]
    shell, flag, (text,) = *pod["command"], pod["args"]
    assert f"/{job['completions']}" in text
    assert f"--threads {pod['resources']['limits']['cpu']} " in text
    for was, now in (("/runs", str(place)), (r"/64\b", "/2"), ("--threads 4", "--threads 1")):
        text, count = re.subn(was, now, text)
        assert count >= 1
    (place / "cifar10").mkdir()
    run(place, [shell, flag, text], JOB_COMPLETION_INDEX="1")
    pods, tasks = place / "cifar10" / "shard-1", slurm / "shard-2"
    first, second = (
        [timeless(line, CERTIFICATES) for line in (at / CERTIFICATES.name).read_text().splitlines()]
        for at in (pods, tasks)
    )
    assert first == second
    noted = [
        json.loads((at / "manifest.json").read_text())["notes"]["shard"] for at in (pods, tasks)
    ]
    assert noted[0] == noted[1]


def test_the_settings_of_the_example_are_settings() -> None:
    from deqcert.cli.options import read_settings

    assert read_settings(CLUSTER / "settings.yaml")["n"] == 100000
