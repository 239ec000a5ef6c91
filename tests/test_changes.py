"""Changed models: what is pruned stays a model of its kind, and zeros stay where they are kept."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from trainings import small_training

from deqcert.changes import PruneConfig, prune
from deqcert.cli import main
from deqcert.errors import CheckpointError, ConfigError
from deqcert.models import (
    ARCHITECTURES,
    MDEQ,
    TrainableModel,
    architecture,
    file_hash,
    in_form,
    load_model,
)
from deqcert.models.blocks import ResidualBlock, WeightNormConv2d
from deqcert.models.forms.int8 import rounded
from deqcert.models.narrowing import narrow
from deqcert.models.prunable import hold_zeros, prunable
from deqcert.training import TrainConfig, train

SMALLER = {
    "large": {"image_size": (16, 16)},
    "imagenet-small": {"image_size": (32, 32)},
}
FOUR = {"channels": (8, 16, 32, 64), "head_channels": (4, 4, 8, 8), "final_channels": 64}
"""What makes the large ones quick to test."""

NARROWED = {"tiny", "small", "large", "imagenet-small"}
NO_CHANNELS = {"contractive", "monotone", "lipschitz-bounded", "interval"}


def save(model: TrainableModel, path: Path) -> Path:
    torch.save(model.state_dict(), path)
    path.with_suffix(".yaml").write_text(model.config.to_yaml())
    return path


def shares(path: Path) -> dict[str, float]:
    """The share of zeros in each weight of a checkpoint."""
    weights = prunable(load_model(path))
    return {w.name: (w.value() == 0.0).double().mean().item() for w in weights}


def zeros(path: Path) -> int:
    return sum(int((w.value() == 0.0).sum()) for w in prunable(load_model(path)))


def vote(model: torch.nn.Module, x: torch.Tensor, evaluations: int = 4) -> torch.Tensor:
    with torch.no_grad():
        injection = model.inject(x)
        z = model.initial_state(injection)
        for _ in range(evaluations):
            z = model.cell(z, injection)
        return model.readout(z)


@pytest.mark.parametrize("name", ARCHITECTURES.names())
def test_every_architecture_is_pruned_saved_loaded_and_certified(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = architecture(name)
    if name in SMALLER:
        config = dataclasses.replace(config, **SMALLER[name], **FOUR)
    model = config.build().eval()
    file = save(model, tmp_path / "model.pth")
    draw = np.random.default_rng(0)
    x = draw.random((2, *model.input_shape), dtype=np.float32)
    np.savez(tmp_path / "images.npz", x=x, y=np.arange(2))
    for structured in (False, True):
        out = tmp_path / f"pruned-{structured}.pth"
        given = PruneConfig(model=str(file), sparsity=0.3, structured=structured, out=out)
        if structured and name in NO_CHANNELS:
            with pytest.raises(ConfigError, match="no channels"):
                prune(given)
            assert not out.exists()
            continue
        prune(given)
        record = json.loads(out.with_suffix(".json").read_text())
        assert record["parent_sha256"] == file_hash(file)
        assert record["checkpoint_sha256"] == file_hash(out)
        left = sum(weight.value().numel() for weight in prunable(load_model(out))) - zeros(out)
        assert record["weights"]["left"] == left
        if not structured:
            total = record["weights"]["before"]
            assert record["sparsity"] == pytest.approx(0.3, abs=1.0 / total + 1e-6)
            assert zeros(out) == pytest.approx(0.3 * total, abs=1)
        elif name in NARROWED:
            assert record["how"].startswith("channels removed")
            assert left < sum(weight.value().numel() for weight in prunable(model))
        call = f"certify --model {out} --data npz:{tmp_path}/images.npz --sigma 0.25 --images 0:1"
        call += f" --n 20 --n0 10 --tol 0 --depth 1 --quiet --noise float --out {out}-run"
        assert main([*call.split(), "--agreement", "0"]) == 0


def test_what_is_not_pruned_keeps_its_value(tmp_path: Path) -> None:
    out = prune(PruneConfig(model="digits", sparsity=0.5, out=tmp_path / "half.pth"))
    smallest = []
    for old, new in zip(prunable(load_model("digits")), prunable(load_model(out)), strict=True):
        kept = new.value() != 0.0
        torch.testing.assert_close(new.value()[kept], old.value()[kept], rtol=1e-5, atol=0.0)
        smallest.append((old.value()[kept].abs().min(), old.value()[~kept].abs().max()))
    assert min(kept for kept, _ in smallest) >= 0.999 * max(gone for _, gone in smallest)


def test_a_filter_without_weights_is_zero_and_not_nan() -> None:
    model = load_model("digits")
    for weight in prunable(model):
        if isinstance(weight.module, WeightNormConv2d):
            mask = torch.ones_like(weight.value())
            mask[1] = 0.0
            weight.keep(mask)
            assert not weight.value()[1].any()
            assert weight.value()[0].any()
    assert vote(model, torch.rand(3, 1, 8, 8)).isfinite().all()


def test_narrowing_takes_out_what_is_read_by_nobody(tmp_path: Path) -> None:
    """Channels that are zero in the large model are those that go, and nothing else changes."""
    model = load_model("digits")
    assert isinstance(model, MDEQ)
    blocks = [m for m in model.modules() if isinstance(m, ResidualBlock)]
    with torch.no_grad():
        for block in blocks:
            gone = torch.arange(block.gn1.num_channels) % 4 == 1  # a quarter of each group
            for parameter in (block.conv1.weight_g, block.gn1.weight, block.gn1.bias):
                parameter[gone] = 0.0
            kernel = block.conv2.weight_v
            kernel[:, gone] = 0.0
    small, layers = narrow(model, 0.25)
    assert list(layers.values()) == [(8, 32), (16, 64)]
    new_blocks = [m for m in small.modules() if isinstance(m, ResidualBlock)]
    for old, new in zip(blocks, new_blocks, strict=True):
        kept = torch.arange(old.gn1.num_channels) % 4 != 1
        torch.testing.assert_close(new.conv1.weight(), old.conv1.weight()[kept])
        torch.testing.assert_close(new.conv2.weight(), old.conv2.weight()[:, kept])
        assert torch.equal(new.gn1.bias, old.gn1.bias[kept])
    assert small.config.expansion_factor == 1.5
    wanted = dict(model.state_dict())
    same = [k for k, v in small.state_dict().items() if v.shape == wanted[k].shape]
    assert len(same) > 0.8 * len(wanted)


@pytest.mark.parametrize("channels", [(24,), (24, 48), (8, 16, 32), (40, 120)])
def test_every_width_that_narrowing_chooses_can_be_built(channels: tuple[int, ...]) -> None:
    config = dataclasses.replace(
        architecture("tiny"),
        channels=channels,
        head_channels=(4,) * len(channels),
        num_blocks=(),
        big_kernels=(),
        num_groups=8,
        expansion_factor=5,
        image_size=(16, 16),
    )
    model = config.build().eval()
    seen = set()
    for sparsity in np.linspace(0.21, 0.99, 9):
        small, layers = narrow(model, float(sparsity))
        seen.add(small.config.expansion_factor)
        step = 8.0 / (5 * np.gcd.reduce(channels))
        gone, of = next(iter(layers.values()))
        reached = gone / of
        assert abs(reached - sparsity) <= step / 2 + 1e-9 or reached > 1.0 - 2.0 * step
    assert len(seen) > 2


@pytest.mark.parametrize("objective", ["gaussian", "smoothadv"])
def test_fine_tuning_keeps_the_zeros(objective: str, tmp_path: Path) -> None:
    config = dataclasses.replace(small_training(tmp_path), epochs=2)
    first = train(config)
    pruned = prune(PruneConfig(model=str(first), sparsity=0.6, out=tmp_path / "pruned.pth"))
    more = dataclasses.replace(
        config,
        model_config=None,
        init=str(pruned),
        pretrain=0.0,
        name="tuned",
        objective=objective,
        weight_decay=0.1,
        ema=0.5,
        epochs=1,
    )
    free = train(dataclasses.replace(more, name="free"))
    kept = train(dataclasses.replace(more, keep_zeros=True))
    assert zeros(kept) == zeros(pruned)
    assert shares(kept) == shares(pruned)
    assert zeros(free) < zeros(pruned)
    old, new = (load_model(path).state_dict() for path in (pruned, kept))
    assert not torch.equal(old["classifier.weight"], new["classifier.weight"])


def test_channels_of_zeros_stay_zero_in_training(tmp_path: Path) -> None:
    torch.manual_seed(0)
    file = save(architecture("monotone-conv").build(), tmp_path / "conv.pth")
    out = tmp_path / "pruned.pth"
    prune(PruneConfig(model=str(file), sparsity=0.5, structured=True, out=out))
    common = {"init": str(out), "pretrain": 0.0, "epochs": 1, "progress": False}
    kept = train(TrainConfig(out=tmp_path / "out", keep_zeros=True, test_draws=1, **common))
    assert zeros(kept) == zeros(out) > 0


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"sparsity": 0.0}, "above 0"),
        ({"sparsity": 1.0}, "below 1"),
        ({"sparsity": 1e-9}, "none of them"),
        ({"sparsity": 1 - 1e-9}, "all of them"),
        ({"structured": True, "sparsity": 0.01}, "whose least is 0.125"),
        ({"out": Path("pruned.bin")}, "must end in .pth"),
    ],
)
def test_a_wrong_pruning_is_one_sentence(given, says, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    right = {"model": "digits", "sparsity": 0.5, "out": tmp_path / "out.pth"}
    with pytest.raises(ConfigError, match=says):
        prune(PruneConfig(**(right | given)))
    assert not list(tmp_path.glob("*.pth"))


def test_other_models_than_can_be_pruned_are_refused(tmp_path: Path, capsys) -> None:
    (tmp_path / "junk.pth").write_bytes(bytes(500))
    with pytest.raises(CheckpointError):
        prune(PruneConfig(model=str(tmp_path / "junk.pth"), sparsity=0.5, out=tmp_path / "a.pth"))
    head = tmp_path / "head.pth"
    call = f"fit-latent --model digits --images 0:300 --max-nfe 5 --out {head} --quiet"
    assert main(call.split()) == 0
    capsys.readouterr()
    assert main(f"prune --model {head} --sparsity 0.5 --out {tmp_path / 'b.pth'}".split()) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "fitted to its latents" in said


def test_zeros_to_keep_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no zeros to keep"):
        hold_zeros(load_model("digits"))
    with pytest.raises(ConfigError, match="give one with init"):
        TrainConfig(out=tmp_path, keep_zeros=True)


def test_prune_tells_every_layer_and_the_total(tmp_path: Path, capsys) -> None:
    call = f"prune --model digits --sparsity 0.5 --structured --out {tmp_path / 'half.pth'}"
    assert main(call.split()) == 0
    said = capsys.readouterr().out
    assert "fullstage.branches.1.blocks.0        32 of 64" in said
    assert "50.0% of the channels; 67408 of 90448 weights are left" in said
    assert f"checkpoint: {tmp_path / 'half.pth'}" in said


# Form int8


def test_eight_bits_hold_what_is_left_of_each_weight() -> None:
    model, small = load_model("digits"), in_form(load_model("digits"), "int8", rows=4)
    folded = in_form(model, "folded", rows=4)
    layers = (torch.nn.Conv2d, torch.nn.Linear)
    pairs = zip(folded.named_modules(), small.modules(), strict=True)
    pairs = [(name, old, new) for (name, old), new in pairs if isinstance(old, layers)]
    assert len(pairs) > 15
    for _, old, new in pairs:
        scale = old.weight.flatten(1).abs().amax(dim=1) / 127
        scale = scale.view(-1, *(1,) * (old.weight.ndim - 1))
        codes = new.weight / scale
        assert (codes - codes.round()).abs().max() < 1e-3
        assert codes.abs().max() <= 127.01
        assert ((new.weight - old.weight).abs() <= 0.501 * scale).all()
        assert not torch.equal(new.weight, old.weight)


def test_a_channel_of_zeros_is_rounded_to_zeros() -> None:
    weight = torch.randn(3, 4, 3, 3)
    weight[1] = 0.0
    assert not rounded(weight)[1].any()
    assert rounded(weight).isfinite().all()


def test_int8_is_never_chosen_for_its_speed() -> None:
    from deqcert.bench.forms import FormBench, FormTiming

    timings = tuple(
        FormTiming(form, 0, 0, 0, vote, 1.0 / vote, 0.0, 0.0)
        for form, vote in {"eager": 1.0, "int8": 0.1, "folded": 0.8}.items()
    )
    assert FormBench(timings, {}).choice == "folded"
