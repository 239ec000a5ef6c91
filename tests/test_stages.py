"""The noise of certificates is theirs alone: every other use draws from stages of its own."""

from __future__ import annotations

import importlib
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from toys import ORIGIN, SIGMA, HalfLine, reference

from deqcert.cli import main
from deqcert.errors import ConfigError
from deqcert.smoothing import Input, SmoothingEngine, Stage
from deqcert.smoothing.seed import noise_key
from deqcert.training import OBJECTIVES

CERTIFICATES = {Stage.SELECT, Stage.ESTIMATE, Stage.AUDIT}
FEW = "--model digits --data digits --batch 40 --threads 1"
ONE = f"{FEW} --images 0:1 --sigma 0.25"
TWO = f"{FEW} --images 0:2 --sigma 0.7"
SIZES = "--n0 20 --n 200"
ATTACKS = {Stage.ATTACK, Stage.SEARCH, Stage.VERDICT}

INTERVALS = {"crown-ibp": "interval"}
"""Objectives for models that prove by intervals alone."""

USES: dict[str, tuple[list[str], set[int]]] = {
    # A use of noise: the commands that make it, and the stages that it draws from.
    "certificates": (
        [
            f"certify {ONE} {SIZES} --out run",
            f"certify {ONE} {SIZES} --start previous --steps 2 --audit 20 --out audited",
            f"certify {TWO} {SIZES} --out doubtful",
            f"certify {ONE} {SIZES} --keep-votes --out kept",
            "recertify kept --depth 20 --audit 50",
            f"certify {ONE} {SIZES} --tol 0 --depth 2 --agreement 1 --out quick",
        ],
        {*CERTIFICATES, Stage.AGREEMENT, Stage.RECERTIFY},
    ),
    "answers": ([f"predict {ONE} --n 40"], {Stage.PREDICT}),
    "plans": ([f"plan {ONE} --radii 0.1 --pilot 40"], {Stage.PILOT}),
    "attacks": (
        [
            f"attack {run} --attack smoothadv-pgd:steps=1,draws=2 --n 100"
            for run in ("run", "doubtful")
        ],
        {*ATTACKS, Stage.ANSWER},
    ),
    "prediction sets": (
        [
            f"conformal calibrate {FEW} --sigma 0.25 --images 0:20 --out held",
            "conformal sets held --images 20:22",
        ],
        {Stage.CALIBRATE, Stage.SETS},
    ),
    "evaluations": (
        [
            "evaluate digits --data digits --batch 40 --threads 1 --images 0:20 --sigma 0.25 "
            "--parts calibration --votes 20 --out evaluated"
        ],
        {Stage.EVALUATE},
    ),
    "benches": (
        [f"bench {ONE} {SIZES} --starts previous --depths 2"],
        {Stage.BENCH + stage for stage in CERTIFICATES},
    ),
    "starts": (
        ["train-start --model digits --batch 8 --steps 2 --tune-images 8 --most 3 --out start.pth"],
        {Stage.TUNE},
    ),
    "trainings": (
        [
            "train --data npz:images.npz --test-data npz:others.npz --epochs 1 --batch 8 "
            f"--architecture {INTERVALS.get(name, 'contractive')} --objective {name} --out {name}"
            + (" --teacher digits" if OBJECTIVES.get(name).needs_teacher else "")
            for name in OBJECTIVES
        ],
        set(),
    ),
}


def first_of_its_kind(stage: int) -> int:
    """Return the stage, or VERDICT for all verdicts."""
    return int(Stage.VERDICT) if Stage.VERDICT <= stage < Stage.BENCH else stage


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[int]]:
    """Run every command that draws noise; return the stages it came from, by use."""
    found: dict[str, set[int]] = defaultdict(set)
    folder: Path = tmp_path_factory.mktemp("stages")
    random = np.random.default_rng(0)
    for name in ("images.npz", "others.npz"):
        pixels = random.integers(0, 256, (16, 1, 8, 8), dtype=np.uint8)
        np.savez(folder / name, x=pixels, y=np.arange(16) % 10)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for use, (commands, _) in USES.items():

            def key(seed: int, index: int, stage: int, use: str = use) -> int:
                found[use].add(int(stage))
                return noise_key(seed, index, stage)

            # Whatever draws asks for the key of its noise first.
            for name in ("smoothing.noise", "certifiers.audited", "attacks.base"):
                patch.setattr(importlib.import_module(f"deqcert.{name}"), "noise_key", key)
            for command in commands:
                assert main(command.split()) == 0, command
    return found


@pytest.mark.parametrize("use", USES)
def test_a_use_draws_from_its_own_stages(use: str, drawn: dict[str, set[int]]) -> None:
    assert {first_of_its_kind(stage) for stage in drawn[use]} == USES[use][1]


def test_no_two_uses_share_a_stage(drawn: dict[str, set[int]]) -> None:
    assert sum(map(len, drawn.values())) == len(set().union(*drawn.values()))


def test_every_stage_has_a_use() -> None:
    used = set().union(*(stages for _, stages in USES.values()))
    assert {first_of_its_kind(min(stage, int(Stage.BENCH))) for stage in used} == {*Stage}


def test_no_stage_reaches_into_those_of_benches() -> None:
    def predictions(stage: int, **options: int) -> list[int]:
        engine = SmoothingEngine(HalfLine(0.5), sigma=SIGMA, **options)
        votes = engine.votes(reference(), Input(ORIGIN, 0), stage, 100)
        return votes.predictions.tolist()

    for stage in (-1, int(Stage.BENCH), 2**32):
        with pytest.raises(ConfigError, match="stage is"):
            predictions(stage)
    certified = [predictions(stage) for stage in (Stage.SELECT, Stage.ESTIMATE)]
    benched = [predictions(s, base_stage=Stage.BENCH) for s in (Stage.SELECT, Stage.ESTIMATE)]
    assert len({tuple(found) for found in certified + benched}) == 4
