"""The process's memory: keep what was freed for the next allocation, and measure a peak.

glibc gives a freed block of some megabytes back to the system at once, so that every intermediate
map of a convolutional cell is paid for in page faults. The setting is the process's own and lasts
until it ends; the command line makes it, a Python program decides for itself.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import gc
import sys
from collections.abc import Callable
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Ask the C library to reuse large blocks rather than to fetch and clear new ones.

    Peak memory does not change; memory that was used once stays with the process.

    Returns:
        Whether the C library took the setting; False where it is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(ctypes.util.find_library("c")).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, LARGEST))


def peak_memory(run: Callable[[], object], device: str = "cpu") -> float:
    """Measure by how many bytes the memory in use grows at most while something runs.

    On the CPU it is the process's resident memory, as Linux counts it.

    Returns:
        Bytes; NaN where the system does not tell.
    """
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        run()
        return float(torch.cuda.max_memory_allocated(device) - held)
    gc.collect()
    try:
        # What was freed and kept would be counted as in use already.
        ctypes.CDLL(ctypes.util.find_library("c")).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        resident = _resident("VmRSS")
        run()
        return _resident("VmHWM") - resident
    except (OSError, AttributeError):
        return float("nan")


def _resident(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return 1024.0 * int(line.split()[1])
    return float("nan")
