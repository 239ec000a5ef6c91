"""Standard error holds what deqcert says and nothing else, whoever warns or leaves."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from wrong_calls import make_files

OURS = re.compile(
    r"deqcert: .+"
    r"|image \d+ \(\d+ of \d+\): .+"  # certify and attack
    r"|.+, .+, .+: (.+ evaluations per vote|no vote was cast).*"  # bench
    r"|\w+, B \d+, D \d+: .+ ms"  # bench solvers
    r"|(\w+: being made \.\.\.)"  # bench forms and cell
    r"|\s*\d+%  .+"  # train and train-start
    r"|"
)
"""Every line that a command may write to standard error."""

SMALL = "--model ok.pth --data npz:data.npz --sigma 0.01"
LINES = [
    f"certify {SMALL} --images 0:2 --n0 10 --n 60 --tol 0 --depth 2 --out new",
    f"predict {SMALL} --images 0:2 --n 20",
    f"plan {SMALL} --radii 0.001 --pilot 5 --n 2000 --images 0:1",
    f"bench {SMALL} --images 0:1 --n 50 --batch 10 --n0 10 --starts cold,mean --depths 1 --depth 5 "
    "--tol 0.3 --reference-tol 0.3 --reference-depth 5 --picture bench.svg",
    "bench cell --model ok.pth --batch 2 --rounds 1 --form folded",
    "bench solvers --sizes 8 --batches 1 --rounds 1",
    "attack run --attack square:steps=1 --attack pgd-phantom:steps=1 --n 200 "
    "--alpha 0.05 --search 5",
    "train --out new --data npz:data.npz --test-data npz:other.npz --epochs 1 --batch 2 "
    "--pretrain 0",
    "train-start --out start.pth --steps 4 --batch 6 --tune-images 12",
    "report run --picture curve.pdf",
    "doctor",
    "predict --model ok.pth --sigma 0.01 --n 20 picture.png pixels.npy",
]


def deqcert(
    folder: Path, line: str, *options: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command line in a process of its own, with Python's warnings as they come."""
    command = [sys.executable, *options, "-m", "deqcert", *line.split()]
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    return subprocess.run(
        command,
        cwd=folder,
        env={**kept, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, before = tmp_path_factory.mktemp("files"), Path.cwd()
    os.chdir(folder)
    try:
        make_files(folder)
        np.save("pixels.npy", np.zeros((8, 8), np.uint8))
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    for name in ("ok.pth", "ok.yaml", "data.npz", "other.npz", "picture.png", "pixels.npy"):
        shutil.copy(made / name, tmp_path / name)
    shutil.copytree(made / "run", tmp_path / "run")
    return tmp_path


@pytest.mark.parametrize("line", LINES, ids=lambda line: " ".join(line.split()[:2]))
def test_standard_error_holds_our_lines_alone(folder: Path, line: str) -> None:
    """With no cache of fonts, and no place for one: what a first call in a container finds."""
    nowhere = {"HOME": "/proc/none", "MPLCONFIGDIR": "/proc/none", "XDG_CACHE_HOME": "/proc/none"}
    done = deqcert(folder, line, **nowhere)
    assert done.returncode == 0, done.stderr
    foreign = [text for text in re.split(r"[\n\r]", done.stderr) if not OURS.fullmatch(text)]
    assert not foreign


BOMB = """
import os, runpy, signal, sys
class Bomb:
    def find_spec(self, name, path=None, target=None):
        if name == {at!r}:
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Bomb())
sys.argv = ["deqcert", "report", "nowhere"]
runpy.run_module("deqcert", run_name="__main__")
"""


@pytest.mark.parametrize(
    "at", ["deqcert.cli", "click", "deqcert.api", "deqcert.cli.report", "numpy"]
)
def test_ctrl_c_while_it_is_being_loaded_is_one_sentence(folder: Path, at: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BOMB.format(at=at)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 130, done.stderr
    assert done.stderr == "deqcert: interrupted.\n"
    assert done.stdout == ""
