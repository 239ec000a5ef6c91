"""Checkpoints and configurations: every public format in, every bad file one sentence."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deqcert.errors import CheckpointError, ConfigError
from deqcert.models import MDEQ, MDEQConfig, architecture, file_hash, load_model

PUBLIC_YAML = """
GPUS: (0,)
WORKERS: 2
MODEL:
  NAME: mdeq
  NUM_LAYERS: 8
  NUM_CLASSES: 10
  NUM_GROUPS: 4
  DROPOUT: 0.1
  WNORM: true
  DOWNSAMPLE_TIMES: 0
  EXPANSION_FACTOR: 2
  POST_GN_AFFINE: false
  IMAGE_SIZE: [16, 8]
  EXTRA:
    FULL_STAGE:
      NUM_MODULES: 1
      NUM_BRANCHES: 2
      BLOCK: BASIC
      BIG_KERNELS: [0, 1]
      HEAD_CHANNELS: [2, 3]
      FINAL_CHANSIZE: 12
      NUM_BLOCKS: [1, 2]
      NUM_CHANNELS: [4, 8]
      FUSE_METHOD: SUM
DEQ: {F_SOLVER: broyden}
DATASET: {DATASET: cifar10, ROOT: data/}
"""


def small_config() -> MDEQConfig:
    return replace(architecture("tiny"), channels=(4, 4), head_channels=(2, 2), final_channels=8)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, MDEQ]:
    torch.manual_seed(0)
    model = MDEQ(small_config())
    path = tmp_path / "model.pth"
    torch.save(model.state_dict(), path)
    path.with_suffix(".yaml").write_text(model.config.to_yaml())
    return path, model


def same(a: MDEQ, b: MDEQ) -> bool:
    pairs = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(m == n and torch.equal(v, w) for (m, v), (n, w) in pairs)


def test_plain_state_dict_with_the_yaml_beside_it(saved) -> None:
    path, model = saved
    loaded = load_model(path)
    assert same(loaded, model)
    assert not loaded.training
    assert loaded.input_shape == (1, 8, 8)
    assert loaded.num_classes == 10


@pytest.mark.parametrize("prefix", ["", "module.", "1.module.", "1."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "model_state_dict", "net"])
@pytest.mark.parametrize("legacy", [False, True])
def test_prefix_wrapper_and_file_format(saved, tmp_path, prefix, wrapper, legacy) -> None:
    _, model = saved
    content = {prefix + name: value for name, value in model.state_dict().items()}
    if wrapper:
        content = {"epoch": 3, "arch": "mdeq", "perf": 0.5, wrapper: content}
    path = tmp_path / "other.pth.tar"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    assert same(load_model(path, model.config), model)


def test_model_may_be_a_name_beside_the_state_dict(saved, tmp_path) -> None:
    _, model = saved
    path = tmp_path / "hrnet_style.pth"
    torch.save({"model": "mdeq", "state_dict": model.state_dict(), "optimizer": {}}, path)
    assert same(load_model(path, model.config), model)


def test_yaml_of_a_tar_checkpoint_is_found(saved, tmp_path) -> None:
    path, model = saved
    other = tmp_path / "model.pth.tar"
    other.write_bytes(path.read_bytes())
    assert same(load_model(other), model)


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("evil-was-here"),))


def bad_files(tmp_path: Path, model: MDEQ) -> dict[str, tuple[Path, str]]:
    """A checkpoint for each way to be wrong, and what the sentence must say."""
    files: dict[str, tuple[Path, str]] = {
        "missing": (tmp_path / "missing.pth", "No such file"),
        "folder": (tmp_path, "directory"),
    }

    def put(name: str, content: object, says: str) -> None:
        path = tmp_path / f"{name}.pth"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        files[name] = (path, says)

    weights = model.state_dict()
    put("whole", weights, "")
    whole = files.pop("whole")[0].read_bytes()
    put("empty", b"", "empty")
    for keep in (10, 1000, len(whole) // 2, len(whole) - 30):
        put(f"truncated{keep}", whole[:keep], "damaged")
    put("text", b"these are not weights\n" * 50, "damaged")
    put("executable", {"state_dict": weights, "hook": Evil()}, "never executed")
    put("raw_pickle", pickle.dumps(Evil()), "never executed|damaged")
    put("module", model, "never executed")
    put("list", [1, 2, 3], "no weights")
    put("numbers", {"epoch": 3}, "no weights")
    put("nan", weights | {"classifier.bias": torch.full((10,), torch.nan)}, "classifier.bias")
    put("lacking", {k: v for k, v in weights.items() if "stage" not in k}, "lacks 'stage0")
    put("too_much", weights | {"stage9.weight": torch.zeros(1)}, "no place for")
    put("wide", weights | {"classifier.bias": torch.zeros(11)}, r"shape \(11,\)")
    return files


def test_bad_files_are_one_sentence_and_never_run(saved, tmp_path, monkeypatch) -> None:
    _, model = saved
    monkeypatch.chdir(tmp_path)
    for name, (path, says) in bad_files(tmp_path, model).items():
        with pytest.raises(CheckpointError, match=says) as caught:
            load_model(path, model.config)
        assert "\n" not in str(caught.value), name
        assert str(caught.value).endswith("."), name
    assert not Path("evil-was-here").exists()


def test_missing_yaml_says_so(saved) -> None:
    path, _ = saved
    path.with_suffix(".yaml").unlink()
    with pytest.raises(ConfigError, match="give its YAML"):
        load_model(path)


def test_public_yaml(tmp_path: Path) -> None:
    path = tmp_path / "public.yaml"
    path.write_text(PUBLIC_YAML)
    config = MDEQConfig.from_yaml(path)
    assert config.channels == (4, 8)
    assert config.num_blocks == (1, 2)
    assert config.big_kernels == (0, 1)
    assert config.image_size == (8, 16), "the file has width before height"
    assert config.mean == (0.4914, 0.4822, 0.4465)
    assert (config.weight_norm, config.post_affine, config.block_affine) == (True, False, True)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("WNORM: true", "WNORMS: true", "MODEL.WNORMS"),
        ("NUM_MODULES: 1", "NUM_MODULES: 2", "NUM_MODULES"),
        ("BLOCK: BASIC", "BLOCKS: BASIC", "BLOCKS"),
        ("NAME: mdeq", "NAME: hrnet", "hrnet"),
        ("NUM_BRANCHES: 2", "NUM_BRANCHES: 3", "NUM_BRANCHES"),
        ("HEAD_CHANNELS: [2, 3]", "", "HEAD_CHANNELS is missing"),
        ("DATASET: cifar10", "DATASET: lip", "normalisation is unknown"),
        ("WORKERS: 2", "WORKER: 2", "'WORKER'"),
        ("NUM_CHANNELS: [4, 8]", "NUM_CHANNELS: four", "configuration"),
        ("IMAGE_SIZE: [16, 8]", "IMAGE_SIZE: 16", "wrong type"),
        ("DROPOUT: 0.1", "DROPOUT: much", "wrong type"),
        ("MODEL:", "- MODEL:", "not YAML"),
    ],
)
def test_bad_yaml_is_one_sentence(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in PUBLIC_YAML
    path = tmp_path / "bad.yaml"
    path.write_text(PUBLIC_YAML.replace(old, new))
    with pytest.raises(ConfigError, match=says) as caught:
        MDEQConfig.from_yaml(path)
    assert str(caught.value).count("\n") == 0


def test_file_hash(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert file_hash(path).startswith("ba7816bf8f01cfea")
    with pytest.raises(CheckpointError, match="No such file"):
        file_hash(tmp_path / "nothing")
