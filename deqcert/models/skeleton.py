"""The network of a configuration without its numbers: what it would be, before it takes memory."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from deqcert.errors import ConfigError
from deqcert.models.base import ModelConfig

_DRAWS = {"normal_", "uniform_", "trunc_normal_", "bernoulli_"}


class _Shapes(TorchFunctionMode):
    """Computes shapes alone where torch would spend seconds on loading its symbolic shapes.

    Random weights stay undrawn, and a norm along a dimension has the shape of one entry.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if getattr(function, "__name__", "") in _DRAWS and args:
            return args[0]
        given = kwargs or {}
        if function is torch.linalg.vector_norm and isinstance(given.get("dim"), int):
            return args[0].select(given["dim"], 0)
        return function(*args, **given)


def skeleton(config: ModelConfig) -> dict[str, Tensor] | None:
    """Return the state_dict of a network that is not built, on torch's device "meta".

    Nothing is allocated and nothing is drawn, whatever sizes the configuration asks for.

    Args:
        config: The configuration.

    Returns:
        Names with tensors that have shapes and types only; None for a model that cannot be built
        without numbers, such as one that computes with its weights as it is made.

    Raises:
        ConfigError: If its sizes are more than any machine can count.
    """
    try:
        with torch.device("meta"), _Shapes():
            return dict(config.build().state_dict())
    except ConfigError:
        raise
    except Exception as error:  # a stranger's model may do anything as it is made
        if isinstance(error, (OverflowError, MemoryError)) or "overflow" in str(error).lower():
            raise ConfigError(
                "the network of this configuration has more weights than any machine can hold; "
                "lower its sizes."
            ) from None
        return None


def refuse_too_large(config: ModelConfig) -> None:
    """Refuse a configuration whose weights do not fit into this machine's memory.

    Raises:
        ConfigError: If they do not.
    """
    weights = skeleton(config)
    if weights is None:
        return
    needed = sum(value.numel() * value.element_size() for value in weights.values())
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise ConfigError(
            f"the weights of this configuration's network take {needed / 1e9:.3g} GB, but this "
            f"machine has {there / 1e9:.3g} GB of memory; lower its sizes."
        )
