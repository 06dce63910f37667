"""Image preprocessing that lives in the graph."""

from typing import Any

import keras
from keras import ops

IMAGENET_MEANS_BGR = (103.939, 116.779, 123.68)
"""Means of ImageNet's training pixels, 0..255, in the order the network takes colours. Source: Simonyan, Zisserman 2014."""


@keras.saving.register_keras_serializable(package="cornet")
class CaffePreprocessing(keras.layers.Layer):  # type: ignore[misc]  # keras ships no types
    """RGB of any numeric dtype, 0..255, `[B,H,W,3]` to f32 BGR with ImageNet's mean colour taken off."""

    def call(self, image: Any) -> Any:
        bgr = ops.take(ops.cast(image, "float32"), [2, 1, 0], axis=-1)
        return bgr - ops.convert_to_tensor(IMAGENET_MEANS_BGR, "float32")
