from .file import StartFile, load_start, save_start, start_path
from .network import build_start, start_architecture
from .policies import Learned, StartPolicy, get_start, start_names

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
