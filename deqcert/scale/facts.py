"""What must be equal in all processes of one run, besides its parameters."""

from __future__ import annotations

from collections.abc import Mapping

from deqcert import kernels
from deqcert.errors import ConfigError
from deqcert.runs import versions


def facts(device: str) -> dict[str, str]:
    """Return what decides the last bits of this process's results.

    Args:
        device: Where it computes, as torch names it.

    Returns:
        The versions of python, deqcert and the libraries that compute, the kernels' path, the
        threads, and the processor's instruction set or the name of the GPU.
    """
    import torch

    place = torch.device(device)
    found = versions() | {
        "kernels": kernels.status().path,
        "threads": str(torch.get_num_threads()),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }
    if place.type == "cuda":
        found["GPU"] = torch.cuda.get_device_name(place)
    return found


def check_facts(here: Mapping[str, str], there: Mapping[str, str], where: str) -> None:
    """Refuse a process whose results may differ in the last bit.

    Args:
        here: Those of the process that writes the run.
        there: The other's.
        where: What to call it in a sentence.

    Raises:
        ConfigError: If anything differs.
    """
    for key in dict.fromkeys([*here, *there]):
        mine, theirs = here.get(key), there.get(key)
        if mine != theirs:
            raise ConfigError(
                f"{where} has {key} {theirs} and this process {mine}, which may change a vote; use "
                "machines that are alike, or give each kind its own run with --shard"
            )
