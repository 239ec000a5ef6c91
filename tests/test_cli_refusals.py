"""What users typed, and what they are told: refusals that come early and name what was typed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
import torch
from wrong_calls import make_files

from deqcert.cli import main
from deqcert.devices import open_device
from deqcert.errors import CheckpointError, ConfigError
from deqcert.models import ARCHITECTURES, ZOO, MDEQConfig, load_model
from deqcert.models.skeleton import refuse_too_large, skeleton
from deqcert.options import Option

CERTIFY = "certify --model ok.pth --data npz:data.npz --sigma 0.25 --images 0:1 --n 60 --out new"
TRAIN = "train --data npz:data.npz --test-data npz:other.npz --epochs 1 --batch 2 --out new"
START = "train-start --model ok.pth --data npz:data.npz --steps 1 --batch 6 --out new.pth"
BENCH = "bench --model ok.pth --data npz:data.npz --sigma 0.25 --images 0:1"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with right and wrong files, which is the current one meanwhile."""
    folder = tmp_path_factory.mktemp("refused")
    with contextlib.chdir(folder):
        make_files(folder)
        yield folder


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (f"{CERTIFY} --batch 99999999999999999999", "and at most 2^31 - 1."),
        (f"{CERTIFY} --n 99999999999999999999", "--n is 99999999999999999999, but"),
        (f"{CERTIFY} --threads 100000", "--threads is 100000, but it must be a whole number"),
        (f"{CERTIFY} --sigma 1e-320", "and not as near to 0 as 1e-30."),
        (f"{CERTIFY} --tol 1e-320", "--tol is 9.99989e-321, but"),
        (f"{CERTIFY} --device meta", "device 'meta' cannot be used here"),
        (f"{CERTIFY} --out=", "--out is empty"),
        (f"{CERTIFY} --method=", "--method is '', but it must be one of auto"),
        (f"{CERTIFY} --model=", "--model is empty"),
        (f"{CERTIFY} --model missing.pth", "cannot read checkpoint missing.pth"),
        ("certify --model missing.pth", "there is no model missing.pth"),
        (f"{CERTIFY} --depth 0", "--depth is 0"),
        (f"{CERTIFY} --start mean --steps 0", "steps is 0, but a solve from start 'mean' needs"),
        (f"{CERTIFY} --start mean --warmup 0", "--warmup is 0"),
        (f"{CERTIFY} --solver-option x", "--solver-option 'x' must read KEY=VALUE, as in damping="),
        (f"{CERTIFY} --config pipe", "cannot read pipe (it is no regular file)"),
        (f"{CERTIFY} --model-config huge.yaml", "of shape (16, 1, 3, 3) but its configuration"),
        (f"{TRAIN} --device gpu", "device 'gpu' cannot be used here"),
        (f"{TRAIN} --unroll-from 99", "unroll_from is 99, but the depth that it grows to is 6"),
        (f"{TRAIN} --model-config huge.yaml", "GB of memory; lower its sizes."),
        (f"{TRAIN} --test-data=", "--test-data is '', but it must be text, not empty."),
        (f"{START} --device gpu", "device 'gpu' cannot be used here"),
        (f"{START} --tol 0", "--tol is 0, but it must be a number above 0."),
        ("train-start", "name its file, as in --out digits.start.pth"),
        ("attack run --out run", "--out run is the run itself; give another folder"),
        ("attack run --out ../refused0/run", "is the run itself"),
        ("attack run --start learned:nope", "are of no learned start; leave --start out"),
        ("attack run --attack square:steps=abc", "attack option steps is 'abc'"),
        (f"{BENCH} --picture missing/a.png", "there is no folder missing"),
        (f"{BENCH} --picture /proc/a.png", "give the picture another name"),
        (f"{BENCH} --picture folder/../hollow", "must end in .png"),
        ("predict --model ok.pth --data npz:data.npz --sigma 0.25 --n 3", "n is 3"),
        ("plan --radii 0.1 --sigma 0.25 --pilot 5 --device gpu", "device 'gpu' cannot be used"),
    ],
)
def test_a_mistake_is_told_in_the_words_in_which_it_was_made(
    place: Path, capsys: pytest.CaptureFixture[str], line: str, says: str
) -> None:
    before = sorted(path.name for path in place.iterdir())
    shipped = sorted(path.name for path in ZOO.get("digits").parent.iterdir())
    assert main(line.split()) == 2
    said = capsys.readouterr()
    assert says in said.err
    assert said.err.count("\n") == 1
    assert len(said.err) < 400
    assert said.out == ""
    assert sorted(path.name for path in place.iterdir()) == before
    assert sorted(path.name for path in ZOO.get("digits").parent.iterdir()) == shipped


