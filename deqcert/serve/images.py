"""Images out of requests: PNG, JPEG, .npy and JSON, each refused before it could do harm."""

from __future__ import annotations

import io
import json
import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deqcert.data.base import BYTES, to_unit
from deqcert.data.image_file import to_pixels
from deqcert.errors import DataError
from deqcert.serve.limits import Refused, Serving

if TYPE_CHECKING:
    from PIL import Image

PICTURES = {"image/png": "PNG", "image/jpeg": "JPEG"}
ARRAYS = ("application/x-npy", "application/octet-stream")
KINDS = (*PICTURES, *ARRAYS, "application/json")
"""Content types that a request may have."""

PNG_DEPTH = 24
"""Where a PNG file says how many bits a channel has."""


@dataclass(frozen=True)
class Upload:
    """An image as the model takes it.

    Attributes:
        pixels: Shape (C, H, W), float32, in [0, 1].
        changed: What was done to make it fit, in words; None where nothing was.
    """

    pixels: NDArray[np.float32]
    changed: str | None = None


def read_upload(
    body: bytes, kind: str, shape: tuple[int, ...], limits: Serving, *, resize: bool = False
) -> Upload:
    """Read the image of a request.

    Args:
        body: The request's body.
        kind: Its content type, one of :data:`KINDS`.
        shape: Channels, height and width that the model takes.
        limits: How large a picture may be.
        resize: Whether a picture of another size or kind is made to fit.

    Raises:
        Refused: If the content type is another, or the picture is too large.
        DataError: If it is no such image, or of another shape.
    """
    kind = kind.partition(";")[0].strip().lower()
    if kind in PICTURES:
        return _picture(body, PICTURES[kind], shape, limits.largest_pixels, resize)
    if kind in ARRAYS:
        pixels = _array(body, shape)
    elif kind == "application/json":
        pixels = _json(body)
    else:
        raise Refused(
            415, f"the content type is {kind[:80]!r}, but it must be one of {', '.join(KINDS)}."
        )
    if pixels.ndim == 2:
        pixels = pixels[None]
    if pixels.shape != shape:
        raise DataError(_misshaped(pixels.shape, shape))
    return Upload(to_unit(pixels))


def _picture(body: bytes, form: str, shape: tuple[int, ...], most: int, resize: bool) -> Upload:
    from PIL import Image

    channels, height, width = shape
    if form == "PNG" and len(body) > PNG_DEPTH and body[PNG_DEPTH] == 16:
        raise DataError("the picture has 16 bits per channel; save it with 8.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(body), formats=[form]) as file:
                size = file.size
                if math.prod(size) > most:  # known from the header; nothing is decoded yet
                    raise Refused(
                        413,
                        f"the picture has {size[0]} x {size[1]} pixels, more than the {most} that "
                        "are taken; send a smaller one.",
                    )
                if size != (width, height) and not resize:
                    raise DataError(_misshaped((size[1], size[0]), (height, width)))
                grey = channels == 1 and (resize or file.mode in ("1", "L"))
                coloured = grey and file.mode not in ("1", "L")  # before draft() hides it
                if resize:
                    file.draft("L" if grey else "RGB", (2 * width, 2 * height))
                decoded = file.convert("L" if grey else "RGB")
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError, OverflowError):
        raise DataError(f"the file cannot be read as a {form} picture; save it again.") from None
    except Image.DecompressionBombError:
        raise Refused(413, "the picture is too large; send a smaller one.") from None
    except Exception as error:
        if isinstance(error, (DataError, Refused)):
            raise
        # Pillow's parsers of damaged files raise what they happen to meet.
        raise DataError(f"the file cannot be read as a {form} picture; save it again.") from None
    fitted, changed = decoded, None
    if resize:
        fitted, scaled = _fitted(decoded, size, width, height)
        done = (scaled, "turned grey" if coloured else None)
        changed = " and ".join(part for part in done if part) or None
    pixels = to_pixels(fitted)
    if pixels.shape != shape:
        raise DataError(_misshaped(pixels.shape, shape))
    return Upload(to_unit(pixels), changed)


def _fitted(
    image: Image.Image, size: tuple[int, int], width: int, height: int
) -> tuple[Image.Image, str | None]:
    """Cut the middle out in the model's proportions and scale it; say what was done."""
    from PIL import Image, ImageOps

    if size == (width, height):
        return image, None
    fitted = ImageOps.fit(image, (width, height), method=Image.Resampling.BOX)
    return fitted, f"scaled from {size[0]} x {size[1]} to {width} x {height} pixels"


def _array(body: bytes, shape: tuple[int, ...]) -> NDArray[Any]:
    """Read an .npy file without trusting what its header says of its size."""
    stream = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(stream)
        reader = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        found, fortran, dtype = reader(stream)
    except Exception:
        # NumPy evaluates the header as a literal; whatever that runs into, the file is no array.
        raise DataError("the body is not an array of numbers; save it with numpy.save.") from None
    if dtype != np.uint8 and dtype.kind != "f":
        name = "of Python objects" if dtype.hasobject else f"of type {str(dtype)[:40]}"
        raise DataError(f"the array is {name}; it needs uint8, or floats in [0, 1].")
    if found not in (shape, shape[1:]):
        raise DataError(_misshaped(found, shape))
    data = body[stream.tell() :]
    if len(data) != math.prod(found) * dtype.itemsize:
        raise DataError("the array is cut off or has bytes behind its end; save it again.")
    array = np.frombuffer(data, dtype=dtype).reshape(found, order="F" if fortran else "C")
    return _in_range(array, BYTES if dtype == np.uint8 else 1)


def _json(body: bytes) -> NDArray[Any]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise DataError("the body is not JSON.") from None
    if not isinstance(content, dict) or len(content) != 1 or not {"pixels", "bytes"} & set(content):
        raise DataError(
            'JSON must be {"pixels": lists of numbers in [0, 1]} or {"bytes": lists of whole '
            "numbers from 0 to 255}."
        )
    (name, value), *_ = content.items()
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError, RecursionError):
        array = np.asarray(None)
    if array.dtype.kind not in ("iu" if name == "bytes" else "iuf") or array.ndim not in (2, 3):
        raise DataError(
            f"{name} must be lists of numbers, channels by rows by columns, all of one length."
        )
    array = _in_range(array, BYTES if name == "bytes" else 1)
    return array.astype(np.uint8 if name == "bytes" else np.float64)


def _in_range(array: NDArray[Any], most: int) -> NDArray[Any]:
    if not ((array >= 0) & (array <= most)).all():  # NaN is neither
        raise DataError(f"there are pixels outside [0, {most}].")
    return array


def _misshaped(found: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    here, takes = (
        " x ".join(str(s)[:12] for s in some[:6]) or "a number" for some in (found, wanted)
    )
    return (
        f"the image is {here}, but the model takes {takes} (channels, height, width as far as "
        "given); for pictures resize=true makes it fit."
    )
