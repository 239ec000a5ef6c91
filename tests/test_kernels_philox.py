"""Counter-based normals: known answers, the same bits everywhere, and their law."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_problems import VARIANTS, bits, native, needs_native, normals
from scipy import stats

from deqcert import kernels
from deqcert.errors import KernelError
from deqcert.kernels.philox import _normal_pair, philox4x32


@pytest.mark.parametrize(
    ("counter", "key", "want"),
    [
        ("00000000 " * 4, "00000000 " * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff " * 4, "ffffffff " * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            "243f6a88 85a308d3 13198a2e 03707344",
            "a4093822 299f31d0",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_known_answers(counter, key, want):
    """Vectors of Random123 (Salmon, Moraes, Dror, Shaw 2011)."""
    words = tuple(torch.tensor([int(word, 16)]) for word in counter.split())
    k0, k1 = (int(word, 16) for word in key.split())
    got = philox4x32(words, (k0, k1))
    assert [f"{int(word):08x}" for word in got] == want.split()


def test_normals_follow_from_philox_by_box_and_muller(path):
    seed, index, stage, first = 0x0123456789ABCDEF, 5, 2**32 - 1, 2**32 - 3
    got = normals(3, 4000, seed=seed, index=index, stage=stage, first=first).double().numpy()
    block = torch.arange(1000).expand(3, 1000)
    sample = torch.arange(first, first + 3)[:, None].expand(3, 1000)
    counter = (block, sample, torch.full_like(block, index), torch.full_like(block, stage))
    u = [w.numpy() for w in philox4x32(counter, (0x89ABCDEF, 0x01234567))]
    for k in (0, 2):
        radius = np.sqrt(-2 * np.log((u[k] + 0.5) / 2**32))
        angle = 2 * np.pi * (u[k + 1] + 0.5) / 2**32
        np.testing.assert_allclose(got[:, k::4], radius * np.cos(angle), rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(got[:, k + 1 :: 4], radius * np.sin(angle), rtol=1e-7, atol=1e-9)


def test_transform_is_accurate_at_the_ends():
    ends = [0, 1, 2**29 - 1, 2**29, 2**30, 2**31 - 1, 2**31, 3 * 2**30, 2**32 - 2, 2**32 - 1]
    u0, u1 = torch.cartesian_prod(torch.tensor(ends), torch.tensor(ends)).unbind(1)
    radius = np.sqrt(-2 * np.log((u0.numpy() + 0.5) / 2**32))
    angle = 2 * np.pi * (u1.numpy() + 0.5) / 2**32
    first, second = _normal_pair(u0, u1)
    np.testing.assert_allclose(first, radius * np.cos(angle), rtol=2e-7, atol=1e-14)
    np.testing.assert_allclose(second, radius * np.sin(angle), rtol=2e-7, atol=1e-14)
    largest = float(max(first.abs().max(), second.abs().max()))
    assert largest == pytest.approx(math.sqrt(66 * math.log(2)), rel=1e-6)
    assert 2 * stats.norm.sf(largest) < 1.4e-11  # what docs/bounds.md says is left out
    assert first[(u0 == ends[-1])].abs().max() > 0  # no radius is 0, as at an end of the cells


@given(
    n=st.integers(1, 5),
    d=st.integers(1, 600),
    seed=st.integers(0, 2**64 - 1),
    index=st.integers(0, 2**32 - 1),
    stage=st.integers(0, 2**32 - 1),
    first=st.integers(0, 2**32 - 5),
)
@needs_native
def test_native_normals_have_the_bits_of_the_reference(n, d, seed, index, stage, first):
    place = {"seed": seed, "index": index, "stage": stage, "first": first}
    want = torch.empty(n, d)
    kernels.philox_normal.reference(want, **place)
    for name in VARIANTS:
        before = native.isa()
        native.select_isa(name)
        got = normals(n, d, **place)
        native.select_isa(before)
        assert torch.equal(bits(got), bits(want))


def test_many_native_normals_have_the_bits_of_the_reference(variant):
    want = torch.empty(300, 3072)
    kernels.philox_normal.reference(want, seed=9, index=1, stage=2, first=3)
    assert torch.equal(bits(normals(300, 3072, seed=9, index=1, stage=2, first=3)), bits(want))


def test_normals_depend_on_their_place_alone(path):
    whole = normals(9, 515, seed=3, index=2, stage=1, first=10)
    assert torch.equal(normals(4, 515, seed=3, index=2, stage=1, first=12), whole[2:6])
    for d in (1, 2, 3, 4, 255, 256, 257):
        assert torch.equal(normals(9, d, seed=3, index=2, stage=1, first=10), whole[:, :d])


def test_normals_are_standard_normal(path):
    x = normals(400, 1000, seed=11).double().numpy().ravel()
    assert stats.kstest(x, "norm").pvalue > 0.01
    n = x.size
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((x**power).mean() - moment) < 4 * math.sqrt(variance / n)
    for part in range(4):  # each of a block's four outputs by itself
        assert stats.kstest(x[part::4], "norm").pvalue > 0.01


def test_normals_of_different_places_are_independent(path):
    base = {"seed": 1, "index": 1, "stage": 1, "first": 0}
    x = normals(40, 2500, **base).double()
    n = x.numel()
    others = [
        normals(40, 2500, **{**base, key: value})
        for key, value in (
            *((("seed"), s) for s in (0, 2, 1 + 2**32)),
            *(("index", i) for i in (0, 2)),
            *(("stage", s) for s in (0, 2)),
            ("first", 40),
        )
    ]
    others += [x.roll(1, dims=1), x.roll(1, dims=0), x.roll(4, dims=1)]
    for y in others:
        y = y.double()
        assert not torch.equal(x, y)
        assert abs((x * y).sum().item()) < 4.5 * math.sqrt(n)
        assert abs(((x**2 - 1) * (y**2 - 1)).sum().item()) < 4.5 * 2 * math.sqrt(n)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("seed", v) for v in (-1, 2**64)),
        *(("index", v) for v in (-1, 2**32)),
        *(("stage", v) for v in (-1, 2**32)),
        *(("first", v) for v in (-1, 2**32 - 1)),
        *(("out", v) for v in (torch.empty(4), torch.empty(2, 4).double(), torch.empty(4, 2).T)),
        ("out", torch.empty(2, 0)),
    ],
)
def test_bad_noise_arguments_are_named(path, name, value):
    good = {"out": torch.empty(2, 4), "seed": 0, "index": 0, "stage": 0, "first": 0}
    with pytest.raises(KernelError, match=f"^{name}: "):
        kernels.philox_normal(**{**good, name: value})
