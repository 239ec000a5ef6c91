"""What deqcert runs on: kernels, versions, machine, loaders."""

from __future__ import annotations

import dataclasses
import importlib.util
from typing import Any

import torch

from deqcert import kernels
from deqcert.certifiers import CERTIFIERS
from deqcert.data import LOADERS, dataset_names
from deqcert.models import ZOO
from deqcert.runs import machine, versions
from deqcert.solvers import SOLVERS
from deqcert.starts import STARTS


def examine() -> dict[str, Any]:
    """Collect what matters for speed, for last bits, and for what will work here.

    Returns:
        kernels (:class:`deqcert.kernels.KernelStatus`), versions, machine, threads, gpus (names),
        models (shipped ones that are there), loaders (whether each kind of data can be read), and
        the names of solvers, starts and methods.

    Raises:
        KernelError: If DEQCERT_KERNELS holds an unknown value.
    """
    return {
        "kernels": dataclasses.asdict(kernels.status()),
        "versions": versions(),
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "models": [name for name in ZOO if ZOO.get(name).is_file()],
        "loaders": {name: _works(name) for name in dataset_names()},
        "solvers": list(SOLVERS),
        "starts": list(STARTS),
        "methods": list(CERTIFIERS),
    }


def _works(name: str) -> bool:
    return not _needs(name) or importlib.util.find_spec(_needs(name)) is not None


def _needs(name: str) -> str:
    return LOADERS.get(name.partition(":")[0]).needs


def say(found: dict[str, Any]) -> str:
    """Format `examine`'s answer for people, one fact per line."""
    live = found["kernels"]
    extra = ", ".join(
        part for part in (live["isa"], live["compiler"]) if part and live["path"] == "native"
    )
    cuda = live["cuda_reason"] or ("built" if live["cuda_built"] else "not built")
    lines = {
        "kernels": f"{live['path']}: {live['reason']}" + (f" ({extra})" if extra else ""),
        "CUDA kernels": f"{cuda}; " + (", ".join(found["gpus"]) or "torch sees no GPU"),
        "versions": ", ".join(f"{name} {version}" for name, version in found["versions"].items()),
        "machine": f"{found['machine']['cpu']}, {found['machine']['cores']} cores, "
        f"{found['threads']} threads in use",
        "models": ", ".join(found["models"]) or "none shipped in this installation",
        "data": ", ".join(
            name if works else f"{name} (needs {_needs(name)})"
            for name, works in found["loaders"].items()
        ),
        "solvers": ", ".join(found["solvers"]),
        "starts": ", ".join(found["starts"]),
        "methods": ", ".join(found["methods"]),
    }
    width = max(map(len, lines))
    return "\n".join(f"{name.ljust(width)}  {text}" for name, text in lines.items())
