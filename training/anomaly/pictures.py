"""Pictures as the autoencoder's data: pixels from 0 (black) to 1."""

from typing import Any

import numpy as np

from services.errors import InvalidArgument
from services.processing import Processor
from services.processing.tabular import Column
from training.anomaly.options import AutoencoderOptions
from training.anomaly.rows import AnomalyExamples
from training.anomaly.subject import Subject
from training.datasets.images import Images, digits, fit_image_processor, load_images
from training.evaluation import new_figure
from training.pipeline import Loaded, Plot, Source
from training.tabular import dense_stack

_SHOWN = 10


class Pictures(Subject[Images]):
    """Pictures: `image` u8 `[B, H, W, C]`, 0..255; a reconstruction is f32 of the same shape and range."""

    tensor = "image"
    bottleneck = 32
    units = "shares of white"

    def load(self, source: Source, options: AutoencoderOptions) -> Loaded[Images]:  # noqa: ARG002  # tables need them
        return digits() if source.path is None else load_images(source.path, labelled=False)

    def fit_processor(self, train: Images, options: AutoencoderOptions) -> Processor:
        processor = fit_image_processor(train, options.height, options.width, options.channels)
        most = int(np.log2(min(processor.height, processor.width)))
        if options.network != "dense" and len(options.filters) > most:
            raise InvalidArgument(
                f"Expected at most {most} numbers of filters for pictures of {processor.height} x {processor.width} pixels: "
                f"each layer halves them. Received: {len(options.filters)}."
            )
        return processor

    def encode(self, content: Images, processor: Processor) -> np.ndarray:
        return content.encode(processor)[self.tensor]

    def encoding(self, train: np.ndarray, columns: tuple[Column, ...]) -> Any:  # noqa: ARG002  # nothing is learnt
        import keras

        return keras.layers.Rescaling(1.0 / 255.0, name="encoding")

    def decoding(self, encoding: Any) -> Any:  # noqa: ARG002  # the scale is fixed
        import keras

        return keras.layers.Rescaling(255.0, name="decoding")

    def corruption(self, encoding: Any, options: AutoencoderOptions, seed: int) -> Any:  # noqa: ARG002  # as above
        from training.layers.corruption import PixelCorruption

        amounts = {"masking": options.masking, "salt_and_pepper": options.salt_and_pepper}
        return PixelCorruption(noise=options.noise, **amounts, seed=seed)

    def network(self, encoded: tuple[int, ...], options: AutoencoderOptions) -> tuple[Any, Any]:
        import keras

        picture = keras.Input(encoded)
        code = keras.Input((self.width(options),))
        make = _dense if options.network == "dense" else _convolutional
        features, decoded = make(picture, code, options)
        flat = keras.layers.Flatten()(features)
        coded = keras.layers.Dense(self.width(options), name="code")(flat)
        return keras.Model(picture, coded, name="encoder"), keras.Model(code, decoded, name="decoder")

    def received(self, damaged: np.ndarray) -> np.ndarray:
        pixels: np.ndarray = np.rint(damaged).astype(np.uint8)
        return pixels

    def errors(self, encoding: Any, restored: np.ndarray, clean: np.ndarray) -> np.ndarray:  # noqa: ARG002  # as above
        difference = (restored.astype(np.float32) - clean.astype(np.float32)) / 255.0
        means: np.ndarray = np.square(difference).mean(axis=(1, 2, 3))
        return means

    def restoration_plot(
        self,
        encoding: Any,  # noqa: ARG002  # as above
        test: AnomalyExamples,
        noisy: np.ndarray,
        restored: np.ndarray,
    ) -> Plot:
        clean = test.normal_rows
        shown = min(_SHOWN, len(clean))
        figure, grid = new_figure(width=7.5, height=2.7, nrows=3, ncols=shown, squeeze=False)
        for line, title, pictures in zip(grid, ("clean", "damaged", "restored"), (clean, noisy, restored), strict=True):
            for axes, picture in zip(line, pictures[:shown], strict=True):
                values = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
                axes.imshow(values.squeeze(-1) if values.shape[-1] == 1 else values, cmap="gray", vmin=0, vmax=255)
                axes.set_xticks([])
                axes.set_yticks([])
            line[0].set_ylabel(title, fontsize=8)
        return Plot("Restored pictures", "Normal held-out pictures. The model saw the middle line alone.", figure)


def _dense(picture: Any, code: Any, options: AutoencoderOptions) -> tuple[Any, Any]:
    """Features of a picture, and the picture that a code stands for, by dense layers."""
    import keras

    features = dense_stack(keras.layers.Flatten()(picture), options.units, options)
    hidden = dense_stack(code, options.units[::-1], options)
    pixels = keras.layers.Dense(int(np.prod(picture.shape[1:])), activation="sigmoid")(hidden)
    return features, keras.layers.Reshape(picture.shape[1:])(pixels)


def _convolutional(picture: Any, code: Any, options: AutoencoderOptions) -> tuple[Any, Any]:
    """The same by convolutions. Sides that are odd are halved upwards, and cut to their length on the way back."""
    from keras import layers

    features, sizes = picture, []
    for filters in options.filters:
        sizes.append(features.shape[1:3])
        features = _activated(layers.Conv2D(filters, 3, strides=2, padding="same")(features), options)
    tiles = features.shape[1:]
    hidden = layers.Activation(options.activation)(layers.Dense(int(np.prod(tiles)))(code))
    hidden = layers.Reshape(tiles)(hidden)
    for (height, width), filters in zip(sizes[::-1], (*options.filters[-2::-1], options.filters[0]), strict=True):
        hidden = layers.UpSampling2D(2)(hidden)[:, :height, :width]
        hidden = _activated(layers.Conv2D(filters, 3, padding="same")(hidden), options)
    return features, layers.Conv2D(picture.shape[-1], 3, padding="same", activation="sigmoid")(hidden)


def _activated(x: Any, options: AutoencoderOptions) -> Any:
    import keras

    if options.batch_norm:
        x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Activation(options.activation)(x)
    return keras.layers.SpatialDropout2D(options.dropout)(x) if options.dropout else x


PICTURES = Pictures()
