"""The compiled kernels behind plain torch tensors, and the torch reference where they are missing.

This is the only module that knows :mod:`deqcert._native`. Each function checks its arguments,
then runs the compiled kernel where the extension is installed and supports the device, else the
reference in :mod:`deqcert.kernels_reference`; both give the same result (the noise bit for bit,
the rest to rounding of the sums). ``DEQCERT_KERNELS=torch`` in the environment forces the
reference, ``DEQCERT_KERNELS=native`` refuses to fall back to it.

States are float32, float64 or bfloat16. In bfloat16 only what is stored is rounded to it, the
states and windows; coefficients and sums are those of float32 states.

Nothing here is differentiable: inputs are used without their history.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch  # before the extension, so that both share the OpenMP runtime that torch brings
from torch import Tensor

from deqcert import kernels_reference as reference
from deqcert.errors import KernelError
from deqcert.kernels_reference import FRESH as FRESH
from deqcert.kernels_reference import NFE as NFE
from deqcert.kernels_reference import RESIDUAL as RESIDUAL
from deqcert.kernels_reference import SCALE as SCALE
from deqcert.kernels_reference import START as START
from deqcert.kernels_reference import STATUS as STATUS
from deqcert.kernels_reference import WAITED as WAITED
from deqcert.kernels_reference import Watch as Watch

try:
    from deqcert import _native

    _IMPORT_ERROR = None
except ImportError as error:
    _IMPORT_ERROR = str(error)

MAX_WINDOW = 64
"""The longest Anderson window: the small systems live in registers and on the stack."""

MAX_DIRECTIONS = 1024
"""The most directions that Broyden's method may hold."""

_FLOATS = (torch.float32, torch.float64, torch.bfloat16)
_UINT32 = 1 << 32
_PAGE = 4096


@dataclass(frozen=True)
class KernelStatus:
    """Which path the kernels take and why; what ``deqcert doctor`` prints."""

    path: str
    """``"native"`` or ``"torch"``, for tensors on the CPU."""
    reason: str
    cuda_built: bool
    """Whether the extension holds CUDA kernels."""
    cuda_visible: bool
    """Whether torch sees a CUDA device."""
    threads: int
    simd: str
    """Instruction set chosen at run time, empty without the extension."""
    compiler: str


_NO_RULE = (0.0, False, 0.0, 0.0, 0.0)


def _forced() -> str:
    value = os.environ.get("DEQCERT_KERNELS", "")
    if value not in ("", "torch", "native"):
        raise KernelError(f"DEQCERT_KERNELS={value!r} is not known: use 'torch', 'native' or unset")
    return value


def _use_native(device: torch.device) -> bool:
    """Whether the extension handles tensors on ``device``."""
    forced = _forced()
    if forced == "torch":
        return False
    if _IMPORT_ERROR is None and (
        device.type == "cpu" or (device.type == "cuda" and _native.cuda_built)
    ):
        return True
    if forced == "native":
        raise KernelError(
            f"DEQCERT_KERNELS=native, but the extension does not serve {device.type} tensors here: "
            "rebuild it (see docs/building.md) or unset DEQCERT_KERNELS"
        )
    return False


def status() -> KernelStatus:
    """Say which path is live and why.

    Raises:
        KernelError: ``DEQCERT_KERNELS`` holds an unknown value or one that cannot be met.
    """
    native = _use_native(torch.device("cpu"))
    if native:
        reason = "the compiled extension is installed"
    elif _IMPORT_ERROR is None:
        reason = "DEQCERT_KERNELS=torch"
    else:
        reason = (
            f"the compiled extension cannot be imported ({_IMPORT_ERROR}); "
            "docs/building.md says what its build needs"
        )
    built = _IMPORT_ERROR is None
    return KernelStatus(
        path="native" if native else "torch",
        reason=reason,
        cuda_built=built and _native.cuda_built,
        cuda_visible=torch.cuda.is_available(),
        threads=torch.get_num_threads(),
        simd=_native.simd() if built else "",
        compiler=_native.compiler if built else "",
    )


