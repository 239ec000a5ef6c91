from .config import StartConfig
from .train import train_start

__all__ = ["StartConfig", "train_start"]
