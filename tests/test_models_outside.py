"""A model that somebody else wrote: one file and one registration, and every command takes it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import yaml
from torch import Tensor, nn

from deqcert.cli import main
from deqcert.errors import ConfigError
from deqcert.models import (
    ARCHITECTURES,
    ZOO,
    StateLayout,
    TrainableModel,
    architecture,
    form_names,
    in_form,
    load_model,
    read_config,
)
from deqcert.starts import StartFile, build_start, load_start, start_architecture, start_path


@dataclass(frozen=True)
class ToyConfig:
    """A cell of one convolution."""

    name: ClassVar[str] = "toy"

    channels: int = 4
    num_classes: int = 10
    image_size: tuple[int, int] = (8, 8)
    input_channels: int = 1
    mean: tuple[float, ...] = (0.3,)
    std: tuple[float, ...] = (0.4,)
    num_layers: int = 3

    @property
    def scale(self) -> int:
        return 2

    def build(self) -> ToyModel:
        return ToyModel(self)

    def to_yaml(self) -> str:
        given = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return yaml.safe_dump({"MODEL": {"NAME": self.name} | given})

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any]) -> ToyConfig:
        given = {key: value for key, value in data["MODEL"].items() if key != "NAME"}
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})


class ToyModel(TrainableModel):
    """Halves the images, finds the fixed point of a convolution, pools it."""

    config: ToyConfig

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        width = config.channels
        self.into = nn.Conv2d(config.input_channels, width, 2, 2)
        self.inner = nn.Conv2d(width, width, 3, padding=1)
        self.out = nn.Linear(width * (config.image_size[0] // 2) ** 2, config.num_classes)

    def inject(self, x: Tensor) -> Tensor:
        return self.into((x - self.config.mean[0]) / self.config.std[0])

    def initial_state(self, injection: Tensor) -> Tensor:
        return torch.zeros_like(injection).flatten(1)

    def cell(self, z: Tensor, injection: Tensor, masks: None = None) -> Tensor:
        return torch.tanh(0.3 * self.inner(z.view_as(injection)) + injection).flatten(1)

    def readout(self, z: Tensor) -> Tensor:
        return self.out(z)

    # What follows is optional.

    def folded(self, *, channels_last: bool) -> ToyModel:
        copy = ToyModel(self.config)
        copy.load_state_dict(self.state_dict())
        return copy.eval().requires_grad_(False)

    def start_layout(self, injection: Tensor) -> tuple[StateLayout, int]:
        return StateLayout.pyramid((self.config.channels,), *injection.shape[2:]), 0


@pytest.fixture(scope="module", autouse=True)
def toy() -> Iterator[None]:
    ARCHITECTURES.register("toy", ToyConfig())
    yield
    ARCHITECTURES.unregister("toy")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    given = "--architecture toy --epochs 2 --max-nfe 8 --batch 128 --augment none --quiet"
    assert main(f"train {given} --sigma 0.25 --out {folder}".split()) == 0
    return folder / "model.pth"


def test_it_is_trained_saved_and_loaded_by_its_name(trained: Path) -> None:
    model = load_model(trained)
    assert isinstance(model, ToyModel)
    assert read_config(trained.with_suffix(".yaml")) == model.config == architecture("toy")
    record = json.loads(trained.with_suffix(".json").read_text())
    assert record["measured"]["clean_accuracy"] > 0.2, "twice chance"


def test_it_is_certified_in_every_form_that_it_has(trained: Path, tmp_path: Path) -> None:
    assert set(form_names(load_model(trained))) >= {"eager", "folded", "compiled"}
    rows = "--images :2 --n 40 --n0 10 --batch 20 --threads 1"
    for form in ("eager", "folded"):
        given = f"certify --model {trained} {rows} --form {form} --out {tmp_path / form}"
        assert main(given.split()) == 0
        assert len((tmp_path / form / "certificates.tsv").read_text().splitlines()) == 3


def test_a_start_of_convolutions_is_fitted_to_its_maps(trained: Path, tmp_path: Path) -> None:
    model = load_model(trained)
    found = start_architecture(model, model.inject(torch.rand(2, 1, 8, 8)))
    assert (found["kind"], found["shapes"]) == ("pyramid", [[4, 4, 4]])
    assert build_start(found)(torch.rand(3, 4, 4, 4)).shape == (3, 64)
    given = f"train-start --model {trained} --data digits --steps 8 --tune-images 20 --quiet"
    assert main(given.split()) == 0
    start = load_start(start_path(trained), trained)
    assert isinstance(start, StartFile)
    given = f"certify --model {trained} --images :1 --n 40 --n0 10 --start learned --threads 1"
    assert main([*given.split(), "--out", str(tmp_path / "learned")]) == 0


def test_a_checkpoint_may_have_a_name(trained: Path) -> None:
    ZOO.register("mine", trained)
    try:
        assert isinstance(load_model("mine"), ToyModel)
    finally:
        ZOO.unregister("mine")


def test_a_model_that_folds_itself_is_what_it_says(trained: Path) -> None:
    model = load_model(trained)
    lean, x = in_form(model, "folded", rows=3), torch.rand(3, 1, 8, 8)
    assert lean is not model
    with torch.no_grad():
        z = model.initial_state(model.inject(x))
        assert torch.equal(
            model.cell(z, model.inject(x)),
            lean.cell(z, lean.inject(x)),
        )


def test_an_unknown_word_in_a_file_names_the_known_ones(tmp_path: Path) -> None:
    path = tmp_path / "other.yaml"
    path.write_text("MODEL: {NAME: quantum}\n")
    known = (
        "mdeq, contractive, monotone, lipschitz-bounded, monotone-conv, lipschitz-conv, interval"
    )
    with pytest.raises(ConfigError, match=f"is 'quantum', but there are {known}, toy"):
        read_config(path)
