"""Broyden's step: when it updates, shortens, and forgets."""

from __future__ import annotations

import pytest
import torch
from kernel_problems import memory_of


def test_broyden_needs_a_pivot(path):
    # The residual does not change along the step: there is no secant equation to satisfy.
    memory = memory_of("broyden", 1, 5, 3, torch.float64)
    z, g = torch.zeros(1, 3, dtype=torch.float64), torch.ones(1, 3, dtype=torch.float64)
    for _ in range(3):
        out = memory.step(z, z + g)
        assert memory.arrays["count"].item() == 1
        assert torch.equal(out, z + g)
        z = out.clone()


def test_broyden_searches_along_its_direction_and_then_forgets(path):
    memory = memory_of("broyden line search", 1, 5, 2, torch.float64)
    z = torch.zeros(1, 2, dtype=torch.float64)
    z = memory.step(z, z + 1.0).clone()
    z = memory.step(z, z + 0.5).clone()  # accepted: g falls from 1 to 0.5
    assert memory.arrays["count"].item() == 2
    base = z - memory.arrays["directions"][:, 1]
    shares = []
    for _ in range(5):
        z = memory.step(z, z + 9.0).clone()
        share = (z - base) / memory.arrays["directions"][:, 1]
        shares.append(share.mean().item())
    assert shares == pytest.approx([0.5, 0.25, 0.125, 0.0625, 0.0])
    assert memory.arrays["count"].item() == 0
    torch.testing.assert_close(memory.step(z, z + 3.0), z + 3.0)
    assert memory.arrays["merit"].item() == 18.0
