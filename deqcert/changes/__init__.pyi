from .config import PruneConfig as PruneConfig
from .pruning import prune as prune
