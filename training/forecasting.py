"""Forecasts of series, whatever network reads the window: data, scaling, metrics, baseline and plots.

A family that forecasts derives its pipeline from `Forecaster` and says in `summarise` what it makes of a window.
"""

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, cast

import numpy as np

from services.errors import InvalidArgument
from services.processing import Processor
from services.processing.series import SeriesProcessor
from services.tensors import BY_NAME, DYNAMIC, Signature, TensorSpec
from training.datasets.series import Layout, Series, load_series, sunspots, windows
from training.evaluation import new_figure, regression_metrics, rmse
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
from training.splits import time_split

if TYPE_CHECKING:
    import keras

_STEPS_SHOWN = 400
_SERIES_SHOWN = 30
_LEAST_SHARE = 1e-3
"""What is added to a window's own deviation, as a share of the quietest series'."""


@dataclass(frozen=True)
class ForecastOptions(GradientOptions):
    """Options of forecasts."""

    window: Annotated[int, Bounds(1)] = 28
    """Forecasts: rows of the past the model sees."""
    horizon: Annotated[int, Bounds(1)] = 7
    """Forecasts: rows ahead, all at once."""
    shortcut: Literal["none", "last", "linear"] = "linear"
    """Forecasts: what the network's output is added to: nothing, the last value, or that and a linear map of the window."""
    scaling: Literal["auto", "training", "window"] = "auto"
    """Forecasts: scale by mean and deviation of all training rows, or of each window; auto: the latter for many series."""
    season: Annotated[int, Bounds(0)] = 0
    """Forecasts: rows in a season; above 0, the baseline repeats the season before instead of the last value."""
    time: str = ""
    """Forecasts: name of the time column; '': the first that is not `series`."""
    series: str = ""
    """Forecasts: name of the column that says which series a row belongs to; '': all rows are of one."""
    each_column: Literal["channel", "series"] = "channel"
    """Forecasts: what a column is: a channel of one series, or a series by itself, all of one kind."""
    columns: tuple[str, ...] = ()
    """Forecasts: names of the channels; none: every other column. The first is forecast, unless --target names another."""
    missing: Literal["error", "forward_fill"] = "error"
    """Forecasts: what to do with a missing value: refuse it, or repeat the last known one."""
    gaps: Literal["cut", "bridge", "error"] = "cut"
    """Forecasts: where rows are missing, no window reaches over the gap, rows count as equally spaced, or refuse."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.season > self.window:
            raise InvalidArgument(
                f"Expected a season within the window of {self.window} rows. Received: season={self.season}."
            )
        if self.series and self.each_column == "series":
            raise InvalidArgument(
                "Expected series=COLUMN (a row per time and series) or each_column=series (a column per series). "
                "Received: both."
            )


OptionsT = TypeVar("OptionsT", bound=ForecastOptions)


@dataclass(frozen=True)
class SeriesExamples(Examples):
    """Windows and what follows them, with the forecast column's index and name, and the times `[rows, H]` that follow.

    `series` int64 `[rows]` are indices into `names`; where they are left out, all rows are of one series.
    """

    column: int = 0
    name: str = ""
    times: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    series: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    names: tuple[str, ...] = ("",)

    def rows_of(self, index: int) -> np.ndarray:
        """Row indices of one series."""
        return np.flatnonzero(self.series == index) if len(self.names) > 1 else np.arange(len(self))


class Forecaster(Pipeline[Series, OptionsT]):
    """A network, a dense layer and a shortcut per window. Raw units on both sides: the scaling is in the graph.

    The three parts of each series follow each other in time. What is forecast lies in the part it is counted for; the
    window before it may reach back into the part before, as it does in use.
    """

    task = "forecasting"
    primary_metric = "rmse"
    split_options = ("test_share", "validation_share")

    @abstractmethod
    def summarise(self, scaled: Any, options: OptionsT) -> Any:
        """What the network makes of scaled windows f32 `[B, T, F]`: f32 `[B, D]`."""

    def load(self, source: Source, options: OptionsT) -> Loaded[Series]:
        if source.path is None:
            return sunspots()
        layout = Layout(options.time, options.series, options.columns, options.each_column == "series")
        return load_series(source.path, target=source.target, layout=layout, missing=options.missing, gaps=options.gaps)

    def split(self, data: Series, options: OptionsT) -> Split[Series]:
        parts: tuple[list[Series], list[Series], list[Series]] = ([], [], [])
        for one in data.each():
            validation, test = time_split(len(one), options)
            cuts = ((0, validation, 0), (validation, test, options.window), (test, len(one), options.window))
            for part, cut in zip(parts, cuts, strict=True):
                part.append(one.part(*cut))
        train, validation_part, test_part = (Series.joined(part) for part in parts)
        return Split(train, validation_part, test_part)

    def fit_processor(self, train: Series, options: OptionsT) -> Processor:
        return SeriesProcessor.fit(train.columns, options.window)

    def examples(self, data: Series, processor: Processor, options: OptionsT) -> Examples:
        cut = windows(data, options.window, options.horizon)
        encoded = processor.encode(cut.inputs)
        name = data.columns[data.target]
        return SeriesExamples(
            encoded, cut.targets, column=data.target, name=name, times=cut.times, series=cut.series, names=data.names
        )

    def build(self, train: Examples, processor: Processor, options: OptionsT) -> "keras.Model":
        import keras
        from keras import layers

        from training.layers.series import WindowScaling, WindowUnscaling

        examples = cast("SeriesExamples", train)
        history, column = train.inputs["window"], examples.column
        window = keras.Input(history.shape[1:], name="window")
        own = options.scaling == "window" or (options.scaling == "auto" and len(examples.names) > 1)
        if own:
            least = _LEAST_SHARE * np.min(
                [_statistics(history[examples.rows_of(index)])[1] for index in range(len(examples.names))], axis=0
            )
            scaled = WindowScaling(least, name="scaling")(window)
        else:
            mean, scale = _statistics(history)
            scaled = layers.Normalization(mean=mean, variance=scale**2, name="scaling")(window)
        state = self.summarise(scaled, options)
        # Untrained, a model with a shortcut answers the last value: the first steps start at persistence.
        start = "glorot_uniform" if options.shortcut == "none" else "zeros"
        parts = [layers.Dense(options.horizon, kernel_initializer=start)(state)]
        if options.shortcut == "linear":
            linear = layers.Dense(options.horizon, use_bias=False, kernel_initializer=start)
            parts.append(linear(layers.Flatten()(scaled)))
        if options.shortcut != "none":
            # Repeated, not broadcast: keras.ops.add takes a column as long as the rows are wide for a bias.
            last = scaled[:, -1, column : column + 1]
            parts.append(keras.ops.repeat(last, options.horizon, axis=1))
        forecast = layers.Add()(parts) if len(parts) > 1 else parts[0]
        if own:
            forecast = WindowUnscaling(column, least, name="forecast")(forecast, window)
        else:
            forecast = layers.Rescaling(float(scale[column]), offset=float(mean[column]), name="forecast")(forecast)
        model = keras.Model({"window": window}, forecast, name=self.family)
        model.compile(optimizer=optimizer(options, len(train)), loss=_scaled_error)
        return model

    def to_learn(self, part: Examples, train: Examples, options: OptionsT) -> Examples:
        """Targets with the deviation of their series behind them f32 `[rows, H + 1]`: errors are counted in units of it.

        So the step size means the same for any series, and each of many series counts alike.
        """
        examples, learnt = cast("SeriesExamples", part), cast("SeriesExamples", train)
        scale = np.ones((len(part), 1), np.float32)
        for index in range(len(learnt.names)):
            deviation = _statistics(learnt.inputs["window"][learnt.rows_of(index)])[1]
            scale[examples.rows_of(index)] = deviation[learnt.column]
        return replace(part, targets=np.concatenate([part.targets, scale], axis=1))

    def serving_model(
        self, model: "keras.Model", train: Examples, validation: Examples, processor: Processor, options: OptionsT
    ) -> ServingModel:
        import keras

        steps, channels = train.inputs["window"].shape[1:]
        signature = Signature(
            (TensorSpec("window", BY_NAME["float32"], (DYNAMIC, steps, channels)),),
            (TensorSpec("forecast", BY_NAME["float32"], (DYNAMIC, options.horizon)),),
        )
        return ServingModel(keras.Model(model.input, {"forecast": model.output}, name=self.family), signature)

    def evaluate(self, outputs: Arrays, test: Examples, options: OptionsT) -> dict[str, float]:
        """Errors over all steps, and at the first step beside those of repeating the last value.

        `gain_step1` is the share by which the model's error at the first step is below persistence's. Of many series,
        `relative_rmse` is the mean over them of the error as a share of persistence's: each counts alike, whatever its level.
        """
        forecast = outputs["forecast"]
        naive = _persistence(test, options.horizon)
        own, persistence = (rmse(values[:, 0], test.targets[:, 0]) for values in (forecast, naive))
        metrics = regression_metrics(forecast, test.targets) | {
            "rmse_step1": own,
            "persistence_rmse_step1": persistence,
            "gain_step1": 1.0 - own / persistence if persistence else 0.0,
        }
        return metrics | _relative(forecast, test, options)

    def baseline(self, train: Examples, test: Examples, options: OptionsT) -> Baseline:
        name, naive = naive_forecast(test, options)
        metrics = regression_metrics(naive, test.targets)
        return Baseline(
            name, metrics | {"rmse_step1": rmse(naive[:, 0], test.targets[:, 0])} | _relative(naive, test, options)
        )

    def figures(self, outputs: Arrays, test: Examples, serving: ServingModel, options: OptionsT) -> list[Plot]:
        examples, forecast = cast("SeriesExamples", test), outputs["forecast"]
        plots = [_over_time(forecast, examples), _by_step(forecast, examples, options)]
        return [*plots, _by_series(forecast, examples, options)] if len(examples.names) > 1 else plots


def naive_forecast(examples: Examples, options: ForecastOptions) -> tuple[str, np.ndarray]:
    """The baseline's name, and its forecast f32 `[rows, H]`: the last value, or the last season, repeated."""
    if not options.season:
        return "persistence", _persistence(examples, options.horizon)
    column = cast("SeriesExamples", examples).column
    steps = options.window - options.season + np.arange(options.horizon) % options.season
    return f"last season of {options.season} rows", examples.inputs["window"][:, steps, column]


