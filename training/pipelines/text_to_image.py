"""Text to image: a prompt read by a transformer encoder, drawn pixel by pixel with attention to its words."""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, cast

import numpy as np

from services.errors import InvalidArgument
from services.manifest import BatchingHints
from services.processing import Processor
from services.processing.prompt import HOTTEST, PromptProcessor
from services.processing.text import PADDING_ID, UNKNOWN_ID
from services.tensors import BY_NAME, DYNAMIC, Signature, TensorSpec
from training.evaluation import confusion_plot
from training.optimization import GradientOptions, ScheduleName, optimizer
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
    Trained,
)
from training.splits import cut, stratified_split
from training.text_image import plots
from training.text_image.drawings import LEVELS, PIXELS, SIDE, Drawings, load_drawings, to_levels
from training.text_image.exercises import Exercises, inverse_draw, make_exercises
from training.text_image.judge import judge_of, judged, pixel_model
from training.text_image.wording import KINDS, Wording

if TYPE_CHECKING:
    import keras

_BATCH_ROWS = 32
"""Rows per run: a pixel of 32 pictures takes little longer than of 8, and one run holds up the next for some 35 ms."""
_REQUESTS_AVERAGED = 300


@dataclass(frozen=True)
class Options(GradientOptions):
    """Options of the drawing model."""

    epochs: Annotated[int, Bounds(1)] = 12
    """Most epochs to train, each of which shows every picture under all of its wordings."""
    batch_size: Annotated[int, Bounds(1)] = 64
    """Rows per gradient step."""
    learning_rate: Annotated[float, Bounds(0, open_low=True), Search(5e-4, 1e-2, log=True)] = 3e-3
    """Step size, after the warm-up and before it falls."""
    schedule: ScheduleName = "cosine"
    """Learning rate over the epochs: constant, falling to 0 along a cosine, falling in steps, or when validation stays."""
    warmup_epochs: Annotated[float, Bounds(0)] = 0.5
    """Epochs, or a part of one, over which the learning rate first rises from near 0; the schedule begins after them."""
    clip_global_norm: Annotated[float | None, Bounds(0, open_low=True)] = 1.0
    """Longest gradient of all weights together; a longer one is scaled down."""
    patience: Annotated[int, Bounds(1)] = 4
    """Epochs without a better validation loss before training stops; the best weights are kept."""
    width: Annotated[int, Bounds(1)] = 64
    """Numbers per word and per pixel."""
    heads: Annotated[int, Bounds(1)] = 4
    """Attention heads of each block; a divisor of the width."""
    text_blocks: Annotated[int, Bounds(1)] = 1
    """Encoder blocks over the prompt's words."""
    blocks: Annotated[int, Bounds(1), Search(1, 3)] = 2
    """Decoder blocks over the pixels."""
    feed_forward: Annotated[int, Bounds(1)] = 128
    """Units of each block's feed-forward layer."""
    dropout: Annotated[float, Bounds(0, 1, open_high=True), Search(0, 0.3)] = 0.1
    """Share of activations dropped while training."""
    wordings: Annotated[int, Bounds(1)] = 8
    """Prompts per training picture; each is a row of its own."""
    length: Annotated[int, Bounds(1)] = 16
    """Most words of a prompt; what follows is not read."""
    temperature: Annotated[float, Bounds(0, HOTTEST)] = 1.0
    """How freely the held-out prompts are drawn, and those that do not say; 0 draws the most probable level of each pixel."""
    judge_epochs: Annotated[int, Bounds(1)] = 30
    """Epochs of the classifier that judges the samples: the cnn family's, on the same training pictures."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.heads:
            raise InvalidArgument(f"Expected heads to divide width. Received: heads={self.heads}, width={self.width}.")


class TextToImage(Pipeline[Drawings, Options]):
    """Encoder (self-attention) over the words; decoder (causal self-attention, cross-attention to them) over 8 x 8 pixels.

    The loop over the pixels is in the graph that is served, and shares its weights with the one that is trained.
    """

    family = "text_to_image"
    task = "text_to_image"
    summary = "Transformer that draws 8 x 8 pictures from a prompt; default data: scikit-learn digits"
    options = Options
    primary_metric = "asked_accuracy"

    def load(self, source: Source, options: Options) -> Loaded[Drawings]:
        return load_drawings(source.path)

    def split(self, data: Drawings, options: Options) -> Split[Drawings]:
        parts = cut(data, stratified_split(data.targets, options))
        validation, test = (replace(part, reference=parts.train) for part in (parts.validation, parts.test))
        return Split(parts.train, validation, test)

    def fit_processor(self, train: Drawings, options: Options) -> Processor:
        sentences = Wording(train.labels).sentences()
        return PromptProcessor.fit(sentences, noise=PIXELS, temperature=options.temperature, max_length=options.length)

    def examples(self, data: Drawings, processor: Processor, options: Options) -> Examples:
        return make_exercises(
            data,
            cast("PromptProcessor", processor),
            wordings=options.wordings if data.reference is None else 1,
            temperature=options.temperature,
            seed=options.seed,
        )

    def build(self, train: Examples, processor: Processor, options: Options) -> "keras.Model":
        import keras

        from training.layers.pixels import PixelDecoder

        encoder = _encoder(cast("PromptProcessor", processor).text.vocabulary_size, options)
        decoder = PixelDecoder(
            SIDE,
            LEVELS,
            options.blocks,
            options.heads,
            options.feed_forward,
            options.dropout,
            options.seed + 100,
            name="decoder",
        )
        tokens = keras.Input((None,), dtype="int32", name="tokens")
        levels = keras.Input((PIXELS,), dtype="uint8", name="levels")
        logits = decoder(levels, *encoder({"tokens": tokens}))
        model = keras.Model({"tokens": tokens, "levels": levels}, logits, name=self.family)
        model.compile(
            optimizer=optimizer(options, len(train)),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        return model

    def serving_model(
        self, model: "keras.Model", train: Examples, validation: Examples, processor: Processor, options: Options
    ) -> ServingModel:
        import keras

        from training.layers.pixels import Draw

        inputs = {
            "tokens": keras.Input((None,), dtype="int32", name="tokens"),
            "noise": keras.Input((PIXELS,), dtype="float32", name="noise"),
            "temperature": keras.Input((), dtype="float32", name="temperature"),
        }
        words, mask = model.get_layer("encoder")({"tokens": inputs["tokens"]})
        draw = Draw(model.get_layer("decoder"), name="draw")
        served = keras.Model(
            inputs, {"image": draw(words, mask, inputs["noise"], inputs["temperature"])}, name=self.family
        )
        signature = Signature(
            (
                TensorSpec("tokens", BY_NAME["int32"], (DYNAMIC, DYNAMIC)),
                TensorSpec("noise", BY_NAME["float32"], (DYNAMIC, PIXELS)),
                TensorSpec("temperature", BY_NAME["float32"], (DYNAMIC,)),
            ),
            (TensorSpec("image", BY_NAME["uint8"], (DYNAMIC, SIDE, SIDE)),),
        )
        return ServingModel(served, signature, train.labels, BatchingHints(max_batch_rows=_BATCH_ROWS))

    def evaluate(self, outputs: Arrays, test: Examples, options: Options) -> dict[str, float]:
        exercises = cast("Exercises", test)
        return judged(to_levels(outputs["image"]), exercises, _judge(exercises, options))

    def examine(self, trained: Trained, test: Examples, options: Options) -> dict[str, float]:
        nats = trained.model.evaluate(test.inputs, test.targets, batch_size=256, verbose=0)
        return {"bits_per_pixel": float(nats) / math.log(2)}

    def baseline(self, train: Examples, test: Examples, options: Options) -> Baseline:
        exercises = cast("Exercises", test)
        model = pixel_model(exercises.drawings.learnt_from())
        levels = inverse_draw(model[exercises.asked], exercises.serving_inputs["noise"]).reshape(-1, SIDE, SIDE)
        real = exercises.drawings
        chances = np.take_along_axis(model[real.targets], real.levels.reshape(-1, PIXELS, 1).astype(np.int64), axis=-1)
        metrics = judged(levels, exercises, _judge(exercises, options))
        return Baseline("pixels independent", {**metrics, "bits_per_pixel": float(-np.log2(chances).mean())})

    def figures(self, outputs: Arrays, test: Examples, serving: ServingModel, options: Options) -> list[Plot]:
        exercises, levels = cast("Exercises", test), to_levels(outputs["image"])
        shown = _one_of_each(exercises)
        averaged = range(min(_REQUESTS_AVERAGED, len(levels)))
        return [
            plots.sample_plot(levels, exercises),
            plots.attention_plot(shown, _attention(serving, exercises, levels, shown), levels, exercises),
            plots.attention_share_plot(averaged, _attention(serving, exercises, levels, averaged), exercises),
            plots.ink_plot(levels, exercises),
            plots.pairs_plot(levels, exercises),
            plots.variety_plot(levels, exercises),
            confusion_plot(_judge(exercises, options)(levels), exercises.asked, exercises.labels),
        ]


def _encoder(vocabulary_size: int, options: Options) -> "keras.Model":
    """Tokens i32 `[B, L]` to words f32 `[B, 1 + L, width]`, the first of them no word, and their mask f32 `[B, 1 + L]`."""
    import keras
    from keras import layers, ops

    from training.layers.pixels import Anchor
    from training.layers.text import KnownTokens, PositionalEncoding, encoder_block

    tokens = keras.Input((None,), dtype="int32", name="tokens")
    known = KnownTokens(vocabulary_size, options.length, UNKNOWN_ID)(tokens)
    mask = ops.cast(ops.not_equal(known, PADDING_ID), "float32")
    # The paper's scale, as in the transformer family: a word must not drown in its place's sines and cosines.
    spread = keras.initializers.RandomNormal(stddev=options.width**-0.5, seed=options.seed)
    words = layers.Embedding(vocabulary_size, options.width, embeddings_initializer=spread)(known)
    words = layers.Rescaling(options.width**0.5)(words)
    words = PositionalEncoding("sinusoidal", options.length)(words)
    words, mask = Anchor()(words, mask)
    words = layers.Dropout(options.dropout, seed=options.seed)(words)
    for block in range(options.text_blocks):
        words = encoder_block(
            words,
            mask,
            heads=options.heads,
            feed_forward=options.feed_forward,
            dropout=options.dropout,
            seed=options.seed + 10 * (block + 1),
        )
    return keras.Model({"tokens": tokens}, [words, mask], name="encoder")


def _judge(test: Exercises, options: Options) -> Any:
    return judge_of(test.drawings.learnt_from(), options.judge_epochs, options.seed)


def _one_of_each(test: Exercises) -> list[int]:
    """Requests to look into: with and without a trait, in each kind of wording, of different classes."""
    shown: list[int] = []
    for kind in KINDS:
        for named in (True, False):
            seen = {test.requests[row].target for row in shown}
            fitting = (
                row
                for row, request in enumerate(test.requests)
                if (request.kind, bool(request.traits)) == (kind, named) and request.target not in seen
            )
            shown += [row for row in (next(fitting, None),) if row is not None]
    return shown


def _attention(serving: ServingModel, test: Exercises, levels: np.ndarray, rows: Any) -> np.ndarray:
    """How much each pixel of these requests' pictures looked at each word: f32 `[rows, 64, 1 + L]`."""
    picked = np.array(list(rows))
    words, mask = serving.model.get_layer("encoder")({"tokens": test.serving_inputs["tokens"][picked]})
    decoder = serving.model.get_layer("draw").decoder
    return np.asarray(decoder.attention(levels[picked].reshape(-1, PIXELS), words, mask))


PIPELINE = TextToImage()