def _check(
    name: str,
    tensor: Tensor,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    *,
    written: bool = False,
) -> None:
    """Raise a KernelError that names the argument unless ``tensor`` is what the kernel takes."""
    if not isinstance(tensor, Tensor):
        raise KernelError(f"{name}: expected a torch tensor, got {type(tensor).__name__}")
    if tensor.dtype != dtype:
        raise KernelError(f"{name}: expected dtype {dtype}, got {tensor.dtype}")
    if tuple(tensor.shape) != shape:
        raise KernelError(f"{name}: expected shape {shape}, got {tuple(tensor.shape)}")
    if tensor.device != device:
        raise KernelError(f"{name}: expected a tensor on {device}, got one on {tensor.device}")
    if not tensor.is_contiguous():
        raise KernelError(f"{name}: expected a contiguous tensor, call .contiguous() first")
    if written and tensor.requires_grad:
        raise KernelError(f"{name}: is written in place and must not require a gradient")


def _check_state(name: str, tensor: Tensor) -> tuple[int, int]:
    """Check a (B, D) state and return its shape."""
    if not isinstance(tensor, Tensor):
        raise KernelError(f"{name}: expected a torch tensor, got {type(tensor).__name__}")
    if tensor.dim() != 2 or tensor.shape[1] < 1:
        raise KernelError(f"{name}: expected shape (B, D) with D >= 1, got {tuple(tensor.shape)}")
    if tensor.dtype not in _FLOATS:
        raise KernelError(
            f"{name}: expected dtype float32, float64 or bfloat16, got {tensor.dtype}"
        )
    rows, size = tensor.shape
    _check(name, tensor, (rows, size), tensor.dtype, tensor.device)
    return rows, size


def _check_watch(watch: Watch | None, z: Tensor) -> None:
    if watch is None:
        return
    rows, size = z.shape
    shape = (rows, len(START))
    _check("progress", watch.progress, shape, torch.float64, z.device, written=True)
    _check("best", watch.best, (rows, size), z.dtype, z.device, written=True)
    if not (watch.tol >= 0 and watch.max_nfe >= 1):
        raise KernelError(
            f"watch: expected tol >= 0 and max_nfe >= 1, got {watch.tol}, {watch.max_nfe}"
        )


def _watched(
    watch: Watch | None,
) -> tuple[list[object], tuple[float, bool, float, float, float]]:
    """The arrays and numbers that a compiled step takes."""
    if watch is None:
        return [None, None], _NO_RULE
    return [_array(watch.progress), _array(watch.best)], watch.rule


def _scratch(workspace: Tensor | None, method: str, z: Tensor, window: int) -> Tensor:
    """The workspace given, whose size the extension checks, or a new one."""
    rows = z.shape[0]
    if workspace is None:
        each = _each(method, z, window)
        return torch.empty((rows, each), dtype=torch.float64, device=z.device)
    if workspace.shape[1:] == (0,):
        raise KernelError("workspace: was made for the torch reference, make one for the extension")
    _check("workspace", workspace, (rows, *workspace.shape[1:]), torch.float64, z.device)
    return workspace


def _run(kernel: Callable[..., None], *arguments: object, **options: object) -> None:
    """Call the extension, which names the argument that it refuses."""
    try:
        kernel(*arguments, **options, threads=torch.get_num_threads())
    except ValueError as error:
        raise KernelError(str(error)) from None


def workspace(method: str, z: Tensor, window: int = 1) -> Tensor:
    """Allocate what the step of a method needs, to be passed to it again and again.

    Args:
        method: ``"picard"``, ``"anderson"`` or ``"broyden"``.
        z: (B, D) the states that will be stepped.
        window: The window that Anderson's method will have.

    Returns:
        (B, k) float64 of no meaning; k is 0 where the reference runs.

    Raises:
        KernelError: The method has no kernel, or ``z`` is no state.
    """
    rows, _ = _check_state("z", z)
    return torch.empty((rows, _each(method, z, window)), dtype=torch.float64, device=z.device)


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


