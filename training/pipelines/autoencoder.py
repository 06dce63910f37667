"""Whether a row of a table, or a picture, is out of the ordinary: a denoising autoencoder that has seen normal ones alone."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from services.processing import Processor
from services.processing.tabular import TabularProcessor
from services.tensors import BY_NAME, DYNAMIC, Signature, TensorSpec, dtype_of
from training.anomaly.figures import code_map, detection, roc_plot, score_plot, threshold_plot
from training.anomaly.options import AutoencoderOptions
from training.anomaly.pictures import PICTURES
from training.anomaly.restoration import damaged, in_batches, restoration_error, restorer
from training.anomaly.rows import KINDS, AnomalyExamples, Rows, anomaly_examples, mark, split_rows
from training.anomaly.subject import BATCH_ROWS, Subject, subject_of
from training.anomaly.tables import TABLES
from training.anomaly.thresholds import choose_threshold
from training.datasets.images import holds_images
from training.fitting import fit_in_memory
from training.optimization import answer_itself, optimizer
from training.pipeline import (
    Arrays,
    Baseline,
    Endpoint,
    Examples,
    Loaded,
    Pipeline,
    Plot,
    ServingModel,
    Source,
    Split,
    Trained,
)

if TYPE_CHECKING:
    import keras

ENCODE = "encode"
"""The signature that gives the code of a row, for search and for models of its own."""

_BASELINE_BYTES = 256 * 2**20
"""Encoded training rows that the baseline is fitted to, at most."""


class Autoencoder(Pipeline[Rows, AutoencoderOptions]):
    """Scores a row by how badly it is reconstructed: the mean squared error in standardised units, or of pixels in 0..1.

    It learns from normal rows alone. Validation and test part keep both kinds: the one so that a threshold can be chosen by
    any rule, the other so that detection can be measured. Without classes all rows are taken as normal, and there is no
    detection to measure.
    """

    family = "autoencoder"
    task = "anomaly_detection"
    summary = (
        "Denoising autoencoder of table rows or pictures, trained on normal ones, threshold from validation scores; "
        "default data: scikit-learn breast cancer, benign = normal"
    )
    options = AutoencoderOptions
    primary_metric = "roc_auc"

    def load(self, source: Source, options: AutoencoderOptions) -> Loaded[Rows]:
        subject: Subject[Any] = TABLES
        if options.input == "pictures" or (options.input == "auto" and source.path and holds_images(source.path)):
            subject = PICTURES
        loaded = subject.load(source, options)
        return Loaded(mark(loaded.name, loaded.data, options), loaded.name, loaded.sha256)

    def split(self, data: Rows, options: AutoencoderOptions) -> Split[Rows]:
        return split_rows(data, options)

    def fit_processor(self, train: Rows, options: AutoencoderOptions) -> Processor:
        return subject_of(train).fit_processor(train.content, options)

    def examples(self, data: Rows, processor: Processor, options: AutoencoderOptions) -> AnomalyExamples:
        subject = subject_of(data)
        known = data.anomalous is not None
        targets = np.zeros(len(data), np.int64) if data.anomalous is None else data.anomalous.astype(np.int64)
        classes, class_labels = data.classes or (None, ())
        return AnomalyExamples(
            {subject.tensor: subject.encode(data.content, processor)},
            targets,
            labels=KINDS if known else (),
            columns=processor.columns if isinstance(processor, TabularProcessor) else (),
            classes=classes,
            class_labels=class_labels,
            aside=subject.encode(data.aside.content, processor) if data.aside else None,
        )

    def build(self, train: Examples, processor: Processor, options: AutoencoderOptions) -> "keras.Model":
        """From raw rows to the score `[B, 1]`, by the layers `encoding`, `corruption`, `encoder` and `decoder`."""
        import keras

        examples = anomaly_examples(train)
        subject = subject_of(examples)
        encoding = subject.encoding(examples.rows, examples.columns)
        raw = _input(subject, examples.rows)
        clean = noisy = encoding(raw)
        if options.denoising:
            noisy = encoding(subject.corruption(encoding, options, seed=options.seed)(raw))
        encoder, decoder = subject.network(clean.shape[1:], options)
        score = _score(decoder(encoder(noisy)), clean)
        model = keras.Model({subject.tensor: raw}, keras.layers.Reshape((1,))(score))
        model.compile(optimizer(options, len(train)), answer_itself)
        return model

    def to_learn(self, part: Examples, train: Examples, options: AutoencoderOptions) -> Examples:
        """The normal rows, or all; the loss is the model's answer. Early stopping watches rows like those learnt from."""
        learnt = np.ones(len(part), bool) if options.learn == "all" else part.targets == 0
        inputs = {name: rows[learnt] for name, rows in part.inputs.items()}
        return replace(part, inputs=inputs, targets=np.zeros((learnt.sum(), 1), np.float32))

    def serving_model(
        self,
        model: "keras.Model",
        train: Examples,
        validation: Examples,
        processor: Processor,
        options: AutoencoderOptions,
    ) -> ServingModel:
        import keras

        from training.layers.tabular import Threshold

        rows = anomaly_examples(validation)
        subject = subject_of(rows)
        scores = model.predict(rows.inputs, batch_size=BATCH_ROWS, verbose=0)[:, 0]
        chosen = choose_threshold(scores, rows.anomalous, options)
        encoding = model.get_layer("encoding")
        raw = _input(subject, rows.rows)
        encoded = encoding(raw)
        code = model.get_layer("encoder")(encoded)
        decoded = model.get_layer("decoder")(code)
        score = keras.layers.Reshape((), name="score")(_score(decoded, encoded))
        outputs = {
            "reconstruction": subject.decoding(encoding)(decoded),
            "score": score,
            "is_anomaly": Threshold(chosen.value, name="is_anomaly")(score),
        }
        row = rows.rows.shape[1:]
        taken = (TensorSpec(subject.tensor, dtype_of(rows.rows), (DYNAMIC, *row)),)
        given = (
            TensorSpec("reconstruction", BY_NAME["float32"], (DYNAMIC, *row)),
            TensorSpec("score", BY_NAME["float32"], (DYNAMIC,)),
            TensorSpec("is_anomaly", BY_NAME["bool"], (DYNAMIC,)),
        )
        embedding = TensorSpec("embedding", BY_NAME["float32"], (DYNAMIC, subject.width(options)))
        encode = Endpoint(keras.Model({subject.tensor: raw}, {"embedding": code}), Signature(taken, (embedding,)))
        return ServingModel(
            keras.Model({subject.tensor: raw}, outputs),
            Signature(taken, given),
            further={ENCODE: encode},
            notes={"threshold": chosen.value, "threshold_rule": chosen.rule},
        )

    def evaluate(self, outputs: Arrays, test: Examples, options: AutoencoderOptions) -> dict[str, float]:
        return detection(outputs["score"], outputs["is_anomaly"], anomaly_examples(test))

    def examine(self, trained: Trained, test: Examples, options: AutoencoderOptions) -> dict[str, float]:
        """How far damaged normal rows are from clean ones: as they are, restored, and restored by a plain twin."""
        if not options.denoising:
            return {}
        subject, clean = subject_of(anomaly_examples(test)), anomaly_examples(test).normal_rows
        encoding = trained.serving.model.get_layer("encoding")
        noisy = damaged(subject, encoding, clean, options)

        def left_alone(rows: np.ndarray) -> np.ndarray:
            """What the network is given: a cell that is missing counts as its column's mean."""
            return in_batches(lambda batch: subject.decoding(encoding)(encoding(batch)), rows)

        errors = {
            "restoration_error": restoration_error(subject, encoding, restorer(trained.serving), clean, noisy),
            "unrestored_error": restoration_error(subject, encoding, left_alone, clean, noisy),
        }
        if options.plain_twin:
            twin = self._plain_twin(trained, options)
            errors["plain_restoration_error"] = restoration_error(subject, encoding, restorer(twin), clean, noisy)
        return errors

    def baseline(self, train: Examples, test: Examples, options: AutoencoderOptions) -> Baseline:
        """Principal components instead of a network, as many as the bottleneck is wide, and the same threshold rule.

        The rule is asked about the training rows, those put aside included: there is no validation part for a baseline.
        """
        from sklearn.decomposition import PCA

        learnt, held_out = anomaly_examples(train), anomaly_examples(test)
        subject = subject_of(learnt)
        encoding = subject.encoding(learnt.rows, learnt.columns)
        most = max(2, _BASELINE_BYTES // (4 * learnt.rows[0].size))
        encoded = in_batches(encoding, learnt.rows[:most])
        shape = encoded.shape[1:]
        encoded = encoded.reshape(len(encoded), -1)
        width = min(subject.width(options), *encoded.shape)
        components = PCA(width, svd_solver="auto", random_state=options.seed).fit(encoded)

        def rebuilt(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            seen = np.asarray(encoding(rows)).reshape(len(rows), -1)
            decoded = components.inverse_transform(components.transform(seen)).astype(np.float32)
            return decoded.reshape(-1, *shape), np.square(decoded - seen).mean(axis=1)

        aside = learnt.rows[:0] if learnt.aside is None else learnt.aside
        scores = in_batches(lambda batch: rebuilt(batch)[1], np.concatenate([learnt.rows, aside]))
        anomalous = None if learnt.anomalous is None else np.append(learnt.anomalous, np.ones(len(aside), bool))
        threshold = choose_threshold(scores, anomalous, options).value
        tested = in_batches(lambda batch: rebuilt(batch)[1], held_out.rows)
        metrics = detection(tested, tested > threshold, held_out)
        if options.denoising:
            decoding = subject.decoding(encoding)
            clean = held_out.normal_rows

            def restore(rows: np.ndarray) -> np.ndarray:
                return in_batches(lambda batch: decoding(rebuilt(batch)[0]), rows)

            noisy = damaged(subject, encoding, clean, options)
            metrics["restoration_error"] = restoration_error(subject, encoding, restore, clean, noisy)
        return Baseline("principal components", metrics)

    def figures(
        self, outputs: Arrays, test: Examples, serving: ServingModel, options: AutoencoderOptions
    ) -> list[Plot]:
        rows = anomaly_examples(test)
        subject = subject_of(rows)
        encoding, encode = serving.model.get_layer("encoding"), serving.further[ENCODE].model
        threshold, rule = float(serving.notes["threshold"]), str(serving.notes["threshold_rule"])
        plots = [score_plot(outputs["score"], rows, threshold, rule, subject.units)]
        if len(np.unique(rows.targets)) == 2:
            plots += [roc_plot(outputs, rows), threshold_plot(outputs["score"], rows, threshold)]
        codes = in_batches(lambda batch: encode({subject.tensor: batch}, training=False)["embedding"], rows.rows)
        plots.append(code_map(codes, rows))
        if options.denoising:
            noisy = damaged(subject, encoding, rows.normal_rows, options)
            plots.append(subject.restoration_plot(encoding, rows, noisy, restorer(serving)(noisy)))
        return plots

    def _plain_twin(self, trained: Trained, options: AutoencoderOptions) -> ServingModel:
        """The same network, seed and epochs without damaged rows."""
        import keras

        plain = replace(options, noise=0.0, masking=0.0, salt_and_pepper=0.0)
        keras.utils.set_random_seed(options.seed)
        model = self.build(trained.train, trained.processor, plain)
        fit_in_memory(self, model, trained.train, trained.validation, plain)
        return self.serving_model(model, trained.train, trained.validation, trained.processor, plain)


def _input(subject: Subject[Any], rows: np.ndarray) -> Any:
    import keras

    return keras.Input(rows.shape[1:], dtype=rows.dtype.name, name=subject.tensor)


def _score(decoded: Any, encoded: Any) -> Any:
    """Mean squared difference per row: f32 `[B]`."""
    import keras

    return keras.ops.mean(keras.ops.square(decoded - encoded), axis=tuple(range(1, len(encoded.shape))))


PIPELINE = Autoencoder()
