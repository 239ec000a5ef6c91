from .base import SEVERITIES, Corruption
from .registry import CORRUPTIONS, corrupt, fitting, is_picture

__all__ = ["CORRUPTIONS", "SEVERITIES", "Corruption", "corrupt", "fitting", "is_picture"]
