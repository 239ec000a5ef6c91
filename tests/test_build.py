"""The build: what it leaves behind where it cannot compile."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from deqcert.kernels.native import why_missing

pytest.importorskip("setuptools")
pytest.importorskip("nanobind")

ROOT = Path(__file__).resolve().parent.parent
REASON = "the C++ compiler 'false' compiles no C++17 program\n"
BINARY = "_native" + sysconfig.get_config_var("EXT_SUFFIX")


@pytest.fixture
def sources(tmp_path):
    """What a build reads, with binaries of an earlier one beside it; no compiler works."""
    folder = tmp_path / "sources"
    for name in ("csrc", "deqcert/kernels"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md", "deqcert/__init__.py"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "deqcert" / BINARY).write_bytes(b"stale")
    return folder


def build(sources, *command):
    broken = {"CC": "false", "CXX": "false", "DEQCERT_CUDA": "0"}
    command = [sys.executable, "setup.py", *command]
    done = subprocess.run(
        command, cwd=sources, env={**os.environ, **broken}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_wheel_holds_nothing_of_an_earlier_build(sources):
    package = sources / "out" / "deqcert"
    package.mkdir(parents=True)
    for name in (BINARY, "gone.py"):
        (package / name).write_bytes(b"stale")
    build(sources, "build", "--build-lib", "out", "--build-temp", "temporary")
    assert (package / "kernels" / "__init__.py").is_file()
    assert not (package / BINARY).exists()
    assert not (package / "gone.py").exists()
    assert (package / "_native_missing.txt").read_text() == REASON  # this goes in as well


def test_without_a_compiler_no_older_binary_stays_beside_the_package(sources):
    build(sources, "build_ext", "--inplace")
    assert not (sources / "deqcert" / BINARY).exists()
    assert (sources / "deqcert" / "_native_missing.txt").read_text() == REASON


def test_the_true_reason_of_a_missing_extension_is_said(tmp_path):
    package, error = tmp_path, ImportError("cannot import name '_native' from 'deqcert'")
    (package / "_native.pyi").write_text("")  # says nothing
    assert "was not built when deqcert was installed (nothing says" in why_missing(package, error)
    (package / "_native_missing.txt").write_text(REASON)
    assert "installed (the C++ compiler 'false' compiles no C++17 program); " in why_missing(
        package, error
    )
    other = package / "_native.cpython-27-other.so"
    other.write_bytes(b"")
    assert f"is for another Python ({other.name})" in why_missing(package, error)
    (package / BINARY).write_bytes(b"")
    error = ImportError("libgomp.so.1: cannot open shared object file")
    assert "cannot be imported (libgomp.so.1: cannot open" in why_missing(package, error)
