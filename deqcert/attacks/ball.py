"""The set an attack stays in: a ball around each image, cut with the box of valid pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from deqcert.certifiers.certificate import NORMS, Norm
from deqcert.errors import ConfigError, DataError


@dataclass(frozen=True)
class Ball:
    """Per row a ball around an image, cut with the box [0, 1].

    Args:
        centre: Images in [0, 1], shape (B, C, H, W).
        radius: Of the ball around each image, at least 0; a number, or one per row, shape (B,).
        norm: How distances are measured: "l2" or "linf".

    Raises:
        ConfigError: If the radius is out of range, or there is no such norm.
        DataError: If the images are not of shape (B, C, H, W) with values in [0, 1].
    """

    centre: Tensor
    radius: float | Tensor
    norm: Norm = "l2"

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise ConfigError(f"norm is {self.norm!r}, but it must be one of {', '.join(NORMS)}.")
        _ = self.radii

    @cached_property
    def radii(self) -> Tensor:
        """The radius per row, shape (B,), float64."""
        return check_ball(self.centre, self.radius)

    def project(self, points: Tensor) -> Tensor:
        """Return the nearest points of ball and box together; see :func:`project`."""
        return project(points, self.centre, self.radii, self.norm)

    def ascent(self, loss: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Return the way up at points per row, of size 1 in the norm; see :func:`ascent`."""
        return ascent(loss, x, self.norm)


def project(points: Tensor, centre: Tensor, radius: Tensor, norm: Norm = "l2") -> Tensor:
    """Return the nearest points of ball and box together.

    In l2 ``clip(centre + t (points - centre))`` with the largest t up to 1 that stays in the ball:
    the exact projection, as its optimality conditions show. Clipping and shrinking in turn is not,
    and would stop short of the optimum where pixels are at their limits. In linf each pixel is
    clipped by itself.

    Args:
        points: What is projected, shape (B, C, H, W).
        centre: Images in [0, 1], same shape.
        radius: Of the ball per row, shape (B,), at least 0; may be infinite.
        norm: Of the ball.

    Returns:
        Shape (B, C, H, W), in the images' type. Its float64 distance to the centre is at most the
        radius: room is left for the rounding of the result.
    """
    return (_project_linf if norm == "linf" else _project_l2)(points, centre, radius)


def _project_linf(points: Tensor, centre: Tensor, radius: Tensor) -> Tensor:
    x = centre.double()
    rounding = torch.finfo(centre.dtype).eps / 4
    limit = column((radius.double() - rounding).clamp(min=0.0) * (1.0 - 1e-12))
    nearest: Tensor = points.double().clamp(x - limit, x + limit).clamp(0.0, 1.0)
    return nearest.to(centre.dtype)


def _project_l2(points: Tensor, centre: Tensor, radius: Tensor) -> Tensor:
    x = centre.double().flatten(1)
    way = points.double().flatten(1) - x
    size, room = way.abs(), torch.where(way > 0, 1.0 - x, x)
    rounding = torch.finfo(centre.dtype).eps / 4 * x.shape[1] ** 0.5
    limit = ((radius.double() - rounding).clamp(min=0.0) * (1.0 - 1e-12)).square()[:, None]
    # Pixels reach their limits in this order as t grows; the squared distance at each such t.
    reached, order = (room / size).nan_to_num(nan=float("inf")).sort(dim=1)
    still = room.gather(1, order).square().cumsum(dim=1)
    moving = size.gather(1, order).square().flip(1).cumsum(dim=1).flip(1)
    moving = torch.cat([moving[:, 1:], torch.zeros_like(moving[:, :1])], dim=1)
    count = (still + reached.square() * moving <= limit).sum(dim=1, keepdim=True)
    before = (count - 1).clamp(min=0)
    spent = torch.where(count > 0, still.gather(1, before), 0.0)
    left = torch.where(count > 0, moving.gather(1, before), size.square().sum(dim=1, keepdim=True))
    t = ((limit - spent) / left).sqrt().nan_to_num(nan=1.0).clamp(max=1.0)
    nearest: Tensor = (x + t * way).clamp(0.0, 1.0)
    return nearest.to(centre.dtype).view_as(centre)


