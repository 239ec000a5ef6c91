"""Several processes that train one model together, each on its share of every batch."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from deqcert.devices import open_device
from deqcert.errors import ConfigError


def is_first() -> bool:
    """Return whether this process speaks and writes for all of them."""
    return os.environ.get("RANK", "0") == "0"


class Workers:
    """The processes that ``torchrun`` started, or this one alone.

    All of them take the same steps in the same order, so each must call the same methods.

    Args:
        device: Where each trains: "cpu", or "cuda" for one GPU each.

    Attributes:
        rank: This one's place, from 0.
        size: How many there are.

    Raises:
        ConfigError: If they cannot reach each other, or a machine has fewer GPUs than processes.
    """

    def __init__(self, device: str) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self._device = open_device(device)
        if self.size == 1:
            return
        on_gpu = self._device.type == "cuda"
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if on_gpu and local >= torch.cuda.device_count():
            raise ConfigError(
                f"process {local} of this machine has no GPU of its own, there are "
                f"{torch.cuda.device_count()}; start that many with --nproc-per-node."
            )
        if on_gpu:
            torch.cuda.set_device(local)
        if not dist.is_initialized():
            # Its functions take the group of now as their default. Loaded later, by the first
            # optimizer, they would keep that group and its threads alive beyond close(), and a
            # thread that outlives the interpreter aborts the process.
            importlib.import_module("torch.distributed.nn")
            try:
                dist.init_process_group("nccl" if on_gpu else "gloo")
            except (RuntimeError, ValueError) as error:
                raise ConfigError(
                    f"the {self.size} processes cannot reach each other ({error}); start them "
                    "with torchrun, which tells each where the others are."
                ) from None

    def part(self, count: int) -> slice:
        """Return this worker's share of a batch of ``count`` rows, a multiple of :attr:`size`."""
        each = count // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor, in place, by its mean over the workers; they end with equal bits."""
        if self.size == 1:
            return
        with torch.no_grad():
            flat = torch.cat([tensor.flatten() for tensor in tensors])
            dist.all_reduce(flat)
            flat /= self.size
            for tensor, mean in zip(
                tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True
            ):
                tensor.copy_(mean.view_as(tensor))

    def same(self, value: float) -> float:
        """Return the first worker's value."""
        if self.size == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64, device=self._device)
        dist.broadcast(shared, src=0)
        return float(shared.item())

    def gather(self, value: Any) -> list[Any]:
        """Return every worker's value, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def close(self) -> None:
        """Part from the others."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()
