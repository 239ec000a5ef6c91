"""Several processes train one model: the same bits everywhere, also after a kill."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from trainings import small_training

from deqcert.errors import ConfigError
from deqcert.models import load_model
from deqcert.training import TrainConfig, train

CHILD = """
import os, signal, sys
from pathlib import Path, PosixPath
import torch
from deqcert.training import TrainConfig, loop, train

class Watched(loop._Training):
    def _step(self, x, y, share):
        assert len(x) == 16
        if self.epoch == 1 and self.step == 2 and self.restarts == 0 and self.workers.rank == 1:
            x = x * float("nan")
        return super()._step(x, y, share)

    def _save(self, every):
        super()._save(every)
        if self.workers.rank == 0 and not self.resumed and self._total() == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)

    def run(self):
        rows = super().run()
        assert self.restarts == 1  # what one could not compute, both took back
        gather = self.workers.gather
        ours, theirs = gather(self.best.state_dict())
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        assert gather(self.workers.part(32)) == [slice(0, 16), slice(16, 32)]
        ours, theirs = gather(self._shuffle().tolist())
        assert ours == theirs
        ours, theirs = gather(torch.rand(1, generator=self.generator).item())
        assert ours != theirs
        mean = torch.tensor([1.0 + 2.0 * self.workers.rank])
        self.workers.average([mean])
        assert mean.item() == 2.0
        return rows

loop._Training = Watched
loop.SAVE_EVERY = loop.SAVE_AT_END = 0.0
train(TrainConfig(**eval(sys.argv[1])))
threads = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
assert not any("gloo" in name for name in threads), threads  # one would abort the exit now and then
"""


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return dataclasses.replace(small_training(tmp_path), ema=0.9, jacobian_share=0.5, epochs=4)


def run(config: TrainConfig, dies_at: int = -1) -> subprocess.CompletedProcess[str]:
    """Train with two processes; the first may be killed after so many steps."""
    child = config.out.parent / "child.py"
    child.write_text(CHILD)
    return subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", str(child), repr(dataclasses.asdict(config))),
            str(dies_at),
        ],
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        | {"GLOO_SOCKET_IFNAME": "lo"},
        stderr=subprocess.PIPE,
        text=True,
        timeout=300,
    )


def test_two_processes_train_one_model(config: TrainConfig, tmp_path: Path) -> None:
    whole = dataclasses.replace(config, out=tmp_path / "whole")
    child = run(whole)
    assert child.returncode == 0, child.stderr
    record = json.loads((whole.out / "model.json").read_text())
    assert record["processes"] == 2
    assert record["measured"]["noisy_accuracy"] > 0.8

    assert run(config, dies_at=11).returncode != 0
    assert not (config.out / "model.pth").exists()
    child = run(config)
    assert child.returncode == 0, child.stderr
    record = json.loads((config.out / "model.json").read_text())
    assert [entry["step"] for entry in record["resumed"]] == [11]
    wanted, found = (load_model(out / "model.pth").state_dict() for out in (whole.out, config.out))
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_what_cannot_be_shared_is_refused(config: TrainConfig, monkeypatch) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "3")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="torchrun"):
        train(config)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend: None)
    with pytest.raises(ConfigError, match="batch is 32, but 3 processes"):
        train(config)
    if torch.cuda.device_count() == 0:
        with pytest.raises(ConfigError, match="device 'cuda' cannot be used here"):
            train(dataclasses.replace(config, device="cuda"))
