"""The shipped model: small, accurate under noise, and quick to solve."""

from __future__ import annotations

import json

from deqcert.data import load_dataset
from deqcert.models import MDEQConfig, checkpoint_path, file_hash, load_model, preset
from deqcert.training.measure import measure
from deqcert.training.progress import TrainingProgress


def test_shipped_files_belong_together() -> None:
    path = checkpoint_path("digits")
    record = json.loads(path.with_suffix(".json").read_text())
    assert path.stat().st_size < 1_000_000
    assert file_hash("digits") == file_hash(path) == record["checkpoint_sha256"]
    assert MDEQConfig.from_yaml(path.with_suffix(".yaml")) == preset("tiny")
    assert record["data_sha256"]["test"] == load_dataset("digits").hash()
    assert "/" not in record["command"], "no path of the machine that trained it"


def test_shipped_model_is_as_good_as_its_record_says() -> None:
    record = json.loads(checkpoint_path("digits").with_suffix(".json").read_text())
    found = measure(
        load_model("digits"),
        load_dataset("digits"),
        sigma=0.25,
        draws=2,
        seed=1,
        device="cpu",
        progress=TrainingProgress(False),
    )
    assert found["clean_accuracy"] > 0.95
    assert found["noisy_accuracy"] > 0.9
    assert abs(found["clean_accuracy"] - record["measured"]["clean_accuracy"]) < 0.005
    assert abs(found["noisy_accuracy"] - record["measured"]["noisy_accuracy"]) < 0.02
    assert found["converged"] > 0.99
    assert found["nfe_p95"] <= 15
