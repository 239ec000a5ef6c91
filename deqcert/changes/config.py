"""Everything that pruning can be told, in one flat place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deqcert.options import REQUIRED, check_options, flag, number, path, text


@dataclass(frozen=True)
class PruneConfig:
    """Parameters of one pruning.

    Args:
        model: Checkpoint to prune, or the name of a builtin one; it stays as it is.
        model_config: YAML configuration of the checkpoint; the .yaml beside it if not given.
        sparsity: Share that goes, of all weights or, structured, of each layer's channels.
        structured: Prune whole channels. Those inside an MDEQ's residual blocks are removed, so the
            cell is cheaper; convolutions of other models keep their size and get channels of zeros.
        out: Checkpoint to write.

    Raises:
        ConfigError: If a value is out of range.
    """

    model: str = text(REQUIRED, metavar="NAME|FILE")
    sparsity: float = number(REQUIRED, above=0.0, below=1.0, whole=False)
    out: Path = path(REQUIRED)
    model_config: Path | None = path(None)
    structured: bool = flag(False)

    def __post_init__(self) -> None:
        check_options(self)
