"""What the families that classify pictures share: how they are moved about while training, a baseline, and the mistakes."""

import warnings
from typing import Any

import numpy as np

from training.evaluation import classifier_baseline, new_figure
from training.pipeline import Baseline, Examples, Plot

_BASELINE_SIDE = 16
_MISTAKES_SHOWN = 15


def augmentation(seed: int, *, mirror: bool = False) -> list[Any]:
    """Keras layers that shift, turn and zoom pictures a little while training, at random; mirrored only where asked for."""
    from keras import layers

    moved = [
        layers.RandomTranslation(0.08, 0.08, fill_mode="nearest", seed=seed),
        layers.RandomRotation(0.03, fill_mode="nearest", seed=seed + 1),
        layers.RandomZoom(0.08, fill_mode="nearest", seed=seed + 2),
    ]
    return [*moved, layers.RandomFlip("horizontal", seed=seed + 5)] if mirror else moved


def pixel_baseline(train: Examples, test: Examples) -> Baseline:
    """A linear model on small versions of the pictures."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    linear = LogisticRegression(max_iter=100, tol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        linear.fit(_thumbnails(train.inputs["image"]), train.targets)
    return classifier_baseline("logistic regression on pixels", linear, _thumbnails(test.inputs["image"]), test)


def mistakes(probabilities: np.ndarray, test: Examples) -> list[Plot]:
    """The pictures whose wrong answer was the most certain; nothing where all are right."""
    answered = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(answered != test.targets)
    if not len(wrong):
        return []
    surest = wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")][:_MISTAKES_SHOWN]
    figure, grid = new_figure(width=7.5, height=5.0, nrows=3, ncols=5)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, row in zip(grid.flat, surest, strict=False):
        axes.imshow(test.inputs["image"][row].squeeze(), cmap="gray", vmin=0, vmax=255)
        axes.set_title(f"{test.labels[test.targets[row]]} taken for {test.labels[answered[row]]}", fontsize=8)
    caption = f"The surest of {len(wrong)} mistakes on {len(test)} held-out pictures."
    return [Plot("Mistakes", caption, figure)]


def _thumbnails(images: np.ndarray) -> np.ndarray:
    """Pictures as rows of values in 0..1, averaged down to 16 pixels a side or a little more."""
    rows, height, width, channels = images.shape
    tall, wide = max(1, height // _BASELINE_SIDE), max(1, width // _BASELINE_SIDE)
    cut = images[:, : height // tall * tall, : width // wide * wide]
    tiles = cut.reshape(rows, height // tall, tall, width // wide, wide, channels)
    values: np.ndarray = tiles.mean(axis=(2, 4), dtype=np.float32).reshape(rows, -1) / 255.0
    return values
