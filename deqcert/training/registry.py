"""Objectives and augmentations by name: a file and a line here each; imported when asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deqcert.options import Option, options_of, read_options
from deqcert.registry import Registry

if TYPE_CHECKING:
    from deqcert.training.augment import Augmentation
    from deqcert.training.objectives import Objective

OBJECTIVES: Registry[type[Objective]] = Registry(
    "objective",
    {
        "gaussian": "deqcert.training.objectives.gaussian:Gaussian",
        "smoothadv": "deqcert.training.objectives.smoothadv:SmoothAdv",
        "consistency": "deqcert.training.objectives.consistency:Consistency",
        "macer": "deqcert.training.objectives.macer:Macer",
        "distill": "deqcert.training.objectives.distill:Distill",
        "faithful": "deqcert.training.objectives.faithful:Faithful",
        "gaussian-latent": "deqcert.training.objectives.gaussian_latent:GaussianLatent",
        "adaptive": "deqcert.training.objectives.adaptive:Adaptive",
        "fixed-radius": "deqcert.training.objectives.fixed_radius:FixedRadius",
        "crown-ibp": "deqcert.training.objectives.crown_ibp:CrownIbp",
        "small-box": "deqcert.training.objectives.small_box:SmallBox",
    },
)
"""What a training can minimise: subclasses of :class:`deqcert.training.objectives.Objective`."""

AUGMENTATIONS: Registry[Augmentation] = Registry(
    "augmentation",
    {
        "auto": "deqcert.training.augment:auto",
        "none": "deqcert.training.augment:nothing",
        "shift": "deqcert.training.augment:shift",
        "crop-flip": "deqcert.training.augment:crop_flip",
    },
)
"""What can be done to training images, shape (B, C, H, W), before the noise: functions of images
and a generator."""


def objective_options(name: str) -> Mapping[str, Option]:
    """Return the options of an objective.

    Raises:
        ConfigError: If there is no objective of that name.
    """
    return options_of(OBJECTIVES.get(name))


def get_objective(name: str, sigma: float, **options: Any) -> Objective:
    """Make the objective of that name.

    Args:
        name: One of the names of :data:`OBJECTIVES`.
        sigma: Standard deviation of the noise, in [0, 1] pixel units.
        **options: Its options, those of :func:`objective_options`; text is read.

    Raises:
        ConfigError: If there is no such objective, it has no such option, or a value is out of
            range.
    """
    given = read_options(f"{name} option", options, objective_options(name))
    return OBJECTIVES.get(name)(sigma, **given)
