"""The history of a training: a row now and then, with a look at test images now and then."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np

from deqcert.data import Dataset
from deqcert.models import TrainableModel
from deqcert.training.config import TrainConfig
from deqcert.training.curve import Board, Row, write_table
from deqcert.training.probe import Probe
from deqcert.training.proof import OwnRadii

ROW_EVERY = 100
"""Steps between two rows; an epoch's end gives one, too."""

PROBE_EVERY = 100
"""Fewest steps between two looks at test images."""


class History:
    """Collect what steps give, and enter rows into the table ``NAME.curve.csv``.

    Args:
        config: Of the training.
        test: Test images.
        radii: What the training proves of its images.

    Attributes:
        rows: The rows so far.
        waiting: Loss and nfe of each step after the last row.
    """

    def __init__(self, config: TrainConfig, test: Dataset, radii: OwnRadii | None = None) -> None:
        self._config = config
        self._probe = Probe(test, config, radii)
        self._probed = 0
        self._board: Board | None = None
        self.rows: list[Row] = []
        self.waiting: list[tuple[float, float]] = []

    def begin(self) -> None:
        """Write what there is: rows after the place where the training goes on are gone."""
        self._write()
        if self._config.tensorboard:
            done = int(self.rows[-1]["step"]) if self.rows else 0
            self._board = Board(self._beside("tensorboard"), done)

    @property
    def due(self) -> bool:
        """Whether it is time for a row."""
        return len(self.waiting) >= ROW_EVERY

    def add(self, loss: float, nfe: float) -> None:
        """Take in what a step gave."""
        self.waiting.append((loss, nfe))

    def enter(self, row: Row, model: TrainableModel, *, last: bool) -> Row:
        """Enter a row: the means of the steps that wait, and what a look finds if one is due.

        Args:
            row: What else is known, by column.
            model: What would be saved now.
            last: Whether the training is done; then it is always looked at.

        Returns:
            The whole row.
        """
        loss, nfe = np.mean(self.waiting, axis=0)
        row = row | {"loss": float(loss), "nfe": float(nfe)}
        if last or row["step"] - self._probed >= PROBE_EVERY:
            row |= self._probe(model)
            self._probed = int(row["step"])
        self.waiting.clear()
        self.rows.append(row)
        self._write()
        if self._board is not None:
            self._board.add(row)
        return row

    def state(self) -> dict[str, Any]:
        """Return a copy of all that :meth:`restore` needs."""
        return copy.deepcopy({"rows": self.rows, "waiting": self.waiting, "probed": self._probed})

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to what :meth:`state` returned."""
        state = copy.deepcopy(state)
        self.rows, self.waiting = state["rows"], state["waiting"]
        self._probed = state["probed"]

    def _write(self) -> None:
        write_table(self._beside("curve.csv"), self.rows)

    def _beside(self, ending: str) -> Path:
        return Path(self._config.out) / f"{self._config.name}.{ending}"
