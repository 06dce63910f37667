"""Pictures to try an untrained-here model on: a user's folder, or crops of scikit-learn's two photographs.

Nothing is learnt from them. Each has a class, so that it can be asked whether the nearest picture by features is alike.
"""

import hashlib
from pathlib import Path

import numpy as np

from services.errors import DataError
from services.processing.image import ImageProcessor
from training.datasets.images import Images, hash_tree, image_files, load_images
from training.pipeline import Loaded

_CROP_SIDES = (160, 320)
_VIEW_SIDE = 256


def photographs(count: int) -> Loaded[Images]:
    """`count` square crops of scikit-learn's photographs of a palace and a flower, in turn; the same every time."""
    from sklearn.datasets import load_sample_images

    bunch = load_sample_images()
    random = np.random.default_rng(0)
    crops: list[Path | np.ndarray] = []
    for index in range(count):
        photograph = bunch.images[index % len(bunch.images)]
        side = int(random.integers(*_CROP_SIDES))
        top, left = (int(random.integers(length - side)) for length in photograph.shape[:2])
        crops.append(np.ascontiguousarray(photograph[top : top + side, left : left + side]))
    labels = tuple(Path(name).stem for name in bunch.filenames)
    digest = hashlib.sha256(b"".join(np.asarray(crop).tobytes() for crop in crops)).hexdigest()
    return Loaded(Images(crops, np.arange(count) % len(labels), labels), "scikit-learn photographs", digest)


def probe_folder(path: Path, count: int) -> Loaded[Images]:
    """At most `count` pictures of a folder by class (or an NPZ or IDX file), dealt from the classes in turn.

    In a folder without classes each picture comes twice, as it is and as the mirrored middle of it: these two are a class.
    Raises DataError naming the file.
    """
    if not path.is_dir() or not image_files(path):
        loaded = load_images(path)
        return Loaded(loaded.data.take(_in_turn(loaded.data.targets)[:count]), loaded.name, loaded.sha256)
    files = image_files(path)[: max(1, count // 2)]
    if len(files) < 2:
        raise DataError(f"{path}: expected two pictures at least. Found: {len(files)}.")
    whole = ImageProcessor.fit(_VIEW_SIDE, _VIEW_SIDE, 3).encode(files)["image"]
    edge = _VIEW_SIDE // 10
    middles = [np.ascontiguousarray(picture[edge:-edge, edge:-edge][:, ::-1]) for picture in whole]
    views = [view for pair in zip(files, middles, strict=True) for view in pair]
    images = Images(views, np.repeat(np.arange(len(files)), 2), tuple(file.name for file in files))
    return Loaded(images, path.name, hash_tree(path, files))


def _in_turn(targets: np.ndarray) -> np.ndarray:
    """Row indices: the first of each class, then the second of each, and so on."""
    rank = np.empty(len(targets), np.int64)
    for label in np.unique(targets):
        rows = np.flatnonzero(targets == label)
        rank[rows] = np.arange(len(rows))
    return np.lexsort((targets, rank))
