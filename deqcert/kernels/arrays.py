"""What every kernel asks of a tensor, and how a tensor reaches the extension."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.utils.dlpack import to_dlpack  # type: ignore[attr-defined]

from deqcert.errors import KernelError

_FLOATS = (torch.float32, torch.float64, torch.bfloat16)
_PAGE = 4096


def check_array(
    name: str,
    tensor: object,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    *,
    written: bool = False,
) -> Tensor:
    """Return ``tensor`` if it is what a kernel takes.

    Raises:
        KernelError: If it is not; the sentence names the argument.
    """
    if not isinstance(tensor, Tensor):
        raise KernelError(f"{name}: expected a torch tensor, got {type(tensor).__name__}")
    if (
        tensor.shape == shape
        and tensor.dtype == dtype
        and tensor.device == device
        and tensor.is_contiguous()
        and not (written and tensor.requires_grad)
    ):
        return tensor
    if tensor.dtype != dtype:
        raise KernelError(f"{name}: expected dtype {dtype}, got {tensor.dtype}")
    if tuple(tensor.shape) != shape:
        raise KernelError(f"{name}: expected shape {shape}, got {tuple(tensor.shape)}")
    if tensor.device != device:
        raise KernelError(f"{name}: expected a tensor on {device}, got one on {tensor.device}")
    if not tensor.is_contiguous():
        raise KernelError(f"{name}: expected a contiguous tensor, call .contiguous() first")
    raise KernelError(f"{name}: is written in place and must not require a gradient")


def check_states(name: str, tensor: object) -> Tensor:
    """Return ``tensor`` if it holds states: (B, D), D >= 1, of a dtype that kernels know.

    Raises:
        KernelError: If it does not; the sentence names the argument.
    """
    if not isinstance(tensor, Tensor):
        raise KernelError(f"{name}: expected a torch tensor, got {type(tensor).__name__}")
    if tensor.dim() != 2 or tensor.shape[1] < 1:
        raise KernelError(f"{name}: expected shape (B, D) with D >= 1, got {tuple(tensor.shape)}")
    if tensor.dtype not in _FLOATS:
        raise KernelError(
            f"{name}: expected dtype float32, float64 or bfloat16, got {tensor.dtype}"
        )
    if not tensor.is_contiguous():
        raise KernelError(f"{name}: expected a contiguous tensor, call .contiguous() first")
    return tensor


def capsule(tensor: Tensor) -> object:
    """A DLPack capsule of ``tensor``, exported without any synchronisation between streams.

    Producer and consumer share torch's current stream, so none is needed, and one would break the
    capture of a CUDA graph.
    """
    return to_dlpack(tensor.detach() if tensor.requires_grad else tensor)


def empty_states(like: Tensor, shape: tuple[int, ...], quarter: int) -> Tensor:
    """Allocate states at a chosen quarter of a memory page.

    A processor holds a load back that follows a store to another array at the same place of a page
    (it compares the low twelve bits of their addresses first). States of 1024 elements and their
    multiples have every row at the same place, and allocators put arrays of equal size just behind
    each other: a step can then take three times as long. So what a step reads and what it writes
    lie in different quarters.

    Args:
        like: Gives dtype and device.
        shape: Of the tensor.
        quarter: 0 to 3; on a GPU it has no meaning.

    Returns:
        A contiguous tensor of any content.
    """
    count = math.prod(shape)
    if like.device.type != "cpu":
        return like.new_empty(shape)
    block = like.new_empty(count + _PAGE // like.element_size())
    gap = (quarter * _PAGE // 4 - block.data_ptr()) % _PAGE // like.element_size()
    return block[gap : gap + count].view(shape)
