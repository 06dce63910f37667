"""Labelled images: a folder by class, NPZ, IDX, or scikit-learn's digits.

folder/<class>/<image file>          any format Pillow reads; classes are the folders' names, sorted
images.npz                           `images` u8 [N,H,W] or [N,H,W,C] and `labels` [N] (or `x` and `y`)
t10k-images-idx3-ubyte[.gz]          MNIST's format; the labels file lies beside it

Whatever the source, a class is an index into the sorted class names.
"""

import gzip
import hashlib
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal

import numpy as np

from services.errors import DataError
from services.manifest import sha256
from services.processing import Processor
from services.processing.image import FORMATS, ImageProcessor
from training.datasets.classes import check_classes
from training.datasets.npz import open_npz
from training.datasets.parquet import parts_of
from training.datasets.places import Places
from training.pipeline import Loaded

_LITTER = frozenset({"desktop.ini", "Thumbs.db"})
"""What desktops leave in folders of images."""
_NPZ_KEYS = (("images", "labels"), ("x", "y"))
_IDX_NAME = re.compile(r"idx[1-4]?(-ubyte)?(\.gz)?$")
_IDX_UINT8 = 0x08
_MOST_FAULTS = 5

LARGEST_SIDE = 128
"""Pixels; larger pictures are scaled down to it unless height and width are given."""


@dataclass(frozen=True)
class Images:
    """Images and their classes.

    `images` is one array u8 `[N,H,W]` or `[N,H,W,C]`, or a list of paths and arrays of any size. `targets` int64 `[N]` holds
    indices into `labels`, which are empty (and the targets 0) where there are no classes.
    """

    images: np.ndarray | Sequence[Path | np.ndarray]
    targets: np.ndarray
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, rows: np.ndarray) -> "Images":
        """The images at these indices, in their order."""
        images = self.images[rows] if isinstance(self.images, np.ndarray) else [self.images[row] for row in rows]
        return Images(images, self.targets[rows], self.labels)

    def listed(self, rows: np.ndarray) -> str:
        """The files of these pictures, or their numbers, from 1, where they are in one file."""
        if isinstance(self.images, np.ndarray):
            return Places().listed(rows)
        return ", ".join(str(image) for row in rows if isinstance(image := self.images[row], Path))

    def encode(self, processor: Processor) -> dict[str, np.ndarray]:
        """What a processor makes of the pictures. Raises DataError that names every file which is no whole picture."""
        if isinstance(self.images, np.ndarray) or not len(self):
            return processor.encode(self.images)
        encoded: dict[str, np.ndarray] = {}
        faults = []
        for index, image in enumerate(self.images):
            try:
                tensors = processor.encode([image])
            except DataError as error:
                record = f"record 0 ({image.name})" if isinstance(image, Path) else ""
                faults.append(str(error).replace(record, str(image)) if record else str(error))
                continue
            for name, rows in tensors.items():
                if name not in encoded:
                    # One array for all: thousands of large pictures are not held twice.
                    encoded[name] = np.empty((len(self), *rows.shape[1:]), rows.dtype)
                encoded[name][index] = rows[0]
        _raise(faults)
        return encoded


def load_classes(path: Path) -> Loaded[Images]:
    """Read pictures to learn classes from: `load_images`, and every class has pictures enough. Raises DataError."""
    loaded = load_images(path)
    data = loaded.data
    check_classes(loaded.name, data.labels, data.targets, data.listed)
    return loaded


def load_images(path: Path, *, labelled: bool = True) -> Loaded[Images]:
    """Read a folder, an NPZ file or an IDX file. Raises DataError naming the file and what is wrong with it.

    Unless they have to be `labelled`, one class or none will do: images directly in the folder, no `labels`, no file beside.
    """
    if path.is_dir():
        return _folder(path, labelled) if labelled or not image_files(path) else _flat_folder(path)
    if not path.is_file():
        raise DataError(f"{path}: expected a folder of images by class, an .npz or an IDX file. Found nothing.")
    if path.suffix == ".npz":
        return _npz(path, labelled)
    if is_idx(path):
        return _idx(path, labelled)
    raise DataError(
        f"{path.name}: expected a folder of images by class, an .npz file, or an IDX file (*-images-idx3-ubyte[.gz])."
    )


def digits() -> Loaded[Images]:
    """scikit-learn's 1,797 handwritten digits, 8 x 8 grey, their 17 levels spread over 0..255."""
    from sklearn.datasets import load_digits

    levels, targets = load_digits(return_X_y=True)
    images = np.rint(levels.reshape(-1, 8, 8) * (255.0 / 16.0)).astype(np.uint8)
    digest = hashlib.sha256(images.tobytes() + targets.astype("<i8").tobytes()).hexdigest()
    labels = tuple(str(digit) for digit in range(10))
    return Loaded(Images(images, targets.astype(np.int64), labels), "scikit-learn digits", digest)


