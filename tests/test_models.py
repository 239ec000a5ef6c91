"""Models: the contract over every architecture, and the numbers of the original implementation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from deqcert.errors import ConfigError, DataError
from deqcert.models import (
    ARCHITECTURES,
    MDEQ,
    ImplicitModel,
    StateLayout,
    TrainableModel,
    architecture,
    load_model,
    read_config,
)
from deqcert.solvers import StopRule, bind, get_solver

SMALL_IMAGES = {"large": (16, 16), "imagenet-small": (32, 32)}


def build(name: str) -> TrainableModel:
    """An architecture with random weights; the large ones on smaller images, for speed."""
    torch.manual_seed(0)
    config = architecture(name)
    size = SMALL_IMAGES.get(name, config.image_size)
    return replace(config, image_size=size).build().eval()


@pytest.fixture(params=ARCHITECTURES.names())
def model(request: pytest.FixtureRequest) -> TrainableModel:
    return build(request.param)


def images(model: TrainableModel, rows: int = 3) -> torch.Tensor:
    return torch.rand(rows, *model.input_shape, generator=torch.Generator().manual_seed(1))


def test_shapes_follow_the_protocol(model: TrainableModel) -> None:
    assert isinstance(model, ImplicitModel)
    with torch.no_grad():
        injection = model.inject(images(model))
        z = model.initial_state(injection)
        assert z.shape[0] == 3
        assert z.count_nonzero() == 0
        after = model.cell(z, injection)
        assert after.shape == z.shape
        assert model.readout(after).shape == (3, model.num_classes)


def test_rows_do_not_see_each_other(model: TrainableModel) -> None:
    x = images(model)
    with torch.no_grad():
        injection = model.inject(x)
        z = torch.randn(model.initial_state(injection).shape)
        together = model.readout(model.cell(z, injection))
        x[0] = torch.nan
        z[0] = torch.inf
        spoiled = model.readout(model.cell(z, model.inject(x)))
        alone = model.readout(model.cell(z[1:], model.inject(x[1:])))
    torch.testing.assert_close(spoiled[1:], together[1:], rtol=0, atol=0)
    torch.testing.assert_close(alone, together[1:], rtol=1e-4, atol=1e-4)


def test_state_dict_survives_a_round_trip(model: TrainableModel) -> None:
    torch.manual_seed(5)
    other = model.config.build().eval()
    other.load_state_dict(model.state_dict(), strict=True)
    with torch.no_grad():
        injection = model.inject(images(model))
        z = torch.randn(model.initial_state(injection).shape)
        assert torch.equal(model.cell(z, injection), other.cell(z, other.inject(images(model))))


def test_configuration_survives_a_round_trip(model: TrainableModel, tmp_path) -> None:
    path = tmp_path / "model.yaml"
    path.write_text(model.config.to_yaml())
    assert read_config(path) == model.config


def test_folded_weights_are_the_same_numbers_and_never_stale() -> None:
    model = build("small")
    conv = model.fullstage.branches[0].blocks[0].conv1
    fresh = conv.weight().detach()  # gradients are on: computed anew
    with torch.no_grad():
        assert torch.equal(conv.weight(), fresh)
        assert conv.weight() is conv.weight()
        conv.weight_g.mul_(2.0)
        assert torch.equal(conv.weight(), 2.0 * fresh)
        state = {key: value.clone() for key, value in model.state_dict().items()}
        state["fullstage.branches.0.blocks.0.conv1.weight_g"] /= 2.0
        model.load_state_dict(state)
        assert torch.equal(conv.weight(), fresh)
        assert model.double().fullstage.branches[0].blocks[0].conv1.weight().dtype == torch.float64
    with torch.inference_mode():
        kept = model.fullstage.branches[0].blocks[0].conv1.weight()
    assert not kept.is_inference()


@pytest.mark.parametrize(
    "change",
    [
        {"channels": (8,), "head_channels": (4,), "num_blocks": (2,), "big_kernels": (2,)},
        {"num_blocks": (2, 1, 1), "big_kernels": (1, 0, 2)},
        {"downsample_times": 1},
        {"downsample_times": 3},
        {"weight_norm": False, "block_affine": False, "fuse_affine": False, "post_affine": True},
    ],
)
def test_every_part_of_the_configuration_is_honoured(change: dict) -> None:
    model = MDEQ(replace(architecture("small"), **({"num_blocks": (), "big_kernels": ()} | change)))
    names = model.state_dict().keys()
    config = model.config
    assert ("fullstage.branches.0.blocks.0.conv1.weight_g" in names) == config.weight_norm
    assert ("fullstage.branches.0.blocks.0.gn1.weight" in names) == config.block_affine
    assert ("fullstage.post_fuse_layers.0.gnorm.weight" in names) == config.post_affine
    assert ("downsample.DS3-BN.weight" in names) == (config.downsample_times > 2)
    blocks = model.fullstage.branches[0].blocks
    assert len(blocks) == config.num_blocks[0]
    assert blocks[0].conv1.padding in (2, (2, 2)) or config.big_kernels[0] == 0
    x = torch.rand(2, 3, 32, 32)
    z = model.initial_state(model.inject(x))
    assert model.readout(model.cell(z, model.inject(x))).shape == (2, 10)


def test_dropout_masks_are_drawn_in_training_only() -> None:
    model = build("small")
    assert model.draw_masks(2) is None
    model.train()
    masks = model.draw_masks(2)
    assert masks is not None
    assert masks.shape == (2, 56)
    injection = model.inject(images(model, 2))
    z = torch.randn(model.initial_state(injection).shape)
    dropped = model.cell(z, injection, torch.zeros_like(masks))
    kept = model.cell(z, injection, torch.ones_like(masks))
    assert not torch.allclose(dropped, kept)
    torch.testing.assert_close(kept, model.cell(z, injection))


def test_images_that_do_not_fit_are_refused() -> None:
    model = build("small")
    for shape in ((1, 1, 32, 32), (1, 3, 30, 30), (3, 32, 32)):
        with pytest.raises(DataError, match="cannot enter"):
            model.inject(torch.zeros(shape))
    with pytest.raises(DataError, match="state of 7 elements"):
        model.readout(torch.zeros(1, 7))


def test_layout_packs_and_unpacks() -> None:
    layout = StateLayout.pyramid((2, 3), 4, 6)
    maps = [torch.randn(5, *shape) for shape in layout.shapes]
    z = layout.pack(maps)
    assert z.shape == (5, layout.size) == (5, 2 * 24 + 3 * 6)
    assert all(torch.equal(a, b) for a, b in zip(layout.unpack(z), maps, strict=True))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"head_channels": (7, 14)}, "one entry per resolution"),
        ({"num_groups": 3}, "num_groups"),
        ({"image_size": (30, 32)}, "multiples of 4"),
        ({"dropout": 1.0}, "dropout"),
        ({"mean": (0.5,)}, "mean and std"),
        ({"std": (0.5, 0.0, 1.0), "mean": (0.0, 0.0, 0.0)}, "above 0"),
        ({"big_kernels": (0, 0, 3)}, "big_kernels"),
        ({"num_classes": 0}, "num_classes"),
        ({"weight_norm": 1}, "weight_norm"),
    ],
)
def test_impossible_configurations_are_refused(change: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        MDEQ(replace(architecture("small"), **change))


def test_unknown_architecture_is_refused() -> None:
    with pytest.raises(ConfigError, match="there are tiny"):
        architecture("huge")


class TestGolden:
    """The original implementation's outputs for a real checkpoint."""

    @pytest.fixture
    def golden(self, golden_folder):
        with np.load(golden_folder / "mdeq_small_noise25.npz") as data:
            return {key: torch.from_numpy(data[key]) for key in data}

    @pytest.fixture
    def model(self, golden_folder) -> MDEQ:
        return load_model(golden_folder / "mdeq_small_noise25.pth.tar")

    @staticmethod
    def inputs(golden: dict[str, torch.Tensor], kind: str) -> torch.Tensor:
        x = golden["x"].double() / 255
        return x + golden["noise"].double() if kind == "noisy" else x

    @staticmethod
    def close(found: torch.Tensor, wanted: torch.Tensor, relative: float) -> None:
        assert (found - wanted).norm() <= relative * wanted.norm()

    @torch.no_grad()
    def test_one_cell_evaluation(self, golden, model) -> None:
        injection = model.inject(self.inputs(golden, "noisy").float())
        found = model.cell(golden["z_random"], injection[:2])
        self.close(found, golden["cell_of_z_random"], 1e-5)

    @pytest.mark.parametrize("kind", ["clean", "noisy"])
    @torch.no_grad()
    def test_injection_and_first_evaluations(self, golden, model, kind) -> None:
        injection = model.inject(self.inputs(golden, kind).float())
        self.close(injection, golden[f"{kind}_injection"], 1e-5)
        z = model.initial_state(injection)
        for depth in range(1, 6):
            z = model.cell(z, injection)
            self.close(model.readout(z), golden[f"{kind}_logits_picard{depth}"], 1e-5)

    @pytest.mark.parametrize("kind", ["clean", "noisy"])
    @torch.no_grad()
    def test_equilibrium(self, golden, model, kind) -> None:
        model.double()
        injection = model.inject(self.inputs(golden, kind))
        start = model.initial_state(injection)
        result = get_solver("anderson").solve(
            bind(model.cell, injection), start, StopRule(tol=2e-9, max_nfe=200)
        )
        assert result.converged.all()
        wanted = golden[f"{kind}_logits_equilibrium_float64"]
        torch.testing.assert_close(model.readout(result.z), wanted, rtol=0, atol=5e-6)
