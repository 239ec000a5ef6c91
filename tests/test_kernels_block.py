"""The residual block: its definition in torch, any sizes, and rows that keep to themselves."""

from __future__ import annotations

import math

import pytest
import torch
from kernel_problems import VARIANTS, needs_native, path, variant  # noqa: F401

from deqcert import kernels
from deqcert.errors import KernelError
from deqcert.kernels import block

# Channels, inner channels, groups, height, width: every width of a panel and of a tile.
SIZES = [
    (8, 40, 8, 6, 32),
    (16, 80, 8, 4, 16),
    (32, 160, 8, 8, 8),
    (24, 48, 4, 4, 4),
    (64, 112, 4, 3, 7),
    (8, 8, 2, 1, 1),
    (40, 64, 4, 2, 18),
]


def weights(channels: int, inner: int, groups: int, seed: int = 0) -> kernels.BlockWeights:
    """A block whose numbers are random."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return scale * torch.randn(*shape, generator=draw)

    return kernels.BlockWeights(
        first=normal(inner, channels, 3, 3, scale=(9 * channels) ** -0.5),
        second=normal(channels, inner, 3, 3, scale=(9 * inner) ** -0.5),
        scales=(normal(inner), normal(channels), normal(channels)),
        shifts=(normal(inner), normal(channels), normal(channels)),
        groups=groups,
        eps=(1e-5, 1e-3, 1e-5),
    )


def maps(rows: int, channels: int, height: int, width: int, seed: int = 1) -> torch.Tensor:
    """Maps that lie in longer states."""
    size = channels * height * width
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(rows, size + 7, generator=draw)[:, 3 : 3 + size].unflatten(
        1, (channels, height, width)
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("injected", [True, False])
def test_a_block_is_its_definition(variant, size, injected, monkeypatch):  # noqa: F811
    channels, inner, groups, height, width = size
    x, of_block = maps(5, channels, height, width), weights(channels, inner, groups)
    injection = maps(5, channels, height, width, seed=2).contiguous() if injected else None
    for heavy in (0, 1 << 40):  # rows together, and one by one
        monkeypatch.setattr(block, "HEAVY", heavy)
        found = kernels.residual_block(x, injection, of_block)
        wanted = kernels.residual_block.reference(x, injection, of_block)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=5e-5)


@needs_native
@pytest.mark.parametrize("mistake", ["eps", "injection", "groups", "tap"])
def test_the_comparison_itself_sees_a_wrong_block(mistake):
    x, of_block = maps(3, 16, 6, 6), weights(16, 32, 4)
    injection = maps(3, 16, 6, 6, seed=2).contiguous()
    wrong = weights(16, 32, 8 if mistake == "groups" else 4)
    if mistake == "eps":
        object.__setattr__(wrong, "eps", (1e-5, 2e-2, 1e-5))
    if mistake == "tap":
        wrong.packed[0][:16] = 0.0
    given = None if mistake == "injection" else injection
    found = kernels.residual_block(x, given, wrong)
    wanted = kernels.residual_block.reference(x, injection, of_block)
    assert (found - wanted).abs().max() > 1e-3


def test_a_row_depends_neither_on_the_others_nor_on_threads(variant):  # noqa: F811
    x, of_block = maps(9, 16, 8, 8), weights(16, 80, 8)
    before = x.clone()
    together = kernels.residual_block(x, None, of_block)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(kernels.residual_block(x, None, of_block), together)
    finally:
        torch.set_num_threads(threads)
    for row in range(9):
        assert torch.equal(
            kernels.residual_block(x[row : row + 1], None, of_block)[0], together[row]
        )
    assert torch.equal(x, before)
    assert not len(kernels.residual_block(x[:0], None, of_block))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_row_of_a_block_keeps_to_itself_and_is_not_hidden(path, bad, monkeypatch):  # noqa: F811
    monkeypatch.setattr(block, "HEAVY", 0)
    x, of_block = maps(6, 16, 8, 8).contiguous(), weights(16, 32, 4)
    clean = kernels.residual_block(x, None, of_block)
    x[2, 3, 4, 5] = bad
    found = kernels.residual_block(x, None, of_block)
    others = [0, 1, 3, 4, 5]
    torch.testing.assert_close(found[others], clean[others], rtol=1e-4, atol=5e-5)
    assert found[2].isnan().any()


def test_a_constant_map_has_no_negative_variance(variant):  # noqa: F811
    of_block = weights(8, 40, 8)
    x = torch.full((2, 8, 8, 8), 1e3)
    found = kernels.residual_block(x, None, of_block)
    assert found.isfinite().all()


def test_arguments_that_do_not_fit_are_one_sentence():
    of_block = weights(16, 32, 4)
    x = maps(3, 16, 6, 6)
    for given, injection, says in [
        (x[:, :8], None, r"x: expected shape \(B, 16, H, W\)"),
        (x.transpose(2, 3), None, "x: expected rows that are contiguous"),
        (x.double(), None, "x: expected float32 on the CPU"),
        (x, x.contiguous()[:2], "injection: expected shape"),
        (x, x, "injection: expected a contiguous"),
    ]:
        with pytest.raises(KernelError, match=says):
            kernels.residual_block(given, injection, of_block)
    with pytest.raises(KernelError, match="inner channels: expected a multiple of 8"):
        weights(16, 36, 4)
    with pytest.raises(KernelError, match="channels: expected a multiple of 8 and of the groups"):
        weights(16, 48, 3)
