"""Trainings stopped at random moments, by kill -9 and by Ctrl-C: the same bytes at their end.

``make kills`` stops each of them fifty times.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TIMES = int(os.environ.get("DEQCERT_KILLS", "3"))

pytestmark = pytest.mark.kills


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    here = Path(__file__).resolve().parent
    path = os.pathsep.join([str(here), *sys.path])
    done = subprocess.run(
        [sys.executable, here / "kills.py", tmp_path_factory.mktemp("kills"), str(TIMES)],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)  # the figures, with pytest -s
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("signal", ["SIGKILL", "SIGINT"])
@pytest.mark.parametrize("command", ["train", "train-start"])
def test_stopped_at_random_it_goes_on_to_the_same_bytes(
    told: dict[str, Any], command: str, signal: str
) -> None:
    assert sum(told[command]["found"][signal].values()) == TIMES
    assert told[command]["ends"] >= 1
