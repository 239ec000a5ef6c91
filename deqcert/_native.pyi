"""Types of the compiled extension; arrays are DLPack capsules or objects with ``__dlpack__``."""

cuda_built: bool
compiler: str

def simd() -> str: ...
def simd_variants() -> list[str]: ...
def simd_select(name: str) -> None: ...
def anderson_workspace(rows: int, window: int, size: int, cuda: bool) -> int: ...
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
    *,
    damping: float,
    ridge: float,
    growth: float,
    max_weight: float,
    threads: int,
    stream: int,
) -> None: ...
def philox_normal(
    out: object, *, seed: int, image: int, stage: int, first: int, threads: int, stream: int
) -> None: ...
