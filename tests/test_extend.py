"""Whatever has a registry joins from outside: a toy of each kind is used through the command line.

CONTRIBUTING.md promises how many files of deqcert an addition touches. Here it touches none: what
is registered, or named by an entry point, is found by the command line, its help and its sentences.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plugins import TOYS

from deqcert.attacks import ATTACKS
from deqcert.certifiers import CERTIFIERS
from deqcert.cli import main
from deqcert.data import LOADERS
from deqcert.models import ARCHITECTURES, FORMS
from deqcert.presets import PRESETS
from deqcert.registry import Registry
from deqcert.report import read_results
from deqcert.solvers import SOLVERS
from deqcert.solvers.gradients import GRADIENTS
from deqcert.starts import STARTS
from deqcert.training import OBJECTIVES

REGISTRIES: dict[str, Registry[Any]] = {
    "solver": SOLVERS,
    "method": CERTIFIERS,
    "proof": CERTIFIERS,
    "architecture": ARCHITECTURES,
    "form": FORMS,
    "start": STARTS,
    "objective": OBJECTIVES,
    "attack": ATTACKS,
    "gradient": GRADIENTS,
    "data": LOADERS,
    "preset": PRESETS,
}
QUICK = ["--preset", "toy", "--images", "0:3", "--quiet"]


@pytest.fixture(scope="module", autouse=True)
def toys() -> Iterator[None]:
    for kind, (name, toy) in TOYS.items():
        REGISTRIES[kind].register(name, toy)
    yield
    for kind, (name, _) in TOYS.items():
        REGISTRIES[kind].unregister(name)


def certify(tmp_path: Path, *options: str) -> Any:
    out = tmp_path / "run"
    assert main(["certify", *QUICK, "--out", str(out), *options]) == 0
    return read_results(out)


@pytest.mark.parametrize("kind", TOYS)
def test_a_name_is_taken_once_and_an_unknown_one_names_the_nearest(kind: str) -> None:
    registry, (name, toy) = REGISTRIES[kind], TOYS[kind]
    assert name in registry.names()
    assert registry.get(name) is toy
    with pytest.raises(Exception, match="already"):
        registry.register(name, toy)
    with pytest.raises(Exception, match=f"did you mean {name}"):
        registry.get(name + "y")


@pytest.mark.parametrize(
    "options",
    [
        ("--solver", "toy", "--solver-option", "share=0.8"),
        ("--method", "toy", "--method-option", "share=0.95"),
        ("--start", "toy"),
        ("--form", "toy"),
        ("--data", "toy"),
        ("--method", "toy-proof"),
    ],
)
def test_certify_takes_toys(options: tuple[str, ...], tmp_path: Path) -> None:
    results = certify(tmp_path, *options)
    assert len(results) == 3
    assert results.correct.any()
    assert main(["report", str(tmp_path / "run")]) == 0


def test_a_proof_says_how_it_was_computed_and_nothing_of_noise(tmp_path: Path) -> None:
    certify(tmp_path, "--method", "toy-proof")
    found = json.loads((tmp_path / "run" / "manifest.json").read_text())["parameters"]
    assert {"device", "form", "threads", "deqcert", "checkpoint_sha256", "data_hash"} <= set(found)
    assert not {"sigma", "seed", "n", "n0", "alpha", "predictor"} & set(found)


def test_options_of_a_toy_are_checked_in_a_sentence(capsys: pytest.CaptureFixture) -> None:
    for option in ("--solver-option", "--method-option"):
        given = ["certify", *QUICK, "--solver", "toy", "--method", "toy", option]
        assert main([*given, "share=2"]) == 2
        assert "share is 2, but it must be a number above 0 to 1" in capsys.readouterr().err
        assert main([*given, "sharp=2"]) == 2
        assert "share" in capsys.readouterr().err


def test_help_and_completion_offer_toys(capsys: pytest.CaptureFixture) -> None:
    from deqcert.cli.certify import command

    for name in ("solver", "method", "form", "start", "data"):
        parameter = next(p for p in command.params if p.name == name)
        offered = parameter.type.shell_complete(None, parameter, "to")
        assert "toy" in {item.value for item in offered}, name


def test_a_toy_model_is_trained_with_a_toy_objective_and_certified(tmp_path: Path) -> None:
    out = tmp_path / "model"
    given = ["train", "--out", str(out), "--architecture", "toy", "--objective", "toy"]
    more = ["--objective-option", "weight=1.5", "--gradient", "toy", "--epochs", "2"]
    assert main([*given, *more, "--test-draws", "1", "--quiet"]) == 0
    results = certify(tmp_path, "--model", str(out / "model.pth"), "--sigma", "0.25")
    assert len(results) == 3


def test_a_toy_attack_attacks_a_run(tmp_path: Path) -> None:
    certify(tmp_path)
    run = str(tmp_path / "run")
    given = ["attack", run, "--attack", "toy", "--n", "200", "--search", "20", "--quiet"]
    assert main(given) == 0
    assert main(["attack", run, "--attack", "toy:steps=3"]) == 2


def test_a_package_brings_its_own_by_an_entry_point(tmp_path: Path) -> None:
    """An installed package is a folder with metadata; nothing of it is imported before its use."""
    info = tmp_path / "toys-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[deqcert.solvers]\ntoy = plugins:Halfway\n"
        "[deqcert.certifiers]\ntoy = plugins:Careful\nbroken = no_such_package:Thing\n"
    )
    paths = [
        str(tmp_path),
        str(Path(__file__).parent),
        *os.environ.get("PYTHONPATH", "").split(":"),
    ]
    environment = os.environ | {"PYTHONPATH": ":".join(filter(None, paths))}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "deqcert", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    asked = ["certify", "--preset", "cohen", "--n", "60", "--alpha", "0.1", "--sigma", "0.25"]
    asked += ["--images", "0:2", "--quiet", "--method", "toy", "--solver", "toy"]
    done = run(*asked, "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(read_results(tmp_path / "run").idx, [0, 1])
    assert "toy" in run("certify", "--help").stdout
    done = run("certify", "--sigma", "0.25", "--method", "broken")
    assert done.returncode == 2
    assert "cannot be imported" in done.stderr


def test_contributing_promises_what_the_issue_asks() -> None:
    root = Path(__file__).parent.parent
    text = (root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.partition("<!-- files-to-touch -->")[2]
    most = {"a solver in torch": 2, "a solver with kernels": 9, "a certifier": 2}
    most |= {"a trainable model": 2, "a data loader": 2}
    for what, files in most.items():
        row = next(line for line in table.splitlines() if line.startswith(f"| {what}"))
        assert int(row.split("|")[2]) <= files, row
