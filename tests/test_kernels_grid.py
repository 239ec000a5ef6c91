"""Counter-based noise on a grid: the draw by its definition, the same bits everywhere, its law."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_problems import VARIANTS, bits, grid_points, grid_table, native, needs_native
from scipy import stats

from deqcert import kernels
from deqcert.errors import KernelError
from deqcert.kernels.philox import philox4x32
from deqcert.smoothing.grid import grid_law

GRIDS = [(255, 0.5), (255, 0.12), (16, 0.25), (255, 10.0), (1, 0.3), (1, 0.01), (7, 2.0)]
PLACE = {"seed": 0x0123456789ABCDEF, "index": 5, "stage": 2**32 - 1, "first": 2**32 - 3}


def draws(n, d, *, seed, index, stage, first):
    """All 60 bits of every draw as Python integers."""
    element = torch.arange(d).expand(n, d)
    sample = torch.arange(first, first + n)[:, None].expand(n, d)
    key = (seed & 0xFFFFFFFF, seed >> 32)
    words = []
    for apart in (0, 2**31):
        counter = (element // 4 + apart, sample)
        counter += tuple(torch.full_like(element, value) for value in (index, stage))
        four = torch.stack(philox4x32(counter, key), dim=2)
        words.append(four.gather(2, (element % 4)[:, :, None])[:, :, 0].tolist())
    upper, lower = words
    return [
        [(u << 28) + (v >> 4) for u, v in zip(*rows, strict=True)]
        for rows in zip(upper, lower, strict=True)
    ]


@pytest.mark.parametrize(("levels", "sigma"), GRIDS)
def test_points_follow_from_all_sixty_bits_by_the_thresholds(path, levels, sigma):
    law = grid_law(levels, sigma)
    x = torch.randint(0, levels + 1, (700,), generator=torch.Generator().manual_seed(1))
    got = grid_points(3, x.int(), levels, sigma, **PLACE)
    thresholds = [int(t) for t in law.thresholds]
    for row, drawn in zip(got.tolist(), draws(3, 700, **PLACE), strict=True):
        for value, centre, u in zip(row, x.tolist(), drawn, strict=True):
            point = centre + law.lowest + bisect_right(thresholds, u)
            point = min(max(point, law.low), law.high)
            assert value == np.float32(point) / np.float32(levels)


@pytest.mark.parametrize("beyond", [-1, 0, 1])
def test_a_draw_with_the_upper_bits_of_a_threshold_is_decided_by_the_lower(path, beyond):
    """Thresholds are put at, just below and just above the draws themselves."""
    drawn = draws(2, 300, **PLACE)
    thresholds = np.unique([u + beyond for row in drawn for u in row])
    values = np.arange(-1000, 2001, dtype=np.float32)
    table = kernels.GridTable.of(
        thresholds, lowest=-300, low=-1000, values=values, device=torch.device("cpu")
    )
    got = torch.empty(2, 300)
    kernels.philox_grid(got, torch.zeros(300, dtype=torch.int32), table, **PLACE)
    ordered = thresholds.tolist()
    want = [[bisect_right(ordered, u) - 300 for u in row] for row in drawn]
    assert got.tolist() == want


def test_many_thresholds_may_share_their_upper_bits(path):
    drawn = draws(1, 64, **PLACE)[0]
    thresholds = np.unique([u + step for u in drawn[:8] for step in range(-5, 6)])
    values = np.arange(0, 200, dtype=np.float32)
    table = kernels.GridTable.of(
        thresholds, lowest=0, low=0, values=values, device=torch.device("cpu")
    )
    got = torch.empty(1, 64)
    kernels.philox_grid(got, torch.zeros(64, dtype=torch.int32), table, **PLACE)
    assert got[0].tolist() == [bisect_right(thresholds.tolist(), u) for u in drawn]


@given(
    grid=st.sampled_from(GRIDS),
    n=st.integers(1, 5),
    d=st.integers(1, 600),
    seed=st.integers(0, 2**64 - 1),
    index=st.integers(0, 2**32 - 1),
    stage=st.integers(0, 2**32 - 1),
    first=st.integers(0, 2**32 - 5),
)
@needs_native
def test_native_points_have_the_bits_of_the_reference(grid, n, d, seed, index, stage, first):
    place = {"seed": seed, "index": index, "stage": stage, "first": first}
    x = torch.arange(d, dtype=torch.int32) % (grid[0] + 1)
    want = torch.empty(n, d)
    kernels.philox_grid.reference(want, x, grid_table(*grid), **place)
    for name in VARIANTS:
        before = native.isa()
        native.select_isa(name)
        got = grid_points(n, x, *grid, **place)
        native.select_isa(before)
        assert torch.equal(bits(got), bits(want))


def test_many_native_points_have_the_bits_of_the_reference(variant):
    x = torch.arange(3072, dtype=torch.int32) % 256
    want = torch.empty(700, 3072)  # two million elements: one or two draws tie
    kernels.philox_grid.reference(want, x, grid_table(255, 0.5), **PLACE | {"first": 0})
    assert torch.equal(bits(grid_points(700, x, 255, 0.5, **PLACE | {"first": 0})), bits(want))


def test_points_depend_on_their_place_alone(path):
    x = torch.arange(515, dtype=torch.int32) % 256
    place = {"seed": 3, "index": 2, "stage": 1}
    whole = grid_points(9, x, 255, 0.5, **place, first=10)
    assert torch.equal(grid_points(4, x, 255, 0.5, **place, first=12), whole[2:6])
    for d in (1, 2, 3, 4, 255, 256, 257):
        assert torch.equal(grid_points(9, x[:d], 255, 0.5, **place, first=10), whole[:, :d])


def test_equal_points_are_equal_floats_whatever_they_are_made_of(path):
    """The floats of two inputs are the same few, those of the grid itself."""
    grid = torch.arange(-765, 1021).float() / 255
    for level in (0, 100, 255):
        x = torch.full((4000,), level, dtype=torch.int32)
        assert torch.isin(grid_points(50, x, 255, 0.5), grid).all()


def chi_square(counts, law, level):
    """P-value of counts of grid points, cells with few expected put together."""
    points = np.arange(law.low, law.high + 1)
    edges = (2 * (points[:-1] - level) + 1) / (2 * law.levels * law.sigma)
    mass = np.diff(np.concatenate([[0.0], stats.norm.cdf(edges), [1.0]]))
    expected = mass * counts.sum()
    cell = np.floor(np.cumsum(expected) / 100)
    together = np.unique(cell, return_inverse=True)[1]
    pooled = [np.bincount(together, weights=each) for each in (counts, expected)]
    return stats.chisquare(*pooled).pvalue


def counted(law, level, draws):
    d, n = 4096, 250
    x = torch.full((d,), level, dtype=torch.int32)
    counts = np.zeros(law.high - law.low + 1, dtype=np.int64)
    for first in range(0, draws // d, n):
        got = grid_points(n, x, law.levels, law.sigma, seed=17, first=first)
        points = (got * law.levels).round().int() - law.low
        counts += torch.bincount(points.ravel(), minlength=len(counts)).numpy()
    return counts


def test_points_have_the_law(path):
    law = grid_law(255, 0.5)
    assert chi_square(counted(law, 40, 2_000_000), law, 40) > 0.01


def test_counts_of_a_wrong_law_are_seen():
    """What the check above is worth: noise a hundredth too wide, and a wrong centre."""
    law = grid_law(255, 0.5)
    counts = counted(law, 40, 4_000_000)
    wider = grid_law(255, 0.505)
    assert chi_square(counts, wider, 40) < 1e-6 < chi_square(counts, law, 40)
    assert chi_square(counts, law, 41) < 1e-6


@pytest.mark.long
@pytest.mark.parametrize(("levels", "sigma", "level"), [(255, 0.5, 40), (16, 0.25, 0), (255, 1, 9)])
def test_a_hundred_million_points_have_the_law(levels, sigma, level):
    law = grid_law(levels, float(sigma))
    assert chi_square(counted(law, level, 100_000_000), law, level) > 0.001


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("seed", v) for v in (-1, 2**64)),
        *(("index", v) for v in (-1, 2**32)),
        *(("stage", v) for v in (-1, 2**32)),
        *(("first", v) for v in (-1, 2**32 - 1)),
        *(("out", v) for v in (torch.empty(4), torch.empty(2, 4).double(), torch.empty(4, 2).T)),
        *(("x", v) for v in (torch.zeros(4), torch.zeros(3, dtype=torch.int32))),
    ],
)
def test_bad_arguments_are_named(path, name, value):
    good = {"out": torch.empty(2, 4), "x": torch.zeros(4, dtype=torch.int32)}
    good |= {"table": grid_table(255, 0.5), "seed": 0, "index": 0, "stage": 0, "first": 0}
    with pytest.raises(KernelError, match=f"^{name}: "):
        kernels.philox_grid(**{**good, name: value})
