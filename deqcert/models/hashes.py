"""What identifies a model's weights."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import nn


def weights_hash(model: Any) -> str:
    """Return a SHA-256 of a model's weights, in hexadecimal; of nothing where it is no module."""
    digest = hashlib.sha256()
    if isinstance(model, nn.Module):
        for name, value in model.state_dict().items():
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(
                value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            )
    return digest.hexdigest()
