"""A class from a row of a table: dense layers and a softmax."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from services.processing import Processor
from services.tensors import BY_NAME, DYNAMIC, TensorSpec
from training.datasets.tables import Table, bundled, load_table
from training.evaluation import balanced_weights, classification_metrics, classifier_baseline, confusion_plot
from training.optimization import optimizer
from training.pipeline import Arrays, Baseline, Examples, Loaded, Plot, ServingModel, Source, Split
from training.splits import cut, stratified_split
from training.tabular import (
    SupervisedOptions,
    TabularExamples,
    TabularPipeline,
    baseline_features,
    columns_of,
    hidden_layers,
    signature,
    tabular,
)

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class ClassifierOptions(SupervisedOptions):
    """Options of the classifier."""

    class_weights: Literal["none", "balanced"] = "none"
    """Weight of a row in the loss: equal, or by how rare its class is, so that every class weighs the same in sum."""


class Classifier(TabularPipeline[ClassifierOptions]):
    """Softmax over the classes, trained by categorical cross-entropy on class indices."""

    family: ClassVar[str] = "classifier"
    task: ClassVar[str] = "classification"
    summary: ClassVar[str] = "Dense ReLU layers with a softmax; default data: scikit-learn wine"
    options = ClassifierOptions
    primary_metric: ClassVar[str] = "accuracy"

    def load(self, source: Source, options: ClassifierOptions) -> Loaded[Table]:
        if source.path is not None:
            return load_table(source, "class", **options.reading)
        from sklearn.datasets import load_wine

        data = load_wine()
        return bundled(
            "scikit-learn wine", data.data, data.feature_names, data.target.astype(np.int64), data.target_names
        )

    def split(self, data: Table, options: ClassifierOptions) -> Split[Table]:
        return cut(data, stratified_split(_indices(data), options))

    def targets(self, data: Table, options: ClassifierOptions) -> tuple[np.ndarray, tuple[str, ...]]:
        return _indices(data), data.labels

    def examples(self, data: Table, processor: Processor, options: ClassifierOptions) -> TabularExamples:
        examples = super().examples(data, processor, options)
        if options.class_weights == "none":
            return examples
        return replace(examples, weights=balanced_weights(examples.targets))

    def build(self, train: Examples, processor: Processor, options: ClassifierOptions) -> "keras.Model":
        import keras

        features, hidden = hidden_layers(train, processor, options)
        probabilities = keras.layers.Dense(len(train.labels), activation="softmax", name="probabilities")(hidden)
        model = keras.Model({"features": features}, probabilities)
        model.compile(optimizer(options, len(train)), "sparse_categorical_crossentropy", weighted_metrics=["accuracy"])
        return model

    def serving_model(
        self,
        model: "keras.Model",
        train: Examples,
        validation: Examples,
        processor: Processor,
        options: ClassifierOptions,
    ) -> ServingModel:
        import keras

        outputs = TensorSpec("probabilities", BY_NAME["float32"], (DYNAMIC, len(train.labels)))
        return ServingModel(
            keras.Model(model.input, {"probabilities": model.output}),
            signature(len(tabular(processor).columns), outputs),
            labels=train.labels,
        )

    def evaluate(self, outputs: Arrays, test: Examples, options: ClassifierOptions) -> dict[str, float]:
        return classification_metrics(outputs["probabilities"], test.targets, test.labels)

    def baseline(self, train: Examples, test: Examples, options: ClassifierOptions) -> Baseline:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        logistic = make_pipeline(baseline_features(columns_of(train)), LogisticRegression(max_iter=5000))
        logistic.fit(train.inputs["features"], train.targets)
        return classifier_baseline("logistic regression", logistic, test.inputs["features"], test)

    def figures(self, outputs: Arrays, test: Examples, serving: ServingModel, options: ClassifierOptions) -> list[Plot]:
        return [confusion_plot(outputs["probabilities"], test.targets, serving.labels)]


def _indices(data: Table) -> np.ndarray:
    if data.target is None:
        raise ValueError("a table of classes has a target")
    return data.target


PIPELINE = Classifier()
