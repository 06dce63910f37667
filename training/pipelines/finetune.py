"""Image classes by transfer: a pretrained backbone, a new head, and then the backbone's last layers with it."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from services.manifest import BatchingHints
from services.processing import Processor
from services.processing.image import ImageProcessor
from training.backbones import Backbone, check_size, find_backbone
from training.datasets.images import Images, image_shape
from training.evaluation import balanced_weights
from training.optimization import GradientOptions, ScheduleName, optimizer
from training.options import Bounds, Search
from training.pictures import PictureClassifier, augmentation, signature
from training.pipeline import Examples, ServingModel, Stage, show_rows
from training.pretrained import RANDOM, base_weights, check_unfreeze, load_backbone, settle, unfreeze

if TYPE_CHECKING:
    import keras

_LEAST_SIDE, _SIDE_STEP = 64, 32
"""Pixels: small pictures are scaled up to the next multiple of the step, and no less than the first number."""

_SETTLING = 64
"""Training pictures that the batch normalisation of random weights takes its statistics from."""


@dataclass(frozen=True)
class Options(GradientOptions):
    """Options of transfer learning. `epochs` and `learning_rate` are the first stage's, in which the backbone is frozen."""

    epochs: Annotated[int, Bounds(1)] = 40
    """Most epochs of the first stage, in which only the new head learns."""
    patience: Annotated[int, Bounds(1)] = 5
    """Epochs without a better validation loss before a stage ends; its best weights are kept."""
    schedule: ScheduleName = "plateau"
    """Learning rate over the epochs: constant, falling to 0 along a cosine, falling in steps, or when validation stays."""
    backbone: str = "efficientnetv2-b0"
    """A network of keras.applications, such as vgg16, resnet50, mobilenetv2 or convnext-tiny; an unknown one lists all."""
    weights: str = "imagenet"
    """imagenet (downloaded by Keras), the path of a .weights.h5, .h5 or .keras file or a version, or random (no transfer)."""
    unfreeze: Annotated[int, Bounds(0), Search(0, 12)] = 4
    """Layers with a kernel, from the backbone's end, that learn in the second stage; 0: no second stage."""
    fine_epochs: Annotated[int, Bounds(1)] = 20
    """Most epochs of the second stage."""
    fine_rate: Annotated[float, Bounds(0, open_low=True), Search(0.03, 1, log=True)] = 0.1
    """What the learning rate is multiplied by in the second stage."""
    augment: Literal["always", "second", "never"] = "second"
    """Stages in which pictures are shifted, turned and zoomed; where the first is none, its frozen backbone runs once."""
    mirror: bool = False
    """Mirror them left to right as well, half of the time; not for writing, or whatever reads from one side."""
    class_weights: Literal["none", "balanced"] = "none"
    """Weight of a picture in the loss: equal, or by how rare its class is, so that every class weighs the same in sum."""
    dense: Annotated[tuple[int, ...], Bounds(1)] = ()
    """Units of hidden layers between the backbone and the softmax."""
    dropout: Annotated[float, Bounds(0, 1, open_high=True), Search(0, 0.5)] = 0.2
    """Share of the head's inputs dropped while training, before each of its layers."""
    pooling: Literal["avg", "max"] = "avg"
    """How the last feature map becomes one vector."""
    height: Annotated[int | None, Bounds(1)] = None
    """Pixels; none: the backbone's own size, or for smaller pictures the next multiple of 32, and 64 at least."""
    width: Annotated[int | None, Bounds(1)] = None
    """Pixels; none: as for height."""

    @property
    def network(self) -> Backbone:
        return find_backbone(self.backbone)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size(self.network, height=self.height, width=self.width)


