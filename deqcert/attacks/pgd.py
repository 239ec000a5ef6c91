"""Projected gradient ascent in an l2 ball."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from deqcert.attacks.ball import ascent, check_attack, column, project


def pgd(
    loss: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    radius: float | Tensor,
    steps: int,
    step_size: float | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """Raise each row's loss by normalised gradient steps inside ball and box.

    ``x' <- project(x' + step_size * g / ||g||)`` with g the gradient of the row's loss. A row whose
    gradient is zero or not finite stays where it is. Nothing is random, and only gradients of the
    images are computed: those of parameters are left alone.

    Args:
        loss: Maps images, shape (B, C, H, W), to losses, shape (B,), rows independent. It is
            differentiated ``steps`` times; keep its noise fixed between the calls.
        x: Images in [0, 1], shape (B, C, H, W).
        radius: Of the l2 ball around each image, at least 0; a number, or one a row, shape (B,).
        steps: Gradient steps, from 1.
        step_size: Length of a step, in pixel units; ``2 * radius / steps`` if not given, so that
            the whole ball can be crossed.
        start: Where to start, shape (B, C, H, W), brought into the set first; ``x`` if not given.

    Returns:
        The last iterate, shape (B, C, H, W), in the ball (in float64, rounding included) and in
        [0, 1].

    Raises:
        ConfigError: If the radius or the number of steps is out of range.
        DataError: If the images are not of shape (B, C, H, W) with values in [0, 1].

    Source: Madry, Makelov, Schmidt, Tsipras, Vladu 2018, "Towards Deep Learning Models Resistant
    to Adversarial Attacks", section 2; step size as in the code that accompanies Salman et al.
    2019, "Provably Robust Deep Learning via Adversarially Trained Smoothed Classifiers".
    """
    x = x.detach()
    radii = check_attack(x, radius, steps)
    length = 2.0 * radii / steps if step_size is None else radii.new_full(radii.shape, step_size)
    here = x if start is None else project(start, x, radii)
    for _ in range(steps):
        here = project(here + column(length) * ascent(loss, here), x, radii)
    return here