def image_files(folder: Path) -> list[Path]:
    """Every file directly in a folder, by name; hidden files and a desktop's own are passed over."""
    return sorted(
        entry
        for entry in folder.iterdir()
        if entry.is_file() and entry.name not in _LITTER and not entry.name.startswith(".")
    )


def image_shape(image: np.ndarray | Path) -> tuple[int, int, int]:
    """Height, width and channels (1 or 3), read from a file's header only. Raises DataError naming the file."""
    if isinstance(image, np.ndarray):
        return image.shape[0], image.shape[1], image.shape[2] if image.ndim == 3 else 1
    from PIL import Image

    try:
        with Image.open(image, formats=FORMATS) as opened:
            grey = opened.mode in ("1", "L", "I", "I;16", "F", "LA")
            return opened.height, opened.width, 1 if grey else 3
    except (OSError, Image.DecompressionBombError, ValueError, SyntaxError) as error:
        known = ", ".join(FORMATS)
        raise DataError(f"{image}: expected an image file ({known}). Received: {_reason(error, image)}.") from error


def hash_tree(folder: Path, files: Sequence[Path]) -> str:
    """One SHA-256 over the names and the contents of these files of a folder."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(folder).as_posix()}\0{sha256(file)}\n".encode())
    return digest.hexdigest()


def fit_image_processor(
    train: Images, height: int | None, width: int | None, channels: Literal["auto", "grey", "rgb"]
) -> ImageProcessor:
    """The size and colours of most training pictures, where they are not given; no side longer than `LARGEST_SIDE`."""
    shapes = Counter(image_shape(image) for image in train.images)
    usual_height, usual_width, usual_channels = shapes.most_common(1)[0][0]
    scale = min(1.0, LARGEST_SIDE / max(usual_height, usual_width))
    return ImageProcessor.fit(
        height=height or max(1, round(usual_height * scale)),
        width=width or max(1, round(usual_width * scale)),
        channels={"auto": usual_channels, "grey": 1, "rgb": 3}[channels],
    )


def is_idx(path: Path) -> bool:
    """Whether a file is named as those in MNIST's format are, as images-idx3-ubyte.gz or images.idx."""
    return _IDX_NAME.search(path.name) is not None


def holds_images(path: Path) -> bool:
    """Whether a path is of images rather than of a table: a folder without Parquet, an IDX file, or an NPZ of images."""
    if path.suffix.lower() != ".npz" or not path.is_file():
        return is_idx(path) or (path.is_dir() and not parts_of(path))
    with open_npz(path) as archive:
        return "images" in archive or ("x" in archive and archive["x"].ndim > 2)


def _folder(path: Path, labelled: bool) -> Loaded[Images]:
    folders = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    by_class = {folder.name: image_files(folder) for folder in folders}
    empty = [name for name, files in by_class.items() if not files]
    if empty:
        raise DataError(f"{path / empty[0]}: expected image files. Found none.")
    if len(by_class) < (2 if labelled else 1):
        fewest = "two" if labelled else "one"
        raise DataError(f"{path}: expected a folder per class, {fewest} at least. Found: {list(by_class) or 'none'}.")
    files = [file for group in by_class.values() for file in group]
    targets = np.repeat(np.arange(len(by_class)), [len(group) for group in by_class.values()])
    _check_headers(files)
    return Loaded(Images(files, targets, tuple(by_class)), path.name, hash_tree(path, files))


def _check_headers(files: Sequence[Path]) -> None:
    faults = []
    for file in files:
        try:
            image_shape(file)
        except DataError as error:
            faults.append(str(error))
    _raise(faults)


def _raise(faults: Sequence[str]) -> None:
    """Raise DataError for the faults of single files: the first ones in full, the rest counted."""
    if faults:
        more = f" And {len(faults) - _MOST_FAULTS} more." if len(faults) > _MOST_FAULTS else ""
        raise DataError("\n".join(faults[:_MOST_FAULTS]) + more)


def _flat_folder(path: Path) -> Loaded[Images]:
    files = image_files(path)
    _check_headers(files)
    return Loaded(_unlabelled(files), path.name, hash_tree(path, files))


def _unlabelled(images: np.ndarray | Sequence[Path | np.ndarray]) -> Images:
    return Images(images, np.zeros(len(images), np.int64), ())


