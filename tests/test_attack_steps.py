"""Gradient attacks: they keep to ball and box, climb, and reach the optimum where it is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from deqcert.attacks.ball import project, to_grid, unit
from deqcert.attacks.ddn import ddn
from deqcert.attacks.pgd import pgd
from deqcert.errors import ConfigError, DataError

SHAPE = (2, 3, 4)


def images(seed: int, rows: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    """Images with many pixels at the limits, as real ones have."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand((rows, *SHAPE), generator=generator, dtype=dtype)
    return (1.6 * x - 0.3).clamp(0.0, 1.0)


def weights(seed: int, classes: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1000 + seed)
    return torch.randn(classes, int(np.prod(SHAPE)), generator=generator)


def distance(a: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.vector_norm((a.double() - b.double()).flatten(1), dim=1)


def inside(points: Tensor, x: Tensor, radius: Tensor) -> bool:
    in_box = bool(((points >= 0) & (points <= 1)).all())
    return in_box and bool((distance(points, x) <= radius.double()).all())


RADII = st.floats(min_value=0.0, max_value=6.0, allow_nan=False)


@given(st.integers(0, 10_000), RADII, st.floats(0.01, 100.0))
def test_a_projection_is_in_the_set_and_nearest(seed: int, radius: float, spread: float) -> None:
    x = images(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    points = x + spread * torch.randn(x.shape, generator=generator)
    radii = torch.full((len(x),), radius, dtype=torch.float64)
    found = project(points, x, radii)
    assert inside(found, x, radii)
    assert found.dtype == x.dtype
    # Nearest: <points - found, other - found> <= 0 for every other point of a convex set.
    for trial in range(4):
        other = project(
            x + torch.randn(x.shape, generator=generator) * (0.3 + trial), x, radii
        ).double()
        inner = ((points.double() - found.double()) * (other - found.double())).flatten(1).sum(1)
        scale = distance(points, found) * (1.0 + distance(other, found))
        assert (inner <= 2e-6 * scale + 1e-9).all()


@given(st.integers(0, 10_000), RADII, st.sampled_from([1, 16, 255]))
def test_grid_points_of_an_attack_are_in_the_ball_and_near(
    seed: int, radius: float, levels: int
) -> None:
    x = (images(seed) * levels).round() / levels
    radii = torch.full((len(x),), radius, dtype=torch.float64)
    points = project(x + torch.randn(x.shape), x, radii)
    found = to_grid(points, x, radii, levels)
    assert inside(found, x, radii) and found.dtype == x.dtype
    assert torch.equal((found * levels).round() / levels, found)
    assert ((found - points).abs() < (1 + 1e-5) / levels).all()
    assert torch.equal(to_grid(found, x, torch.full_like(radii, torch.inf), levels), found)
    # Without a limit it is rounding.
    free = to_grid(points, x, torch.full_like(radii, torch.inf), levels)
    assert ((free - points).abs() <= (0.5 + 1e-4) / levels).all()


def test_a_projection_leaves_what_is_inside() -> None:
    x = images(0)
    radii = torch.full((len(x),), 2.0, dtype=torch.float64)
    inner = project(x + 0.05 * torch.randn(x.shape), x, radii)
    assert torch.equal(project(inner, x, radii), inner)
    far = torch.full((len(x),), float("inf"), dtype=torch.float64)
    assert torch.equal(project(x + 7.0, x, far), torch.ones_like(x))


@given(st.integers(0, 10_000), RADII, st.integers(1, 6), st.booleans())
def test_pgd_stays_inside_and_never_falls_on_a_linear_loss(
    seed: int, radius: float, steps: int, elsewhere: bool
) -> None:
    x, w = images(seed), weights(seed)[0]

    def loss(images: Tensor) -> Tensor:
        return images.flatten(1) @ w

    start = images(seed + 7) if elsewhere else None
    radii = torch.linspace(0.0, 1.0, len(x)) * radius
    found = pgd(loss, x, radius=radii, steps=steps, start=start)
    assert inside(found, x, radii)
    begun = x if start is None else project(start, x, radii)
    assert (loss(found) >= loss(begun) - 1e-5).all()


@given(st.integers(0, 10_000), st.floats(0.01, 4.0))
def test_pgd_finds_the_optimum_of_a_linear_loss(seed: int, radius: float) -> None:
    x, w = images(seed).double(), weights(seed)[0].double()
    found = pgd(lambda images: images.flatten(1) @ w, x, radius=radius, steps=20, step_size=1e6)
    # The optimum is clip(x + t w) with the t that uses the radius up, or the corner of the box.
    flat, low, high = (
        x.flatten(1),
        torch.zeros(len(x)).double(),
        torch.full((len(x),), 1e9).double(),
    )
    for _ in range(200):
        middle = (low + high) / 2
        reached = ((flat + middle[:, None] * w).clamp(0, 1) - flat).norm(dim=1) <= radius
        low, high = torch.where(reached, middle, low), torch.where(reached, high, middle)
    best = (flat + low[:, None] * w).clamp(0, 1) @ w
    assert torch.allclose(found.flatten(1) @ w, best, rtol=1e-5, atol=1e-6)


def test_pgd_with_its_own_step_size_reaches_the_optimum_inside_the_box() -> None:
    x, w = torch.full((3, *SHAPE), 0.5), weights(1)[0]
    found = pgd(lambda images: images.flatten(1) @ w, x, radius=0.2, steps=4)
    expected = x + 0.2 * (w / w.norm()).view(SHAPE)
    assert torch.allclose(found, expected, atol=1e-6)


def test_ddn_finds_the_distance_to_a_plane() -> None:
    w = weights(2)[:2]
    normal = w[1] - w[0]
    x = torch.full((6, *SHAPE), 0.5) + 0.02 * (images(3, rows=6) - 0.5)
    margin = x.flatten(1) @ normal
    bias = torch.stack([torch.zeros(6), -margin - 0.3 * normal.norm()], dim=1)  # at distance 0.3

    def logits(images: Tensor) -> Tensor:
        return images.flatten(1) @ w.T + bias

    y = torch.zeros(6, dtype=torch.long)
    found = ddn(logits, x, y, radius=2.0, steps=100)
    assert (logits(found).argmax(dim=1) == 1).all()
    assert distance(found, x).numpy() == pytest.approx(0.3, rel=0.06)
    assert (distance(found, x) >= 0.3 - 1e-6).all()
    # Out of reach: the ball's edge, straight towards the plane.
    short = ddn(logits, x, y, radius=0.1, steps=20)
    assert torch.allclose(short, x + 0.1 * (normal / normal.norm()).view(SHAPE), atol=1e-5)


@given(st.integers(0, 10_000), RADII, st.integers(1, 6))
def test_ddn_stays_inside(seed: int, radius: float, steps: int) -> None:
    x, w = images(seed), weights(seed)
    y = torch.arange(len(x)) % 3
    radii = torch.linspace(0.0, 1.0, len(x)) * radius
    found = ddn(lambda images: images.flatten(1) @ w.T, x, y, radius=radii, steps=steps)
    assert inside(found, x, radii)
    already = (x.flatten(1) @ w.T).argmax(dim=1) != y
    assert torch.equal(found[already], x[already]), "nothing is nearer than the image itself"


def test_ddn_without_a_limit_still_ends() -> None:
    x, w = images(0), weights(0)
    found = ddn(
        lambda images: images.flatten(1) @ w.T * 0.0, x, torch.zeros(5).long(), radius=1e9, steps=9
    )
    assert torch.equal(found, x)


class Net(torch.nn.Module):
    """A smooth classifier whose rows are independent."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = torch.nn.Linear(24, 16), torch.nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map images to logits."""
        return self.last(torch.tanh(3.0 * self.first(x.flatten(1))))


def both(net: Net, x: Tensor, y: Tensor) -> list[Tensor]:
    def loss(images: Tensor) -> Tensor:
        labels = y if len(images) == len(y) else y[: len(images)]
        return torch.nn.functional.cross_entropy(net(images), labels, reduction="none")

    return [pgd(loss, x, radius=0.5, steps=5), ddn(net, x, y, radius=0.5, steps=8)]


def test_rows_are_independent() -> None:
    net, x, y = Net(), images(4), torch.arange(5) % 3
    together = both(net, x, y)
    for row in range(5):
        alone = both(net, x[row : row + 1], y[row : row + 1])
        for one, all_ in zip(alone, together, strict=True):
            assert torch.allclose(one[0], all_[row], atol=1e-6)


def test_pgd_raises_a_loss_that_is_not_linear() -> None:
    net, x, y = Net(), images(5, rows=40), torch.arange(40) % 3
    (found, _) = both(net, x, y)
    before, after = (
        torch.nn.functional.cross_entropy(net(points), y, reduction="none") for points in (x, found)
    )
    assert (after > before).double().mean() > 0.95


def test_nothing_is_left_behind() -> None:
    net, x, y = Net(), images(6), torch.arange(5) % 3
    x.requires_grad_()
    before = torch.get_rng_state()
    with torch.no_grad():
        results = both(net, x, y)
    assert all(parameter.grad is None for parameter in net.parameters())
    assert x.grad is None
    assert not any(result.requires_grad for result in results)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_rows_without_a_gradient_stay_and_harm_nobody(value: float) -> None:
    x, w = images(7), weights(7)
    factor = torch.tensor([1.0, value, 1.0, 1.0, 1.0])[:, None]

    def logits(images: Tensor) -> Tensor:
        return images.flatten(1) @ w.T * factor

    y = torch.zeros(5, dtype=torch.long)
    for spoiled, whole in zip(
        (
            pgd(lambda v: -logits(v)[:, 0], x, radius=0.5, steps=3),
            ddn(logits, x, y, radius=0.5, steps=3),
        ),
        (
            pgd(lambda v: -(v.flatten(1) @ w.T)[:, 0], x, radius=0.5, steps=3),
            ddn(lambda v: v.flatten(1) @ w.T, x, y, radius=0.5, steps=3),
        ),
        strict=True,
    ):
        assert torch.equal(spoiled[1], x[1])
        assert torch.equal(spoiled[[0, 2, 3, 4]], whole[[0, 2, 3, 4]])


@pytest.mark.parametrize("size", [1e-30, 1e-40, 1e30])
def test_a_direction_survives_any_scale(size: float) -> None:
    vectors = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0)) * size
    assert torch.linalg.vector_norm(unit(vectors).flatten(1), dim=1).numpy() == pytest.approx(
        1.0, abs=1e-5
    )


