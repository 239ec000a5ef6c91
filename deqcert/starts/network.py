"""Small networks that guess the equilibrium from the injection, so that a solve can start there."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from deqcert.errors import ConfigError
from deqcert.models.base import ImplicitModel, MappedModel
from deqcert.models.state import StateLayout
from deqcert.registry import Registry

SHARE = 5
"""A start network has at most one weight for this many of its model."""

SCALES = (2.0, 1.75, 1.5, 1.25, 1.0, 0.75, 0.5, 0.25)
MOST_RANK = 64


class PyramidStart(nn.Module):
    """Guess every resolution of a multiscale state with a few convolutions.

    The highest resolution is where a convolution costs most, so it gets a single one; what else it
    needs comes from one level below, four channels for each of its own (a pixel shuffle). The
    lowest level adds its mean over the image, since the normalisations of a cell see all of it.

    Args:
        shapes: Shape (C, H, W) of each map of the state, highest resolution first, halving.
        channels: Channels of the injection, which has the highest resolution.
        scale: Inner channels of a level per channel of its map, above 0.
        groups: Groups of the normalisation that a guess ends in, as the cell's own values do; 0
            for none.

    Rows are independent: nothing is normalised over the batch.
    """

    def __init__(
        self, shapes: Sequence[Sequence[int]], channels: int, scale: float, groups: int
    ) -> None:
        super().__init__()
        self.layout = StateLayout(tuple((int(c), int(h), int(w)) for c, h, w in shapes))
        first, *lower = (shape[0] for shape in shapes)
        widths = [8 * math.ceil(scale * c / 8) for c in lower]
        sources = [channels, *widths]
        self.direct = nn.Conv2d(channels, first, 3, padding=1)
        self.down = nn.ModuleList(
            nn.Conv2d(source, width, 3, 2, 1)
            for source, width in zip(sources, widths, strict=False)
        )
        self.mix = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for width in widths)
        self.squeeze = nn.Linear(widths[-1], widths[-1]) if widths else None
        self.up = nn.ModuleList(
            nn.Conv2d(below, width, 1) for width, below in itertools.pairwise(widths)
        )
        self.blend = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for width in widths[:-1])
        self.shuffle = nn.Conv2d(widths[0], 4 * first, 1) if widths else None
        self.out = nn.ModuleList(
            nn.Conv2d(width, c, 1)
            for width, c in zip([first, *widths], [first, *lower], strict=True)
        )
        self.norm = nn.ModuleList(
            nn.GroupNorm(groups, shape[0]) if groups else nn.Identity() for shape in shapes
        )

    def forward(self, injection: Tensor) -> Tensor:
        """Map injections, shape (B, C, H, W), to states, shape (B, D)."""
        features: list[Tensor] = []
        entry = injection
        for down, mix in zip(self.down, self.mix, strict=True):
            entry = F.relu(mix(F.relu(down(entry))))
            features.append(entry)
        high = self.direct(injection)
        if self.squeeze is not None and self.shuffle is not None:
            features[-1] = features[-1] + self.squeeze(entry.mean(dim=(2, 3)))[:, :, None, None]
            for level in range(len(features) - 2, -1, -1):
                below = F.interpolate(self.up[level](features[level + 1]), scale_factor=2)
                features[level] = F.relu(self.blend[level](F.relu(features[level] + below)))
            high = high + F.pixel_shuffle(self.shuffle(features[0]), 2)
        maps = [
            norm(out(entry))
            for norm, out, entry in zip(self.norm, self.out, [F.relu(high), *features], strict=True)
        ]
        return self.layout.pack(maps)


class LowRankStart(nn.Module):
    """Guess a state without layout from the flattened injection, through a few numbers.

    Args:
        inputs: Elements of an injection.
        outputs: Elements of a state.
        rank: Numbers between them, at least 1.
    """

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(inputs, rank), nn.Linear(rank, outputs)

    def forward(self, injection: Tensor) -> Tensor:
        """Map injections, shape (B, ...), to states, shape (B, D)."""
        out: Tensor = self.out(F.silu(self.into(injection.flatten(1))))
        return out


NETWORKS: Registry[type[nn.Module]] = Registry(
    "start network",
    {"pyramid": PyramidStart, "low-rank": LowRankStart},
    plural="start_networks",
)
"""What a start network can be: its class by the kind that a file holds, made from keywords."""


def start_architecture(model: ImplicitModel, injection: Tensor) -> dict[str, Any]:
    """Choose the architecture of a model's start network: plain values, as a file can hold.

    Args:
        model: Any model of the protocol. One whose state is a pyramid of maps
            (:class:`deqcert.models.base.MappedModel`) gets a pyramid, every other a low rank.
        injection: What its ``inject`` returned for one or more images.

    Returns:
        What :func:`build_start` takes: the largest of its kind with at most a fifth of the model's
        parameters.
    """
    most = _size(model) // SHARE
    if isinstance(model, MappedModel):
        layout, groups = model.start_layout(injection)
        for scale in SCALES:
            found = {
                "kind": "pyramid",
                "shapes": [list(shape) for shape in layout.shapes],
                "channels": injection.shape[1],
                "scale": scale,
                "groups": groups,
            }
            if _size(build_start(found)) <= most:
                break
        return found
    inputs, outputs = injection[0].numel(), model.initial_state(injection).shape[1]
    rank = min((most - outputs) // (inputs + outputs + 1), inputs, outputs, MOST_RANK)
    return {"kind": "low-rank", "inputs": inputs, "outputs": outputs, "rank": max(1, rank)}


def build_start(architecture: dict[str, Any]) -> nn.Module:
    """Make the network that an architecture describes, with fresh weights.

    Raises:
        ConfigError: If it describes none.
    """
    try:
        options = dict(architecture)
        kind = options.pop("kind")
        if kind in NETWORKS:
            return NETWORKS.get(kind)(**options)
    except (KeyError, TypeError, ValueError):
        pass
    raise ConfigError(f"there is no start network like {architecture}; train one anew.")


def _size(module: object) -> int:
    if not isinstance(module, nn.Module):
        return 0
    return sum(math.prod(parameter.shape) for parameter in module.parameters())
