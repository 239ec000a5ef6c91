"""Names that were: until their last users have moved to the new ones."""

from __future__ import annotations

from deqcert.models.architectures import ARCHITECTURES, architecture
from deqcert.models.base import ModelConfig, TrainableModel

Config = ModelConfig
Model = TrainableModel
preset = architecture


def preset_names() -> tuple[str, ...]:
    """Return :meth:`ARCHITECTURES.names`."""
    return ARCHITECTURES.names()


def build_model(config: ModelConfig) -> TrainableModel:
    """Return ``config.build()``."""
    return config.build()
