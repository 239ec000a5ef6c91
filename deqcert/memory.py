"""Keep freed memory for the next allocation instead of giving it back to the system.

glibc gives a freed block of some megabytes back to the system at once, so that every intermediate
map of a convolutional cell is paid for in page faults. The setting is the process's own and lasts
until it ends; the command line makes it, a Python program decides for itself.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import sys

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