def test_a_run_of_other_parameters_is_told_in_few_words(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "certify --model digits --images 0:3 --start previous --n 400 --out run"
    assert main(line.split()) == 2
    said = capsys.readouterr().err
    assert "and so on" in said
    assert len(said) < 900


@pytest.mark.parametrize("name", ["", "gpu", "meta", "cuda:99", "hpu", "cpu:x", "x" * 5000])
def test_a_device_that_cannot_compute_is_one_sentence(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be used here; 'cpu' works everywhere") as error:
        open_device(name)
    assert len(str(error.value)) < 200
    assert open_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_skeleton_has_the_shapes_of_the_network_and_draws_nothing(name: str) -> None:
    config, before = ARCHITECTURES.get(name), torch.get_rng_state()
    shapes = skeleton(config)
    assert torch.equal(torch.get_rng_state(), before)
    assert shapes is not None
    built = config.build().state_dict()
    assert {key: value.shape for key, value in shapes.items()} == {
        key: value.shape for key, value in built.items()
    }
    refuse_too_large(config)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("NUM_CLASSES: 10", "NUM_CLASSES: 2000000000"),
        ("NUM_CLASSES: 10", f"NUM_CLASSES: {10**30}"),
        ("FINAL_CHANSIZE: 128", "FINAL_CHANSIZE: 2000000000"),
        ("EXPANSION_FACTOR: 2", "EXPANSION_FACTOR: .inf"),
        ("EXPANSION_FACTOR: 2", "EXPANSION_FACTOR: .nan"),
        ("- 0.376", "- 0"),
        ("- 0.305", "- .nan"),
    ],
)
def test_a_configuration_that_asks_for_terabytes_is_refused_before_it_takes_them(
    place: Path, tmp_path: Path, old: str, new: str
) -> None:
    text = (place / "ok.yaml").read_text()
    assert old in text
    (tmp_path / "huge.yaml").write_text(text.replace(old, new))
    with pytest.raises((ConfigError, CheckpointError)):
        load_model(place / "ok.pth", tmp_path / "huge.yaml")
    with pytest.raises(ConfigError):
        refuse_too_large(MDEQConfig.from_yaml(tmp_path / "huge.yaml"))


@pytest.mark.parametrize("kind", ["int", "float"])
@pytest.mark.parametrize("size", ["10**40", "10**5000", "1e31", "1e308", "inf", "nan"])
def test_a_number_beyond_what_models_compute_with_is_one_sentence(
    kind: Literal["int", "float"], size: str
) -> None:
    value = 10 ** int(size[4:]) if "**" in size else float(size)
    with pytest.raises(ConfigError) as error:
        Option(kind, None, low=1, name="batch").check(value)
    assert str(error.value).startswith("batch is ")
    assert len(str(error.value)) < 250


@pytest.mark.parametrize("text", ["1e-31", "1e-320", "-1e-310"])
def test_a_number_that_is_nothing_in_float32_is_one_sentence(text: str) -> None:
    with pytest.raises(ConfigError, match="and not as near to 0 as 1e-30"):
        Option("float", None, name="sigma").parse(text)
    assert Option("float", None, low=0, name="sigma").parse("0") == 0.0
