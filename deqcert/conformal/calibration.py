"""A calibration: the evidence for the true classes of held-out images, and what it is about."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from deqcert.conformal.base import SetMethod
from deqcert.conformal.registry import make_set_method
from deqcert.errors import ConfigError
from deqcert.runs.manifest import Manifest, describe_images, parse_images
from deqcert.sealed import SealedFormat, content_hash

NAME = "calibration.json"
FORMAT = SealedFormat(
    "deqcert-calibration",
    1,
    "calibration",
    "give what deqcert conformal calibrate has written",
    "calibrate again",
)

ABOUT = (
    "checkpoint_sha256",
    "weights_sha256",
    "model",
    "model_config",
    "sigma",
    "noise",
    "levels",
    "form",
    "shape",
    "predictor",
)
"""Parameters that decide a score: a calibration is of no use where one of them is another."""


@dataclass(frozen=True)
class Calibration:
    """What a set predictor learned from held-out images; a file holds it.

    Args:
        method: How sets are made, with its options.
        values: Evidence for the true class per image, shape (n,); -inf where there is none.
        images: Indices of the images in their data.
        seen: A hash of each image's pixels, as :func:`image_hash` makes it; after them those of the
            images that chose a threshold, whose indices are ``notes["tuned"]``.
        parameters: What decided the values: hashes of model and data, sigma, solve, noise.
        classes: Number of classes.
        pixels: Values of an image.
        notes: Names and paths as they were given.

    Raises:
        ConfigError: If there is not one value and one hash per image.
    """

    method: SetMethod
    values: tuple[float, ...]
    images: tuple[int, ...]
    seen: tuple[str, ...]
    parameters: Mapping[str, Any]
    classes: int
    pixels: int
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < len(self.values) == len(self.images) <= len(self.seen):
            raise ConfigError("a calibration needs one value and one hash for each of its images.")

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.values)

    @property
    def sigma(self) -> float:
        """Standard deviation of the noise; NaN where none is drawn."""
        return float(self.parameters["sigma"]) if self.method.noise else math.nan

    def bar(self, alpha: float, radius: float) -> float:
        """Return what the evidence for a class must reach; see :meth:`SetMethod.bar`.

        Raises:
            ConfigError: If the calibration set is too small.
        """
        from deqcert.smoothing.grid import grid_law

        charge, levels = 0.0, self.parameters.get("levels")
        if self.method.noise and levels is not None:
            law = grid_law(levels, self.sigma)
            charge = law.charge(self.method.draws(len(self)), self.pixels)
        return self.method.bar(
            self.values, alpha=alpha, radius=radius, sigma=self.sigma, charge=charge
        )

    def check_about(self, now: Mapping[str, Any]) -> None:
        """Refuse a model, a solve or noise that is not the calibrated one.

        Args:
            now: The same parameters of what shall answer.

        Raises:
            ConfigError: If one differs; the sentence names it.
        """
        before, after = (
            Manifest({key: given.get(key) for key in ABOUT}, ()) for given in (self.parameters, now)
        )
        if differing := before.differences(after):
            raise ConfigError(
                f"the calibration is of something else ({'; '.join(differing[:4])}); give what was "
                "calibrated, or calibrate again"
            )

    def check_images(
        self, data_hash: str, split: str, images: Iterable[int], hashes: Iterable[str]
    ) -> None:
        """Refuse images that were calibrated on, or chose the threshold.

        In the same data they are known by their index; in others by their pixels.

        Args:
            data_hash: Of the data of the images.
            split: Their split.
            images: Their indices.
            hashes: Of their pixels; read for other data only.

        Raises:
            ConfigError: If there is one.
        """
        mine = (self.parameters.get("data_hash"), self.parameters.get("split"))
        if mine == (data_hash, split):
            tuned = self.notes.get("tuned")
            used = {*self.images, *(tuned if isinstance(tuned, list) else ())}
            both = sorted({*images} & used)
        else:
            known = {*self.seen}
            both = [i for i, found in zip(images, hashes, strict=True) if found in known]
        if both:
            more = "" if len(both) == 1 else f" and {len(both) - 1} more"
            raise ConfigError(
                f"image {both[0]}{more} was calibrated on, so nothing is promised for it; give "
                "images that were not"
            )

    @property
    def content(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            **FORMAT.head(),
            **self.method.parameters(),
            "parameters": dict(self.parameters),
            "classes": self.classes,
            "pixels": self.pixels,
            "images": describe_images(self.images),
            "values": [value if math.isfinite(value) else None for value in self.values],
            "seen": list(self.seen),
            "notes": dict(self.notes),
        }

    @property
    def sha256(self) -> str:
        """A hash of everything."""
        return content_hash(self.content)

    def write(self, folder: Path) -> Path:
        """Write the file into a folder, whole or not at all, and return its path.

        Raises:
            RunError: If it cannot be written.
        """
        path = folder / NAME
        FORMAT.write(path, self.content)
        return path

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a calibration's file, or that of a folder.

        Raises:
            RunError: If it is not there, damaged, or was changed.
        """
        file = Path(path)
        file = file / NAME if file.is_dir() else file
        content = FORMAT.read(file)
        try:
            held = {*FORMAT.head(), "method", *cls.__dataclass_fields__}
            options = {key: value for key, value in content.items() if key not in held}
            return cls(
                method=make_set_method(content["method"], options),
                values=tuple(-math.inf if v is None else float(v) for v in content["values"]),
                images=parse_images(content["images"]),
                seen=tuple(map(str, content["seen"])),
                parameters=dict(content["parameters"]),
                classes=int(content["classes"]),
                pixels=int(content["pixels"]),
                notes=dict(content["notes"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError):  # ConfigError is a ValueError
            raise FORMAT.damaged(file) from None


def image_hash(x: ArrayLike) -> str:
    """Return 16 hexadecimal digits that tell an image's pixels from others."""
    pixels = np.ascontiguousarray(np.asarray(x, dtype="<f4"))
    return hashlib.blake2b(pixels.tobytes(), digest_size=8).hexdigest()
