"""A secret seed: in the run's folder for its owner alone, until the run is finished and it is told.

Whoever knows the seed can choose an input whose votes are lucky, so a seed that is drawn when the
run begins is written where others cannot read it; it is needed to go on. Once the last image is
certified nothing can be chosen any more: the manifest then holds the seed, and everybody can repeat
the run.
"""

from __future__ import annotations

from pathlib import Path

from deqcert.errors import RunError
from deqcert.files import write_atomically
from deqcert.options import parse_number
from deqcert.smoothing.seed import BITS, draw_seed

NAME = "seed.secret"


def keep_seed(folder: Path) -> int:
    """Draw a seed and put it on the disk, readable for its owner only.

    Raises:
        RunError: If it cannot be written.
    """
    seed = draw_seed()
    write_atomically(folder / NAME, f"{seed}\n", private=True)
    return seed


def read_seed(folder: Path) -> int:
    """Read the seed of an unfinished run.

    Raises:
        RunError: If it is not there or cannot be read; nothing else can continue the run.
    """
    path = folder / NAME
    try:
        seed = parse_number(path.read_text(encoding="ascii"), whole=True)
    except (OSError, UnicodeDecodeError):
        seed = None
    if seed is None or not 0 <= seed < 2**BITS:
        raise RunError(
            f"cannot read the secret seed in {path}, without which this run cannot go on; restore "
            "it or give another folder with --out"
        )
    return int(seed)


def forget_seed(folder: Path) -> None:
    """Delete the file, if there is one."""
    (folder / NAME).unlink(missing_ok=True)
