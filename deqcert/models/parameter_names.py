"""Names of parameters: what wrappers and other versions write, brought to those of a model."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

PREFIXES = ("module.", "model.", "_orig_mod.", "1.")
"""What stands before every name: data parallelism, a wrapper's attribute, a compiled model, a
normalisation layer in front; in any combination."""

_COMPILED = "_orig_mod"

_WEIGHT_NORM = {
    "weight_g": "parametrizations.weight.original0",
    "weight_v": "parametrizations.weight.original1",
}
"""Weight normalisation before torch 2.0 (and in the public family), and since."""

_COPIES = ("fullstage_copy.", "deq.func_copy.")
"""The first public MDEQ code saves a copy of the cell that only its backward pass uses."""

_ALIASES = {"deq.func.": "fullstage.", "linear_module.": "mon.linear_module."}
"""It saves the cell itself under two names; so does the public code of monotone networks."""


def fit_names(weights: Mapping[str, Tensor], wanted: Collection[str]) -> dict[str, Tensor]:
    """Rename the weights of a file to what a model calls them.

    Only names that the model does not know are changed, and only to names that the file does not
    have besides; what remains unknown is returned as it is.

    Args:
        weights: The state_dict of a file.
        wanted: The names in the model's own.
    """
    found = dict(weights)
    while not any(name in wanted for name in found):
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in found)), None)
        if prefix is None:
            break
        found = {name.removeprefix(prefix): value for name, value in found.items()}
    found = _renamed(found, wanted)
    return {n: v for n, v in found.items() if n in wanted or not _superfluous(n, v, found)}


def _renamed(weights: Mapping[str, Tensor], wanted: Collection[str]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        plain = ".".join(part for part in name.split(".") if part != _COMPILED)
        free = (
            new
            for new in (plain, _other_weight_norm(plain))
            if new in wanted and new not in weights and new not in found
        )
        found[name if name in wanted else next(free, name)] = value
    return found


def _other_weight_norm(name: str) -> str:
    for pair in _WEIGHT_NORM.items():
        for known, other in (pair, pair[::-1]):
            if name.endswith(f".{known}"):
                return name.removesuffix(known) + other
    return name


def _superfluous(name: str, value: Tensor, weights: Mapping[str, Tensor]) -> bool:
    if name.startswith(_COPIES):
        return any(other.startswith(_ALIASES["deq.func."]) for other in weights)
    for alias, original in _ALIASES.items():
        if name.startswith(alias):
            kept = weights.get(original + name.removeprefix(alias))
            return kept is not None and torch.equal(kept, value)
    return False
