"""Images in one folder per class: the ImageNet layout, read when they are asked for.

``folder:DIR`` takes images as they are, all of one size. ``imagenet:DIR`` takes images of any size:
the shorter side becomes 256 pixels and the middle 224x224 are used, as is usual for that set.

``DIR/train`` is the training set and ``DIR/test`` or ``DIR/val`` the test set; a DIR that holds the
class folders themselves is a test set. Classes are the folders in alphabetical order; images are
in alphabetical order within a class, class after class.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deqcert.data.base import BYTES, Dataset, Loader, to_unit
from deqcert.data.image_file import ENDINGS, decode, to_pixels
from deqcert.errors import DataError

RESIZED, CROPPED = 256, 224
HASHED_WHOLE = 512 * 2**20
"""Sets up to this many bytes are hashed by content; of larger ones, names and sizes."""


def load(name: str, place: str, split: str) -> Dataset:
    """Load class folders whose images all have the size of the first one.

    Raises:
        DataError: If there are no such folders or no images.
    """
    return FolderDataset(name, *_scan(Path(place), split), resize=False)


def load_imagenet(name: str, place: str, split: str) -> Dataset:
    """Load class folders of images of any size, resized to 256 and cropped to 224.

    Raises:
        DataError: If there are no such folders or no images.
    """
    return FolderDataset(name, *_scan(Path(place), split), resize=True)


LOADER = Loader(load, "DIR", needs="PIL")
IMAGENET = Loader(load_imagenet, "DIR", needs="PIL", published=True)


class FolderDataset(Dataset):
    """Image files, opened one at a time.

    Args:
        name: What the user asked for.
        root: The folder of class folders.
        files: Each image and its label, in order.
        classes: Name of each class, in label order.
        resize: Whether to resize and crop, or to insist on the size of the first image.
        grey: Whether a set whose first image is grey has one channel.

    Raises:
        DataError: If the first image cannot be read.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        files: list[tuple[Path, int]],
        classes: list[str],
        *,
        resize: bool,
        grey: bool = True,
    ) -> None:
        self._root, self._files, self._resize = root, files, resize
        super().__init__(name, classes, (3, CROPPED, CROPPED), levels=BYTES)
        if not resize:
            first = _read(files[0][0], grey=grey, resize=False)
            self.shape = (first.shape[0], first.shape[1], first.shape[2])

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._files)

    def image(self, index: int) -> NDArray[np.float32]:
        """Read an image, shape (C, H, W), in [0, 1].

        Raises:
            DataError: If there is no such image, or it cannot be read, or has another size than
                the first one.
        """
        self._check_index(index)
        path = self._files[index][0]
        pixels = _read(path, grey=self.shape[0] == 1, resize=self._resize)
        if pixels.shape != self.shape:
            raise DataError(
                f"{path} has shape {pixels.shape} but the first image has {self.shape} (channels, "
                "height, width); make all the same, or write imagenet:DIR to resize and crop."
            )
        return to_unit(pixels)

    def label(self, index: int) -> int:
        """Return the label of an image."""
        self._check_index(index)
        return self._files[index][1]

    def hash(self) -> str:
        """Return a SHA-256 of names and contents; of names and sizes above 512 MB."""
        sizes = [path.stat().st_size for path, _ in self._files]
        whole = sum(sizes) <= HASHED_WHOLE
        digest = hashlib.sha256()
        for (path, label), size in zip(self._files, sizes, strict=True):
            relative = path.relative_to(self._root).as_posix()
            digest.update(f"{relative}\0{label}\0{size}\0".encode())
            if whole:
                digest.update(path.read_bytes())
        return digest.hexdigest()


def _scan(place: Path, split: str) -> tuple[Path, list[tuple[Path, int]], list[str]]:
    root = _root(place, split)
    try:
        folders = [folder for folder in _sorted(root) if folder.is_dir()]
        files = [
            (path, label)
            for label, folder in enumerate(folders)
            for path in _sorted(folder)
            if path.suffix.lower() in ENDINGS
        ]
    except OSError as error:
        raise DataError(f"cannot read {error.filename} ({error.strerror}); allow it.") from None
    if not files:
        raise DataError(f"{root} has no images in class folders; it needs {root}/CLASS/NAME.png.")
    return root, files, [folder.name for folder in folders]


def _sorted(folder: Path) -> list[Path]:
    visible = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(visible, key=lambda path: path.name)


def _root(place: Path, split: str) -> Path:
    if not place.is_dir():
        raise DataError(f"there is no folder {place}; give the folder of the class folders.")
    for name in ("train",) if split == "train" else ("test", "val"):
        if (place / name).is_dir():
            return place / name
    if split == "train" or (place / "train").is_dir():
        wanted = "train" if split == "train" else "test or val"
        raise DataError(f"{place} has no folder {wanted}; make one with the class folders in it.")
    return place


def _read(path: Path, *, grey: bool, resize: bool) -> NDArray[np.uint8]:
    """Read pixels, shape (C, H, W); one channel only where grey is allowed and the file is grey."""
    from PIL import Image

    image = decode(path, grey=grey)
    if resize:
        width, height = image.size
        scale = RESIZED / min(width, height)
        size = (max(RESIZED, round(width * scale)), max(RESIZED, round(height * scale)))
        image = image.resize(size, Image.Resampling.BILINEAR)
        left, top = ((side - CROPPED) // 2 for side in image.size)
        image = image.crop((left, top, left + CROPPED, top + CROPPED))
    return to_pixels(image)
