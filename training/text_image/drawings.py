"""Pictures of one small size in a few grey levels, and the traits that set one apart from others of its class."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from services.processing.image import ImageProcessor
from training.datasets.images import digits, load_images
from training.pipeline import Loaded

SIDE = 8
PIXELS = SIDE * SIDE
LEVELS = 16
STEP = 255 // (LEVELS - 1)
"""Grey levels 0..15 are bytes 0, 17, ... 255."""

WEIGHT = ("thin", "bold")
BREADTH = ("narrow", "wide")
_THIRDS = (1 / 3, 2 / 3)


@dataclass(frozen=True, eq=False)
class Drawings:
    """Pictures in grey levels and their classes.

    `levels` u8 `[N, 8, 8]` holds 0..15, `targets` int64 `[N]` indices into `labels`. `reference` is the part that may be
    learnt from: the training part, for all three parts of a split.
    """

    levels: np.ndarray
    targets: np.ndarray
    labels: tuple[str, ...]
    reference: "Drawings | None" = None

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, rows: np.ndarray) -> "Drawings":
        """The drawings at these indices, in their order."""
        return replace(self, levels=self.levels[rows], targets=self.targets[rows])

    def learnt_from(self) -> "Drawings":
        """The part that thresholds, the judge and the baseline learn from."""
        return self if self.reference is None else self.reference


def load_drawings(path: Path | None) -> Loaded[Drawings]:
    """scikit-learn's digits, or any labelled pictures, as grey 8 x 8 in 16 levels. Raises DataError naming the file."""
    loaded = digits() if path is None else load_images(path)
    pixels = ImageProcessor.fit(SIDE, SIDE, 1).encode(loaded.data.images)["image"][..., 0]
    drawings = Drawings(to_levels(pixels), loaded.data.targets, loaded.data.labels)
    return Loaded(drawings, loaded.name, loaded.sha256)


def to_levels(pixels: np.ndarray) -> np.ndarray:
    """Bytes to the nearest of the grey levels, u8 of the same shape."""
    return np.rint(pixels / STEP).astype(np.uint8)


def to_pixels(levels: np.ndarray) -> np.ndarray:
    """Grey levels to bytes, u8 of the same shape."""
    return (levels * STEP).astype(np.uint8)


def ink(levels: np.ndarray) -> np.ndarray:
    """How much of each picture `[N, 8, 8]` is inked: the mean level, 0 to 1, f64 `[N]`."""
    share: np.ndarray = levels.mean(axis=(1, 2)) / (LEVELS - 1)
    return share


def breadth(levels: np.ndarray) -> np.ndarray:
    """How far each picture's ink spreads to the sides: its standard deviation in pixels, f64 `[N]`; 0 without ink."""
    columns = levels.sum(axis=1, dtype=np.float64)
    total = np.maximum(columns.sum(axis=1), 1.0)
    places = np.arange(levels.shape[2])
    centre = columns @ places / total
    spread = (columns * np.square(places - centre[:, None])).sum(axis=1) / total
    deviation: np.ndarray = np.sqrt(spread)
    return deviation


def traits(drawings: Drawings) -> list[tuple[str, ...]]:
    """What may be said of each drawing beside its class, out of `WEIGHT` and `BREADTH`.

    Bold is what has more ink than two thirds of its class in the training part, thin what has less than two thirds; wide and
    narrow say the same of the spread to the sides. The third in between has no word.
    """
    words: list[list[str]] = [[] for _ in range(len(drawings))]
    known = drawings.learnt_from()
    for names, measure in ((WEIGHT, ink), (BREADTH, breadth)):
        values, seen = measure(drawings.levels), measure(known.levels)
        for label in np.unique(drawings.targets):
            low, high = np.quantile(seen[known.targets == label], _THIRDS)
            for row in np.flatnonzero(drawings.targets == label):
                if not low <= values[row] <= high:
                    words[row].append(names[int(values[row] > high)])
    return [tuple(found) for found in words]
