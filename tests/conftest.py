"""What every test file may ask for: the optional data folders, skipped with a reason if absent."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import hypothesis
import pytest

# Read by torch when it is imported, and by every subprocess: waiting threads of several small
# problems beside each other cost more than a second thread brings. Tests of threads set their own.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What was measured on a developer's machine must not decide what the tests run.
_cache = tempfile.TemporaryDirectory(prefix="deqcert-tests-")
os.environ["DEQCERT_CACHE"] = _cache.name

hypothesis.settings.register_profile(
    "offline", deadline=None, derandomize=True, max_examples=40, database=None
)
hypothesis.settings.load_profile("offline")


def _folder(variable: str, default: str) -> Path:
    root = Path(__file__).resolve().parent.parent
    folder = Path(os.environ.get(variable, root / default))
    if not folder.is_dir():
        pytest.skip(f"needs the folder that {variable} names; {folder} is not there")
    return folder


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    """The real checkpoint with reference outputs."""
    return _folder("DEQCERT_GOLDEN", "../shared/golden")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Real image files in the formats that users bring."""
    return _folder("DEQCERT_DATA", "../shared/data")


from kernel_problems import path as path  # noqa: E402  after the environment is set
from kernel_problems import variant as variant  # noqa: E402
