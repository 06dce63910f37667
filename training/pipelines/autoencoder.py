"""Whether a row of a table is out of the ordinary: an autoencoder that has seen normal rows alone."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np

from services.errors import DataError
from services.processing import Processor
from services.tensors import BY_NAME, DYNAMIC, TensorSpec
from training.datasets.tables import Table, bundled, load_table
from training.evaluation import new_figure
from training.optimization import optimizer
from training.options import Bounds
from training.pipeline import Arrays, Baseline, Examples, Loaded, Plot, ServingModel, Source, Split
from training.splits import cut, random_split, stratified_split
from training.tabular import (
    TabularOptions,
    TabularPipeline,
    baseline_features,
    columns_of,
    dense_stack,
    signature,
    tabular,
)

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class AutoencoderOptions(TabularOptions):
    """Options of the autoencoder."""

    epochs: Annotated[int, Bounds(1)] = 200
    """Most epochs to train; early stopping may end sooner."""
    patience: Annotated[int, Bounds(1)] = 20
    """Epochs without a better validation loss before training stops; the best weights are kept."""
    units: Annotated[tuple[int, ...], Bounds(1)] = (64,)
    """Width of each layer of the encoder; the decoder mirrors them."""
    bottleneck: Annotated[int, Bounds(1)] = 4
    """Width of the code that a row has to pass through."""
    quantile: Annotated[float, Bounds(0, 1, open_low=True)] = 0.95
    """Share of normal validation rows that lie below the threshold: 1 minus the false alarms to live with."""
    noise: Annotated[float, Bounds(0)] = 0.1
    """Denoising: standard deviation of the noise added to standardised inputs while training."""
    normal: str = ""
    """Class of the normal rows; left empty, the most frequent one."""


class Autoencoder(TabularPipeline[AutoencoderOptions]):
    """Scores a row by how badly it is reconstructed: the mean squared error in standardised units.

    Training and validation hold normal rows alone; the test part keeps both, so that detection can be measured. A table
    without a target is taken as normal throughout, and there is no detection to measure.
    """

    family: ClassVar[str] = "autoencoder"
    task: ClassVar[str] = "anomaly_detection"
    summary: ClassVar[str] = (
        "Autoencoder trained on normal rows, threshold from their validation error; "
        "default data: scikit-learn breast cancer, benign = normal"
    )
    options = AutoencoderOptions
    primary_metric: ClassVar[str] = "roc_auc"

    def load(self, source: Source, options: AutoencoderOptions) -> Loaded[Table]:
        loaded = _default() if source.path is None else load_table(source, "optional class", **options.reading)
        table = loaded.data
        if options.normal and options.normal not in table.labels:
            found = ", ".join(table.labels) or "no target"
            raise DataError(
                f"{loaded.name}: expected normal to be a class of the target. Received {options.normal!r}; found {found}."
            )
        return loaded

    def split(self, data: Table, options: AutoencoderOptions) -> Split[Table]:
        if data.target is None:
            return cut(data, random_split(len(data), options))
        normal = data.labels.index(options.normal) if options.normal else int(np.argmax(np.bincount(data.target)))
        anomalous = (data.target != normal).astype(np.int64)
        parts = stratified_split(anomalous, options)
        learnt = [rows[anomalous[rows] == 0] for rows in (parts.train, parts.validation)]
        if not all(len(rows) for rows in learnt):
            raise DataError(
                f"Expected normal rows for training and validation. Found {int((anomalous == 0).sum())} in all."
            )
        marked = Table(data.columns, anomalous, ("normal", "anomalous"))
        return Split(marked.take(learnt[0]), marked.take(learnt[1]), marked.take(parts.test))

    def targets(self, data: Table, options: AutoencoderOptions) -> tuple[np.ndarray, tuple[str, ...]]:
        return np.zeros(len(data), np.int64) if data.target is None else data.target, data.labels

    def build(self, train: Examples, processor: Processor, options: AutoencoderOptions) -> "keras.Model":
        """From features to the score `[B, 1]`; the layer `decoded` holds the reconstruction it is made from."""
        import keras

        from training.layers.tabular import TabularEncoding

        columns = tabular(processor).columns
        features = keras.Input((len(columns),), name="features")
        encoded = TabularEncoding(columns, train.inputs["features"])(features)
        noisy = keras.layers.GaussianNoise(options.noise)(encoded) if options.noise else encoded
        code = dense_stack(noisy, (*options.units, options.bottleneck), options)
        hidden = dense_stack(code, options.units[::-1], options)
        decoded = keras.layers.Dense(encoded.shape[1], name="decoded")(hidden)
        score = keras.ops.mean(keras.ops.square(decoded - encoded), axis=1, keepdims=True)
        model = keras.Model({"features": features}, score)
        model.compile(optimizer(options, len(train)), _score_itself)
        return model

    def to_learn(self, part: Examples, train: Examples, options: AutoencoderOptions) -> Examples:
        return replace(part, targets=np.zeros((len(part), 1), np.float32))

    def serving_model(
        self,
        model: "keras.Model",
        train: Examples,
        validation: Examples,
        processor: Processor,
        options: AutoencoderOptions,
    ) -> ServingModel:
        import keras

        from training.layers.tabular import TabularDecoding, Threshold

        columns = len(tabular(processor).columns)
        errors = model.predict(validation.inputs, batch_size=256, verbose=0)
        score = keras.layers.Reshape((), name="score")(model.output)
        reconstruction = TabularDecoding(model.get_layer("encoding"))(model.get_layer("decoded").output)
        outputs = {
            "reconstruction": reconstruction,
            "score": score,
            "is_anomaly": Threshold(float(np.quantile(errors, options.quantile)), name="is_anomaly")(score),
        }
        specs = (
            TensorSpec("reconstruction", BY_NAME["float32"], (DYNAMIC, columns)),
            TensorSpec("score", BY_NAME["float32"], (DYNAMIC,)),
            TensorSpec("is_anomaly", BY_NAME["bool"], (DYNAMIC,)),
        )
        return ServingModel(keras.Model(model.input, outputs), signature(columns, *specs))

    def evaluate(self, outputs: Arrays, test: Examples, options: AutoencoderOptions) -> dict[str, float]:
        return _detection(outputs["score"], outputs["is_anomaly"], test)

    def baseline(self, train: Examples, test: Examples, options: AutoencoderOptions) -> Baseline:
        """Principal components instead of a network, as many as the bottleneck is wide, and the same threshold rule."""
        from sklearn.decomposition import PCA

        encode = baseline_features(columns_of(train))
        learnt, held_out = encode.fit_transform(train.inputs["features"]), encode.transform(test.inputs["features"])
        components = PCA(min(options.bottleneck, *learnt.shape)).fit(learnt)
        errors, scores = (
            np.square(rows - components.inverse_transform(components.transform(rows))).mean(axis=1)
            for rows in (learnt, held_out)
        )
        flags = scores > np.quantile(errors, options.quantile)
        return Baseline("principal components", _detection(scores, flags, test))

    def figures(
        self, outputs: Arrays, test: Examples, serving: ServingModel, options: AutoencoderOptions
    ) -> list[Plot]:
        threshold = serving.model.get_layer("is_anomaly").threshold
        plots = [_score_plot(outputs["score"], test, threshold)]
        return [*plots, _roc_plot(outputs, test)] if len(np.unique(test.targets)) == 2 else plots


def _default() -> Loaded[Table]:
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    target = data.target.astype(np.int64)
    return bundled("scikit-learn breast cancer", data.data, data.feature_names, target, data.target_names)


def _score_itself(_: Any, score: Any) -> Any:
    """The loss of a model whose output is the loss: its mean is the mean squared error."""
    return score


def _detection(scores: np.ndarray, flags: np.ndarray, test: Examples) -> dict[str, float]:
    """How well scores rank anomalies above normal rows, and what the flags catch; without anomalies, what is flagged."""
    from sklearn.metrics import average_precision_score, precision_recall_fscore_support, roc_auc_score

    normal = test.targets == 0
    metrics = {
        "reconstruction_error": float(scores[normal].mean()) if normal.any() else float(scores.mean()),
        "false_alarm_rate": float(flags[normal].mean()) if normal.any() else 0.0,
    }
    if len(np.unique(test.targets)) < 2:
        return metrics
    precision, recall, f1, _ = precision_recall_fscore_support(test.targets, flags, average="binary", zero_division=0.0)
    return {
        "roc_auc": float(roc_auc_score(test.targets, scores)),
        "average_precision": float(average_precision_score(test.targets, scores)),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
        **metrics,
    }


def _score_plot(scores: np.ndarray, test: Examples, threshold: float) -> Plot:
    figure, axes = new_figure(width=5.6, height=4.6)
    logs = np.log10(np.maximum(scores, 1e-12))
    edges = np.linspace(logs.min(), logs.max() + 1e-9, 36)
    for index, label in enumerate(test.labels or ("all rows",)):
        axes.hist(logs[test.targets == index], bins=edges, alpha=0.65, label=label)
    axes.axvline(
        np.log10(threshold), color="#b3352f", linewidth=1.4, linestyle="--", label=f"threshold {threshold:.3g}"
    )
    axes.set_xlabel("score (mean squared error in standardised units), power of ten")
    axes.set_ylabel("held-out rows")
    axes.legend()
    return Plot("Scores", "Normal rows belong left of the threshold, anomalous ones right of it.", figure)


def _roc_plot(outputs: Arrays, test: Examples) -> Plot:
    from sklearn.metrics import roc_curve

    figure, axes = new_figure(width=5.6, height=4.6)
    false_alarms, caught, _ = roc_curve(test.targets, outputs["score"])
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--", label="chance")
    axes.plot(false_alarms, caught, label="model")
    flags = outputs["is_anomaly"]
    point = flags[test.targets == 0].mean(), flags[test.targets == 1].mean()
    axes.plot(*point, "o", color="#b3352f", label="at the threshold")
    axes.set_xlabel("share of normal rows flagged")
    axes.set_ylabel("share of anomalous rows caught")
    axes.legend(loc="lower right")
    return Plot("Receiver operating characteristic", "The higher and further left the curve, the better.", figure)


PIPELINE = Autoencoder()
