from .base import Chain, StartPolicy
from .cold import Cold
from .file import StartFile, load_start, save_start, start_path
from .learned import Learned
from .network import NETWORKS, build_start, start_architecture
from .registry import STARTS, get_start, make_start, start_names

__all__ = [
    "NETWORKS",
    "STARTS",
    "Chain",
    "Cold",
    "Learned",
    "StartFile",
    "StartPolicy",
    "build_start",
    "get_start",
    "load_start",
    "make_start",
    "save_start",
    "start_architecture",
    "start_names",
    "start_path",
]
