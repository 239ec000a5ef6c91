"""Freed memory is kept where the C library can be told to."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from deqcert.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(30):
    blocks = [torch.ones(4_000_000) for _ in range(8)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the setting")
def test_large_blocks_are_reused_without_page_faults():
    faults = {
        setting: int(
            subprocess.run(
                [sys.executable, "-c", FAULTS, setting], check=True, capture_output=True, text=True
            ).stdout
        )
        for setting in ("usual", "keep")
    }
    # Eight blocks of 16 MB, thirty times: kept, their pages are paid for once.
    assert faults["keep"] < faults["usual"] / 2
