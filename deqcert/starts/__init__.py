"""Where a noisy solve starts: the policies, learned start networks, and the files they live in."""

from __future__ import annotations

from deqcert.starts.file import StartFile, load_start, save_start, start_path
from deqcert.starts.network import build_start, start_architecture
from deqcert.starts.policies import Learned, StartPolicy, get_start, start_names

__all__ = [
    "Learned",
    "StartFile",
    "StartPolicy",
    "build_start",
    "get_start",
    "load_start",
    "save_start",
    "start_architecture",
    "start_names",
    "start_path",
]
