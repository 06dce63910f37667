"""Text classes: a transformer encoder on token ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import numpy as np

from services.errors import InvalidArgument
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
)
from training.splits import cut, stratified_split

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Options(GradientOptions):
    """Options of the text classifier."""

    patience: Annotated[int, Bounds(1)] = 6
    """Epochs without a better validation loss before training stops; the best weights are kept."""
    blocks: Annotated[int, Bounds(1)] = 2
    """Encoder blocks, one on the other."""
    heads: Annotated[int, Bounds(1)] = 4
    """Attention heads of each block; a divisor of the width."""
    width: Annotated[int, Bounds(1)] = 64
    """Numbers per token."""
    feed_forward: Annotated[int, Bounds(1)] = 128
    """Units of each block's feed-forward layer."""
    length: Annotated[int, Bounds(1)] = 128
    """Most tokens of a text; what follows is not read."""
    vocabulary_size: Annotated[int, Bounds(3)] = 8000
    """Most entries of the vocabulary, padding and unknown included; learnt from the training part."""
    lowercase: bool = True
    """Read upper and lower case alike, and drop accents."""
    positions: Literal["sinusoidal", "learned"] = "sinusoidal"
    """How a token's place is told."""
    pooling: Literal["mean", "max"] = "mean"
    """How the tokens' vectors become one, padding left out."""
    dropout: Annotated[float, Bounds(0, 1, open_high=True)] = 0.2
    """Share of activations dropped while training."""
    text: str = ""
    """Name of the column of texts; '': the longest beside the labels."""
    encoding: str = "utf-8"
    """Encoding of the data file."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.heads:
            raise InvalidArgument(f"Expected heads to divide width. Received: heads={self.heads}, width={self.width}.")


class Transformer(Pipeline[Texts, Options]):
    """Embedding and positions, encoder blocks (attention, feed-forward, residual, layer norm), masked pooling, softmax."""

    family = "transformer"
    task = "text_classification"
    summary = "Transformer encoder with a softmax; default data: docstrings of installed packages"
    options = Options
    primary_metric = "accuracy"

    def load(self, source: Source, options: Options) -> Loaded[Texts]:
        if source.path is None:
            return docstrings()
        return load_texts(source.path, target=source.target, text=options.text, encoding=options.encoding)

    def split(self, data: Texts, options: Options) -> Split[Texts]:
        return cut(data, stratified_split(data.targets, options))

    def fit_processor(self, train: Texts, options: Options) -> Processor:
        return TextProcessor.fit(
            train.texts,
            vocabulary_size=options.vocabulary_size,
            max_length=options.length,
            lowercase=options.lowercase,
        )

    def examples(self, data: Texts, processor: Processor, options: Options) -> Examples:
        return Examples(processor.encode(data.texts), data.targets, labels=data.labels)

    def build(self, train: Examples, processor: Processor, options: Options) -> "keras.Model":
        import keras
        from keras import layers, ops

        from training.layers.text import KnownTokens, MaskedPooling, PositionalEncoding

        vocabulary_size = cast("TextProcessor", processor).vocabulary_size
        tokens = keras.Input((None,), dtype="int32", name="tokens")
        known = KnownTokens(vocabulary_size, options.length, UNKNOWN_ID)(tokens)
        mask = ops.cast(ops.not_equal(known, PADDING_ID), "float32")
        # The paper's scale: a token must not drown in its place's sines and cosines, which are up to 1.
        spread = keras.initializers.RandomNormal(stddev=options.width**-0.5, seed=options.seed)
        state = layers.Embedding(vocabulary_size, options.width, embeddings_initializer=spread)(known)
        state = layers.Rescaling(options.width**0.5)(state)
        state = PositionalEncoding(options.positions, options.length)(state)
        state = layers.Dropout(options.dropout, seed=options.seed)(state)
        for block in range(options.blocks):
            state = _encoder_block(state, mask, options, seed=options.seed + 10 * (block + 1))
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
        options: Options,
        callbacks: Sequence[Any],
        initial_epoch: int = 0,
    ) -> None:
        """Train on batches of texts of like length: nothing is computed for padding."""
        from training.batches import training_batches, validation_batches

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
        self, model: "keras.Model", train: Examples, validation: Examples, processor: Processor, options: Options
    ) -> ServingModel:
        import keras

        signature = Signature(
            (TensorSpec("tokens", BY_NAME["int32"], (DYNAMIC, DYNAMIC)),),
            (TensorSpec("probabilities", BY_NAME["float32"], (DYNAMIC, len(train.labels))),),
        )
        served = keras.Model(model.input, {"probabilities": model.output}, name=self.family)
        return ServingModel(served, signature, train.labels)

    def evaluate(self, outputs: Arrays, test: Examples, options: Options) -> dict[str, float]:
        return classification_metrics(outputs["probabilities"], test.targets, test.labels)

    def baseline(self, train: Examples, test: Examples, options: Options) -> Baseline:
        from sklearn.feature_extraction.text import TfidfTransformer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        width = 1 + int(max(part.inputs["tokens"].max() for part in (train, test)))
        linear = make_pipeline(TfidfTransformer(sublinear_tf=True), LogisticRegression(C=10.0, max_iter=300))
        linear.fit(_counts(train.inputs["tokens"], width), train.targets)
        return classifier_baseline("TF-IDF, logistic regression", linear, _counts(test.inputs["tokens"], width), test)

    def figures(self, outputs: Arrays, test: Examples, serving: ServingModel, options: Options) -> list[Plot]:
        probabilities = outputs["probabilities"]
        return [
            confusion_plot(probabilities, test.targets, test.labels),
            confidence_plot(probabilities, test.targets),
        ]


def _encoder_block(state: Any, mask: Any, options: Options, *, seed: int) -> Any:
    """Attention and feed-forward, each added to what came in and normalised after (the original order)."""
    from keras import layers

    from training.layers.text import MaskedSelfAttention

    attended = MaskedSelfAttention(options.heads, options.dropout, seed)(state, mask)
    attended = layers.Dropout(options.dropout, seed=seed + 1)(attended)
    state = layers.LayerNormalization(epsilon=1e-6)(layers.Add()([state, attended]))
    inner = layers.Dense(options.feed_forward, activation="relu")(state)
    inner = layers.Dropout(options.dropout, seed=seed + 2)(layers.Dense(options.width)(inner))
    return layers.LayerNormalization(epsilon=1e-6)(layers.Add()([state, inner]))


def _counts(tokens: np.ndarray, width: int) -> Any:
    """How often each id occurs in each row, padding left out: a sparse matrix `[rows, width]`."""
    from scipy.sparse import coo_array

    rows, places = np.nonzero(tokens != PADDING_ID)
    ones = np.ones(len(rows), np.float64)
    return coo_array((ones, (rows, tokens[rows, places])), shape=(len(tokens), width)).tocsr()


PIPELINE = Transformer()