def to_grid(points: Tensor, centre: Tensor, radius: Tensor, levels: int) -> Tensor:
    """Return grid points near to given points, in the ball: images that a file of pixels can hold.

    Every pixel goes to the neighbour on the side of the centre, which stays in the ball; then those
    that were nearest to the farther neighbour go there, the nearest first, as long as all of them
    together stay in it. Without a limit that is rounding.

    Args:
        points: Points of the ball, shape (B, C, H, W), in [0, 1].
        centre: Images on the grid, same shape.
        radius: Of the ball per row, shape (B,), at least 0; may be infinite.
        levels: Steps of the grid between 0 and 1.

    Returns:
        Shape (B, C, H, W), in the images' type. Its float64 distance to the centre is at most the
        radius.
    """
    x = (centre.double() * levels).round().flatten(1)
    way = points.double().flatten(1) * levels - x
    near = way.trunc()
    rounding = torch.finfo(centre.dtype).eps * x.shape[1] ** 0.5
    limit = ((radius.double() - rounding).clamp(min=0.0) * levels).square()[:, None]
    rest = (way - near).abs()
    order = rest.argsort(dim=1, descending=True, stable=True)
    more = torch.where(rest >= 0.5, 2.0 * near.abs() + 1.0, torch.inf).gather(1, order)
    fits = near.square().sum(dim=1, keepdim=True) + more.cumsum(dim=1) <= limit
    farther = torch.zeros_like(near).scatter(1, order, (fits & more.isfinite()).double())
    return ((x + near + farther * way.sign()) / levels).to(centre.dtype).view_as(centre)


def distances(points: Tensor, centre: Tensor, norm: Norm = "l2") -> Tensor:
    """Return how far points are from images, in float64.

    Args:
        points: Shape (B, C, H, W).
        centre: Images, same shape, or one that broadcasts to it.
        norm: How it is measured.

    Returns:
        Shape (B,), float64.
    """
    way = (points.double() - centre.double()).flatten(1)
    found: Tensor = torch.linalg.vector_norm(way, ord=2 if norm == "l2" else torch.inf, dim=1)
    return found


def ascent(loss: Callable[[Tensor], Tensor], x: Tensor, norm: Norm = "l2") -> Tensor:
    """Return the steepest way up per row, of size 1; zero where there is none to follow.

    Args:
        loss: Maps images, shape (B, C, H, W), to one loss per independent row, shape (B,).
        x: Where it is differentiated, shape (B, C, H, W).
        norm: How steps are measured.

    Returns:
        Shape (B, C, H, W). Rows whose gradient is zero or not finite are zero. No other gradient
        than that of ``x`` is computed.
    """
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(leaf).sum(), leaf)
    return steepest(gradient, norm)


def steepest(gradients: Tensor, norm: Norm = "l2") -> Tensor:
    """Return the step of size 1 that gains most, per row: the unit vector, or the signs in linf.

    Args:
        gradients: Shape (B, ...).
        norm: How steps are measured.

    Returns:
        The same shape; rows that are zero or not finite become zero.
    """
    if norm == "l2":
        return unit(gradients)
    flat = gradients.detach().flatten(1)
    usable = torch.isfinite(flat).all(dim=1, keepdim=True)
    return torch.where(usable, flat.sign(), 0.0).view_as(gradients)


def unit(vectors: Tensor) -> Tensor:
    """Scale rows, shape (B, ...), to l2 norm 1; zero and non-finite ones become zero."""
    flat = vectors.detach().flatten(1)
    largest = flat.abs().amax(dim=1, keepdim=True)
    usable = (largest > 0) & torch.isfinite(largest)
    # By the largest entry first: the squares of a saturated loss's gradient are all zero.
    flat = torch.where(usable, flat / largest, 0.0)
    norm = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
    return torch.where(usable, flat / norm, 0.0).view_as(vectors)


def column(values: Tensor) -> Tensor:
    """View one value per row, shape (B,), so that it multiplies images: shape (B, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)


def check_ball(x: Tensor, radius: float | Tensor) -> Tensor:
    """Check images and radius, and return the radius per row, shape (B,), float64.

    Args:
        x: Images in [0, 1], shape (B, C, H, W).
        radius: Of the ball around each image, at least 0; a number, or one per row, shape (B,).

    Raises:
        ConfigError: If the radius is out of range.
        DataError: If the images are not of shape (B, C, H, W) with values in [0, 1].
    """
    if x.ndim != 4 or not torch.is_floating_point(x):
        raise DataError(f"images have shape {tuple(x.shape)}; an attack takes floats (B, C, H, W).")
    if not ((x >= 0) & (x <= 1)).all():
        raise DataError("images have values outside [0, 1]; attack them without noise.")
    radii = torch.as_tensor(radius, dtype=torch.float64, device=x.device)
    if radii.ndim > 1 or (radii.ndim == 1 and len(radii) != len(x)):
        raise ConfigError(
            f"radius has shape {tuple(radii.shape)}, but it must be a number or one for each of "
            f"the {len(x)} images."
        )
    if not (radii >= 0).all():
        raise ConfigError(
            "a radius of an attack is below 0 or not a number; it must be at least 0."
        )
    return radii.expand(len(x))


def check_steps(steps: int) -> None:
    """Check a number of steps.

    Raises:
        ConfigError: If it is not a whole number from 1.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ConfigError(f"steps is {steps}, but it must be a whole number from 1.")
