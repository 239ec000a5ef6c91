"""Files of weights as they are met: every format and habit read, damage noticed, others named."""

from __future__ import annotations

import argparse
import gzip
import io
import os
import pickle
import random
import struct
import tarfile
import types
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mutations import mutated
from safetensors.torch import save_file
from torch import Tensor, nn

from deqcert.errors import CheckpointError, ConfigError
from deqcert.models import MDEQ, MDEQConfig, architecture, load_model
from deqcert.models.checkpoints import read_weights
from deqcert.models.parameter_names import fit_names


@pytest.fixture(scope="module")
def model() -> MDEQ:
    torch.manual_seed(0)
    small = replace(
        architecture("tiny"), channels=(4, 4), head_channels=(2, 2), final_channels=8, num_groups=4
    )
    return MDEQ(small).eval()


def same(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(m == n and torch.equal(v, w) for (m, v), (n, w) in pairs)


def renamed(weights: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    return {
        (name.removesuffix(old) + new if name.endswith(old) else name): value
        for name, value in weights.items()
    }


def test_safetensors_are_read_under_any_name(model: MDEQ, tmp_path: Path) -> None:
    for name in ("model.safetensors", "model.bin"):
        save_file(model.state_dict(), tmp_path / name, metadata={"format": "pt"})
        assert same(load_model(tmp_path / name, model.config), model)
    (tmp_path / "model.yaml").write_text(model.config.to_yaml())
    assert same(load_model(tmp_path / "model.safetensors"), model)


@pytest.mark.parametrize(
    "prefix",
    [
        "model.",
        "_orig_mod.",
        "module.model.",
        "model._orig_mod.",
        "_orig_mod.module.1.",
        "1.model.",
    ],
)
def test_wrapped_and_compiled_models_are_read(model: MDEQ, tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "wrapped.pth"
    torch.save({prefix + name: value for name, value in model.state_dict().items()}, path)
    assert same(load_model(path, model.config), model)


def test_a_model_with_a_compiled_part_is_read(model: MDEQ, tmp_path: Path) -> None:
    path = tmp_path / "compiled.pth"
    weights = model.state_dict().items()
    torch.save({n.replace("fullstage.", "fullstage._orig_mod."): v for n, v in weights}, path)
    assert same(load_model(path, model.config), model)


def test_newer_names_of_weight_normalisation_are_read(model: MDEQ, tmp_path: Path) -> None:
    """They are what torch itself writes, and the kernels agree."""
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 8, 3, bias=False))
    first = model.fullstage.branches[0].blocks[0].conv1
    written = {f"c.{name}": value for name, value in conv.state_dict().items()}
    fitted = fit_names(written, {"c.weight_g", "c.weight_v"})
    assert fitted["c.weight_g"].shape == first.weight_g.shape
    norm = torch.linalg.vector_norm(fitted["c.weight_v"].flatten(1), dim=1).view(-1, 1, 1, 1)
    torch.testing.assert_close(fitted["c.weight_v"] * fitted["c.weight_g"] / norm, conv.weight)
    assert fit_names(fitted, set(written)) == written, "and the way back"

    path = tmp_path / "parametrized.pth"
    weights = renamed(model.state_dict(), "weight_g", "parametrizations.weight.original0")
    weights = renamed(weights, "weight_v", "parametrizations.weight.original1")
    assert len(weights.keys() - model.state_dict().keys()) >= 8
    torch.save({f"_orig_mod.{name}": value for name, value in weights.items()}, path)
    assert same(load_model(path, model.config), model)


def test_names_that_the_model_has_are_never_changed(model: MDEQ) -> None:
    weights = {"model.a.weight_g": torch.ones(1), "model.b": torch.zeros(1)}
    assert fit_names(weights, set(weights)) == weights


def beside_weights() -> dict[str, object]:
    return {
        "perf": np.float64(0.93),
        "best": np.float32(0.5),
        "epoch": np.int64(7),
        "curve": np.linspace(0, 1, 5),
        "args": argparse.Namespace(lr=0.1, where=Path("data"), best=np.float64(2)),
        "more": types.SimpleNamespace(a=1),
    }


@pytest.mark.parametrize("name", beside_weights())
def test_what_training_scripts_keep_beside_weights_is_no_obstacle(
    model: MDEQ, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "beside.pth"
    torch.save({"state_dict": model.state_dict(), name: beside_weights()[name]}, path)
    assert same(load_model(path, model.config), model)


class Touch:
    """Pretends to be an argument that is kept beside the weights."""

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("evil-was-here"),)


class Crafted:
    """A scalar whose bytes NumPy would take for the address of an object."""

    def __reduce__(self) -> tuple[object, ...]:
        return np.float64(0).__reduce__()[0], (np.dtype("O"), b"\x01" * 8)


def test_nothing_beside_the_weights_is_executed(
    model: MDEQ, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "args.pth"
    torch.save({"net": model.state_dict(), "args": argparse.Namespace(hook=Touch())}, path)
    with pytest.raises(CheckpointError, match="never executed"):
        load_model(path, model.config)
    assert not Path("evil-was-here").exists()
    torch.save({"net": model.state_dict(), "perf": Crafted()}, path)
    assert same(load_model(path, model.config), model)
    allowed = torch.serialization.get_safe_globals()
    assert not any(kind.__name__ == "Namespace" for kind in allowed), "for this file only"


def archive_with(names: list[str]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, b"0" * 50)
    return file.getvalue()


def tar_file() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.pth"))
    return file.getvalue()


def saved_array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(9))
    return file.getvalue()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 12345\n"
FOREIGN = {
    "html": (b"<!DOCTYPE html>\n<html><head><title>404</title></head></html>" * 3, "an HTML page"),
    "html with a mark": (b"\xef\xbb\xbf\n  <html>" + b" " * 99, "an HTML page"),
    "html of one line": (b"<p>gone</p>", "an HTML page"),
    "json": (b'{"message": "Not Found", "documentation_url": "x"}' * 2, "JSON text"),
    "pointer": (POINTER, "a Git LFS pointer.*git lfs pull"),
    "gzip": (gzip.compress(b"weights" * 99), "compressed with gzip.*gunzip"),
    "tar": (tar_file(), "a tar archive"),
    "array": (saved_array(), "a NumPy array"),
    "arrays": (archive_with(["x.npy"]), "a zip archive of NumPy arrays"),
    "zip": (archive_with(["readme.txt"]), "a zip archive of other files"),
    "script": (archive_with(["m/constants.pkl", "m/data.pkl"]), "a TorchScript program"),
    "one byte": (b"\x80", "has only 1 byte;"),
    "few bytes": (b"\x80\x02}q\x00.", "has only 6 bytes;"),
    "empty": (b"", "is empty"),
    "safetensors": (
        struct.pack("<Q", 9) + b'{"a": 1}  ' + b"\0" * 99,
        "a damaged safetensors file",
    ),
    "text": (b"these are not weights\n" * 50, "is damaged or is not a torch file"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_no_checkpoint_is_named_as_what_it_is(
    model: MDEQ, tmp_path: Path, name: str
) -> None:
    content, says = FOREIGN[name]
    path = tmp_path / "model.pth.tar"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=says) as caught:
        load_model(path, model.config)
    assert str(caught.value).count("\n") == 0
    assert str(caught.value).endswith(".")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_and_not_waited_for(model: MDEQ, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(CheckpointError, match="no regular file"):
        load_model(tmp_path / "pipe.pth", model.config)


def flips(size: int, tail: int) -> list[int]:
    """Places all over a file, and many in its directory, which is at the end."""
    draw = random.Random(0)
    return [draw.randrange(size) for _ in range(150)] + [
        size - 1 - draw.randrange(tail) for _ in range(150)
    ]


@pytest.mark.parametrize("bits", [0x01, 0x80, 0xFF])
def test_a_flipped_byte_is_noticed_or_without_effect(
    model: MDEQ, tmp_path: Path, bits: int
) -> None:
    path = tmp_path / "model.pth"
    weights = model.state_dict()
    torch.save(weights, path)
    good = path.read_bytes()
    noticed = 0
    for place in flips(len(good), 8000):
        bad = bytearray(good)
        bad[place] ^= bits
        path.write_bytes(bad)
        try:
            read = fit_names(read_weights(path), weights)
            assert read.keys() == weights.keys(), place
            assert all(torch.equal(read[name], weights[name]) for name in weights), place
        except CheckpointError:
            noticed += 1
    assert noticed > 100


def test_a_flipped_bit_in_a_weight_is_always_noticed(model: MDEQ, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(model.state_dict(), path)
    good = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        stored = [m for m in archive.infolist() if "/data/" in m.filename and m.file_size]
    for member in stored:
        name = len(member.filename)
        extra = struct.unpack_from("<H", good, member.header_offset + 28)[0]
        bad = bytearray(good)
        bad[member.header_offset + 30 + name + extra] ^= 0x10
        path.write_bytes(bad)
        with pytest.raises(CheckpointError, match="damaged"):
            load_model(path, model.config)


def test_an_archive_without_checksums_is_read(model: MDEQ, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(model.state_dict(), path)
    finally:
        torch.serialization.set_crc32_options(True)
    assert same(load_model(path, model.config), model)


def test_weights_that_are_no_plain_numbers_are_refused(model: MDEQ, tmp_path: Path) -> None:
    weights = model.state_dict()
    name = "classifier.bias"
    for strange in (torch.empty(10, device="meta"), weights[name].to_sparse()):
        torch.save(weights | {name: strange}, tmp_path / "strange.pth")
        with pytest.raises(CheckpointError, match=f"'{name}' as something else"):
            load_model(tmp_path / "strange.pth", model.config)


OLDER_YAML = """
GPUS: (0,1)
PRINT_FREQ: 100
MODEL:
  NAME: mdeq
  NUM_LAYERS: 5
  NUM_CLASSES: 10
  NUM_GROUPS: 4
  DROPOUT: 0.2
  F_THRES: 18
  B_THRES: 20
  WNORM: true
  DOWNSAMPLE_TIMES: 0
  EXPANSION_FACTOR: 2
  IMAGE_SIZE: [8, 8]
  EXTRA:
    FULL_STAGE:
      NUM_MODULES: 1
      NUM_BRANCHES: 3
      BLOCK: BASIC
      HEAD_CHANNELS: [2, 2, 2]
      FINAL_CHANSIZE: 8
      NUM_BLOCKS: [1, 1, 1]
      NUM_CHANNELS: [4, 4, 8]
      FUSE_METHOD: SUM
CUDNN: {BENCHMARK: true}
DATASET: {DATASET: cifar10, DATA_FORMAT: jpg, AUGMENT: true}
TRAIN: {OPTIMIZER: adam, PRETRAIN_STEPS: 1000}
DEBUG: {DEBUG: false}
"""
"""The layout of the public code of 2020: solver depths under MODEL, no BIG_KERNELS, no affine keys,
no section DEQ."""


def older(tmp_path: Path, yaml: str = OLDER_YAML) -> tuple[Path, MDEQ]:
    """A checkpoint of the code of 2020, which saves its cell four times."""
    path = tmp_path / "older.pth.tar"
    path.with_name("older.yaml").write_text(yaml)
    torch.manual_seed(1)
    model = MDEQ(MDEQConfig.from_yaml(path.with_name("older.yaml")))
    weights = model.state_dict()
    cell = {
        n.removeprefix("fullstage."): v for n, v in weights.items() if n.startswith("fullstage")
    }
    plain = renamed({n: v for n, v in cell.items() if "_g" not in n}, "weight_v", "weight")
    content = {
        **weights,
        **{f"fullstage_copy.{name}": value + 0.01 for name, value in plain.items()},
        **{f"deq.func.{name}": value for name, value in cell.items()},
        **{f"deq.func_copy.{name}": value + 0.01 for name, value in plain.items()},
    }
    state = {"epoch": 3, "model": "mdeq", "state_dict": content, "perf": np.float64(0.9)}
    torch.save(state, path)
    return path, model


def test_checkpoints_and_yaml_of_the_first_public_code_are_read(tmp_path: Path) -> None:
    path, model = older(tmp_path)
    assert same(load_model(path), model)
    assert model.config.big_kernels == (0, 0, 0)
    assert (model.config.block_affine, model.config.post_affine) == (True, True)


def test_a_cell_under_two_names_must_be_one_cell(tmp_path: Path) -> None:
    path, _ = older(tmp_path)
    content = torch.load(path, weights_only=False)
    name = next(name for name in content["state_dict"] if name.startswith("deq.func."))
    content["state_dict"][name] = content["state_dict"][name] + 1
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"'deq\.func\..+ no place for"):
        load_model(path)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("F_THRES: 18", "F_THRESHOLD: 18", "MODEL.F_THRESHOLD"),
        ("FULL_STAGE:", "FINAL_CONV_KERNEL: 1\n    FULL_STAGE:", "only classifiers"),
        ("NUM_MODULES: 1", "NUM_MODULES: 2", "NUM_MODULES"),
    ],
)
def test_keys_that_could_change_the_model_are_refused(
    tmp_path: Path, old: str, new: str, says: str
) -> None:
    (tmp_path / "bad.yaml").write_text(OLDER_YAML.replace(old, new))
    with pytest.raises(ConfigError, match=says):
        MDEQConfig.from_yaml(tmp_path / "bad.yaml")


def test_a_raw_pickle_of_a_harmless_object_is_no_checkpoint(model: MDEQ, tmp_path: Path) -> None:
    path = tmp_path / "raw.pth"
    path.write_bytes(pickle.dumps(argparse.Namespace(a="x" * 99), protocol=2))
    with pytest.raises(CheckpointError):
        load_model(path, model.config)


@pytest.mark.parametrize("kind", ["archive", "older", "safetensors"])
def test_a_mutated_file_is_read_or_one_sentence(model: MDEQ, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.pth"
    if kind == "safetensors":
        save_file(model.state_dict(), path)
    else:
        torch.save(model.state_dict(), path, _use_new_zipfile_serialization=kind == "archive")
    good, draw = path.read_bytes(), random.Random(1)
    refused = 0
    for _ in range(200):
        path.write_bytes(mutated(good, draw))
        try:
            read_weights(path)
        except CheckpointError as error:
            refused += "\n" not in str(error)
    assert refused > 100
