"""What files and screens do: JPEG, and too few pixels."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from deqcert.evaluation.corruptions.base import Corruption, Picture


def _file(x: Picture) -> Image.Image:
    """Return a picture in 8 bits."""
    pixels = np.rint(np.clip(x, 0.0, 1.0) * 255.0).astype(np.uint8)
    return Image.fromarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1))


def _back(image: Image.Image) -> Picture:
    pixels = np.asarray(image, dtype=np.float64) / 255.0
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)


def _jpeg(x: Picture, quality: int, draw: np.random.Generator) -> Picture:
    held = io.BytesIO()
    _file(x).save(held, "JPEG", quality=quality)
    return _back(Image.open(held))


def _pixelate(x: Picture, share: float, draw: np.random.Generator) -> Picture:
    image = _file(x)
    fewer = (max(1, int(image.width * share)), max(1, int(image.height * share)))
    small = image.resize(fewer, Image.Resampling.BOX)
    return _back(small.resize(image.size, Image.Resampling.BOX))


JPEG = Corruption("JPEG compression", (80, 65, 58, 50, 40), _jpeg)
PIXELATE = Corruption("too few pixels", (0.95, 0.9, 0.85, 0.75, 0.65), _pixelate)
