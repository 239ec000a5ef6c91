"""What the numbers were computed with: versions and machine, without importing torch."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

from deqcert import __version__

LIBRARIES = ("torch", "numpy", "scipy")
"""The libraries whose version can change the last bit of a result."""


def versions() -> dict[str, str]:
    """Return the versions of python, deqcert and the libraries that compute.

    Returns:
        Name to version; "absent" for a library that is not installed.
    """
    found = {"python": platform.python_version(), "deqcert": __version__}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def machine() -> dict[str, str | int]:
    """Return what matters about the machine for speed and last bits; nothing that names it.

    Returns:
        The cpu (model), cores (that this process may use), system.
    """
    return {"cpu": _cpu_model(), "cores": cores(), "system": platform.system()}


def cores() -> int:
    """Return the number of cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