def _each(method: str, z: Tensor, window: int) -> int:
    if method not in ("picard", "anderson", "broyden"):
        raise KernelError(f"method: expected picard, anderson or broyden, got {method!r}")
    if not _use_native(z.device):
        return 0
    size, cuda = z.shape[1], z.device.type == "cuda"
    if method == "anderson":
        return _native.anderson_workspace(window, size, cuda)
    if method == "broyden":
        return _native.broyden_workspace(size, cuda)
    return _native.picard_workspace(size, cuda)


def _stream(tensor: Tensor) -> int:
    """The handle of torch's current stream for ``tensor``; 0 on the CPU."""
    if tensor.device.type != "cuda":
        return 0
    return int(torch.cuda.current_stream(tensor.device).cuda_stream)


def _array(tensor: Tensor) -> object:
    """A DLPack capsule of ``tensor``, exported without any synchronisation between streams.

    Producer and consumer share torch's current stream, so none is needed, and one would break the
    capture of a CUDA graph.
    """
    plain = tensor.detach() if tensor.requires_grad else tensor
    return torch.utils.dlpack.to_dlpack(plain)  # type: ignore[attr-defined]


@torch.no_grad()
def residual_norms(z: Tensor, fz: Tensor) -> tuple[Tensor, Tensor]:
    """Squared norms of the residual and of the new state, row by row.

    Args:
        z: (B, D) float32, float64 or bfloat16 states, contiguous.
        fz: (B, D) the cell at ``z``, same dtype and device.

    Returns:
        ``||fz - z||^2`` and ``||fz||^2``, each (B,) float64 accumulated in float64. A NaN or an
        infinity shows in its own row only.

    Raises:
        KernelError: An argument has the wrong dtype, shape, device or layout.
    """
    rows, size = _check_state("z", z)
    _check("fz", fz, (rows, size), z.dtype, z.device)
    if not _use_native(z.device):
        return reference.residual_norms(z, fz)
    residual = torch.empty(rows, dtype=torch.float64, device=z.device)
    norm = torch.empty(rows, dtype=torch.float64, device=z.device)
    if rows:
        arrays = [_array(t) for t in (z, fz, residual, norm)]
        _native.residual_norms(*arrays, threads=torch.get_num_threads(), stream=_stream(z))
    return residual, norm


