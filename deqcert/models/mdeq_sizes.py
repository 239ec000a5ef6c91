"""MDEQs by name: the shipped one and those of the literature."""

from __future__ import annotations

from dataclasses import replace

from deqcert.models.config import MDEQConfig
from deqcert.models.normalize import IMAGENET_STATISTICS

TINY = MDEQConfig(
    channels=(16, 32),
    head_channels=(8, 16),
    final_channels=128,
    image_size=(8, 8),
    input_channels=1,
    mean=(0.305,),
    std=(0.376,),
    num_groups=4,
    expansion_factor=2,
    downsample_times=1,
    post_affine=False,
    num_layers=6,
)
"""For 8x8 grey digits."""

SMALL = MDEQConfig(
    channels=(8, 16, 32),
    head_channels=(7, 14, 28),
    final_channels=200,
    post_affine=False,
    dropout=0.2,
)
"""MDEQ-SMALL for CIFAR-10."""

LARGE = replace(
    SMALL,
    channels=(32, 64, 128, 256),
    head_channels=(14, 28, 56, 112),
    final_channels=1680,
    num_blocks=(),
    big_kernels=(),
    dropout=0.3,
    num_layers=10,
)
"""MDEQ-LARGE for CIFAR-10."""

IMAGENET_SMALL = MDEQConfig(
    channels=(32, 64, 128, 256),
    head_channels=(24, 48, 96, 192),
    final_channels=2048,
    num_classes=1000,
    image_size=(224, 224),
    mean=IMAGENET_STATISTICS[0],
    std=IMAGENET_STATISTICS[1],
    downsample_times=2,
    num_layers=5,
)
"""The public SMALL for ImageNet."""
