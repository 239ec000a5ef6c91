"""Data sets: one contract over every loader, and a sentence for every bad file."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deqcert.cli import main
from deqcert.data import LOADERS, ArrayDataset, Dataset, Loader, dataset_names, load_dataset
from deqcert.errors import DataError

RNG = np.random.default_rng(0)


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.tobytes()


def python2_batch(pixels: np.ndarray, labels: list[int]) -> bytes:
    """A batch as Python 2 pickled it: protocol 2, byte strings, a NumPy array."""

    def string(value: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(value)) + value

    def number(value: int) -> bytes:
        return b"M" + struct.pack("<H", value)

    rows, columns = (number(side) for side in pixels.shape)
    kind = (
        b"cnumpy\ndtype\n(" + string(b"u1") + number(0) + number(1) + b"tR("
        + number(3) + string(b"|") + b"NNN" + number(0) * 3 + b"tb"
    )  # fmt: skip
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(" + number(0) + b"t"
        + string(b"b") + b"tR(" + number(1) + b"(" + rows + columns + b"t" + kind + b"\x89"
        + string(pixels.tobytes()) + b"tb"
    )  # fmt: skip
    listed = b"](" + b"".join(number(label) for label in labels) + b"e"
    return (
        b"\x80\x02}(" + string(b"data") + array + string(b"labels") + listed
        + string(b"batch_label") + string(b"testing batch 1 of 1") + b"u."
    )  # fmt: skip


def make_mnist(folder: Path, *, compressed: bool) -> str:
    for stem, count in (("train", 12), ("t10k", 8)):
        x = RNG.integers(0, 256, (count, 6, 5), dtype=np.uint8)
        y = np.arange(count, dtype=np.uint8) % 10
        for kind, array in (("images-idx3", x), ("labels-idx1", y)):
            name, content = f"{stem}-{kind}-ubyte", idx(array)
            if compressed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / name).write_bytes(content)
    return f"mnist:{folder}"


def make_cifar10(folder: Path, version: str) -> str:
    inner = folder / ("cifar-10-batches-bin" if version == "binary" else "")
    inner.mkdir(exist_ok=True)
    for stem in ["test_batch"] + [f"data_batch_{i}" for i in range(1, 6)]:
        x = RNG.integers(0, 256, (7, 3072), dtype=np.uint8)
        y = [int(v) for v in RNG.integers(0, 10, 7)]
        if version == "binary":
            records = np.concatenate([np.array(y, np.uint8)[:, None], x], axis=1)
            (inner / f"{stem}.bin").write_bytes(records.tobytes())
        elif version == "python2":
            (inner / stem).write_bytes(python2_batch(x, y))
        else:
            (inner / stem).write_bytes(pickle.dumps({b"data": x, b"labels": y}, protocol=4))
    return f"cifar10:{folder}"


def make_folder(folder: Path, *, mode: str = "RGB", sizes: tuple[tuple[int, int], ...]) -> str:
    for split in ("train", "val"):
        for name in ("zebra", "ant"):
            inner = folder / split / name
            inner.mkdir(parents=True)
            for number, (width, height) in enumerate(sizes):
                shape = (height, width) + ((3,) if mode == "RGB" else ())
                pixels = RNG.integers(0, 256, shape, dtype=np.uint8)
                Image.fromarray(pixels).save(inner / f"{number}.png")
            (inner / "notes.txt").write_text("not an image")
    kind = "imagenet" if len(set(sizes)) > 1 else "folder"
    return f"{kind}:{folder}"


def make_tiny_imagenet(folder: Path) -> str:
    """Three classes in the archive's layout; some images are grey, as in the archive."""
    wnids = ["n03", "n01", "n02"]
    (folder / "wnids.txt").write_text("\n".join(wnids) + "\n")
    (folder / "words.txt").write_text("n01\tgoldfish\n")

    def put(path: Path, number: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (6, 6) if number % 3 == 0 else (6, 6, 3)
        Image.fromarray(RNG.integers(0, 256, shape, dtype=np.uint8)).save(path)

    for wnid in wnids:
        for number in range(2):
            put(folder / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", number)
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t5\t5\n")
    lines = []
    for number in range(11):
        put(folder / "val" / "images" / f"val_{number}.JPEG", number)
        lines.append(f"val_{number}.JPEG\t{wnids[number % 3]}\t0\t0\t5\t5\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    put(folder / "test" / "images" / "test_0.JPEG", 0)
    return f"tiny-imagenet:{folder}"


def make_npz(folder: Path, dtype: type) -> str:
    x = RNG.integers(0, 256, (9, 3, 4, 6))
    x = x.astype(np.uint8) if dtype is np.uint8 else (x / 255).astype(dtype)
    np.savez(folder / "data.npz", x=x, y=np.arange(9) % 4)
    return f"npz:{folder / 'data.npz'}"


MAKERS = {
    "digits": lambda folder: "digits",
    "mnist": lambda folder: make_mnist(folder, compressed=False),
    "mnist-gz": lambda folder: make_mnist(folder, compressed=True),
    "cifar10-binary": lambda folder: make_cifar10(folder, "binary"),
    "cifar10-python": lambda folder: make_cifar10(folder, "python2"),
    "cifar10-repickled": lambda folder: make_cifar10(folder, "python3"),
    "folder": lambda folder: make_folder(folder, sizes=((5, 4), (5, 4))),
    "folder-grey": lambda folder: make_folder(folder, mode="L", sizes=((5, 4), (5, 4))),
    "imagenet": lambda folder: make_folder(folder, sizes=((300, 260), (100, 400))),
    "tiny-imagenet": make_tiny_imagenet,
    "npz": lambda folder: make_npz(folder, np.uint8),
    "npz-float": lambda folder: make_npz(folder, np.float64),
}


@pytest.fixture(params=MAKERS)
def spec(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return MAKERS[request.param](tmp_path)


def check(data: Dataset) -> None:
    channels, height, width = data.shape
    assert channels in (1, 3)
    assert len(data) > 0
    assert data.name
    seen = []
    for index in range(min(len(data), 20)):
        image = data.image(index)
        assert image.shape == (channels, height, width)
        assert image.dtype == np.float32
        assert 0.0 <= image.min() <= image.max() <= 1.0
        if data.levels is not None:
            steps = np.rint(image.astype(np.float64) * data.levels)
            np.testing.assert_array_equal((steps / data.levels).astype(np.float32), image)
        assert 0 <= data.label(index) < len(data.classes)
        assert isinstance(data.label(index), int)
        seen.append(image)
    assert max(image.max() for image in seen) > 0.5, "pixels reach the upper half of [0, 1]"
    chosen = [3, 0, 2]
    np.testing.assert_array_equal(data.batch(chosen), np.stack([seen[i] for i in chosen]))
    assert data.labels().tolist() == [data.label(i) for i in range(len(data))]
    for index in (-1, len(data)):
        with pytest.raises(DataError, match="it has 0 to"):
            data.image(index)
        with pytest.raises(DataError, match="it has 0 to"):
            data.label(index)


def test_every_loader_keeps_the_contract(spec: str) -> None:
    train, test = load_dataset(spec, "train"), load_dataset(spec)
    check(train)
    check(test)
    assert test.hash() == load_dataset(spec, "test").hash()
    assert len(test.hash()) == 64
    assert (train.hash() == test.hash()) == spec.startswith("npz")
    assert train.classes == test.classes or spec.startswith("npz")


def test_a_loader_says_the_grid_of_its_pixels(spec: str, request: pytest.FixtureRequest) -> None:
    wanted = {"digits": 16, "npz-float": None}.get(request.node.callspec.params["spec"], 255)
    assert {load_dataset(spec, split).levels for split in ("train", "test")} == {wanted}


def test_a_loader_from_outside_is_one_like_the_others(tmp_path: Path, capsys) -> None:
    """Its name is in the help and in sentences, and certificates are made of its images."""

    def load(name: str, place: str, split: str) -> Dataset:
        x = np.stack([np.full((1, 8, 8), value, np.float32) for value in (0, 0.5, 1, 1)])
        return ArrayDataset(name, list("0123456789"), x, np.arange(4), place, levels=2)

    LOADERS.register("toy", Loader(load, "FILE"))
    try:
        assert "toy:FILE" in dataset_names()
        data = load_dataset("toy:somewhere")
        check(data)
        assert (data.name, data.levels) == ("toy:somewhere", 2)
        with pytest.raises(DataError, match="write toy:FILE"):
            load_dataset("toy")
        with pytest.raises(DataError, match="did you mean toy"):
            load_dataset("tooy:x")
        given = "certify --model digits --sigma 0.25 --images :2 --n 20 --n0 10 --alpha 0.3"
        assert main([*given.split(), "--data", "toy:x", "--out", str(tmp_path / "run")]) == 0
        assert (tmp_path / "run" / "certificates.tsv").read_text().count("\n") == 3
        with pytest.raises(DataError, match="'toy' exists already"):
            LOADERS.register("toy", Loader(load))
    finally:
        LOADERS.unregister("toy")


def test_every_format_is_tried_here() -> None:
    made = {max((kind for kind in LOADERS if name.startswith(kind)), key=len) for name in MAKERS}
    assert made == {name.split(":")[0] for name in dataset_names()}


def test_digits_are_split_without_overlap() -> None:
    train, test = load_dataset("digits", "train"), load_dataset("digits")
    assert (len(train), len(test)) == (1437, 360)
    assert test.shape == (1, 8, 8)
    rows = {image.tobytes() for image in train.batch(range(1437))}
    assert not any(test.image(i).tobytes() in rows for i in range(360))


def test_pixels_and_labels_are_what_was_written(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (4, 3072), dtype=np.uint8)
    (tmp_path / "test_batch").write_bytes(python2_batch(pixels, [9, 0, 3, 1]))
    data = load_dataset(f"cifar10:{tmp_path}")
    np.testing.assert_array_equal(
        data.batch(range(4)).reshape(4, -1), pixels.astype(np.float32) / np.float32(255)
    )
    assert data.labels().tolist() == [9, 0, 3, 1]
    assert data.classes[9] == "truck"


def test_class_folders_are_in_alphabetical_order(tmp_path: Path) -> None:
    data = load_dataset(make_folder(tmp_path, sizes=((5, 4), (5, 4))))
    assert data.classes == ["ant", "zebra"]
    assert data.labels().tolist() == [0, 0, 1, 1]


def test_folder_without_splits_is_a_test_set(tmp_path: Path) -> None:
    spec = make_folder(tmp_path, sizes=((5, 4), (5, 4)))
    whole = load_dataset(spec)
    direct = load_dataset(f"folder:{tmp_path / 'val'}")
    assert direct.hash() == whole.hash()
    with pytest.raises(DataError, match="no folder train"):
        load_dataset(f"folder:{tmp_path / 'val'}", "train")


def test_imagenet_takes_the_middle(tmp_path: Path) -> None:
    inner = tmp_path / "only"
    inner.mkdir()
    pixels = np.zeros((256, 400), dtype=np.uint8)
    pixels[16:240, 88:312] = 255
    Image.fromarray(pixels).save(inner / "grey.png")
    data = load_dataset(f"imagenet:{tmp_path}")
    assert data.shape == (3, 224, 224)
    assert data.image(0).min() == 1.0


def test_tiny_imagenet_takes_classes_from_its_annotations(tmp_path: Path) -> None:
    spec = make_tiny_imagenet(tmp_path)
    data, training = load_dataset(spec), load_dataset(spec, "train")
    assert data.classes == training.classes == ["n01", "n02", "n03"]
    assert data.labels().tolist() == [(2, 0, 1)[number % 3] for number in range(11)]
    assert training.labels().tolist() == [0, 0, 1, 1, 2, 2]
    assert data.shape == training.shape == (3, 6, 6)
    with Image.open(tmp_path / "val" / "images" / "val_10.JPEG") as last:
        pixels = np.asarray(last.convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(data.image(10), pixels.astype(np.float32) / np.float32(255))


@pytest.mark.parametrize(
    ("file", "content", "split", "says"),
    [
        ("wnids.txt", None, "test", r"cannot read .+wnids\.txt"),
        ("wnids.txt", "\n", "test", "names no classes"),
        ("wnids.txt", "n01\nn02\n", "train", "n03 is of no class"),
        ("val/val_annotations.txt", None, "test", r"cannot read .+val_annotations\.txt"),
        (
            "val/val_annotations.txt",
            "val_0.JPEG\tn09\n",
            "test",
            "line 1 of .+ has the class 'n09'",
        ),
        ("val/val_annotations.txt", "val_0.JPEG", "test", "each line is an image's name, a tab"),
        ("val/val_annotations.txt", "val_0.JPEG\tn01\n", "test", r"val_1\.JPEG has no line"),
        ("val/val_annotations.txt", "val_77.JPEG\tn01\n", "test", "no such image"),
        (
            "val/val_annotations.txt",
            "val_0.JPEG\tn01\n" * 2,
            "test",
            "an earlier line was about it",
        ),
    ],
)
def test_tiny_imagenet_says_what_is_wrong(tmp_path, file, content, split, says) -> None:
    spec = make_tiny_imagenet(tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_text(content)
    with pytest.raises(DataError, match=says):
        load_dataset(spec, split)


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("evil-was-here"),))


def bad_specs(folder: Path) -> list[tuple[str, str]]:
    """Specs that must be refused, and what the sentence must say."""
    bad: list[tuple[str, str]] = [
        ("digitz", "did you mean digits. there are digits, mnist"),
        ("digits:here", "without a place"),
        ("mnist", "write mnist:DIR"),
        (f"mnist:{folder}", "no t10k-images"),
        (f"cifar10:{folder}", "no test_batch"),
        (f"folder:{folder / 'none'}", "no folder"),
        (f"folder:{folder}", "no images in class folders"),
        (f"tiny-imagenet:{folder}", "cannot read .+wnids"),
        (f"npz:{folder / 'none.npz'}", "no file"),
    ]

    def put(kind: str, name: str, file: str, content: bytes, says: str, keep: str = "") -> None:
        inner = folder / "bad" / name
        inner.mkdir(parents=True)
        if keep == "mnist":
            make_mnist(inner, compressed=file.endswith("gz"))
        (inner / file).write_bytes(content)
        bad.append((f"{kind}:{inner / file if kind == 'npz' else inner}", says))

    images, labels = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
    whole = idx(np.zeros((8, 6, 5), np.uint8))
    put("mnist", "short", images, whole[:-1], f"{images} has not as many", "mnist")
    put("mnist", "magic", images, b"\x00\x00\x0d\x03" + whole[4:], "not an IDX", "mnist")
    put("mnist", "empty", images, b"", "not an IDX", "mnist")
    put("mnist", "gz", f"{images}.gz", gzip.compress(whole)[:-9], "not a whole gzip", "mnist")
    none = idx(np.zeros((0, 6, 5), np.uint8))
    put("mnist", "none", images, none, f"{images} holds no images", "mnist")
    vast = b"\x00\x00\x08\x03" + b"\xff" * 12
    put("mnist", "vast", images, vast, f"{images} has not as many", "mnist")
    put("mnist", "vastgz", f"{images}.gz", gzip.compress(vast), "has not as many", "mnist")
    put("mnist", "longgz", f"{images}.gz", gzip.compress(whole + b"0"), "not as many", "mnist")
    put("mnist", "label", labels, idx(np.full(8, 10, np.uint8)), "label outside", "mnist")
    put("mnist", "count", labels, idx(np.zeros(7, np.uint8)), "one label per image", "mnist")
    batch = python2_batch(np.zeros((2, 3072), np.uint8), [1, 2])
    put("cifar10", "torn", "test_batch", batch[: len(batch) // 2], "not a whole")
    put("cifar10", "evil", "test_batch", pickle.dumps(Evil()), "asks for pathlib.+not run")
    put("cifar10", "dict", "test_batch", pickle.dumps({b"labels": [1]}), "not the content")
    put("cifar10", "bin", "test_batch.bin", bytes(3000), "whole records")
    put("cifar10", "binlabel", "test_batch.bin", bytes([77]) + bytes(3072), "label outside")
    put("npz", "text", "a.npz", b"not an archive", "not an .npz")
    for name, arrays, says in (
        ("lacking", {"x": np.zeros((2, 3, 4, 4), np.uint8)}, "lacks x or y"),
        ("shape", {"x": np.zeros((2, 4, 4, 3), np.uint8), "y": [0, 1]}, "1 or 3 channels"),
        ("range", {"x": np.full((2, 3, 4, 4), 7.0), "y": [0, 1]}, "outside"),
        ("nan", {"x": np.full((2, 3, 4, 4), np.nan), "y": [0, 1]}, "not finite"),
        ("type", {"x": np.zeros((2, 3, 4, 4), int), "y": [0, 1]}, "needs uint8"),
        ("floaty", {"x": np.zeros((2, 3, 4, 4)), "y": [0.5, 1]}, "needs integers"),
        ("negative", {"x": np.zeros((2, 3, 4, 4)), "y": [0, -1]}, "label outside"),
        ("object", {"x": np.array([Evil()]), "y": [0]}, "plain arrays"),
    ):
        path = folder / f"{name}.npz"
        np.savez(path, **arrays)
        bad.append((f"npz:{path}", says))
    return bad


def test_bad_files_are_one_sentence_and_never_run(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for spec, says in bad_specs(tmp_path):
        with pytest.raises(DataError, match=says) as caught:
            load_dataset(spec)
        assert "\n" not in str(caught.value), spec
        assert str(caught.value).endswith("."), spec
    assert not Path("evil-was-here").exists()


def test_bad_images_are_found_when_read(tmp_path: Path) -> None:
    data = load_dataset(make_folder(tmp_path, sizes=((5, 4),) * 4))
    files = sorted((tmp_path / "val" / "ant").glob("*.png"))
    files[1].write_bytes(files[1].read_bytes()[:40])
    Image.new("RGB", (9, 9)).save(files[2])
    with pytest.raises(DataError, match=r"1\.png cannot be read"):
        data.image(1)
    with pytest.raises(DataError, match=r"2\.png has shape \(3, 9, 9\).+imagenet:DIR"):
        data.image(2)
    Image.fromarray(np.full((5, 4), 3000, np.uint16)).save(files[3])
    with pytest.raises(DataError, match=r"3\.png has more than 8 bits"):
        data.image(3)
    files[0].write_bytes(b"")
    with pytest.raises(DataError, match=r"0\.png cannot be read"):
        load_dataset(data.name)


def test_unknown_split_is_refused() -> None:
    with pytest.raises(DataError, match="there are train and test"):
        load_dataset("digits", "validation")  # type: ignore[arg-type]


def test_real_mnist(data_folder: Path) -> None:
    data = load_dataset(f"mnist:{data_folder / 'mnist'}")
    assert (len(data), data.shape) == (10000, (1, 28, 28))
    assert data.labels()[:5].tolist() == [7, 2, 1, 0, 4]
    assert np.isclose(data.batch(range(10000)).mean(), 0.1325, atol=1e-4)
