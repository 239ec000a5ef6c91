"""Where the history of a training is shown: a table, a picture, TensorBoard."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deqcert.errors import ConfigError
from deqcert.files import write_atomically

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Row = dict[str, float]
"""One entry of the history, by column; a row has no value for what was not looked at then."""

COLUMNS = (
    *("epoch", "step", "seconds", "rate", "loss", "nfe", "unrolled"),
    *("noisy_accuracy", "residual", "spectral_radius"),
)
"""Columns of the table, in order. Steps are counted from the first of the training."""


def write_table(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write the history as CSV, whole or not at all; every number keeps all its digits.

    Raises:
        RunError: If it cannot be written.
    """
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_atomically(path, text.getvalue())


def draw(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Draw loss and noisy accuracy against epochs, as PNG.

    Raises:
        RunError: If it cannot be written.
    """
    # A first import builds a font cache and says so (and where) on stderr.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.8, 3.6), dpi=110, layout="constrained")
    left = figure.add_subplot()
    left.plot([row["epoch"] for row in rows], [row["loss"] for row in rows], color="#0072B2")
    left.set_xlabel("epoch")
    left.set_ylabel("training loss", color="#0072B2")
    solved = [row["epoch"] for row in rows if not row["unrolled"]]
    if solved and len(solved) < len(rows):
        left.axvline(solved[0], color="#999999", linewidth=0.8, linestyle="--")
    looked = [row for row in rows if "noisy_accuracy" in row]
    right = left.twinx()
    accuracy = [100.0 * row["noisy_accuracy"] for row in looked]
    right.plot([row["epoch"] for row in looked], accuracy, color="#D55E00")
    right.set_ylim(0.0, 100.0)
    right.set_ylabel("noisy test accuracy (%)", color="#D55E00")
    write_atomically(path, lambda file: figure.savefig(file, format="png"))


class Board:
    """Scalars for TensorBoard, by step.

    Args:
        folder: Where its event files go.
        step: Steps already done; what was written for later ones is not shown.

    Raises:
        ConfigError: If TensorBoard is not installed.
    """

    def __init__(self, folder: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ConfigError(
                "tensorboard is not installed; install deqcert[tensorboard], or leave the option "
                "out: the table of the curve has the same numbers."
            ) from None
        self._writer: SummaryWriter = SummaryWriter(str(folder), purge_step=step + 1)

    def add(self, row: Mapping[str, float]) -> None:
        """Write one row."""
        for column, value in row.items():
            if column != "step":
                self._writer.add_scalar(column, value, int(row["step"]))
        self._writer.flush()
