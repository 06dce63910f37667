"""What a denoising autoencoder learns to undo: layers that damage raw inputs while training, and never otherwise."""

from typing import Any

import keras
import numpy as np
from keras import ops

from training.layers.tabular import TabularEncoding


class CellCorruption(keras.layers.Layer):  # type: ignore[misc]  # keras ships no types
    """Raw features f32 `[B, F]`, damaged while training.

    Numeric cells get Gaussian noise of `noise` times the spread their column has in `encoding`. A share `masking` of all
    cells is made missing, the way a client leaves a cell out: NaN, or -1 for a category.
    """

    def __init__(self, encoding: TabularEncoding, *, noise: float, masking: float, seed: int) -> None:
        super().__init__(trainable=False, name="corruption")
        columns = len(encoding.numeric) + len(encoding.categories)
        self._noise = np.zeros(columns, np.float32)
        self._noise[encoding.numeric] = noise * encoding.spread
        self._missing = np.full(columns, -1, np.float32)
        self._missing[encoding.numeric] = np.nan
        self._masking = masking
        self._seeds = keras.random.SeedGenerator(seed)

    def call(self, features: Any, training: bool | None = None) -> Any:
        if not training:
            return features
        shape = ops.shape(features)
        if self._noise.any():
            features = features + self._noise * keras.random.normal(shape, seed=self._seeds)
        if self._masking:
            gone = keras.random.uniform(shape, seed=self._seeds) < self._masking
            features = ops.where(gone, self._missing, features)
        return features


class PixelCorruption(keras.layers.Layer):  # type: ignore[misc]  # keras ships no types
    """Pictures of any numeric dtype, 0..255, `[B, H, W, C]` to f32 of the same range, damaged while training.

    `noise` is the standard deviation of Gaussian noise as a share of the range, `masking` the share of pixels turned black,
    `salt_and_pepper` the share turned white or black, half each. A pixel's colours share its fate, but for the noise.
    """

    def __init__(self, *, noise: float, masking: float, salt_and_pepper: float, seed: int) -> None:
        super().__init__(trainable=False, name="corruption")
        self._noise = noise
        self._masking = masking
        self._salt_and_pepper = salt_and_pepper
        self._seeds = keras.random.SeedGenerator(seed)

    def call(self, image: Any, training: bool | None = None) -> Any:
        pixels = ops.cast(image, "float32")
        if not training:
            return pixels
        if self._noise:
            noise = keras.random.normal(ops.shape(pixels), seed=self._seeds)
            pixels = ops.clip(pixels + 255.0 * self._noise * noise, 0.0, 255.0)
        if self._masking:
            pixels = ops.where(self._chance(pixels) < self._masking, 0.0, pixels)
        if self._salt_and_pepper:
            chance = self._chance(pixels)
            pixels = ops.where(chance < self._salt_and_pepper, 0.0, pixels)
            pixels = ops.where(chance < self._salt_and_pepper / 2, 255.0, pixels)
        return pixels

    def _chance(self, pixels: Any) -> Any:
        """A number in 0..1 per pixel: f32 `[B, H, W, 1]`."""
        return keras.random.uniform((*ops.shape(pixels)[:3], 1), seed=self._seeds)
