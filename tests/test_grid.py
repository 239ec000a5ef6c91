"""The law of noise on a grid: to the last bit, symmetric, and its distance from Gaussian noise."""

from __future__ import annotations

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deqcert.errors import ConfigError
from deqcert.smoothing.grid import BITS, grid_law

GRIDS = [(255, 0.5), (255, 0.25), (255, 0.12), (255, 1.0), (16, 0.25), (1, 0.3), (7, 2.0)]
ONE = 2**BITS


def masses(law):
    """Probability of each grid point for an input at 0, as drawn, in units of 2^-60."""
    drawn = np.diff([0, *map(int, law.thresholds), ONE])
    points = dict.fromkeys(range(law.low, law.high + 1), 0)
    for found, mass in enumerate(drawn):
        points[min(max(law.lowest + found, law.low), law.high)] += int(mass)
    return points


@pytest.mark.parametrize(("levels", "sigma"), GRIDS)
def test_every_threshold_is_the_nearest_integer(levels, sigma):
    law = grid_law(levels, sigma)
    with mpmath.workprec(400):
        for found, threshold in enumerate(law.thresholds):
            i = law.lowest + found
            exact = ONE * mpmath.ncdf(mpmath.mpf(2 * i + 1) / (2 * levels * mpmath.mpf(sigma)))
            assert int(mpmath.nint(exact)) == threshold
        first = mpmath.mpf(2 * law.lowest - 1) / (2 * levels * mpmath.mpf(sigma))
        assert law.lowest == -levels * (law.high // levels) or ONE * mpmath.ncdf(first) < 0.5


@pytest.mark.parametrize(("levels", "sigma"), GRIDS)
def test_every_cell_has_the_mass_of_gaussian_noise_rounded_and_clipped(levels, sigma):
    law = grid_law(levels, sigma)
    got, total = masses(law), mpmath.mpf(0)
    assert sum(got.values()) == ONE
    with mpmath.workprec(400):
        width = 2 * levels * mpmath.mpf(sigma)
        for point, mass in got.items():
            below = 0 if point == law.low else mpmath.ncdf((2 * point - 1) / width)
            above = 1 if point == law.high else mpmath.ncdf((2 * point + 1) / width)
            off = abs(Fraction(mass, ONE) - Fraction(str(above - below)))
            assert off <= Fraction(1, ONE)
            total += mpmath.mpf(off.numerator) / off.denominator
        # Total variation of one value, against what a certificate pays for it.
        assert total / 2 <= law.charge(1, 1)


@given(st.integers(1, 300), st.floats(1e-3, 1))
@settings(max_examples=10)
def test_the_law_is_symmetric_and_its_thresholds_ascend(levels, sigma):
    law = grid_law(levels, sigma)
    low, high = law.low // levels, law.high // levels
    assert (low, high) == (-max(1, math.floor(6 * sigma)), 1 + max(1, math.floor(6 * sigma)))
    thresholds = [int(t) for t in law.thresholds]
    assert thresholds == [ONE - t for t in reversed(thresholds)]
    # Where less than 2^-60 is left between two of them they are equal.
    assert thresholds == sorted(thresholds)
    assert all(0 < t < ONE for t in thresholds)
    assert len(thresholds) == -2 * law.lowest


def test_the_charge_is_that_of_the_derivation():
    """n d C / 2^61: the two examples of docs/bounds.md."""
    assert grid_law(255, 0.5).charge(100_000, 3072) == pytest.approx(2.7e-7, rel=0.01)
    assert grid_law(255, 1.0).charge(100_000, 150_528) == pytest.approx(2.3e-5, rel=0.02)
    law = grid_law(16, 0.25)
    exact = Fraction(10_100 * 64 * law.cells, 2 ** (BITS + 1))
    assert Fraction(law.charge(10_100, 64)) >= exact
    assert law.charge(10_100, 64) == pytest.approx(float(exact), rel=1e-12)


def test_thirty_two_bits_would_cost_more_than_there_is():
    law = grid_law(255, 0.5)
    assert law.charge(100_000, 3072) * 2**28 > 70


@pytest.mark.parametrize(("levels", "sigma"), [(255, 1e4), (2**20, 0.5), (0, 0.5)])
def test_what_has_no_tables_is_refused(levels, sigma):
    with pytest.raises(ConfigError, match="noise float"):
        grid_law(levels, sigma)
