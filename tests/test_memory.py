"""Freed memory is kept where the C library can be told to."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

RESIDENT = """
import sys
import torch
from deqcert.memory import keep_freed_memory

def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096 / 1e6

if sys.argv[1] == "keep":
    assert keep_freed_memory()
before = resident()
block = torch.ones(50_000_000)
del block
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the setting")
@pytest.mark.parametrize("setting", ["usual", "keep"])
def test_a_large_block_stays_with_the_process_only_if_asked_for(setting):
    done = subprocess.run(
        [sys.executable, "-c", RESIDENT, setting], check=True, capture_output=True, text=True
    )
    # The block has 200 MB; without the setting the C library gives it back at once.
    kept = float(done.stdout)
    assert kept > 150 if setting == "keep" else kept < 50