def test_what_cannot_be_attacked_is_refused() -> None:
    x, y = images(8), torch.zeros(5, dtype=torch.long)

    def loss(images: Tensor) -> Tensor:
        return images.flatten(1).sum(dim=1)

    for options, text in (
        ({"radius": -1.0, "steps": 1}, "at least 0"),
        ({"radius": float("nan"), "steps": 1}, "at least 0"),
        ({"radius": torch.ones(3), "steps": 1}, "one for each of the 5 images"),
        ({"radius": 1.0, "steps": 0}, "whole number from 1"),
    ):
        with pytest.raises(ConfigError, match=text):
            pgd(loss, x, **options)
        with pytest.raises(ConfigError, match=text):
            ddn(lambda v: v.flatten(1), x, y, **options)
    with pytest.raises(ConfigError, match="gamma"):
        ddn(lambda v: v.flatten(1), x, y, radius=1.0, steps=1, gamma=1.0)
    with pytest.raises(ConfigError, match="norm"):
        ddn(lambda v: v.flatten(1), x, y, radius=1.0, steps=1, norm=0.0)
    with pytest.raises(DataError, match="outside"):
        pgd(loss, x + 1.0, radius=1.0, steps=1)
    with pytest.raises(DataError, match="shape"):
        pgd(loss, x[0], radius=1.0, steps=1)
