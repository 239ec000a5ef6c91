"""Where the history of a training is shown: a table, a picture, TensorBoard."""

from __future__ import annotations

import csv
import io
import logging
import math
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

PROVEN = "acr_own_bound"
"""One more, where the training proves radii: their mean, by the bound that is trained."""

FEW = 20
"""Points of a curve that are drawn one by one as well."""


def write_table(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write the history as CSV, whole or not at all; every number keeps all its digits.

    Raises:
        RunError: If it cannot be written.
    """
    text = io.StringIO()
    columns = (*COLUMNS, PROVEN) if any(PROVEN in row for row in rows) else COLUMNS
    table = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_atomically(path, text.getvalue())


def draw(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Draw loss and noisy accuracy against epochs, one above the other, as PNG.

    Raises:
        RunError: If it cannot be written.
    """
    # A first import builds a font cache and says so (and where) on stderr.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.8, 5.0), dpi=110, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.set_ylabel("training loss", fontsize=12)
    below.set_ylabel("noisy test accuracy (%)", fontsize=12)
    below.set_xlabel("epoch", fontsize=12)
    below.set_ylim(-2.0, 102.0)  # lines at 0 and at 100 are as thick as others
    for axes, column, factor, colour in (
        (above, "loss", 1.0, "#0072B2"),
        (below, "noisy_accuracy", 100.0, "#D55E00"),
    ):
        known = [row for row in rows if math.isfinite(row.get(column, math.nan))]
        few = len(known) <= FEW  # a line through one point would not be seen
        axes.plot(
            [row["epoch"] for row in known],
            [factor * row[column] for row in known],
            color=colour,
            marker="o" if few else "",
        )
        axes.grid(True, color="#dddddd", linewidth=0.6)
        axes.tick_params(labelsize=12)
    solved = [row["epoch"] for row in rows if not row["unrolled"]]
    if solved and len(solved) < len(rows):
        for axes in (above, below):
            axes.axvline(solved[0], color="#777777", linewidth=1.0, linestyle="--")
        above.set_title("unrolled before the dashed line, solved after it", fontsize=12)
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
