"""Every example runs as it stands and prints what its readers expect."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXPECTED = {
    "solve_tensors.py": "CONVERGED",
    "solve_in_torchdeq.py": "gradient of the weights",
    "solve_arrays.py": "100% converged",
    "solve_deq_layer.py": "accuracy 9",
    "solve_optimisation_layer.py": "relative error of the matrix found",
    "solve_stream.py": "% saved",
    "certify_torchdeq_model.py": "radius 0.",
}


def test_every_example_is_listed():
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_example_runs(name):
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert EXPECTED[name] in done.stdout
