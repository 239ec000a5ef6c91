"""Where to compute: a device by name, or one sentence."""

from __future__ import annotations

import torch

from deqcert.errors import ConfigError


def open_device(name: str | torch.device) -> torch.device:
    """Return a device that holds numbers here.

    Args:
        name: As torch names it: cpu, cuda or cuda:N.

    Raises:
        ConfigError: If there is no such device here, or none that computes (torch's "meta").
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ValueError, ImportError):
        # What torch says of a device that is not there goes on for a page.
        raise ConfigError(
            f"device {str(name)[:80]!r} cannot be used here; 'cpu' works everywhere."
        ) from None
    return device
