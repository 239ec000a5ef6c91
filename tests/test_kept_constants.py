"""Multipliers kept beside a checkpoint save the search, and cannot make a constant too small."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from deqcert.errors import RunError
from deqcert.models import MonotoneConfig
from deqcert.models.zoo import SHIPPED
from deqcert.proofs import kept as kept_module
from deqcert.proofs import pairwise_bounds
from deqcert.proofs.kept import holds_constants, kept_constants, kept_file


def network(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config = MonotoneConfig(width=8, num_classes=3, image_size=(4, 4), monotone=0.5)
    return config.build().eval().requires_grad_(False)


@pytest.fixture
def model(tmp_path: Path) -> Any:
    """A network whose checkpoint lies in a folder of its own."""
    found = network()
    found.checkpoint = tmp_path / "net_m0.5.pt"
    return found


def constants(model: Any) -> Any:
    file = kept_file(model)
    assert file is not None
    return kept_constants(model, model.relu_form(), file)


def test_constants_are_searched_for_once_and_read_back_to_the_last_bit(model: Any) -> None:
    first, second = constants(model), constants(model)
    assert first.file == model.checkpoint.parent / "net_m0.5.lipschitz.json"
    assert (first.read, first.searched, second.read, second.searched) == (0, 3, 3, 0)
    assert torch.equal(first.bounds, second.bounds)
    assert torch.equal(first.bounds, pairwise_bounds(model.relu_form(), "multiplier"))


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    """What a true file of that network holds, and its constants."""
    found = network()
    found.checkpoint = tmp_path_factory.mktemp("honest") / "net.pt"
    made = constants(found)
    return made.file.read_text(), made.bounds


def smaller(content: dict[str, Any]) -> None:
    content["pairs"][0]["constant"] *= 0.999


def another_multiplier(content: dict[str, Any]) -> None:
    content["pairs"][1]["multiplier"][0] *= 3.0


def negative_multiplier(content: dict[str, Any]) -> None:
    content["pairs"][1]["multiplier"][0] = -1.0


def no_number(content: dict[str, Any]) -> None:
    content["pairs"][2]["multiplier"][0] = float("nan")


def short_multiplier(content: dict[str, Any]) -> None:
    content["pairs"][2]["multiplier"].pop()


def a_pair_less(content: dict[str, Any]) -> None:
    content["pairs"].pop()


def swapped(content: dict[str, Any]) -> None:
    pairs = content["pairs"]
    pairs[0]["classes"], pairs[2]["classes"] = pairs[2]["classes"], pairs[0]["classes"]


def other_weights(content: dict[str, Any]) -> None:
    content["weights_sha256"] = "0" * 64


def no_pairs(content: dict[str, Any]) -> None:
    del content["pairs"]


@pytest.mark.parametrize(
    "tamper",
    [
        smaller,
        another_multiplier,
        negative_multiplier,
        no_number,
        short_multiplier,
        a_pair_less,
        swapped,
        other_weights,
        no_pairs,
    ],
)
def test_a_file_that_was_tampered_with_costs_time_and_no_truth(
    tamper: Callable[[dict[str, Any]], None], model: Any, honest: tuple[str, Any]
) -> None:
    text, bounds = honest
    content, file = json.loads(text), kept_file(model)
    tamper(content)
    assert file is not None
    file.write_text(json.dumps(content))
    again = constants(model)
    assert again.searched > 0
    torch.testing.assert_close(again.bounds, bounds, rtol=1e-9, atol=0)
    assert constants(model).searched == 0, "the file is whole again"


def test_a_constant_that_is_larger_than_it_need_be_is_no_lie(model: Any) -> None:
    honest = constants(model)
    content = json.loads(honest.file.read_text())
    content["pairs"][0]["constant"] *= 2.0
    honest.file.write_text(json.dumps(content))
    assert (constants(model).bounds >= honest.bounds).all()


@pytest.mark.parametrize("damaged", ["", "[]", "{", '{"pairs": 3}', "[" * 100_000, "\0"])
def test_a_damaged_file_holds_nothing(damaged: str, model: Any, honest: tuple[str, Any]) -> None:
    file = kept_file(model)
    assert file is not None
    file.write_text(honest[0])
    assert holds_constants(model, file)
    file.write_text(damaged)
    assert not holds_constants(model, file)


def test_retrained_weights_get_constants_of_their_own(model: Any) -> None:
    before = constants(model)
    other = network(1)
    other.checkpoint = model.checkpoint
    after = constants(other)
    assert after.searched == 3 and not torch.equal(before.bounds, after.bounds)
    assert torch.equal(after.bounds, pairwise_bounds(other.relu_form(), "multiplier"))


def test_a_folder_that_cannot_be_written_is_no_error(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*given: Any) -> None:
        raise RunError("no permission")

    monkeypatch.setattr(kept_module, "write_atomically", refuses)
    found = constants(model)
    assert found.file is None and found.searched == 3
    assert torch.equal(found.bounds, pairwise_bounds(model.relu_form(), "multiplier"))


def test_the_package_is_not_written_into_and_a_model_without_a_file_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network()
    assert kept_file(model) is None
    monkeypatch.setenv("DEQCERT_CACHE", str(tmp_path))
    model.checkpoint = SHIPPED / "digits.pth"
    file = kept_file(model)
    assert file is not None and file.parent == tmp_path and file.name.endswith(".lipschitz.json")
    assert constants(model).searched == 3 and constants(model).read == 3
