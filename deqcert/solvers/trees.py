"""Structures of tensors as rows of one flat tensor, and back."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from deqcert.errors import SolverError

_REAL = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.bfloat16,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
    torch.complex64: torch.float32,
    torch.complex128: torch.float64,
}
"""Types that a state may have, and the types that their elements are solved in."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """One tensor of a state: its shape without the leading dimensions, and its type."""

    shape: torch.Size
    dtype: torch.dtype

    @property
    def elements(self) -> int:
        """How many real numbers it holds per row."""
        return self.shape.numel() * (2 if self.dtype.is_complex else 1)

    def __str__(self) -> str:
        return f"{tuple(self.shape)} {str(self.dtype).removeprefix('torch.')}"


@dataclass(frozen=True, slots=True)
class Layout:
    """How a structure of tensors maps to rows of one flat real tensor.

    Attributes:
        spec: The structure.
        leaves: Its tensors, in order.
        lead: The leading dimensions that all of them share; their product is the number of rows.
        dtype: Type of the flat tensor.
        device: Where it is.
    """

    spec: Any
    leaves: tuple[Leaf, ...]
    lead: torch.Size
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, z: Any, batch_dims: int) -> Layout:
        """Describe a start state.

        Raises:
            SolverError: If it is no structure of tensors with the same leading dimensions and
                device, of types that can be solved in.
        """
        tensors, spec = pytree.tree_flatten(z)
        if not tensors:
            raise SolverError("the start state is empty, but it must hold at least one tensor.")
        for tensor in tensors:
            if not isinstance(tensor, Tensor):
                raise SolverError(
                    f"the start state holds a {type(tensor).__name__}, but it must be a tensor or "
                    "a structure (tuple, list, dict) of tensors; "
                    "deqcert.solvers.arrays.solve takes NumPy arrays."
                )
            if tensor.dtype not in _REAL:
                raise SolverError(
                    f"the start state is {_word(tensor.dtype)}, but it must be "
                    f"{', '.join(_word(dtype) for dtype in _REAL)}."
                )
            if tensor.layout != torch.strided or tensor.is_nested:
                raise SolverError("the start state is sparse or nested; give a dense tensor.")
            if tensor.ndim < batch_dims:
                raise SolverError(
                    f"the start state has shape {tuple(tensor.shape)}, but its first {batch_dims} "
                    "dimension(s) must count problems; for a single problem give batch_dims=0."
                )
        lead, device = tensors[0].shape[:batch_dims], tensors[0].device
        if any(t.shape[:batch_dims] != lead or t.device != device for t in tensors):
            raise SolverError(
                "the tensors of the start state must have the same number of rows and device; "
                f"given are {', '.join(f'{tuple(t.shape)} on {t.device}' for t in tensors)}."
            )
        if device.type == "meta":
            raise SolverError("the start state is on the meta device, where nothing is computed.")
        dtype = functools.reduce(torch.promote_types, (_REAL[t.dtype] for t in tensors))
        leaves = tuple(Leaf(t.shape[batch_dims:], t.dtype) for t in tensors)
        if not sum(leaf.elements for leaf in leaves):
            raise SolverError(
                f"the start state has shape {tuple(tensors[0].shape)}: nothing to solve in a row; "
                "for a single problem give batch_dims=0."
            )
        return cls(spec, leaves, lead, dtype, device)

    @property
    def rows(self) -> int:
        """How many problems there are."""
        return math.prod(self.lead)

    def pack(self, z: Any) -> Tensor:
        """Return the start state as (B, D)."""
        return self._join(pytree.tree_leaves(z), self.rows)

    def pack_value(self, value: Any, rows: int) -> Tensor:
        """Return what the cell returned for some rows, as (rows, D).

        Raises:
            SolverError: If it is another structure than the state.
        """
        tensors, spec = pytree.tree_flatten(value)
        if any(not isinstance(tensor, Tensor) for tensor in tensors) or not tensors:
            wrong = next((t for t in tensors if not isinstance(t, Tensor)), None)
            raise SolverError(
                f"the cell returned {_kind(wrong)}, but it must return a new state: "
                f"{self._describe()} per row."
            )
        front = (rows,) if self.lead else ()
        shapes = [(*front, *leaf.shape) for leaf in self.leaves]
        same = spec == self.spec and all(
            t.shape == shape and t.dtype == leaf.dtype and t.device == self.device
            for t, shape, leaf in zip(tensors, shapes, self.leaves, strict=True)
        )
        if not same:
            found = ", ".join(f"{Leaf(t.shape, t.dtype)} on {t.device}" for t in tensors)
            raise SolverError(
                f"the cell returned {_structure(spec)} {found}, but it must return the same shape "
                f"and type as the state of {rows} rows: {self._describe()} per row, "
                f"on {self.device}."
            )
        return self._join(tensors, rows)

    def unpack(self, flat: Tensor, lead: tuple[int, ...] | None = None) -> Any:
        """Return rows of a flat tensor, shape (b, D), in the structure of the state.

        Args:
            flat: The rows.
            lead: Leading dimensions of the tensors; default: one that counts the rows, or none
                where there is a single problem without rows.
        """
        if lead is None:
            lead = (len(flat),) if self.lead else ()
        tensors, begin = [], 0
        for leaf in self.leaves:
            # Not torch.split, whose parts must not be written on.
            part = flat.narrow(1, begin, leaf.elements)
            tensors.append(_restore(part, lead, leaf))
            begin += leaf.elements
        return pytree.tree_unflatten(tensors, self.spec)

    def _join(self, tensors: list[Tensor], rows: int) -> Tensor:
        parts = [
            (torch.view_as_real(t.resolve_conj()) if leaf.dtype.is_complex else t)
            .to(self.dtype)
            .reshape(rows, leaf.elements)
            for t, leaf in zip(tensors, self.leaves, strict=True)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _describe(self) -> str:
        return f"{_structure(self.spec)} {', '.join(map(str, self.leaves))}"


@dataclass(frozen=True, slots=True)
class Arguments:
    """What a cell takes beside its state: tensors with one entry per row, and anything else.

    Attributes:
        spec: The structure of all arguments.
        leaves: Its leaves; a mark where a tensor with rows stands.
        rowwise: The tensors with rows, shape (B, ...), in order.
    """

    spec: Any
    leaves: tuple[Any, ...]
    rowwise: tuple[Tensor, ...]

    @classmethod
    def of(cls, args: tuple[Any, ...], lead: torch.Size) -> Arguments:
        """Take arguments apart.

        Raises:
            SolverError: If a tensor has other leading dimensions than the state.
        """
        given, spec = pytree.tree_flatten(args)
        leaves: list[Any] = []
        rowwise: list[Tensor] = []
        for leaf in given:
            if not isinstance(leaf, Tensor) and getattr(leaf, "shape", None):
                raise SolverError(
                    f"an argument is a {type(leaf).__name__}; make it a tensor, or use "
                    "deqcert.solvers.arrays.solve."
                )
            if not isinstance(leaf, Tensor) or not lead or not leaf.ndim:
                leaves.append(leaf)
                continue
            if leaf.shape[: len(lead)] != lead:
                raise SolverError(
                    f"an argument has shape {tuple(leaf.shape)}, but the state has {_count(lead)} "
                    "rows; give one entry per row, and let the function close over what all rows "
                    "share."
                )
            leaves.append(_ROWS)
            rowwise.append(leaf.flatten(0, len(lead) - 1))
        return cls(spec, tuple(leaves), tuple(rowwise))

    def unpack(self, present: tuple[Tensor, ...]) -> tuple[Any, ...]:
        """Put the arguments together again, with the present rows of each tensor."""
        rows = iter(present)
        leaves = [next(rows) if leaf is _ROWS else leaf for leaf in self.leaves]
        return tuple(pytree.tree_unflatten(leaves, self.spec))


_ROWS = object()
"""Stands where a tensor with one entry per row goes."""


def _restore(part: Tensor, lead: tuple[int, ...], leaf: Leaf) -> Tensor:
    if not leaf.dtype.is_complex:
        return part.to(leaf.dtype).reshape(*lead, *leaf.shape)
    pairs = part.contiguous().reshape(*lead, *leaf.shape, 2)
    return torch.view_as_complex(pairs.to(leaf.dtype.to_real())).to(leaf.dtype)


def _count(lead: torch.Size) -> str:
    return " x ".join(map(str, lead))


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _structure(spec: Any) -> str:
    if spec.is_leaf():
        return "a tensor"
    return f"a {spec.type.__name__} of {spec.num_leaves} tensors"


def _kind(wrong: Any) -> str:
    return "None" if wrong is None else f"a {type(wrong).__name__}"
