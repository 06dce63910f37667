"""Image preprocessing that lives in the graph."""

from typing import Any

import keras
from keras import ops

from training.backbones import Preprocessing as Mode

_MEANS_BGR = (103.939, 116.779, 123.68)
"""Means of ImageNet's training pixels, 0..255, in the order these networks take colours. Source: Simonyan, Zisserman 2014."""
_MEANS_RGB, _SPREADS_RGB = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Means and standard deviations of the same pixels in 0..1. Source: `keras.applications.imagenet_utils`, mode torch."""


@keras.saving.register_keras_serializable(package="cornet")
class Preprocessing(keras.layers.Layer):  # type: ignore[misc]  # keras ships no types
    """RGB of any numeric dtype, 0..255, `[B,H,W,3]` to what a network of `keras.applications` takes, f32.

    The numbers are those of the network's `preprocess_input`, which `mode` names: `training.backbones` says which is whose.
    """

    def __init__(self, mode: Mode, **options: Any) -> None:
        super().__init__(**options)
        self.mode = mode

    def call(self, image: Any) -> Any:
        pixels = ops.cast(image, "float32")
        if self.mode == "caffe":
            return ops.take(pixels, [2, 1, 0], axis=-1) - ops.convert_to_tensor(_MEANS_BGR, "float32")
        if self.mode == "tf":
            return pixels / 127.5 - 1.0
        if self.mode == "torch":
            means, spreads = (ops.convert_to_tensor(values, "float32") for values in (_MEANS_RGB, _SPREADS_RGB))
            return (pixels / 255.0 - means) / spreads
        return pixels

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "mode": self.mode}
