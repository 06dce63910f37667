"""Scaling of a window by what it holds itself, for series of one kind on different levels.

Kim et al. 2022, "Reversible Instance Normalization for Accurate Time-Series Forecasting", without its learned part.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="cornet")
class WindowScaling(keras.layers.Layer):  # type: ignore[misc]  # keras ships no types
    """Windows f32 `[B,T,F]` less their own mean, in their own deviation, per channel.

    `least` `[F]` is added to the deviation: a window that holds one value throughout becomes zeros.
    """

    def __init__(self, least: Sequence[float], **options: Any) -> None:
        super().__init__(**options)
        self.least = [float(value) for value in least]

    def call(self, window: Any) -> Any:
        mean, deviation = statistics(window, self.least)
        return (window - mean) / deviation

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "least": self.least}


@keras.saving.register_keras_serializable(package="cornet")
class WindowUnscaling(keras.layers.Layer):  # type: ignore[misc]  # keras ships no types
    """The way back for what was made of scaled windows: f32 `[B,H]` of one channel, and the windows in raw units."""

    def __init__(self, column: int, least: Sequence[float], **options: Any) -> None:
        super().__init__(**options)
        self.column = column
        self.least = [float(value) for value in least]

    def call(self, forecast: Any, window: Any) -> Any:
        mean, deviation = statistics(window, self.least)
        return forecast * deviation[:, :, self.column] + mean[:, :, self.column]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "column": self.column, "least": self.least}


def statistics(window: Any, least: Sequence[float]) -> tuple[Any, Any]:
    """Mean and deviation of each channel over the window, f32 `[B,1,F]`, `least` added to the deviation."""
    mean = ops.mean(window, axis=1, keepdims=True)
    variance = ops.mean(ops.square(window - mean), axis=1, keepdims=True)
    return mean, ops.sqrt(variance) + ops.convert_to_tensor(list(least), "float32")
