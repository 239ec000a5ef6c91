from .config import Evaluating
from .parts import PARTS, parse_parts
from .run import Evaluated, evaluate

__all__ = ["PARTS", "Evaluated", "Evaluating", "evaluate", "parse_parts"]
