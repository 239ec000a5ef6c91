"""Types of the compiled extension; arrays are DLPack capsules or objects with ``__dlpack__``."""

cuda_built: bool
compiler: str

def simd() -> str: ...
def simd_variants() -> list[str]: ...
def simd_select(name: str) -> None: ...
def picard_workspace(size: int, cuda: bool) -> int: ...
def anderson_workspace(window: int, size: int, cuda: bool) -> int: ...
def broyden_workspace(size: int, cuda: bool) -> int: ...
def residual_norms(
    z: object, fz: object, residual: object, norm: object, *, threads: int, stream: int
) -> None: ...
def anderson_step(
    z: object,
    fz: object,
    window_f: object,
    window_g: object,
    gram: object,
    count: object,
    out: object,
    workspace: object,
    progress: object | None,
    best: object | None,
    *,
    damping: float,
    ridge: float,
    growth: float,
    max_weight: float,
    rule: tuple[float, bool, float, float, float],
    threads: int,
    stream: int,
) -> None: ...
def picard_step(
    z: object,
    fz: object,
    out: object,
    workspace: object,
    progress: object | None,
    best: object | None,
    *,
    damping: float,
    rule: tuple[float, bool, float, float, float],
    threads: int,
    stream: int,
) -> None: ...
def broyden_step(
    z: object,
    fz: object,
    directions: object,
    squares: object,
    lengths: object,
    merit: object,
    count: object,
    out: object,
    workspace: object,
    progress: object | None,
    best: object | None,
    *,
    line_search: bool,
    rule: tuple[float, bool, float, float, float],
    threads: int,
    stream: int,
) -> None: ...
def philox_normal(
    out: object, *, seed: int, image: int, stage: int, first: int, threads: int, stream: int
) -> None: ...
