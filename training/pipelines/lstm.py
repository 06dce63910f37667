"""Forecasts of a series: a recurrent network from a window of the past to the steps that follow."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import numpy as np

from services.errors import InvalidArgument
from services.processing import Processor
from services.processing.series import SeriesProcessor
from services.tensors import BY_NAME, DYNAMIC, Signature, TensorSpec
from training.datasets.series import Series, load_series, sunspots, windows
from training.evaluation import new_figure, regression_metrics, rmse
from training.optimization import GradientOptions, ScheduleName, optimizer
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
from training.splits import time_split

if TYPE_CHECKING:
    import keras

_LONGEST_UNROLLED = 64
_STEPS_SHOWN = 400


@dataclass(frozen=True)
class Options(GradientOptions):
    """Options of the forecaster."""

    schedule: ScheduleName = "plateau"
    """Learning rate over the epochs: constant, falling to 0 along a cosine, falling in steps, or when validation stays."""
    cell: Literal["lstm", "gru", "simple_rnn"] = "lstm"
    """Recurrent cell."""
    window: Annotated[int, Bounds(1)] = 28
    """Rows of the past the model sees."""
    horizon: Annotated[int, Bounds(1)] = 7
    """Rows ahead it forecasts, all at once."""
    layers: Annotated[int, Bounds(1)] = 1
    """Recurrent layers, one on the other."""
    units: Annotated[int, Bounds(1)] = 32
    """Units of each recurrent layer."""
    dropout: Annotated[float, Bounds(0, 1, open_high=True)] = 0.2
    """Share of activations dropped after each recurrent layer while training."""
    shortcut: Literal["none", "last", "linear"] = "linear"
    """What the network's output is added to: nothing, the last value, or the last value and a linear map of the window."""
    season: Annotated[int, Bounds(0)] = 0
    """Rows in a season; above 0, the baseline repeats the season before instead of the last value."""
    time: str = ""
    """Name of the time column; '': the first."""
    columns: tuple[str, ...] = ()
    """Names of the channels; none: every column but the time. The first is forecast, unless --target names another."""
    missing: Literal["error", "forward_fill"] = "error"
    """What to do with a missing value: refuse it, or repeat the last known one."""
    gaps: Literal["cut", "bridge", "error"] = "cut"
    """What to do where rows are missing: no window reaches over the gap, rows count as equally spaced, or refuse."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.season > self.window:
            raise InvalidArgument(
                f"Expected a season within the window of {self.window} rows. Received: season={self.season}."
            )


@dataclass(frozen=True)
class SeriesExamples(Examples):
    """Windows and what follows them, with the forecast column's index and name, and the times `[rows, H]` that follow."""

    column: int = 0
    name: str = ""
    times: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))


class Lstm(Pipeline[Series, Options]):
    """Recurrent layers and one dense layer per window. Raw units on both sides: the scaling is in the graph.

    The three parts follow each other in time. What is forecast lies in the part it is counted for; the window before it may
    reach back into the part before, as it does in use.
    """

    family = "lstm"
    task = "forecasting"
    summary = "Recurrent layers, several steps ahead; default data: statsmodels sunspots"
    options = Options
    primary_metric = "rmse"

    def load(self, source: Source, options: Options) -> Loaded[Series]:
        if source.path is None:
            return sunspots()
        return load_series(
            source.path,
            target=source.target,
            time=options.time,
            columns=options.columns,
            missing=options.missing,
            gaps=options.gaps,
        )

    def split(self, data: Series, options: Options) -> Split[Series]:
        validation, test = time_split(len(data), options)
        return Split(
            data.part(0, validation, 0),
            data.part(validation, test, options.window),
            data.part(test, len(data), options.window),
        )

    def fit_processor(self, train: Series, options: Options) -> Processor:
        return SeriesProcessor.fit(train.columns, options.window)

    def examples(self, data: Series, processor: Processor, options: Options) -> Examples:
        cut = windows(data, options.window, options.horizon)
        encoded = processor.encode(cut.inputs)
        return SeriesExamples(encoded, cut.targets, column=data.target, name=data.columns[data.target], times=cut.times)

    def build(self, train: Examples, processor: Processor, options: Options) -> "keras.Model":
        import keras
        from keras import layers

        examples = cast("SeriesExamples", train)
        history = train.inputs["window"]
        mean, scale = _statistics(history)
        window = keras.Input(history.shape[1:], name="window")
        scaled = layers.Normalization(mean=mean, variance=scale**2, name="scaling")(window)
        state = scaled
        for index in range(options.layers):
            state = _recurrent(options, return_sequences=index < options.layers - 1)(state)
            state = layers.Dropout(options.dropout, seed=options.seed + index)(state)
        # Untrained, a model with a shortcut answers the last value: the first steps start at persistence.
        start = "glorot_uniform" if options.shortcut == "none" else "zeros"
        parts = [layers.Dense(options.horizon, kernel_initializer=start)(state)]
        if options.shortcut == "linear":
            linear = layers.Dense(options.horizon, use_bias=False, kernel_initializer=start)
            parts.append(linear(layers.Flatten()(scaled)))
        if options.shortcut != "none":
            # Repeated, not broadcast: keras.ops.add takes a column as long as the rows are wide for a bias.
            last = scaled[:, -1, examples.column : examples.column + 1]
            parts.append(keras.ops.repeat(last, options.horizon, axis=1))
        forecast = layers.Add()(parts) if len(parts) > 1 else parts[0]
        column_mean, column_scale = float(mean[examples.column]), float(scale[examples.column])
        forecast = layers.Rescaling(column_scale, offset=column_mean, name="forecast")(forecast)
        model = keras.Model({"window": window}, forecast, name=self.family)
        model.compile(optimizer=optimizer(options, len(train)), loss=_scaled_error(column_scale))
        return model

    def serving_model(
        self, model: "keras.Model", train: Examples, validation: Examples, processor: Processor, options: Options
    ) -> ServingModel:
        import keras

        steps, channels = train.inputs["window"].shape[1:]
        signature = Signature(
            (TensorSpec("window", BY_NAME["float32"], (DYNAMIC, steps, channels)),),
            (TensorSpec("forecast", BY_NAME["float32"], (DYNAMIC, options.horizon)),),
        )
        return ServingModel(keras.Model(model.input, {"forecast": model.output}, name=self.family), signature)

    def evaluate(self, outputs: Arrays, test: Examples, options: Options) -> dict[str, float]:
        """Errors over all steps, and at the first step beside those of repeating the last value.

        `gain_step1` is the share by which the model's error at the first step is below persistence's.
        """
        forecast = outputs["forecast"]
        naive = _persistence(test, options.horizon)
        own, persistence = (rmse(values[:, 0], test.targets[:, 0]) for values in (forecast, naive))
        return regression_metrics(forecast, test.targets) | {
            "rmse_step1": own,
            "persistence_rmse_step1": persistence,
            "gain_step1": 1.0 - own / persistence if persistence else 0.0,
        }

    def baseline(self, train: Examples, test: Examples, options: Options) -> Baseline:
        name, naive = _naive(test, options)
        metrics = regression_metrics(naive, test.targets)
        return Baseline(name, metrics | {"rmse_step1": rmse(naive[:, 0], test.targets[:, 0])})

    def figures(self, outputs: Arrays, test: Examples, serving: ServingModel, options: Options) -> list[Plot]:
        examples = cast("SeriesExamples", test)
        return [_over_time(outputs["forecast"], examples), _by_step(outputs["forecast"], examples, options)]