def _npz(path: Path, labelled: bool) -> Loaded[Images]:
    with open_npz(path) as archive:
        pair = next((pair for pair in _NPZ_KEYS if set(pair) <= set(archive)), None)
        alone = None if labelled else next((key for key, _ in _NPZ_KEYS if key in archive), None)
        if pair is None and alone is None:
            expected = "arrays `images` and `labels`" if labelled else "an array `images`"
            raise DataError(f"{path.name}: expected {expected}. Found: {sorted(archive)}.")
        images = archive[pair[0] if pair else alone or ""]
        labels = archive[pair[1]] if pair else None
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3)):
        raise DataError(f"{path.name}: `images`: expected shape [N,H,W] or [N,H,W,1 or 3]. Received: {images.shape}.")
    if labels is None:
        return Loaded(_unlabelled(_as_uint8(path, images)), path.name, sha256(path))
    if labels.shape != images.shape[:1]:
        raise DataError(f"{path.name}: `labels`: expected shape {images.shape[:1]}. Received: {labels.shape}.")
    names, targets = _classes(path, labels, labelled)
    return Loaded(Images(_as_uint8(path, images), targets, names), path.name, sha256(path))


def _as_uint8(path: Path, images: np.ndarray) -> np.ndarray:
    """Whole numbers in 0..255 of any numeric dtype as u8. Fractions are refused: their scale is anybody's guess."""
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind not in "iuf" or not np.array_equal(images, np.clip(np.rint(images), 0, 255)):
        found = f"{images.dtype}" + (f" from {images.min()} to {images.max()}" if images.dtype.kind in "iuf" else "")
        raise DataError(f"{path.name}: `images`: expected whole numbers from 0 to 255 (uint8). Received: {found}.")
    return images.astype(np.uint8)


def _classes(path: Path, labels: np.ndarray, labelled: bool) -> tuple[tuple[str, ...], np.ndarray]:
    if labels.dtype.kind not in "iuU":
        raise DataError(f"{path.name}: `labels`: expected integers or strings. Received: {labels.dtype}.")
    values, targets = np.unique(labels, return_inverse=True)
    if len(values) < 2 and labelled:
        raise DataError(f"{path.name}: `labels`: expected two classes at least. Found: {values.tolist()}.")
    return tuple(str(value) for value in values), targets.astype(np.int64)


def _idx(path: Path, labelled: bool) -> Loaded[Images]:
    beside = _labels_file(path)
    images = read_idx(path)
    if images.ndim not in (3, 4):
        raise DataError(f"{path.name}: expected images [N,H,W] (magic 0x00000803). Received: shape {images.shape}.")
    if isinstance(beside, str) and not labelled:
        return Loaded(_unlabelled(images), path.name, sha256(path))
    if isinstance(beside, str):
        raise DataError(f"{path.name}: expected its labels beside it as {beside} or {beside}.gz. Found neither.")
    labels = read_idx(beside)
    if labels.shape != images.shape[:1]:
        raise DataError(
            f"{beside.name}: expected {len(images)} labels as {path.name} has images. Found: {labels.shape}."
        )
    names, targets = _classes(beside, labels, labelled)
    digest = hashlib.sha256(f"{sha256(path)}{sha256(beside)}".encode()).hexdigest()
    return Loaded(Images(images, targets, names), path.name, digest)


def _labels_file(path: Path) -> Path | str:
    """The file of labels beside a file of images, or the name it was expected under."""
    plain = path.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1").replace("idx4", "idx1")
    for name in (plain, f"{plain}.gz"):
        candidate = path.with_name(name)
        if candidate != path and candidate.is_file():
            return candidate
    return plain


def read_idx(path: Path) -> np.ndarray:
    """The u8 array of an IDX file, gzip or plain (told by content, not by name).

    Format: two zero bytes, the element type (0x08: unsigned byte), the number of axes, then each axis's length as a
    big-endian 32-bit integer, then the elements, last axis fastest. Raises DataError naming the file.
    Source: "The IDX file format", the MNIST database page.
    """
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path.name}: expected a whole gzip file. Received: {error}.") from error
    axes = raw[3] if len(raw) >= 4 else 0
    if raw[:3] != bytes([0, 0, _IDX_UINT8]) or not 1 <= axes <= 4:
        raise DataError(
            f"{path.name}: expected the magic number 0x000008nn of an IDX file of bytes. Found: 0x{raw[:4].hex()}."
        )
    start = 4 + 4 * axes
    if len(raw) < start:
        raise DataError(f"{path.name}: expected a header of {start} bytes. Found: {len(raw)} bytes.")
    shape = tuple(int(length) for length in np.frombuffer(raw, ">u4", axes, 4))
    if len(raw) != start + prod(shape):
        raise DataError(
            f"{path.name}: expected {prod(shape)} bytes for shape {shape} after the header. Found: {len(raw) - start}."
        )
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def _reason(error: Exception, path: Path) -> str:
    return "an unknown format" if "cannot identify" in str(error) else str(error).replace(str(path), path.name)
