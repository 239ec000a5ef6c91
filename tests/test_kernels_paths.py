"""Which path the kernels take, and the sentence that says why."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from deqcert import kernels
from deqcert.errors import KernelError


def test_status_tells_the_path(path):
    status = kernels.status()
    assert status.path == ("torch" if path == "torch" else "native")
    assert status.reason
    assert status.threads == torch.get_num_threads()


def test_unknown_path_is_refused(monkeypatch):
    monkeypatch.setenv("DEQCERT_KERNELS", "fortran")
    with pytest.raises(KernelError, match="use 'torch', 'native' or unset"):
        kernels.status()


def test_package_works_without_the_extension():
    program = """
import sys
sys.modules["deqcert._native"] = None
import torch
from deqcert import kernels
status = kernels.status()
assert status.path == "torch" and "cannot be imported" in status.reason, status
assert not status.cuda_built
kernels.philox_normal(torch.empty(2, 3), seed=0, index=0, stage=0, first=0)
import os
os.environ["DEQCERT_KERNELS"] = "native"
try:
    kernels.status()
except kernels.KernelError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "rebuild it" in done.stdout
