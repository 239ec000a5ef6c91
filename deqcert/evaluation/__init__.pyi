from .config import Evaluating
from .folder import Evaluated, evaluate
from .parts import PARTS, parse_parts

__all__ = ["PARTS", "Evaluated", "Evaluating", "evaluate", "parse_parts"]
