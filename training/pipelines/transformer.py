"""A transformer encoder: classes of texts from token ids, or forecasts of a series from a window."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from services.errors import InvalidArgument
from training.forecasting import Forecaster, ForecastOptions
from training.options import Bounds, Search
from training.pipeline import Pipeline
from training.tasks import check_task
from training.text_classes import TextClassifier, TextOptions


@dataclass(frozen=True)
class Options(ForecastOptions, TextOptions):
    """Options of the transformer, for both of its tasks."""

    task: Literal["text_classification", "forecasting"] = "text_classification"
    """What is learnt: classes of texts, or forecasts of a series."""
    patience: Annotated[int, Bounds(1)] = 6
    """Epochs without a better validation loss before training stops; the best weights are kept."""
    blocks: Annotated[int, Bounds(1), Search(1, 3)] = 2
    """Encoder blocks, one on the other."""
    heads: Annotated[int, Bounds(1)] = 4
    """Attention heads of each block; a divisor of the width."""
    width: Annotated[int, Bounds(1)] = 64
    """Numbers per token, or per row of a window."""
    dropout: Annotated[float, Bounds(0, 1, open_high=True), Search(0, 0.5)] = 0.2
    """Share of activations dropped while training."""
    feed_forward: Annotated[int, Bounds(1), Search(32, 256, log=True)] = 128
    """Units of each block's feed-forward layer."""
    positions: Literal["sinusoidal", "learned"] = "sinusoidal"
    """How a place in the sequence is told."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.heads:
            raise InvalidArgument(f"Expected heads to divide width. Received: heads={self.heads}, width={self.width}.")
        check_task(self, {"forecasting": ForecastOptions, "text_classification": TextOptions})


class Transformer(TextClassifier[Options]):
    """Embedding and positions, encoder blocks (attention, feed-forward, residual, layer norm), masked pooling, softmax."""

    family = "transformer"
    summary = (
        "Transformer encoder: text classes, or forecasts by --task forecasting; default data: docstrings of packages"
    )
    options = Options

    def chosen(self, options: Options) -> Pipeline[Any, Options]:
        return FORECASTER if options.task == "forecasting" else self

    def summarise(self, known: Any, mask: Any, vocabulary_size: int, options: Options) -> Any:
        import keras
        from keras import layers

        # The paper's scale: a token must not drown in its place's sines and cosines, which are up to 1.
        spread = keras.initializers.RandomNormal(stddev=options.width**-0.5, seed=options.seed)
        state = layers.Embedding(vocabulary_size, options.width, embeddings_initializer=spread)(known)
        state = layers.Rescaling(options.width**0.5)(state)
        return _encoder(state, mask, options.length, options)


class TransformerForecaster(Forecaster[Options]):
    """A row of the window is a token: a linear map and its position, encoder blocks, and what the last row came to."""

    family = Transformer.family
    summary = Transformer.summary
    options = Options

    def summarise(self, scaled: Any, options: Options) -> Any:
        from keras import layers, ops

        state = layers.Dense(options.width)(scaled)
        mask = ops.ones_like(scaled[:, :, 0])
        return _encoder(state, mask, options.window, options)[:, -1]


def _encoder(state: Any, mask: Any, most_places: int, options: Options) -> Any:
    """Positions and encoder blocks on vectors f32 `[B, L, width]`; `mask` is 0 where there is padding."""
    from keras import layers

    from training.layers.text import PositionalEncoding, encoder_block

    state = PositionalEncoding(options.positions, most_places)(state)
    state = layers.Dropout(options.dropout, seed=options.seed)(state)
    for block in range(options.blocks):
        state = encoder_block(
            state,
            mask,
            heads=options.heads,
            feed_forward=options.feed_forward,
            dropout=options.dropout,
            seed=options.seed + 10 * (block + 1),
        )
    return state


PIPELINE = Transformer()
FORECASTER = TransformerForecaster()
