"""Classes of pictures, whatever network looks at them: data, metrics, baseline and plots.

A family that classifies pictures derives its pipeline from `PictureClassifier`.
"""

import warnings
from typing import Any, TypeVar

import numpy as np

from services.processing import Processor
from services.tensors import BY_NAME, DYNAMIC, Signature, TensorSpec
from training.datasets.images import Images, digits, load_classes
from training.evaluation import classification_metrics, classifier_baseline, confusion_plot, new_figure
from training.pipeline import (
    Arrays,
    Baseline,
    CommonOptions,
    Examples,
    Loaded,
    Pipeline,
    Plot,
    ServingModel,
    Source,
    Split,
)
from training.splits import cut, stratified_split

_BASELINE_SIDE = 16
_MISTAKES_SHOWN = 15

OptionsT = TypeVar("OptionsT", bound=CommonOptions)


class PictureClassifier(Pipeline[Images, OptionsT]):
    """From pictures u8 `[B, H, W, C]` to class probabilities f32 `[B, K]`: what is the same whatever network is between."""

    task = "image_classification"
    primary_metric = "accuracy"

    def load(self, source: Source, options: OptionsT) -> Loaded[Images]:
        return digits() if source.path is None else load_classes(source.path)

    def split(self, data: Images, options: OptionsT) -> Split[Images]:
        return cut(data, stratified_split(data.targets, options))

    def examples(self, data: Images, processor: Processor, options: OptionsT) -> Examples:
        return Examples(data.encode(processor), data.targets, labels=data.labels)

    def evaluate(self, outputs: Arrays, test: Examples, options: OptionsT) -> dict[str, float]:
        return classification_metrics(outputs["probabilities"], test.targets, test.labels)

    def baseline(self, train: Examples, test: Examples, options: OptionsT) -> Baseline:
        """A linear model on small versions of the pictures."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        linear = LogisticRegression(max_iter=100, tol=1e-3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            linear.fit(_thumbnails(train.inputs["image"]), train.targets)
        return classifier_baseline("logistic regression on pixels", linear, _thumbnails(test.inputs["image"]), test)

    def figures(self, outputs: Arrays, test: Examples, serving: ServingModel, options: OptionsT) -> list[Plot]:
        probabilities = outputs["probabilities"]
        return [confusion_plot(probabilities, test.targets, test.labels), *_mistakes(probabilities, test)]


def signature(picture: tuple[int, ...], classes: int) -> Signature:
    """A picture classifier's: `image` u8 `[B, H, W, C]` in, of that height, width and channels; `probabilities` out."""
    return Signature(
        (TensorSpec("image", BY_NAME["uint8"], (DYNAMIC, *picture)),),
        (TensorSpec("probabilities", BY_NAME["float32"], (DYNAMIC, classes)),),
    )


def augmentation(seed: int, *, mirror: bool = False) -> list[Any]:
    """Keras layers that shift, turn and zoom pictures a little while training, at random; mirrored only where asked for."""
    from keras import layers

    moved = [
        layers.RandomTranslation(0.08, 0.08, fill_mode="nearest", seed=seed),
        layers.RandomRotation(0.03, fill_mode="nearest", seed=seed + 1),
        layers.RandomZoom(0.08, fill_mode="nearest", seed=seed + 2),
    ]
    return [*moved, layers.RandomFlip("horizontal", seed=seed + 5)] if mirror else moved


def _mistakes(probabilities: np.ndarray, test: Examples) -> list[Plot]:
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
