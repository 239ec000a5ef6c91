"""What a service is told, what one request may cost, and how many may wait."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from deqcert.errors import DeqcertError
from deqcert.options import check_options, number, path, text


class Refused(DeqcertError):  # noqa: N818  what happened, as Interrupted
    """A request that is not served.

    Args:
        status: The HTTP status code.
        sentence: Why, and what would work.
        wait: Seconds after which to try again; None to say nothing about it.
    """

    def __init__(self, status: int, sentence: str, wait: int | None = None) -> None:
        super().__init__(sentence)
        self.status, self.wait = status, wait


@dataclass(frozen=True, kw_only=True)
class Serving:
    """Where a service listens, what it keeps, and what it allows.

    Args:
        host: Address to listen on; 0.0.0.0 is every one that the machine has.
        port: Port; 0 takes one that is free.
        out: Folder of the service: its answers, and the state of its alarms.
        keys: File with one client per line, its name and its key; without it everybody is served.
        names: File with the name of each class, one per line.
        calibration: What `deqcert conformal calibrate` has written, to answer with sets, too.
        queue: Requests that are worked on or wait at once; one more is told to come again.
        largest_n: Most noisy copies that a request may ask for.
        largest_body: Most bytes of a request.
        largest_pixels: Most pixels of a picture, which is looked at before it is decoded.
        longest_seconds: Longest deadline that a request may set; also how long a stop waits for
            the requests that are being worked on.
    """

    host: str = text("127.0.0.1", metavar="ADDRESS")
    port: int = number(8000, low=0, high=65535, metavar="P")
    out: Path = path(Path("runs/service"), metavar="DIR")
    keys: Path | None = path(None, metavar="FILE")
    names: Path | None = path(None, metavar="FILE")
    calibration: Path | None = path(None, metavar="FILE")
    queue: int = number(64, low=1, high=1024, metavar="N")
    largest_n: int = number(100_000, low=1, metavar="N")
    largest_body: int = number(8_000_000, low=1000, metavar="BYTES")
    largest_pixels: int = number(16_000_000, low=1, metavar="N")
    longest_seconds: float = number(60.0, above=0, high=86400, metavar="S")

    def __post_init__(self) -> None:
        check_options(self)


class Admission:
    """A bounded number of requests at once.

    Args:
        most: How many.
    """

    def __init__(self, most: int) -> None:
        self.most, self.inside = most, 0
        self._lock = threading.Lock()
        self._seconds = 0.1

    def enter(self) -> None:
        """Take a place for a request; whoever took one leaves it once.

        Raises:
            Refused: If there is none left.
        """
        with self._lock:
            if self.inside >= self.most:
                wait = max(1, min(60, round(self._seconds)))
                raise Refused(
                    429, f"{self.most} requests are being worked on; come again in {wait} s.", wait
                )
            self.inside += 1

    def leave(self, seconds: float) -> None:
        """Give the place back.

        Args:
            seconds: How long it was held, by which those who are refused are told when to return.
        """
        with self._lock:
            self.inside -= 1
            self._seconds += 0.1 * (seconds - self._seconds)
