"""Which path the kernels take, and the sentence that says why."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from deqcert import kernels
from deqcert.errors import KernelError
from deqcert.kernels import native
from deqcert.kernels.native import extension, why_not_built_for

needs_cuda_build = pytest.mark.skipif(
    extension is None or not extension.cuda_architectures,
    reason="needs an extension built with CUDA",
)


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


def test_a_binary_of_other_sources_is_not_used():
    program = """
import os, sys, types
os.environ.pop("DEQCERT_KERNELS", None)
sys.modules["deqcert._native"] = types.ModuleType("deqcert._native")
import torch
from deqcert import kernels
status = kernels.status()
assert status.path == "torch" and "another version" in status.reason, status
kernels.residual_norms(torch.zeros(2, 3), torch.ones(2, 3))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 1)])
def test_gpus_that_the_binary_has_code_for_are_served(capability):
    assert why_not_built_for(capability, [75, 80, 90]) == ""


@pytest.mark.parametrize(
    ("capability", "built", "words"),
    [
        ((7, 0), [75, 80, 90], "7.0"),
        ((6, 1), [75, 80, 90], "7.5, 8.0, 9.0 and later"),
        ((7, 5), [80, 90], "7.5"),
        ((8, 0), [75, 86, 90], "8.0"),
        ((8, 9), [75, 90], "8.9"),
        ((9, 0), [], "without CUDA"),
    ],
)
def test_other_gpus_are_not_and_the_reason_says_why(capability, built, words):
    assert words in why_not_built_for(capability, built)


@needs_cuda_build
def test_a_gpu_that_is_too_old_takes_the_reference(monkeypatch):
    monkeypatch.delenv("DEQCERT_KERNELS", raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (3, 5))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    native._cuda_reason.cache_clear()
    try:
        assert not native.uses_native(torch.device("cuda", 0))
        assert "cuda:0: it has compute capability 3.5" in kernels.status().cuda_reason
        monkeypatch.setenv("DEQCERT_KERNELS", "native")
        with pytest.raises(KernelError, match=r"capability 3\.5"):
            native.uses_native(torch.device("cuda", 0))
    finally:
        native._cuda_reason.cache_clear()


@needs_cuda_build
@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_a_gpu_that_cannot_be_used_is_a_sentence():
    assert extension.cuda_fault(0)
