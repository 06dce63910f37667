"""Image classes: a small convolutional network on raw pixels."""

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from services.errors import InvalidArgument
from services.processing import Processor
from services.tensors import BY_NAME, DYNAMIC, Signature, TensorSpec
from training.datasets.images import Images, digits, fit_image_processor, load_classes
from training.evaluation import classification_metrics, classifier_baseline, confusion_plot, new_figure
from training.optimization import SCHEDULES, GradientOptions, ScheduleName, optimizer
from training.options import Bounds, Search
from training.pipeline import (
    Arrays,
    Baseline,
    Examples,
    Loaded,
    Pipeline,
    Plot,
    ServingModel,
    Source,
    Split,
)
from training.splits import cut, stratified_split

if TYPE_CHECKING:
    import keras

_BASELINE_SIDE = 16
_MISTAKES_SHOWN = 15


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


class Cnn(Pipeline[Images, Options]):
    """Convolution blocks, one dense layer, softmax. Raw bytes in: the scaling is in the graph."""

    family = "cnn"
    task = "image_classification"
    summary = "Convolution blocks and a dense layer with a softmax; default data: scikit-learn digits"
    options = Options
    primary_metric = "accuracy"

    def load(self, source: Source, options: Options) -> Loaded[Images]:
        return digits() if source.path is None else load_classes(source.path)

    def split(self, data: Images, options: Options) -> Split[Images]:
        return cut(data, stratified_split(data.targets, options))

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

    def examples(self, data: Images, processor: Processor, options: Options) -> Examples:
        return Examples(data.encode(processor), data.targets, labels=data.labels)

    def build(self, train: Examples, processor: Processor, options: Options) -> "keras.Model":
        import keras
        from keras import layers

        image = keras.Input(train.inputs["image"].shape[1:], dtype="uint8", name="image")
        pixels = layers.Rescaling(1.0 / 255.0, name="scaling")(image)
        if options.augment:
            pixels = layers.RandomTranslation(0.08, 0.08, fill_mode="nearest", seed=options.seed)(pixels)
            pixels = layers.RandomRotation(0.03, fill_mode="nearest", seed=options.seed + 1)(pixels)
            pixels = layers.RandomZoom(0.08, fill_mode="nearest", seed=options.seed + 2)(pixels)
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
        signature = Signature(
            (TensorSpec("image", BY_NAME["uint8"], (DYNAMIC, *image.shape[1:])),),
            (TensorSpec("probabilities", BY_NAME["float32"], (DYNAMIC, len(train.labels))),),
        )
        served = keras.Model({"image": image}, {"probabilities": probabilities}, name=self.family)
        return ServingModel(served, signature, train.labels)

    def evaluate(self, outputs: Arrays, test: Examples, options: Options) -> dict[str, float]:
        return classification_metrics(outputs["probabilities"], test.targets, test.labels)

    def baseline(self, train: Examples, test: Examples, options: Options) -> Baseline:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        linear = LogisticRegression(max_iter=100, tol=1e-3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            linear.fit(_thumbnails(train.inputs["image"]), train.targets)
        return classifier_baseline("logistic regression on pixels", linear, _thumbnails(test.inputs["image"]), test)

    def figures(self, outputs: Arrays, test: Examples, serving: ServingModel, options: Options) -> list[Plot]:
        probabilities = outputs["probabilities"]
        return [confusion_plot(probabilities, test.targets, test.labels), *_mistakes(probabilities, test)]


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


def _thumbnails(images: np.ndarray) -> np.ndarray:
    """Pictures as rows of values in 0..1, averaged down to 16 pixels a side or a little more."""
    rows, height, width, channels = images.shape
    tall, wide = max(1, height // _BASELINE_SIDE), max(1, width // _BASELINE_SIDE)
    cut = images[:, : height // tall * tall, : width // wide * wide]
    tiles = cut.reshape(rows, height // tall, tall, width // wide, wide, channels)
    values: np.ndarray = tiles.mean(axis=(2, 4), dtype=np.float32).reshape(rows, -1) / 255.0
    return values


def _mistakes(probabilities: np.ndarray, test: Examples) -> list[Plot]:
    """The pictures whose wrong answer was the most certain."""
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


PIPELINE = Cnn()