@torch.no_grad()
def anderson_step(
    z: Tensor,
    fz: Tensor,
    window_f: Tensor,
    window_g: Tensor,
    gram: Tensor,
    count: Tensor,
    out: Tensor,
    *,
    damping: float,
    ridge: float,
    growth: float,
    max_weight: float,
    watch: Watch | None = None,
    workspace: Tensor | None = None,
) -> None:
    """One safeguarded type II Anderson step for every row (Anderson 1965; Walker, Ni 2011).

    Slot ``s = count % m`` of the windows takes ``fz`` and ``g = fz - z``, and row and column ``s``
    of ``gram`` the inner products of ``g`` with the residuals held. If ``||g||`` exceeds ``growth``
    times the smallest residual held, the row restarts from that one (it moves to slot 0 and
    ``count`` becomes 1). Otherwise the next state is ``sum_j a_j (F_j - (1 - damping) G_j)`` with
    the weights that minimise ``||sum_j a_j G_j||`` under ``sum_j a_j = 1``, found in float64 from
    the correlation matrix of the differences plus ``ridge``; dependent columns get weight zero.
    Weights that are not finite or whose absolute sum exceeds ``max_weight`` give way to the plain
    damped step. All that a row reads and writes is its own.

    Args:
        z: (B, D) float32, float64 or bfloat16 current states.
        fz: (B, D) the cell at ``z``.
        window_f: (B, m, D) past ``fz``, 1 <= m <= 64; updated. Slots not yet filled may hold
            anything.
        window_g: (B, m, D) past residuals; updated.
        gram: (B, m, m) float64 inner products of the residuals; updated.
        count: (B,) int32 evaluations of the row since its last restart, >= 0; updated.
        out: (B, D) receives the next state; may be ``z`` or ``fz`` itself, but must not overlap
            the windows.
        damping: Mixing parameter, > 0; 1 is the undamped step.
        ridge: Regularisation relative to the unit diagonal of the correlation matrix, >= 0.
        growth: Factor of allowed growth of the residual's norm, >= 1; infinity never restarts.
        max_weight: Largest absolute sum of the weights, >= 1; infinity allows any finite weights.
        watch: Judges the rows first; ``out`` must then overlap nothing.
        workspace: What :func:`workspace` returned; default: allocated here.

    Raises:
        KernelError: An argument has the wrong dtype, shape, device, layout or range.
    """
    rows, size = _check_state("z", z)
    _check("fz", fz, (rows, size), z.dtype, z.device)
    if not isinstance(window_f, Tensor) or window_f.dim() != 3:
        raise KernelError(f"window_f: expected a tensor of shape ({rows}, m, {size})")
    m = window_f.shape[1]
    if not 1 <= m <= MAX_WINDOW:
        raise KernelError(f"window_f: expected a window of 1 to {MAX_WINDOW} states, got {m}")
    _check("window_f", window_f, (rows, m, size), z.dtype, z.device, written=True)
    _check("window_g", window_g, (rows, m, size), z.dtype, z.device, written=True)
    _check("gram", gram, (rows, m, m), torch.float64, z.device, written=True)
    _check("count", count, (rows,), torch.int32, z.device, written=True)
    _check("out", out, (rows, size), z.dtype, z.device, written=True)
    if not (math.isfinite(damping) and damping > 0):
        raise KernelError(f"damping: expected a finite number > 0, got {damping}")
    if not (math.isfinite(ridge) and ridge >= 0):
        raise KernelError(f"ridge: expected a finite number >= 0, got {ridge}")
    if not growth >= 1:
        raise KernelError(f"growth: expected a number >= 1 (infinity to never restart): {growth}")
    if not max_weight >= 1:
        raise KernelError(f"max_weight: expected a number >= 1 (or infinity), got {max_weight}")
    _check_watch(watch, z)
    if not rows:
        return
    if not _use_native(z.device):
        reference.anderson_step(
            z,
            fz,
            window_f,
            window_g,
            gram,
            count,
            out,
            damping=damping,
            ridge=ridge,
            growth=growth,
            max_weight=max_weight,
            watch=watch,
        )
        return
    scratch = _scratch(workspace, "anderson", z, m)
    arrays = [_array(t) for t in (z, fz, window_f, window_g, gram, count, out, scratch)]
    watched, rule = _watched(watch)
    _run(
        _native.anderson_step,
        *arrays,
        *watched,
        damping=damping,
        ridge=ridge,
        growth=growth,
        max_weight=max_weight,
        rule=rule,
        stream=_stream(z),
    )


@torch.no_grad()
def picard_step(
    z: Tensor,
    fz: Tensor,
    out: Tensor,
    *,
    damping: float,
    watch: Watch | None = None,
    workspace: Tensor | None = None,
) -> None:
    """One damped Picard step for every row: ``out = z + damping (fz - z)``.

    Args:
        z: (B, D) float32, float64 or bfloat16 current states.
        fz: (B, D) the cell at ``z``.
        out: (B, D) receives the next state; may be ``z`` or ``fz`` itself.
        damping: Share of the step taken, finite; 1 copies ``fz``.
        watch: Judges the rows first; ``out`` must then overlap nothing.
        workspace: What :func:`workspace` returned; default: allocated here.

    Raises:
        KernelError: An argument has the wrong dtype, shape, device, layout or range.
    """
    rows, size = _check_state("z", z)
    _check("fz", fz, (rows, size), z.dtype, z.device)
    _check("out", out, (rows, size), z.dtype, z.device, written=True)
    if not math.isfinite(damping):
        raise KernelError(f"damping: expected a finite number, got {damping}")
    _check_watch(watch, z)
    if not rows:
        return
    if not _use_native(z.device):
        reference.picard_step(z, fz, out, damping=damping, watch=watch)
        return
    scratch = _scratch(workspace, "picard", z, 1)
    arrays = [_array(t) for t in (z, fz, out, scratch)]
    watched, rule = _watched(watch)
    _run(
        _native.picard_step,
        *arrays,
        *watched,
        damping=damping,
        rule=rule,
        stream=_stream(z),
    )