def _recurrent(options: Options, *, return_sequences: bool) -> Any:
    """A recurrent layer that ONNX Runtime runs fast: one fused operation, or for the simple cell no loop."""
    from keras import layers

    if options.cell == "lstm":
        return layers.LSTM(options.units, return_sequences=return_sequences)
    if options.cell == "gru":
        from training.layers.recurrent import FusedGRU

        return FusedGRU(options.units, return_sequences=return_sequences)
    unroll = options.window <= _LONGEST_UNROLLED
    return layers.SimpleRNN(options.units, return_sequences=return_sequences, unroll=unroll)


def _statistics(history: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel, f64 `[F]`; a constant channel has the deviation 1."""
    values = history.reshape(-1, history.shape[-1]).astype(np.float64)
    deviation = values.std(axis=0)
    return values.mean(axis=0), np.where(deviation > 0, deviation, 1.0)


def _scaled_error(scale: float) -> Any:
    """Mean squared error in units of the series' deviation, so that the step size means the same for any series."""
    from keras import ops

    def scaled_error(target: Any, forecast: Any) -> Any:
        return ops.mean(ops.square((target - forecast) / scale), axis=-1)

    return scaled_error


def _persistence(examples: Examples, horizon: int) -> np.ndarray:
    column = cast("SeriesExamples", examples).column
    return np.repeat(examples.inputs["window"][:, -1:, column], horizon, axis=1)


def _naive(examples: Examples, options: Options) -> tuple[str, np.ndarray]:
    """The last value, or the last season, repeated."""
    if not options.season:
        return "persistence", _persistence(examples, options.horizon)
    column = cast("SeriesExamples", examples).column
    steps = options.window - options.season + np.arange(options.horizon) % options.season
    return f"last season of {options.season} rows", examples.inputs["window"][:, steps, column]


def _over_time(forecast: np.ndarray, test: SeriesExamples) -> Plot:
    figure, axes = new_figure(width=8.0)
    rows = slice(-_STEPS_SHOWN, None)
    for step in sorted({0, forecast.shape[1] - 1}):
        axes.plot(test.times[rows, step], forecast[rows, step], linewidth=1, label=f"forecast {step + 1} ahead")
    axes.plot(test.times[rows, 0], test.targets[rows, 0], color="black", linewidth=1, label="actual")
    axes.set_ylabel(test.name)
    axes.legend()
    return Plot(
        "Forecast over time", "Held-out rows; the further ahead, the closer to the mean a forecast stays.", figure
    )


def _by_step(forecast: np.ndarray, test: SeriesExamples, options: Options) -> Plot:
    name, naive = _naive(test, options)
    steps = np.arange(1, options.horizon + 1)
    figure, axes = new_figure()
    for label, values in (("model", forecast), (name, naive)):
        errors = [rmse(values[:, step - 1], test.targets[:, step - 1]) for step in steps]
        axes.plot(steps, errors, marker="o", label=label)
    axes.set_xlabel("rows ahead")
    axes.set_ylabel(f"RMSE of {test.name}")
    axes.set_ylim(bottom=0)
    axes.legend()
    return Plot("Error by step", "Where the lines meet, the model knows no more than the baseline.", figure)


PIPELINE = Lstm()
