"""What a user sees while a run certifies: a bar on a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from deqcert.certifiers.bounds import write_radius
from deqcert.runs import Row

if TYPE_CHECKING:
    from deqcert.smoothing import Predictor, VoteBatch

TICK = 5.0
"""Seconds between two lines of :class:`Ticks`."""


class Progress(ABC):
    """Counts what is done, and shows it.

    Args:
        images: Images of the whole run.
        each: Votes that an image costs at most, which the bar and the time left count in; 0 where
            no noise is drawn.
        sigma: Certified accuracy is shown at radius 0 and at this radius, if there is one.
        before: Correctness and radius of the images that an earlier start certified.
    """

    def __init__(
        self,
        images: int,
        each: int,
        sigma: float | None,
        before: Sequence[tuple[bool, float]] = (),
    ) -> None:
        self.images, self.each, self.sigma = images, each, sigma
        self.done = self.began_with = len(before)
        self.votes = self.cast = self.ahead = 0
        self.held = [radius for correct, radius in before if correct]
        self.began = time.monotonic()

    def __call__(self, batch: VoteBatch, *, predictor: Predictor, stage: int, number: int) -> None:
        """Take note of a solved batch; see :class:`deqcert.smoothing.engine.Callback`."""
        votes = len(batch.predictions)
        self.votes += votes
        self.cast += votes
        self.show()

    def arrived(self, votes: int) -> None:
        """Take note of an image that another process has done, maybe before its turn."""
        self.cast += votes
        self.ahead += 1
        self.show()

    def image(self, row: Row) -> None:
        """Take note of an image whose line is safe."""
        self.done += 1
        self.votes, self.ahead = 0, max(0, self.ahead - 1)
        if row.correct:
            self.held.append(row.certificate.radius)
        self.show_image(row)

    @property
    def speed(self) -> str:
        """Votes per second since this start; without votes, images."""
        seconds = max(time.monotonic() - self.began, 1e-9)
        if self.each:
            return f"{self.cast / seconds:,.0f} votes/s"
        return f"{(self.done - self.began_with) / seconds:.1f} images/s"

    @property
    def position(self) -> float:
        """Images done, those that wait for their turn and the fraction of one in work included."""
        return self.done + self.ahead + min(self.votes / max(self.each, 1), 1.0)

    @property
    def left(self) -> str:
        """Time left, h:mm:ss, judged by the images since this start."""
        gone = self.position - self.began_with
        if gone <= 0:
            return "-:--:--"
        seconds = (time.monotonic() - self.began) / gone * (self.images - self.position)
        return str(timedelta(seconds=round(seconds)))

    @property
    def certified(self) -> str:
        """Running certified accuracy over the images done."""
        if self.done == 0:
            return "certified -"
        said = f"certified {100 * len(self.held) / self.done:.1f}%"
        if self.sigma is None:
            return said
        at = 100 * sum(radius >= self.sigma for radius in self.held) / self.done
        return f"{said}, {at:.1f}% at r>={self.sigma:g}"

    @abstractmethod
    def show(self) -> None:
        """Show that votes came in."""

    @abstractmethod
    def show_image(self, row: Row) -> None:
        """Show that an image is done."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None


class Quiet(Progress):
    """Shows nothing."""

    def show(self) -> None:
        """Show nothing."""

    def show_image(self, row: Row) -> None:
        """Show nothing."""


class Lines(Progress):
    """One plain line per image, for log files and pipes."""

    def show(self) -> None:
        """Wait for the image."""

    def show_image(self, row: Row) -> None:
        """Print the image's line."""
        answer = row.certificate
        found = (
            "abstained"
            if answer.prediction is None
            else f"class {answer.prediction}, radius {write_radius(answer.radius, 3)}"
        )
        print(
            f"image {row.idx} ({self.done} of {self.images}): {found}, label {row.label}; "
            f"{self.certified}; {self.speed}; {self.left} left",
            file=sys.stderr,
            flush=True,
        )


class Bar(Progress):
    """A bar on a terminal, drawn by rich."""

    def __enter__(self) -> Self:
        from rich import progress
        from rich.console import Console

        self._bar = progress.Progress(
            progress.TextColumn("{task.fields[count]}"),
            progress.BarColumn(bar_width=None),
            progress.TextColumn("{task.fields[speed]}  {task.fields[certified]}"),
            progress.TextColumn("{task.fields[left]} left"),
            console=Console(stderr=True),
            expand=True,
        )
        self._task = self._bar.add_task("", total=self.images, **self._fields())
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def show(self) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=self.position, **self._fields())

    def show_image(self, row: Row) -> None:
        """Move the bar."""
        self.show()

    def _fields(self) -> dict[str, Any]:
        return {
            "count": f"{self.done}/{self.images} images",
            "speed": self.speed,
            "certified": self.certified,
            "left": self.left,
        }


def progress_kind(quiet: bool) -> type[Progress]:
    """Choose how to show progress: nothing, a bar on a terminal, lines elsewhere."""
    if quiet:
        return Quiet
    return Bar if sys.stderr.isatty() else Lines


class Ticks:
    """Lines on standard error that say how many images are done, every few seconds.

    Args:
        quiet: Whether to say nothing.
    """

    def __init__(self, quiet: bool) -> None:
        self._quiet, self._next = quiet, time.monotonic() + TICK

    def __call__(self, done: int, count: int) -> None:
        """Say it, unless it was said just now."""
        if not self._quiet and time.monotonic() >= self._next:
            self._next = time.monotonic() + TICK
            print(f"{done} of {count} images", file=sys.stderr, flush=True)