def _persistence(examples: Examples, horizon: int) -> np.ndarray:
    column = cast("SeriesExamples", examples).column
    return np.repeat(examples.inputs["window"][:, -1:, column], horizon, axis=1)


def _statistics(history: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel, f64 `[F]`; a constant channel has the deviation 1."""
    values = history.reshape(-1, history.shape[-1]).astype(np.float64)
    deviation = values.std(axis=0)
    return values.mean(axis=0), np.where(deviation > 0, deviation, 1.0)


def _scaled_error(target: Any, forecast: Any) -> Any:
    """Mean squared error of rows, in units of the deviation that is the target's last column."""
    from keras import ops

    return ops.mean(ops.square((target[:, :-1] - forecast) / target[:, -1:]), axis=-1)


def _relative(forecast: np.ndarray, test: Examples, options: ForecastOptions) -> dict[str, float]:
    examples = cast("SeriesExamples", test)
    if len(examples.names) < 2:
        return {}
    shares = [own / naive for own, naive in _errors(forecast, examples, options) if naive]
    return {"relative_rmse": float(np.mean(shares))} if shares else {}


def _errors(forecast: np.ndarray, test: SeriesExamples, options: ForecastOptions) -> list[tuple[float, float]]:
    """RMSE of the forecast and of persistence, by series."""
    naive = _persistence(test, options.horizon)
    groups = [test.rows_of(index) for index in range(len(test.names))]
    return [
        (rmse(forecast[rows], test.targets[rows]), rmse(naive[rows], test.targets[rows]))
        for rows in groups
        if len(rows)
    ]


def _over_time(forecast: np.ndarray, test: SeriesExamples) -> Plot:
    figure, axes = new_figure(width=8.0)
    rows = test.rows_of(0)[-_STEPS_SHOWN:]
    for step in sorted({0, forecast.shape[1] - 1}):
        axes.plot(test.times[rows, step], forecast[rows, step], linewidth=1, label=f"forecast {step + 1} ahead")
    axes.plot(test.times[rows, 0], test.targets[rows, 0], color="black", linewidth=1, label="actual")
    axes.set_ylabel(test.name)
    axes.legend()
    of = f" of the series {test.names[0]}" if len(test.names) > 1 else ""
    caption = f"Held-out rows{of}; the further ahead, the closer to the mean a forecast stays."
    return Plot("Forecast over time", caption, figure)


def _by_step(forecast: np.ndarray, test: SeriesExamples, options: ForecastOptions) -> Plot:
    name, naive = naive_forecast(test, options)
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


def _by_series(forecast: np.ndarray, test: SeriesExamples, options: ForecastOptions) -> Plot:
    shares = np.array([own / naive if naive else np.nan for own, naive in _errors(forecast, test, options)])
    order = np.argsort(-shares)[:_SERIES_SHOWN]
    figure, axes = new_figure(height=1.5 + 0.25 * len(order))
    axes.barh([test.names[index] for index in order], shares[order])
    axes.axvline(1.0, color="grey", linewidth=1, linestyle="--", label="persistence")
    axes.invert_yaxis()
    axes.set_xlabel("RMSE, as a share of persistence's")
    axes.legend()
    caption = f"The {len(order)} series that are forecast worst; beyond the line, repeating the last value is better."
    return Plot("Error by series", caption, figure)
