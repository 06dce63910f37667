"""Image features: VGG16, or another backbone, without its classifier. Nothing is trained here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from services.manifest import BatchingHints
from services.processing import Processor
from services.processing.image import ImageProcessor
from services.tensors import BY_NAME, DYNAMIC, Signature, TensorSpec
from training.backbones import Backbone, check_size, find_backbone
from training.datasets.images import Images
from training.datasets.probes import photographs, probe_folder
from training.evaluation import new_figure
from training.options import Bounds
from training.pipeline import (
    Arrays,
    Baseline,
    CommonOptions,
    Examples,
    Loaded,
    Pipeline,
    Plot,
    ServingModel,
    Source,
    Split,
)
from training.pretrained import RANDOM, base_weights, load_backbone

if TYPE_CHECKING:
    import keras

_SHOWN = 6


@dataclass(frozen=True)
class Options(CommonOptions):
    """Options of the feature extractor; those of training have no effect."""

    weights: str = "imagenet"
    """imagenet (downloaded by Keras), the path of a .weights.h5, .h5 or .keras file or a version, or random (no meaning)."""
    pooling: Literal["avg", "max", "none"] = "avg"
    """How the last feature map becomes one vector; none: the map itself."""
    backbone: str = "vgg16"
    """A network of keras.applications, such as vgg16, resnet50, mobilenetv2 or convnext-tiny; an unknown one lists all."""
    height: Annotated[int | None, Bounds(1)] = None
    """Pixels; none: the backbone's own size, 224 for most."""
    width: Annotated[int | None, Bounds(1)] = None
    """Pixels; none: as for height."""
    probe_images: Annotated[int, Bounds(2)] = 10
    """Most pictures that the features and the export are tried on."""

    @property
    def network(self) -> Backbone:
        return find_backbone(self.backbone)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width that the model takes."""
        return self.height or self.network.size, self.width or self.network.size

    def __post_init__(self) -> None:
        check_size(self.network, height=self.height, width=self.width)


class Vgg16(Pipeline[Images, Options]):
    """A backbone's convolutions and a pooling; its own preprocessing is in the graph."""

    family = "vgg16"
    task = "image_features"
    summary = "Pooled features of VGG16 or another backbone, ImageNet weights; tried on photographs of scikit-learn"
    options = Options
    primary_metric = "nearest_accuracy"

    def base_weights(self, options: Options) -> str:
        return base_weights(options.weights)

    def load(self, source: Source, options: Options) -> Loaded[Images]:
        if source.path is None:
            return photographs(options.probe_images)
        return probe_folder(source.path, options.probe_images)

    def split(self, data: Images, options: Options) -> Split[Images]:
        """All rows are for testing: nothing is fitted."""
        rows = np.arange(len(data))
        return Split(data.take(rows[:0]), data.take(rows[:0]), data)

    def fit_processor(self, train: Images, options: Options) -> Processor:
        height, width = options.size
        return ImageProcessor.fit(height=height, width=width, channels=3)

    def examples(self, data: Images, processor: Processor, options: Options) -> Examples:
        return Examples(processor.encode(data.images), data.targets, labels=data.labels)

    def build(self, train: Examples, processor: Processor, options: Options) -> "keras.Model":
        import keras
        from keras import layers

        from training.layers.image import Preprocessing

        image = keras.Input((*options.size, 3), dtype="uint8", name="image")
        base = load_backbone(options.network, *options.size, options.weights)
        features = base(Preprocessing(options.network.preprocessing)(image), training=False)
        if options.pooling != "none":
            pool = layers.GlobalAveragePooling2D if options.pooling == "avg" else layers.GlobalMaxPooling2D
            features = pool()(features)
        model = keras.Model({"image": image}, {"features": features}, name=self.family)
        model.trainable = False
        return model

    def fit(
        self,
        model: "keras.Model",
        train: Examples,
        validation: Examples,
        options: Options,
        callbacks: Sequence[Any],
        initial_epoch: int = 0,
    ) -> None:
        """Nothing: the weights are taken as they are."""

    def serving_model(
        self, model: "keras.Model", train: Examples, validation: Examples, processor: Processor, options: Options
    ) -> ServingModel:
        signature = Signature(
            (TensorSpec("image", BY_NAME["uint8"], (DYNAMIC, *options.size, 3)),),
            (TensorSpec("features", BY_NAME["float32"], (DYNAMIC, *model.output["features"].shape[1:])),),
        )
        return ServingModel(model, signature, batching=BatchingHints(max_batch_rows=8))

    def evaluate(self, outputs: Arrays, test: Examples, options: Options) -> dict[str, float]:
        """Whether alike pictures have near features, and the share of features that no picture excites."""
        features = outputs["features"].reshape(len(test), -1)
        return {
            "nearest_accuracy": _nearest_accuracy(features, test.targets),
            "silent_share": float(np.mean(~features.any(axis=0))),
        }

    def baseline(self, train: Examples, test: Examples, options: Options) -> Baseline:
        pixels = test.inputs["image"].reshape(len(test), -1).astype(np.float32)
        return Baseline("raw pixels", {"nearest_accuracy": _nearest_accuracy(pixels, test.targets)})

    def figures(self, outputs: Arrays, test: Examples, serving: ServingModel, options: Options) -> list[Plot]:
        random = options.weights == RANDOM
        title = "RANDOM WEIGHTS: features without meaning" if random else "Nearest pictures by features"
        return [_neighbours(outputs["features"].reshape(len(test), -1), test, title)]


def _similarity(vectors: np.ndarray) -> np.ndarray:
    """Cosine of each pair of rows, their mean taken off; -inf on the diagonal, as no row is its own neighbour."""
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    unit = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    return np.asarray(similarity)


def _nearest_accuracy(vectors: np.ndarray, targets: np.ndarray) -> float:
    """Share of rows whose nearest other row is of their own class."""
    return float(np.mean(targets[_similarity(vectors).argmax(axis=1)] == targets))


def _neighbours(features: np.ndarray, test: Examples, title: str) -> Plot:
    nearest = _similarity(features).argmax(axis=1)
    count = min(_SHOWN, len(test))
    figure, grid = new_figure(width=1.5 * count + 0.5, height=3.6, nrows=2, ncols=count, squeeze=False)
    for column in range(count):
        for row, index in enumerate((column, nearest[column])):
            grid[row, column].imshow(test.inputs["image"][index])
            grid[row, column].set_title(test.labels[test.targets[index]], fontsize=8)
            grid[row, column].set_axis_off()
    return Plot(title, "Above a picture, below the one whose features are nearest to its.", figure)


PIPELINE = Vgg16()
