"""The search for the largest proven radius: what it returns was proven, and little more can be."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deqcert.proofs import largest_radius

RADII = st.lists(st.floats(0.0, 2.0), min_size=1, max_size=6)


@settings(deadline=None)
@given(
    truth=RADII,
    limit=st.floats(0.01, 1.0),
    exponent=st.integers(1, 5),
    split=st.sampled_from([2, 3, 16]),
)
def test_the_result_was_accepted_and_is_within_the_resolution_of_the_largest(
    truth, limit, exponent, split
):
    largest = torch.tensor(truth, dtype=torch.float64)
    accepted: list[set[float]] = [{0.0} for _ in truth]
    resolution = 10.0**-exponent

    def proves(rows, radii):
        said = radii <= largest[rows]
        for row, radius, yes in zip(rows.tolist(), radii.tolist(), said.tolist(), strict=True):
            if yes:
                accepted[row].add(radius)
        return said

    limits = torch.full_like(largest, limit)
    found = largest_radius(proves, limits, resolution=resolution, split=split)
    for row, radius in enumerate(found.tolist()):
        assert radius in accepted[row]
        assert min(truth[row], limit) - radius <= resolution


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), split=st.sampled_from([2, 8]))
def test_a_proof_that_is_not_monotone_still_returns_a_radius_that_it_accepted(seed, split):
    generator = torch.Generator().manual_seed(seed)
    accepted = {0.0}

    def proves(rows, radii):
        said = torch.rand(len(rows), generator=generator) < 0.5
        accepted.update(radii[said].tolist())
        return said

    found = largest_radius(proves, torch.ones(5, dtype=torch.float64), split=split)
    assert set(found.tolist()) <= accepted


def test_rows_that_are_done_are_asked_no_more_and_known_radii_are_kept():
    asked: list[list[int]] = []

    def proves(rows, radii):
        asked.append(rows.tolist())
        return torch.zeros(len(rows), dtype=torch.bool)

    known = torch.tensor([0.0, 0.3, 0.5, 0.4999])
    found = largest_radius(proves, torch.full((4,), 0.5), resolution=1e-2, proven=known)
    assert torch.equal(found, known.double())
    assert asked[0] == [0, 1, 3]
    assert asked[1] == [0, 1]
    assert asked[-1] == [0]
    assert largest_radius(proves, torch.ones(0)).shape == (0,)
