"""Files of weights in the formats that are met: torch's two, safetensors, and MATLAB's.

Nothing in a file is ever executed: safetensors holds nothing but arrays, and torch's files are
read with its restricted unpickler. Whatever else a download can leave behind is named as what it
is.
"""

from __future__ import annotations

import pickle
import stat
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from deqcert.errors import CheckpointError
from deqcert.files import open_regular

_FOREIGN = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file", "fetch it with git lfs pull"),
    (b"<", "an HTML page, perhaps that of a failed download", "download the file itself"),
    (b"{", "JSON text, perhaps a server's refusal", "download the file itself"),
    (b"\x1f\x8b", "compressed with gzip", "unpack it with gunzip"),
    (b"BZh", "compressed with bzip2", "unpack it with bunzip2"),
    (b"\xfd7zXZ", "compressed with xz", "unpack it with unxz"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it with unzstd"),
    (b"7z\xbc\xaf", "a 7-Zip archive", "unpack it with 7z"),
    (b"\x93NUMPY", "a NumPy array", "save a torch model's state_dict() with torch.save"),
    (b"\x89HDF", "an HDF5 file", "save a torch model's state_dict() with torch.save"),
    (b"\x89PNG", "a PNG image", "give the checkpoint"),
)
"""How files begin that are taken for checkpoints, what they are, and what would work."""

_TEXT = (b"<", b"{")
_SMALLEST = 64
"""No file that holds a weight has fewer bytes."""


class _Inert:
    """Stands for an object that says nothing about the weights; it keeps nothing and does nothing.

    So the constructors of what it stands for, NumPy's among them, are never called with what a file
    says.
    """

    def __new__(cls, *arguments: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _inert(path: str) -> type[_Inert]:
    module, _, name = path.rpartition(".")
    return type(name, (_Inert,), {"__module__": module})


INERT = tuple(
    _inert(path)
    for path in (
        "argparse.Namespace",
        "types.SimpleNamespace",
        *(f"{at}.{kind}" for at in ("pathlib", "pathlib._local") for kind in ("Path", "PosixPath")),
        *("numpy.dtype", "numpy.ndarray"),
        *(
            f"numpy.{core}.multiarray.{function}"
            for core in ("core", "_core")
            for function in ("scalar", "_reconstruct")
        ),
    )
)
"""What training scripts keep beside the weights, such as their arguments and a best accuracy."""


def read_weight_file(path: Path) -> Any:
    """Read a file of weights.

    Args:
        path: The file.

    Returns:
        What was saved, on the CPU; inert things beside the weights (:data:`INERT`) are empty.

    Raises:
        OSError: If the file cannot be opened.
        CheckpointError: If it is damaged, of no such format, or holds Python objects.
    """
    found = path.stat()
    # A pipe would wait for somebody to write; a folder is refused by the system's own words.
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        raise CheckpointError(f"checkpoint {path} is no regular file; save it as one.")
    with path.open("rb") as file:
        head = file.read(512)
    size = found.st_size
    if _is_safetensors(path, head, size):
        return _read_safetensors(path)
    if head.startswith(b"MATLAB"):
        return _read_matlab(path)
    _refuse_foreign(path, head, size)
    try:
        return read_torch_file(path)
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error) or "Weights only" in str(error):
            raise CheckpointError(
                f"checkpoint {path} holds Python objects besides weights, which are never "
                "executed here; save model.state_dict() alone with torch.save."
            ) from None
        raise CheckpointError(_damaged(path)) from None
    except CheckpointError:
        raise
    except Exception:  # a damaged archive makes torch raise nearly anything
        raise CheckpointError(_damaged(path)) from None


def read_torch_file(path: Path) -> Any:
    """Read what ``torch.save`` wrote, with the restricted unpickler, onto the CPU.

    An archive's checksums are compared first, which torch does not do; files in the format of torch
    before 1.6, and archives that were saved without checksums, have none.

    Raises:
        CheckpointError: If a checksum is wrong, or the archive is another program's.
        Exception: Whatever torch raises on a damaged file.
    """
    with open_regular(path) as file:
        archive = file.read(4) == b"PK\x03\x04"
    if archive:
        _check_archive(path)
    with warnings.catch_warnings(), torch.serialization.safe_globals(list(INERT)):
        # Remarks on old pickle protocols would stand between the user and the one sentence.
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True)


