"""How a training reports: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

PLAIN_EVERY = 30.0
"""Seconds between two plain lines."""


class TrainingProgress:
    """Report on standard error, or not at all.

    Args:
        shown: Whether to report.
        doing: What the bar calls it.
    """

    def __init__(self, shown: bool, doing: str = "training") -> None:
        self._shown = shown
        self._bar: Bar | None = None
        self._spoke = time.perf_counter()
        if shown and sys.stderr.isatty():
            self._bar = Bar(
                TextColumn(doing),
                BarColumn(),
                TextColumn("{task.percentage:3.0f}%  {task.description}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("", total=1.0)

    def __enter__(self) -> TrainingProgress:
        """Show the bar."""
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()

    def update(self, share: float, entry: dict[str, float]) -> None:
        """Report how a training goes.

        Args:
            share: How much of it is done, from 0 to 1.
            entry: A row of its history.
        """
        text = f"epoch {entry['epoch']:.3g}  loss {entry['loss']:.4f}  nfe {entry['nfe']:.1f}"
        if "noisy_accuracy" in entry:
            text += f"  noisy accuracy {100.0 * entry['noisy_accuracy']:.1f}%"
        if "acr_own_bound" in entry:
            text += f"  proven radius {entry['acr_own_bound']:.3g}"
        self.tell(share, text)

    def tell(self, share: float, text: str) -> None:
        """Report how far it is, from 0 to 1, and one line about it."""
        if self._bar is not None:
            self._bar.update(self._task, completed=share, description=text)
        elif time.perf_counter() - self._spoke >= PLAIN_EVERY or share >= 1.0:
            self.say(f"{100 * share:3.0f}%  {text}")
            self._spoke = time.perf_counter()

    def say(self, text: str) -> None:
        """Print one line."""
        if self._bar is not None:
            self._bar.console.print(text)
        elif self._shown:
            print(text, file=sys.stderr, flush=True)
