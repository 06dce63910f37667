"""A recurrent network: forecasts of a series from a window, or classes of texts from token ids."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from training.forecasting import Forecaster, ForecastOptions
from training.optimization import SCHEDULES, ScheduleName
from training.options import Bounds, Search
from training.pipeline import Pipeline
from training.tasks import check_task
from training.text_classes import TextClassifier, TextOptions

_LONGEST_UNROLLED = 64


@dataclass(frozen=True)
class Options(TextOptions, ForecastOptions):
    """Options of the recurrent network, for both of its tasks."""

    task: Literal["forecasting", "text_classification"] = "forecasting"
    """What is learnt: forecasts of a series, or classes of texts."""
    schedule: Annotated[ScheduleName, SCHEDULES] = "plateau"
    """Learning rate over the epochs: constant, falling to 0 along a cosine, falling in steps, or when validation stays."""
    cell: Literal["lstm", "gru", "simple_rnn"] = "lstm"
    """Recurrent cell."""
    layers: Annotated[int, Bounds(1), Search(1, 3)] = 1
    """Recurrent layers, one on the other."""
    units: Annotated[int, Bounds(1), Search(8, 128, log=True)] = 32
    """Units of each recurrent layer, per direction."""
    bidirectional: bool = False
    """Read from both ends; the units of a layer are then twice as many."""
    dropout: Annotated[float, Bounds(0, 1, open_high=True), Search(0, 0.5)] = 0.2
    """Share of activations dropped after each recurrent layer while training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_task(self, {"forecasting": ForecastOptions, "text_classification": TextOptions})


class Lstm(Forecaster[Options]):
    """Recurrent layers and one dense layer per window."""

    family = "lstm"
    summary = "Recurrent layers: forecasts, or text classes by --task text_classification; default data: sunspots"
    options = Options

    def chosen(self, options: Options) -> Pipeline[Any, Options]:
        return TEXT_CLASSIFIER if options.task == "text_classification" else self

    def summarise(self, scaled: Any, options: Options) -> Any:
        """What a layer that reads from both ends has come to at either end."""
        from keras import layers, ops

        state = scaled
        for index in range(options.layers):
            last = index == options.layers - 1
            read = _layer(options, return_sequences=not last, steps=options.window)(state)
            if options.bidirectional:
                back = _layer(options, return_sequences=not last, steps=options.window)(ops.flip(state, axis=1))
                read = layers.Concatenate()([read, back if last else ops.flip(back, axis=1)])
            state = layers.Dropout(options.dropout, seed=options.seed + index)(read)
        return state


class LstmTexts(TextClassifier[Options]):
    """Embedding and recurrent layers. Padding comes last and is read last, in either direction: no token hears of it."""

    family = Lstm.family
    summary = Lstm.summary
    options = Options

    def summarise(self, known: Any, mask: Any, vocabulary_size: int, options: Options) -> Any:
        from keras import layers

        from training.layers.text import ReversedTokens

        state = layers.Embedding(vocabulary_size, options.width)(known)
        for index in range(options.layers):
            read = _layer(options, return_sequences=True)(state)
            if options.bidirectional:
                back = _layer(options, return_sequences=True)(ReversedTokens()(state, mask))
                read = layers.Concatenate()([read, ReversedTokens()(back, mask)])
            state = layers.Dropout(options.dropout, seed=options.seed + index)(read)
        return state


def _layer(options: Options, *, return_sequences: bool, steps: int | None = None) -> Any:
    """A recurrent layer that ONNX Runtime runs fast: one fused operation, or for the simple cell of few steps no loop."""
    from keras import layers

    if options.cell == "lstm":
        return layers.LSTM(options.units, return_sequences=return_sequences)
    if options.cell == "gru":
        from training.layers.recurrent import FusedGRU

        return FusedGRU(options.units, return_sequences=return_sequences)
    unroll = steps is not None and steps <= _LONGEST_UNROLLED
    return layers.SimpleRNN(options.units, return_sequences=return_sequences, unroll=unroll)


PIPELINE = Lstm()
TEXT_CLASSIFIER = LstmTexts()