@torch.no_grad()
def broyden_step(
    z: Tensor,
    fz: Tensor,
    directions: Tensor,
    squares: Tensor,
    lengths: Tensor,
    merit: Tensor,
    count: Tensor,
    out: Tensor,
    *,
    line_search: bool,
    watch: Watch | None = None,
    workspace: Tensor | None = None,
) -> None:
    """One step of Broyden's first method for every row, from one vector an iteration.

    With g = fz - z and s_j = lengths_j d_j the steps accepted so far, the inverse Jacobian of g is
    approximated by ``H_0 = -I`` and
    ``H_{j+1} = (I + (d_{j+1} - (1 - lengths_j) d_j) d_j^T / ||d_j||^2) H_j``: the directions
    ``d_j = -H_j g_j`` are all that is kept (Kelley 1995, section 7.3, where lengths are 1). H is
    applied by one read of each. The new direction satisfies the secant equation of the last step.
    Inner products with the
    directions are summed in the states' precision over eight terms a lane, then in float64. When
    the window is full, or the update has no pivot (below 1e-8 of its terms), the row begins
    again with ``H = -I``, so a window of 1 is Picard iteration. All that a row reads and writes is
    its own.

    With a line search a trial that does not lower ``||g||^2`` by Armijo's rule (1e-4) is answered
    by half the step, down to one sixteenth, and then by going back to the last accepted state and
    beginning again with ``H = -I`` from its evaluation.

    Args:
        z: (B, D) float32, float64 or bfloat16 current states.
        fz: (B, D) the cell at ``z``.
        directions: (B, m, D) directions, 1 <= m <= 1024, oldest first; updated.
        squares: (B, m) float64 their squared lengths; updated.
        lengths: (B, m) float64 the share of each that was stepped; updated.
        merit: (B,) float64 squared residual of the last accepted state; updated.
        count: (B,) int32 directions held, 0 before the first; updated. What lies beyond may be
            anything.
        out: (B, D) receives the next state; may be ``z`` itself, not ``fz``.
        line_search: Whether a step must lower the residual.
        watch: Judges the rows first; ``out`` must then overlap nothing.
        workspace: What :func:`workspace` returned; default: allocated here.

    Raises:
        KernelError: An argument has the wrong dtype, shape, device or layout.
    """
    rows, size = _check_state("z", z)
    _check("fz", fz, (rows, size), z.dtype, z.device)
    if not isinstance(directions, Tensor) or directions.dim() != 3:
        raise KernelError(f"directions: expected a tensor of shape ({rows}, m, {size})")
    m = directions.shape[1]
    if not 1 <= m <= MAX_DIRECTIONS:
        raise KernelError(f"directions: expected a window of 1 to {MAX_DIRECTIONS} states, got {m}")
    _check("directions", directions, (rows, m, size), z.dtype, z.device, written=True)
    _check("squares", squares, (rows, m), torch.float64, z.device, written=True)
    _check("lengths", lengths, (rows, m), torch.float64, z.device, written=True)
    _check("merit", merit, (rows,), torch.float64, z.device, written=True)
    _check("count", count, (rows,), torch.int32, z.device, written=True)
    _check("out", out, (rows, size), z.dtype, z.device, written=True)
    _check_watch(watch, z)
    if not rows:
        return
    state = (directions, squares, lengths, merit, count)
    if not _use_native(z.device):
        reference.broyden_step(z, fz, *state, out, line_search=line_search, watch=watch)
        return
    scratch = _scratch(workspace, "broyden", z, m)
    arrays = [_array(t) for t in (z, fz, *state, out, scratch)]
    watched, rule = _watched(watch)
    _run(
        _native.broyden_step,
        *arrays,
        *watched,
        line_search=line_search,
        rule=rule,
        stream=_stream(z),
    )


