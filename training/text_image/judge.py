"""What generated pictures are worth: do they show what was asked for, are they varied, do the words have an effect."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from services.processing.image import ImageProcessor
from training.datasets.images import Images
from training.pipeline import Examples
from training.splits import stratified_split
from training.text_image.drawings import (
    BREADTH,
    LEVELS,
    SIDE,
    WEIGHT,
    Drawings,
    breadth,
    ink,
    to_pixels,
)
from training.text_image.exercises import Exercises
from training.text_image.wording import KINDS

Judge = Callable[[np.ndarray], np.ndarray]
"""Levels u8 `[N, 8, 8]` to class probabilities f32 `[N, C]`."""

_MOST_COMPARED = 1000
"""Pictures whose nearest training picture is looked for."""


@lru_cache(maxsize=1)
def judge_of(drawings: Drawings, epochs: int, seed: int) -> Judge:
    """The cnn family's classifier, trained on these drawings alone; the same again for the same drawings."""
    from training.pipelines import cnn

    options = cnn.Options(epochs=epochs, seed=seed, patience=epochs)
    pipeline, processor = cnn.PIPELINE, ImageProcessor.fit(SIDE, SIDE, 1)
    parts = stratified_split(drawings.targets, options)
    learnt = np.concatenate([parts.train, parts.test])

    def examples(rows: np.ndarray) -> Examples:
        part = drawings.take(rows)
        return pipeline.examples(Images(to_pixels(part.levels), part.targets, part.labels), processor, options)

    model = pipeline.build(examples(learnt), processor, options)
    pipeline.fit(model, examples(learnt), examples(parts.validation), options, [])

    def judge(levels: np.ndarray) -> np.ndarray:
        inputs = processor.encode(to_pixels(levels)[..., None])
        probabilities: np.ndarray = model.predict(inputs, batch_size=256, verbose=0)
        return probabilities

    return judge


def judged(levels: np.ndarray, test: Exercises, judge: Judge) -> dict[str, float]:
    """Figures of the pictures u8 `[requests, 8, 8]` that were drawn for the requests of `test`.

    `asked_accuracy`: share that the judge takes for what was asked, over all requests and by kind of prompt.
    `judge_accuracy`: the judge's own, on the held-out pictures: nothing can be expected beyond it.
    `bold_ink_ratio`, `wide_breadth_ratio`: mean ink (breadth) of what was to be bold (wide) over that of thin (narrow).
    `distinct`: different pictures per request.
    `nearest_ratio`: mean distance to the nearest training picture of the class, over the same of real held-out pictures; near
    0 would be learnt by heart.
    """
    right = judge(levels).argmax(axis=1) == test.asked
    real = test.drawings
    figures = {
        "asked_accuracy": float(right.mean()),
        **{f"asked_accuracy_{kind.replace(' ', '_')}": float(right[test.of_kind(kind)].mean()) for kind in KINDS},
        "judge_accuracy": float((judge(real.levels).argmax(axis=1) == real.targets).mean()),
        "distinct": len(np.unique(levels.reshape(len(levels), -1), axis=0)) / len(levels),
        "nearest_ratio": float(
            nearest(levels, test.asked, real).mean() / max(nearest(real.levels, real.targets, real).mean(), 1e-6)
        ),
    }
    for name, (less, more), measure in (("bold_ink", WEIGHT, ink), ("wide_breadth", BREADTH, breadth)):
        low, high = (measure(levels[test.naming(trait)]) for trait in (less, more))
        if len(low) and len(high):
            figures[f"{name}_ratio"] = float(high.mean() / max(low.mean(), 1e-6))
    return figures


def nearest(levels: np.ndarray, targets: np.ndarray, drawings: Drawings) -> np.ndarray:
    """Root mean square distance, in levels, of each picture to the nearest training picture of its class."""
    rows = nearest_rows(levels, targets, drawings)
    known = drawings.learnt_from().levels[rows].astype(np.float64)
    distances: np.ndarray = np.sqrt(np.square(levels[: len(rows)] - known).mean(axis=(1, 2)))
    return distances


def nearest_rows(levels: np.ndarray, targets: np.ndarray, drawings: Drawings) -> np.ndarray:
    """The row of that training picture for each of the first pictures."""
    known = drawings.learnt_from()
    flat = known.levels.reshape(len(known), -1).astype(np.float32)
    squares = np.square(flat).sum(axis=1)
    found = []
    for picture, target in zip(levels[:_MOST_COMPARED], targets, strict=False):
        rows = np.flatnonzero(known.targets == target)
        found.append(rows[np.argmin(squares[rows] - 2.0 * (flat[rows] @ picture.reshape(-1).astype(np.float32)))])
    return np.array(found)


def pixel_model(drawings: Drawings) -> np.ndarray:
    """The baseline: how often each pixel has each level in each class, f64 `[C, 64, 16]`, every level counted once more."""
    counts = np.ones((len(drawings.labels), SIDE * SIDE, LEVELS))
    flat = drawings.levels.reshape(len(drawings), -1)
    places = np.arange(flat.shape[1])
    for target, row in zip(drawings.targets, flat, strict=True):
        counts[target, places, row] += 1
    probabilities: np.ndarray = counts / counts.sum(axis=-1, keepdims=True)
    return probabilities
