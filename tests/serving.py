"""A service in a process of its own, on this machine alone."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self


class Process:
    """``deqcert serve`` on a free port of the loopback; use it as a context manager.

    Args:
        folder: Where it runs; its own folder is ``service`` in there.
        options: Further options.
        model: The model.
    """

    def __init__(self, folder: Path, *options: str, model: str = "digits") -> None:
        command = [sys.executable, "-m", "deqcert", "serve", model, "--port", "0"]
        self.folder = folder / "service"
        self.errors = folder / "errors.txt"
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [*command, "--out", str(self.folder), "--threads", "1", *options],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
                cwd=folder,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found is not None, self.errors.read_text()
        self.address = found[0]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait; return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
