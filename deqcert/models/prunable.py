"""The weights of a model that can be pruned, and keeping those that are zero."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deqcert.errors import ConfigError
from deqcert.models.blocks import WeightNormConv2d


@dataclass(frozen=True)
class Prunable:
    """One weight with two dimensions or more: of a convolution, a linear layer or a cell.

    Attributes:
        name: Of the layer, as in the state_dict.
        module: What holds it.
        attribute: What the module calls it.
    """

    name: str
    module: nn.Module
    attribute: str

    @property
    def parameter(self) -> nn.Parameter:
        """What is trained."""
        found = getattr(self.module, self.attribute)
        assert isinstance(found, nn.Parameter)
        return found

    @torch.no_grad()
    def value(self) -> Tensor:
        """Return the weight, output channels first; of a weight-normalised one its kernel."""
        if isinstance(self.module, WeightNormConv2d):
            return self.module.weight()
        return self.parameter.detach()

    @torch.no_grad()
    def keep(self, mask: Tensor) -> None:
        """Set the weight to zero where a mask is; what remains keeps its value.

        A filter of a weight-normalised convolution that loses all its entries has no direction: it
        keeps its own and the gain 0, which is the kernel 0.

        Args:
            mask: Of the weight's shape; 0 or False where it goes.
        """
        mask = mask.bool()
        parameter, module = self.parameter, self.module
        if not isinstance(module, WeightNormConv2d):
            parameter.mul_(mask)
            return
        before = torch.linalg.vector_norm(parameter.flatten(1), dim=1)
        left = parameter * mask
        after = torch.linalg.vector_norm(left.flatten(1), dim=1)
        gone = (after == 0.0).view(-1, *(1,) * (parameter.ndim - 1))
        module.weight_g.mul_((after / before).view_as(gone))
        parameter.copy_(torch.where(gone, parameter, left))


def prunable(model: nn.Module) -> list[Prunable]:
    """Return the weights of a model that can be pruned, in the order of its state_dict.

    Biases, normalisations and gains are left out: they are few, and a gain of 0 ends a channel.
    """
    found: list[Prunable] = []
    for prefix, module in model.named_modules():
        for attribute, parameter in module.named_parameters(recurse=False):
            gain = isinstance(module, WeightNormConv2d) and attribute == "weight_g"
            if parameter.ndim >= 2 and not gain:
                name = prefix if attribute in ("weight", "weight_v") and prefix else attribute
                if prefix and name != prefix:
                    name = f"{prefix}.{attribute}"
                found.append(Prunable(name, module, attribute))
    return found


def hold_zeros(model: nn.Module) -> None:
    """Let those weights of a model that are exactly zero get no gradient from now on.

    An optimiser that moves a weight by its gradients and in proportion to itself leaves them zero.

    Args:
        model: On the device where it will be trained.

    Raises:
        ConfigError: If no weight is zero.
    """
    held = 0
    for weight in prunable(model):
        parameters = [weight.parameter]
        if isinstance(weight.module, WeightNormConv2d):
            parameters.append(weight.module.weight_g)
        for parameter in parameters:
            free = parameter.detach() != 0.0
            if not bool(free.all()):
                held += 1
                parameter.register_hook(_masked(free))  # type: ignore[no-untyped-call]
    if not held:
        raise ConfigError(
            "no weight of the checkpoint is zero, so there are no zeros to keep; leave out "
            "keep_zeros (channels that were removed are not there to come back)."
        )


def _masked(free: Tensor) -> Callable[[Tensor], Tensor]:
    def mask(gradient: Tensor) -> Tensor:
        return gradient * free

    return mask