def _check_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            sound = all(member.file_size == member.compress_size for member in members)
            # torch stores zeros when it is told to leave the checksums out.
            if sound and any(member.CRC for member in members):
                sound = archive.testzip() is None
    except Exception:  # zipfile has no one class of error for a damaged archive
        raise CheckpointError(_damaged(path)) from None
    names = [member.filename for member in members]
    if any(name.endswith("/constants.pkl") for name in names):
        raise CheckpointError(
            f"checkpoint {path} is a TorchScript program, which is never executed here; save "
            "model.state_dict() alone with torch.save."
        )
    if not any(name.endswith("/data.pkl") for name in names):
        what = "NumPy arrays" if any(name.endswith(".npy") for name in names) else "other files"
        raise CheckpointError(
            f"checkpoint {path} is a zip archive of {what}; give the file that torch.save wrote."
        )
    if not sound:
        raise CheckpointError(_damaged(path))


def _is_safetensors(path: Path, head: bytes, size: int) -> bool:
    if head[8:9] != b"{":
        return False
    # The format begins with the length of its JSON header.
    return path.suffix == ".safetensors" or int.from_bytes(head[:8], "little") <= size - 8


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError):
        raise CheckpointError(
            f"checkpoint {path} is a damaged safetensors file; download or save it again."
        ) from None


_MATLAB = {
    "A": "mon.linear_module.A.weight",
    "B": "mon.linear_module.B.weight",
    "U": "mon.linear_module.U.weight",
    "u": "mon.linear_module.U.bias",
    "C": "Wout.weight",
    "c": "Wout.bias",
}
"""What the matrices of a monotone network are called in MATLAB files."""


def _read_matlab(path: Path) -> Any:
    """Read the numbers of a MATLAB file; nothing else in it is looked at."""
    import numpy as np
    from scipy.io import loadmat

    try:
        found = loadmat(path, variable_names=list(_MATLAB))
        arrays = {name: np.asarray(found[name]) for name in _MATLAB if name in found}
    except NotImplementedError:  # version 7.3, which is HDF5
        raise CheckpointError(
            f"checkpoint {path} is a MATLAB file of version 7.3; save it with -v7."
        ) from None
    except Exception:  # a damaged file makes scipy raise nearly anything
        raise CheckpointError(
            f"checkpoint {path} is a damaged MATLAB file; download or save it again."
        ) from None
    lacking = [name for name in _MATLAB if name not in arrays]
    if lacking or any(array.dtype.kind != "f" for array in arrays.values()):
        raise CheckpointError(
            f"checkpoint {path} is a MATLAB file without the matrices A, B, C, U, u and c of a "
            "monotone network; give one that holds them as real numbers."
        )
    weights = {_MATLAB[name]: array for name, array in arrays.items()}
    return {
        name: torch.from_numpy(np.ascontiguousarray(array.ravel() if "bias" in name else array))
        for name, array in weights.items()
    }


def _refuse_foreign(path: Path, head: bytes, size: int) -> None:
    if size == 0:
        raise CheckpointError(f"checkpoint {path} is empty; download or save it again.")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for beginning, what, remedy in _FOREIGN:
        if (text if beginning in _TEXT else head).startswith(beginning):
            raise CheckpointError(f"checkpoint {path} is {what}; {remedy}.")
    if head[257:262] == b"ustar":
        raise CheckpointError(f"checkpoint {path} is a tar archive; unpack it with tar.")
    if size < _SMALLEST:
        count = "1 byte" if size == 1 else f"{size} bytes"
        raise CheckpointError(
            f"checkpoint {path} is damaged: it has only {count}; download or save it again."
        )


def _damaged(path: Path) -> str:
    return (
        f"checkpoint {path} is damaged or is not a torch file; download it again or save it "
        "anew with torch.save(model.state_dict(), path)."
    )
