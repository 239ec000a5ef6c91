"""TinyImageNet in the layout of its own archive.

``DIR/wnids.txt`` names the classes, one a line. Training images are ``DIR/train/WNID/images/*``;
test images are those of the validation set, ``DIR/val/images/*``, whose classes stand in
``DIR/val/val_annotations.txt``: name and class, then a box that is not read. The images of
``DIR/test`` have no labels in the archive and are not used.

Classes are in alphabetical order, as in class folders. Training images follow class after class,
validation images in the order of their annotations. All have three channels.
"""

from __future__ import annotations

from pathlib import Path

from deqcert.data.base import Dataset, Loader, read_bytes
from deqcert.data.folder import FolderDataset
from deqcert.data.image_file import ENDINGS
from deqcert.errors import DataError

ADVICE = "give the folder that the archive unpacks to."


def load(name: str, place: str, split: str) -> Dataset:
    """Load the training or the validation set.

    Raises:
        DataError: If a file is missing, a class is unknown, or an image has no class.
    """
    root = Path(place)
    classes = sorted(set(_lines(root / "wnids.txt")))
    if not classes:
        raise DataError(f"{root / 'wnids.txt'} names no classes; {ADVICE}")
    labels = {wnid: label for label, wnid in enumerate(classes)}
    files = (_training if split == "train" else _validation)(root, labels)
    if not files:
        raise DataError(f"{root} has no images of the {split} set; {ADVICE}")
    return FolderDataset(name, root, files, classes, resize=False, grey=False)


LOADER = Loader(load, "DIR", needs="PIL", published=True)


def _training(root: Path, labels: dict[str, int]) -> list[tuple[Path, int]]:
    for folder in _entries(root / "train"):
        if folder.is_dir() and folder.name not in labels:
            raise DataError(
                f"{folder} is of no class in {root / 'wnids.txt'}; remove it or add its line."
            )
    return [
        (path, label)
        for wnid, label in labels.items()
        for path in _images(root / "train" / wnid / "images")
    ]


def _validation(root: Path, labels: dict[str, int]) -> list[tuple[Path, int]]:
    folder, source = root / "val" / "images", root / "val" / "val_annotations.txt"
    images = {path.name: path for path in _images(folder)}
    files = []
    for number, line in enumerate(_lines(source), 1):
        image, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0].strip()
        if wnid not in labels:
            raise DataError(
                f"line {number} of {source} has the class {wnid[:40]!r}, which is not in "
                f"{root / 'wnids.txt'}; each line is an image's name, a tab and its class."
            )
        if image not in images:
            raise DataError(
                f"line {number} of {source} is about {image[:40]!r}, but {folder} has no such "
                "image, or an earlier line was about it; remove the line or bring the image."
            )
        files.append((images.pop(image), labels[wnid]))
    if images:
        raise DataError(
            f"{next(iter(images.values()))} has no line in {source}; remove it or add its line."
        )
    return files


def _lines(path: Path) -> list[str]:
    text = read_bytes(path, ADVICE).decode("utf-8", errors="replace")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _images(folder: Path) -> list[Path]:
    return [path for path in _entries(folder) if path.suffix.lower() in ENDINGS]


def _entries(folder: Path) -> list[Path]:
    try:
        visible = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise DataError(f"cannot read {folder} ({error.strerror}); {ADVICE}") from None
    return sorted(visible, key=lambda path: path.name)
