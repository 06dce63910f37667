"""Classes of texts, whatever network reads the tokens: data, vocabulary, metrics, baseline and plots.

A family that classifies texts derives its pipeline from `TextClassifier` and says in `summarise` what it makes of tokens.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, cast

import numpy as np

from services.processing import Processor
from services.processing.text import PADDING_ID, UNKNOWN_ID, TextProcessor
from services.tensors import BY_NAME, DYNAMIC, Signature, TensorSpec
from training.datasets.text import Texts, docstrings, load_texts
from training.evaluation import classification_metrics, classifier_baseline, confidence_plot, confusion_plot
from training.optimization import GradientOptions, optimizer
from training.options import Bounds
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
    show_rows,
)
from training.splits import cut, stratified_split

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class TextOptions(GradientOptions):
    """Options of text classes."""

    length: Annotated[int, Bounds(1)] = 128
    """Texts: most tokens of one; what follows is not read."""
    vocabulary_size: Annotated[int, Bounds(3)] = 8000
    """Texts: most entries of the vocabulary, padding and unknown included; learnt from the training part."""
    lowercase: bool = True
    """Texts: read upper and lower case alike, and drop accents."""
    width: Annotated[int, Bounds(1)] = 64
    """Texts: numbers per token."""
    dropout: Annotated[float, Bounds(0, 1, open_high=True)] = 0.2
    """Share of activations dropped while training."""
    pooling: Literal["mean", "max"] = "mean"
    """Texts: how the tokens' vectors become one, padding left out."""
    text: str = ""
    """Texts: name of their column; '': the longest beside the labels."""
    encoding: str = "utf-8"
    """Texts: encoding of the data file."""


OptionsT = TypeVar("OptionsT", bound=TextOptions)


class TextClassifier(Pipeline[Texts, OptionsT]):
    """A network that makes a vector of each token, masked pooling, softmax. Padding changes no answer."""

    task = "text_classification"
    primary_metric = "accuracy"

    @abstractmethod
    def summarise(self, known: Any, mask: Any, vocabulary_size: int, options: OptionsT) -> Any:
        """What the network makes of token ids i32 `[B, L]`: f32 `[B, L, D]`.

        `mask` f32 `[B, L]` is 1 for a token and 0 for padding, which must change no token's vector.
        """

    def load(self, source: Source, options: OptionsT) -> Loaded[Texts]:
        if source.path is None:
            return docstrings()
        return load_texts(source.path, target=source.target, text=options.text, encoding=options.encoding)

    def split(self, data: Texts, options: OptionsT) -> Split[Texts]:
        return cut(data, stratified_split(data.targets, options))

    def fit_processor(self, train: Texts, options: OptionsT) -> Processor:
        return TextProcessor.fit(
            train.texts,
            vocabulary_size=options.vocabulary_size,
            max_length=options.length,
            lowercase=options.lowercase,
        )

    def examples(self, data: Texts, processor: Processor, options: OptionsT) -> Examples:
        return Examples(processor.encode(data.texts), data.targets, labels=data.labels)

    def build(self, train: Examples, processor: Processor, options: OptionsT) -> "keras.Model":
        import keras
        from keras import layers, ops

        from training.layers.text import KnownTokens, MaskedPooling

        vocabulary_size = cast("TextProcessor", processor).vocabulary_size
        tokens = keras.Input((None,), dtype="int32", name="tokens")
        known = KnownTokens(vocabulary_size, options.length, UNKNOWN_ID)(tokens)
        mask = ops.cast(ops.not_equal(known, PADDING_ID), "float32")
        state = self.summarise(known, mask, vocabulary_size, options)
        state = MaskedPooling(options.pooling)(state, mask)
        state = layers.Dropout(options.dropout, seed=options.seed + 1)(state)
        probabilities = layers.Dense(len(train.labels), activation="softmax")(state)
        model = keras.Model({"tokens": tokens}, probabilities, name=self.family)
        model.compile(
            optimizer=optimizer(options, len(train)),
            loss=keras.losses.SparseCategoricalCrossentropy(),
            metrics=["accuracy"],
        )
        return model

    def fit(
        self,
        model: "keras.Model",
        train: Examples,
        validation: Examples,
        options: OptionsT,
        callbacks: Sequence[Any],
        initial_epoch: int = 0,
    ) -> None:
        """Train on batches of texts of like length: nothing is computed for padding."""
        from training.batches import training_batches, validation_batches

        show_rows(callbacks, train)
        model.fit(
            training_batches(train, options.batch_size, options.seed, initial_epoch),
            validation_data=validation_batches(validation, options.batch_size),
            epochs=options.epochs,
            initial_epoch=initial_epoch,
            callbacks=list(callbacks),
            shuffle=False,  # the batches are
            verbose=0,
        )

    def serving_model(
        self, model: "keras.Model", train: Examples, validation: Examples, processor: Processor, options: OptionsT
    ) -> ServingModel:
        import keras

        signature = Signature(
            (TensorSpec("tokens", BY_NAME["int32"], (DYNAMIC, DYNAMIC)),),
            (TensorSpec("probabilities", BY_NAME["float32"], (DYNAMIC, len(train.labels))),),
        )
        served = keras.Model(model.input, {"probabilities": model.output}, name=self.family)
        return ServingModel(served, signature, train.labels)

    def evaluate(self, outputs: Arrays, test: Examples, options: OptionsT) -> dict[str, float]:
        return classification_metrics(outputs["probabilities"], test.targets, test.labels)

    def baseline(self, train: Examples, test: Examples, options: OptionsT) -> Baseline:
        from sklearn.feature_extraction.text import TfidfTransformer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        width = 1 + int(max(part.inputs["tokens"].max() for part in (train, test)))
        linear = make_pipeline(TfidfTransformer(sublinear_tf=True), LogisticRegression(C=10.0, max_iter=300))
        linear.fit(_counts(train.inputs["tokens"], width), train.targets)
        return classifier_baseline("TF-IDF, logistic regression", linear, _counts(test.inputs["tokens"], width), test)

    def figures(self, outputs: Arrays, test: Examples, serving: ServingModel, options: OptionsT) -> list[Plot]:
        probabilities = outputs["probabilities"]
        return [
            confusion_plot(probabilities, test.targets, test.labels),
            confidence_plot(probabilities, test.targets),
        ]


def _counts(tokens: np.ndarray, width: int) -> Any:
    """How often each id occurs in each row, padding left out: a sparse matrix `[rows, width]`."""
    from scipy.sparse import coo_array

    rows, places = np.nonzero(tokens != PADDING_ID)
    ones = np.ones(len(rows), np.float64)
    return coo_array((ones, (rows, tokens[rows, places])), shape=(len(tokens), width)).tocsr()
