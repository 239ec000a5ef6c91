"""Types of the compiled extension; arrays are DLPack capsules or objects with ``__dlpack__``."""

interface: int
compiler: str
cuda_architectures: list[int]

def cuda_fault(device: int) -> str: ...
def isa() -> str: ...
def isas() -> list[str]: ...
def select_isa(name: str) -> None: ...
def workspace(kernel: str, window: int, size: int, cuda: bool) -> int: ...
def step(
    method: str,
    arrays: dict[str, object],
    constants: dict[str, float],
    rule: tuple[float, bool, float, float, float] | None,
    *,
    threads: int,
    stream: int,
) -> None: ...
def residual_norms(
    z: object,
    fz: object,
    residual: object,
    norm: object,
    workspace: object,
    *,
    threads: int,
    stream: int,
) -> None: ...
def block_workspace(channels: int, inner: int, height: int, width: int, together: int) -> int: ...
def residual_block(
    x: object,
    injection: object | None,
    first: object,
    second: object,
    norms: list[object],
    workspace: object,
    out: object,
    *,
    groups: int,
    eps: list[float],
    together: int,
    threads: int,
    stream: int,
) -> None: ...
def philox_normal(
    out: object, *, seed: int, index: int, stage: int, first: int, threads: int, stream: int
) -> None: ...
