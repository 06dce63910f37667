"""Image classes: a small convolutional network on raw pixels."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from services.errors import InvalidArgument
from services.processing import Processor
from training.datasets.images import Images, fit_image_processor
from training.optimization import SCHEDULES, GradientOptions, ScheduleName, optimizer
from training.options import Bounds, Search
from training.pictures import PictureClassifier, augmentation, signature
from training.pipeline import Examples, ServingModel

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Options(GradientOptions):
    """Options of the image classifier."""

    schedule: Annotated[ScheduleName, SCHEDULES] = "plateau"
    """Learning rate over the epochs: constant, falling to 0 along a cosine, falling in steps, or when validation stays."""
    filters: Annotated[tuple[int, ...], Bounds(1)] = (16, 32)
    """Convolution filters of each block."""
    blocks: Annotated[int | None, Bounds(1)] = None
    """Blocks, each of which halves height and width; none: one per number of filters. Further ones double the last number."""
    convolutions: Annotated[int, Bounds(1)] = 1
    """Convolutions per block."""
    kernel: Annotated[int, Bounds(1)] = 3
    """Height and width of each filter in pixels."""
    pooling: Literal["max", "average"] = "max"
    """How a block halves its picture."""
    dense: Annotated[int, Bounds(1), Search(32, 256, log=True)] = 100
    """Units of the layer before the softmax."""
    dropout: Annotated[float, Bounds(0, 1, open_high=True), Search(0, 0.5)] = 0.2
    """Share of activations dropped before and after the dense layer while training."""
    batch_norm: bool = False
    """Normalise each convolution's output over the batch."""
    augment: bool = True
    """Shift, turn and zoom training pictures a little, at random; pictures are never mirrored."""
    height: Annotated[int | None, Bounds(1)] = None
    """Pixels; none: that of most training pictures, scaled down so that no side is longer than 128."""
    width: Annotated[int | None, Bounds(1)] = None
    """Pixels; none: as for height."""
    channels: Literal["auto", "grey", "rgb"] = "auto"
    """Colours the model sees; auto: rgb where most training pictures have colours."""

    @property
    def filters_by_block(self) -> tuple[int, ...]:
        """Filters of each block, the last given number doubled on where there are more blocks than numbers."""
        count = self.blocks or len(self.filters)
        more = (self.filters[-1] * 2**step for step in range(1, count - len(self.filters) + 1))
        return (*self.filters[:count], *more)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.filters:
            raise InvalidArgument("Option filters: expected one number at least. Received: none.")


class Cnn(PictureClassifier[Options]):
    """Convolution blocks, one dense layer, softmax. Raw bytes in: the scaling is in the graph."""

    family = "cnn"
    summary = "Convolution blocks and a dense layer with a softmax; default data: scikit-learn digits"
    options = Options

    def fit_processor(self, train: Images, options: Options) -> Processor:
        """The size and colours of most training pictures, where the options do not say. Raises InvalidArgument."""
        processor = fit_image_processor(train, options.height, options.width, options.channels)
        most = int(np.log2(min(processor.height, processor.width)))
        blocks = len(options.filters_by_block)
        if blocks > most:
            raise InvalidArgument(
                f"Expected at most {most} blocks for pictures of {processor.height} x {processor.width} pixels: "
                f"each halves them. Received: blocks={blocks}."
            )
        return processor

    def build(self, train: Examples, processor: Processor, options: Options) -> "keras.Model":
        import keras
        from keras import layers

        image = keras.Input(train.inputs["image"].shape[1:], dtype="uint8", name="image")
        pixels = layers.Rescaling(1.0 / 255.0, name="scaling")(image)
        if options.augment:
            for layer in augmentation(options.seed):
                pixels = layer(pixels)
        network = keras.Sequential(_layers(len(train.labels), options), name="network")
        model = keras.Model({"image": image}, network(pixels), name=self.family)
        model.compile(
            optimizer=optimizer(options, len(train)),
            loss=keras.losses.SparseCategoricalCrossentropy(),
            metrics=["accuracy"],
        )
        return model

    def serving_model(
        self, model: "keras.Model", train: Examples, validation: Examples, processor: Processor, options: Options
    ) -> ServingModel:
        import keras

        image = keras.Input(model.input["image"].shape[1:], dtype="uint8", name="image")
        probabilities = model.get_layer("network")(model.get_layer("scaling")(image))
        served = keras.Model({"image": image}, {"probabilities": probabilities}, name=self.family)
        return ServingModel(served, signature(image.shape[1:], len(train.labels)), train.labels)


def _layers(classes: int, options: Options) -> list[Any]:
    from keras import layers

    stack: list[Any] = []
    for filters in options.filters_by_block:
        for _ in range(options.convolutions):
            stack.append(layers.Conv2D(filters, options.kernel, padding="same", use_bias=not options.batch_norm))
            if options.batch_norm:
                stack.append(layers.BatchNormalization())
            stack.append(layers.ReLU())
        stack.append(layers.MaxPooling2D(2) if options.pooling == "max" else layers.AveragePooling2D(2))
    return [
        *stack,
        layers.Flatten(),
        layers.Dropout(options.dropout, seed=options.seed + 3),
        layers.Dense(options.dense, activation="relu"),
        layers.Dropout(options.dropout, seed=options.seed + 4),
        layers.Dense(classes, activation="softmax"),
    ]


PIPELINE = Cnn()
