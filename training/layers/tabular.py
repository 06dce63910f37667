"""Layers of the tabular families: what a served model does to raw values so that no client has to."""

from collections.abc import Sequence

import keras
import numpy as np

from services.processing.tabular import Column

_SMALLEST_SPREAD = 1e-6


class TabularEncoding(keras.layers.Layer):  # type: ignore[misc]  # keras ships no types
    """Raw features f32 `[B, F]` to what a dense network learns well from, f32 `[B, E]`; never NaN.

    Numeric columns are standardised by the training rows' mean and spread, missing cells become the mean, and columns
    that had missing cells in training get an indicator beside them. With `bins`, each numeric column is given a second
    time as a piecewise-linear code over the quantiles of its training values: component t rises from 0 to 1 while the
    value crosses the t-th interval (Gorishniy, Rubachev, Babenko 2022, "On Embeddings for Numerical Features in Tabular
    Deep Learning"). Categorical columns (their index, -1 for one never seen) become one-hot, all zero for the unseen.
    """

    def __init__(self, columns: Sequence[Column], features: np.ndarray, *, bins: int = 0) -> None:
        """`features` f32 `[rows, F]` are the training rows the statistics come from."""
        super().__init__(trainable=False, name="encoding")
        self.numeric = [i for i, column in enumerate(columns) if column.kind == "numeric"]
        self.categories = {i: len(c.categories) for i, c in enumerate(columns) if c.kind == "categorical"}
        values = features[:, self.numeric].astype(np.float64)
        self._gappy = np.flatnonzero(np.isnan(values).any(axis=0))
        self.indicators = len(self._gappy)
        self.mean = np.nanmean(values, axis=0).astype(np.float32)
        spread = np.nanstd(values, axis=0)
        steady = spread <= _SMALLEST_SPREAD * np.maximum(1, np.abs(self.mean))
        self.spread = np.where(steady, 1, spread).astype(np.float32)
        self._bins = intervals(values, bins)

    def call(self, features: keras.KerasTensor) -> keras.KerasTensor:
        parts = []
        if self.numeric:
            numeric = keras.ops.take(features, np.array(self.numeric), axis=1)
            missing = keras.ops.isnan(numeric)
            filled = keras.ops.where(missing, self.mean, numeric)
            parts.append((filled - self.mean) / self.spread)
            if self.indicators:
                parts.append(keras.ops.cast(keras.ops.take(missing, self._gappy, axis=1), "float32"))
            if len(self._bins[0]):
                column, low, width = self._bins
                parts.append(keras.ops.clip((keras.ops.take(filled, column, axis=1) - low) / width, 0.0, 1.0))
        for index, count in self.categories.items():
            codes = np.arange(count, dtype=np.float32)
            parts.append(keras.ops.cast(keras.ops.equal(features[:, index : index + 1], codes), "float32"))
        return keras.ops.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]


class TabularDecoding(keras.layers.Layer):  # type: ignore[misc]  # keras ships no types
    """The way back from an encoding without bins: f32 `[B, E]` to raw features f32 `[B, F]`.

    A categorical column's answer is the index of its strongest category.
    """

    def __init__(self, encoding: TabularEncoding) -> None:
        super().__init__(trainable=False, name="decoding")
        self._encoding = encoding
        order = [*encoding.numeric, *encoding.categories]
        self._places = np.argsort(order).astype(np.int32)

    def call(self, encoded: keras.KerasTensor) -> keras.KerasTensor:
        encoding = self._encoding
        numeric = len(encoding.numeric)
        parts = [encoded[:, :numeric] * encoding.spread + encoding.mean] if numeric else []
        start = numeric + encoding.indicators
        for count in encoding.categories.values():
            strongest = keras.ops.argmax(encoded[:, start : start + count], axis=1)
            parts.append(keras.ops.cast(strongest, "float32")[:, None])
            start += count
        return keras.ops.take(keras.ops.concatenate(parts, axis=1), self._places, axis=1)


class Threshold(keras.layers.Layer):  # type: ignore[misc]  # keras ships no types
    """Whether a score f32 `[B]` is above a fixed value: bool `[B]`."""

    def __init__(self, threshold: float, name: str) -> None:
        super().__init__(trainable=False, name=name)
        self.threshold = threshold

    def call(self, score: keras.KerasTensor) -> keras.KerasTensor:
        return keras.ops.greater(score, self.threshold)


def intervals(values: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Column, lower end and width of every interval between neighbouring quantiles that differ."""
    column, low, width = [], [], []
    for index, each in enumerate(values.T if bins else ()):
        edges = np.unique(np.nanquantile(each, np.linspace(0, 1, bins + 1)).astype(np.float32))
        column += [index] * (len(edges) - 1)
        low += edges[:-1].tolist()
        width += np.diff(edges).tolist()
    return np.array(column, np.int32), np.array(low, np.float32), np.array(width, np.float32)