@torch.no_grad()
def judge(z: Tensor, fz: Tensor, out: Tensor, watch: Watch | None) -> Tensor:
    """Judge the rows for a method that has no kernel of its own, before it writes ``out``.

    Such a method calls :func:`finish` after it has written ``out``.

    Args:
        z: (B, D) float32, float64 or bfloat16 states.
        fz: (B, D) the cell at ``z``.
        out: (B, D) the states that were evaluated before.
        watch: What the solve keeps of the rows; None judges nobody.

    Returns:
        The rows that make their last step of a fixed depth now, (B,) bool.

    Raises:
        KernelError: An argument has the wrong dtype, shape, device or layout.
    """
    rows, size = _check_state("z", z)
    _check("out", out, (rows, size), z.dtype, z.device)
    _check_watch(watch, z)
    square, image = residual_norms(z, fz)
    return reference.judge(z, out, square, image, watch)


@torch.no_grad()
def finish(out: Tensor, watch: Watch | None, last: Tensor) -> None:
    """Keep the answers of the rows that :func:`judge` said make their last step.

    Args:
        out: (B, D) the states after the step.
        watch: As given to :func:`judge`.
        last: What it returned.
    """
    reference.finish(out, watch, last)


@torch.no_grad()
def philox_normal(out: Tensor, *, seed: int, image: int, stage: int, first: int) -> None:
    """Fill ``out`` with standard normals that are a function of their place alone.

    Element ``d`` of row ``i`` comes from Philox-4x32-10 (Salmon, Moraes, Dror, Shaw 2011) with key
    ``seed`` and counter ``(d // 4, first + i, image, stage)`` through the transform of Box and
    Muller (1958). Logarithm, sine and cosine are fixed float64 polynomials of correctly rounded
    operations without contraction, so every path and device gives the same float32 bits.
    Magnitudes end at 6.66, which cuts 2.7e-11 of the mass.

    Args:
        out: (n, d) float32, contiguous; overwritten.
        seed: 0 <= seed < 2^64.
        image: Index of the image, 0 <= image < 2^32.
        stage: Which use of the noise (selection, estimation, audit), 0 <= stage < 2^32.
        first: Index of the first row's sample, 0 <= first, first + n <= 2^32.

    Raises:
        KernelError: An argument has the wrong dtype, shape, layout or range.
    """
    if not isinstance(out, Tensor) or out.dim() != 2 or out.shape[1] < 1:
        raise KernelError("out: expected a float32 tensor of shape (n, d) with d >= 1")
    n, d = out.shape
    _check("out", out, (n, d), torch.float32, out.device, written=True)
    if not 0 <= seed < 1 << 64:
        raise KernelError(f"seed: expected an integer of 64 bits, got {seed}")
    for name, value in (("image", image), ("stage", stage)):
        if not 0 <= value < _UINT32:
            raise KernelError(f"{name}: expected an integer of 32 bits, got {value}")
    if not (first >= 0 and first + n <= _UINT32):
        raise KernelError(f"first: expected 0 <= first and first + n <= 2^32, got {first}, n {n}")
    if not n:
        return
    if not _use_native(out.device):
        reference.philox_normal(out, seed=seed, image=image, stage=stage, first=first)
        return
    _native.philox_normal(
        _array(out),
        seed=seed,
        image=image,
        stage=stage,
        first=first,
        threads=torch.get_num_threads(),
        stream=_stream(out),
    )