class Finetune(PictureClassifier[Options]):
    """Bytes, the backbone's own preprocessing, the backbone, a pooling and a head with a softmax, all in the graph.

    A pretrained backbone always infers, also while its last layers learn: batch normalisation keeps the statistics and scales
    it was pretrained with. That of random weights was not, and learns as other layers do.
    """

    family = "finetune"
    summary = "A pretrained backbone with a new head, then its last layers too; default data: scikit-learn digits"
    options = Options

    def base_weights(self, options: Options) -> str:
        return base_weights(options.weights)

    def fit_processor(self, train: Images, options: Options) -> Processor:
        """The backbone's size, or less for pictures that are smaller, where the options do not say."""
        network = options.network
        ((height, width, _), _), *_ = Counter(image_shape(image) for image in train.images).most_common(1)
        steps = -(-max(height, width) // _SIDE_STEP)
        side = min(network.size, max(steps * _SIDE_STEP, _LEAST_SIDE, network.smallest))
        return ImageProcessor.fit(options.height or side, options.width or side, channels=3)

    def examples(self, data: Images, processor: Processor, options: Options) -> Examples:
        examples = super().examples(data, processor, options)
        if options.class_weights == "none":
            return examples
        return replace(examples, weights=balanced_weights(data.targets))

    def stages(self, options: Options) -> tuple[Stage[Options], ...]:
        head = Stage("head", options)
        if not options.unfreeze:
            return (head,)
        rate = options.learning_rate * options.fine_rate
        return head, Stage("fine-tuning", replace(options, epochs=options.fine_epochs, learning_rate=rate))

    def build(self, train: Examples, processor: Processor, options: Options) -> "keras.Model":
        import keras
        from keras import layers

        from training.layers.image import Preprocessing

        height, width, channels = train.inputs["image"].shape[1:]
        image = keras.Input((height, width, channels), dtype="uint8", name="image")
        base = load_backbone(options.network, height, width, options.weights)
        check_unfreeze(base, options.network, options.unfreeze)
        preprocess = Preprocessing(options.network.preprocessing, name="preprocessing")
        if options.weights == RANDOM:
            settle(base, preprocess(train.inputs["image"][:_SETTLING]))
        base.trainable = False
        pixels = preprocess(image)
        if options.augment != "never":
            for layer in augmentation(options.seed, mirror=options.mirror):
                pixels = layer(pixels)
        pool = layers.GlobalAveragePooling2D if options.pooling == "avg" else layers.GlobalMaxPooling2D
        training = None if options.weights == RANDOM else False
        features = pool(name="pooling")(base(pixels, training=training))
        head = _head(features.shape[-1], len(train.labels), options)
        model = keras.Model({"image": image}, head({"features": features}), name=self.family)
        _compile(model, train, options)
        return model

    def begin(self, model: "keras.Model", train: Examples, options: Options) -> None:
        unfreeze(_base(model), options.unfreeze, normalisation=options.weights == RANDOM)
        _compile(model, train, options)

    def fit(
        self,
        model: "keras.Model",
        train: Examples,
        validation: Examples,
        options: Options,
        callbacks: Sequence[Any],
        initial_epoch: int = 0,
    ) -> None:
        """Pictures pass batch by batch, as bytes. What a frozen backbone makes of pictures that stay the same is kept.

        In memory are the pictures of all parts, a byte per pixel and colour, as everywhere; of the kept features 4 bytes per
        number: 5 KB a picture where the backbone gives 1,280, as efficientnetv2-b0 does.
        """
        from training.callbacks import preparing
        from training.streams import row_batches

        fitted = model
        if not _base(model).trainable and options.augment != "always":
            extract = _extractor(model)
            with preparing(callbacks, "features of the frozen backbone", len(train) + len(validation)) as advance:
                train, validation = (_as_features(extract, part, options, advance) for part in (train, validation))
            fitted = model.get_layer("head")
            fitted.compile(model.optimizer, "sparse_categorical_crossentropy", weighted_metrics=["accuracy"])
        show_rows(callbacks, train)
        fitted.fit(
            row_batches(train, options.batch_size, options.seed, initial_epoch),
            validation_data=row_batches(replace(validation, weights=None), options.batch_size),
            epochs=options.epochs,
            initial_epoch=initial_epoch,
            callbacks=list(callbacks),
            shuffle=False,  # the batches are
            verbose=0,
        )

    def serving_model(
        self, model: "keras.Model", train: Examples, validation: Examples, processor: Processor, options: Options
    ) -> ServingModel:
        import keras

        extract = _extractor(model)
        probabilities = model.get_layer("head")({"features": extract.output})
        served = keras.Model(extract.input, {"probabilities": probabilities}, name=self.family)
        return ServingModel(
            served,
            signature(model.input["image"].shape[1:], len(train.labels)),
            train.labels,
            BatchingHints(max_batch_rows=16),
        )


def _head(width: int, classes: int, options: Options) -> "keras.Model":
    import keras
    from keras import layers

    features = keras.Input((width,), name="features")
    hidden = features
    for index, units in enumerate((*options.dense, classes)):
        hidden = layers.Dropout(options.dropout, seed=options.seed + 10 + index)(hidden)
        hidden = layers.Dense(units, activation="softmax" if index == len(options.dense) else "relu")(hidden)
    return keras.Model({"features": features}, hidden, name="head")


def _compile(model: "keras.Model", train: Examples, options: Options) -> None:
    model.compile(optimizer(options, len(train)), "sparse_categorical_crossentropy", weighted_metrics=["accuracy"])


def _base(model: "keras.Model") -> "keras.Model":
    """The backbone: the one layer before the pooling."""
    import keras

    return next(layer for layer in model.layers if isinstance(layer, keras.Model) and layer.name != "head")


def _extractor(model: "keras.Model") -> "keras.Model":
    """Bytes to pooled features, as they are served: nothing moves the pictures about."""
    import keras

    image = keras.Input(model.input["image"].shape[1:], dtype="uint8", name="image")
    pixels = model.get_layer("preprocessing")(image)
    return keras.Model({"image": image}, model.get_layer("pooling")(_base(model)(pixels, training=False)))


def _as_features(
    extract: "keras.Model", examples: Examples, options: Options, advance: Callable[[int], None]
) -> Examples:
    """The same rows as what the backbone makes of them, f32 `[rows, width]`; `advance` is told of every batch."""
    features = np.empty((len(examples), extract.output.shape[-1]), np.float32)
    for start in range(0, len(examples), options.batch_size):
        rows = slice(start, start + options.batch_size)
        features[rows] = extract.predict_on_batch({"image": examples.inputs["image"][rows]})
        advance(len(features[rows]))
    return replace(examples, inputs={"features": features})


PIPELINE = Finetune()
