"""The forecaster: raw units, honest splits, and exports that run fast."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from services.engine.backend import BackendOptions, OnnxBackend
from services.errors import DataError, InvalidArgument
from services.processing.series import SeriesProcessor
from training.datasets.series import Series
from training.environment import import_keras
from training.forecasting import SeriesExamples
from training.formats import serving_function
from training.onnx_format import write_onnx
from training.options import parse
from training.pipeline import ServingModel, Source
from training.pipelines.lstm import PIPELINE, Options
from training.runner import predict


def options(*settings: str) -> Options:
    return parse(Options, ["window=6", "horizon=3", "units=4", *settings])


def walk(rows: int = 80, channels: int = 2, target: int = 1) -> Series:
    values = np.random.default_rng(0).normal(size=(rows, channels)).cumsum(axis=0) * 50 + 1000
    names = tuple("abc"[:channels])
    return Series(values.astype(np.float32), np.arange(rows, dtype=np.float64), np.zeros(rows, np.int64), names, target)


def serving_of(chosen: Options, data: Series | None = None) -> tuple[ServingModel, SeriesExamples]:
    data = data or walk()
    processor = PIPELINE.fit_processor(data, chosen)
    rows = PIPELINE.examples(data, processor, chosen)
    import_keras(chosen.seed, deterministic=False)
    model = PIPELINE.build(rows, processor, chosen)
    assert isinstance(rows, SeriesExamples)
    return PIPELINE.serving_model(model, rows, rows, processor, chosen), rows


def shaken(serving: ServingModel) -> ServingModel:
    """The same model with weights that make every part of it count."""
    random = np.random.default_rng(1)
    serving.model.set_weights([random.normal(size=w.shape, scale=0.4) for w in serving.model.get_weights()])
    return serving


@pytest.mark.parametrize("shortcut", ["last", "linear"])
def test_untrained_it_forecasts_the_last_value_of_the_target_in_raw_units(shortcut: str) -> None:
    serving, rows = serving_of(options(f"shortcut={shortcut}"))
    forecast = predict(serving, rows.inputs)["forecast"]
    np.testing.assert_allclose(forecast, np.repeat(rows.inputs["window"][:, -1:, 1], 3, axis=1), rtol=1e-4)


def test_a_constant_channel_is_no_division_by_zero() -> None:
    data = walk()
    data.values[:, 0] = 7
    serving, rows = serving_of(options(), data)
    assert np.isfinite(predict(serving, rows.inputs)["forecast"]).all()


def test_the_first_channel_is_forecast_unless_another_is_the_target(tmp_path: Path) -> None:
    path = tmp_path / "series.csv"
    path.write_text("t,a,b\n" + "".join(f"{row},{row},{-row}\n" for row in range(30)))
    for target, sign in ((None, 1), ("b", -1)):
        data = PIPELINE.load(Source(path, target), options()).data
        rows = PIPELINE.examples(data, SeriesProcessor.fit(data.columns, 6), options())
        assert (np.sign(rows.targets) == sign).all()


def test_the_parts_follow_each_other_and_look_back_only_for_inputs() -> None:
    chosen = options("test_share=0.25", "validation_share=0.25")
    data = walk(100)
    split = PIPELINE.split(data, chosen)
    processor = PIPELINE.fit_processor(split.train, chosen)
    train, validation, test = (
        PIPELINE.examples(part, processor, chosen) for part in (split.train, split.validation, split.test)
    )
    assert train.times.max() < validation.times.min() == 56
    assert validation.times.max() < test.times.min() == 75
    np.testing.assert_array_equal(test.inputs["window"][0], data.values[69:75])


def test_a_season_must_fit_the_window() -> None:
    with pytest.raises(InvalidArgument, match="season within the window of 6"):
        options("season=7")


def test_the_seasonal_baseline_repeats_the_season_before() -> None:
    rows = SeriesExamples(
        {"window": np.arange(6, dtype=np.float32).reshape(1, 6, 1)}, np.array([[2.0, 3.0, 4.0]]), column=0, name="a"
    )
    chosen = options("season=4")
    assert PIPELINE.baseline(rows, rows, chosen).metrics["rmse"] == 0
    assert PIPELINE.baseline(rows, rows, options()).metrics["rmse"] > 0


@pytest.mark.parametrize(
    ("settings", "operation", "count"),
    [
        (("cell=lstm", "layers=2"), "LSTM", 2),
        (("cell=gru", "layers=2"), "GRU", 2),
        (("cell=simple_rnn",), None, 0),
        (("cell=lstm", "layers=2", "bidirectional=true"), "LSTM", 2),
        (("cell=simple_rnn", "layers=2", "bidirectional=true", "scaling=window"), None, 0),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, tuple) else None,
)
def test_every_cell_exports_without_a_loop_and_answers_the_same(
    tmp_path: Path, settings: tuple[str, ...], operation: str | None, count: int
) -> None:
    serving, rows = serving_of(options(*settings))
    shaken(serving)
    function = serving_function(serving.model, serving.signature)
    path = tmp_path / "model.onnx"
    write_onnx(path, serving.model, function, serving.signature, name="lstm")
    operations = [node.op_type for node in onnx.load(path).graph.node]
    assert not {"Loop", "Scan"} & set(operations)
    assert operations.count(operation) == count
    backend = OnnxBackend(path, BackendOptions())
    for batch in (rows.inputs["window"][:1], rows.inputs["window"][:33]):
        want = np.asarray(serving.model({"window": batch})["forecast"])
        got = backend.run("serving_default", {"window": batch}, ())["forecast"]
        np.testing.assert_allclose(got, want, rtol=1e-5)
    backend.close()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras's saving
def test_the_fused_gru_is_keras_gru_under_the_same_weights(tmp_path: Path) -> None:
    import_keras(0, deterministic=False)
    import keras

    from training.layers.recurrent import FusedGRU

    window = keras.Input((5, 2))
    theirs = keras.Model(window, keras.layers.GRU(4, return_sequences=True)(window))
    ours = keras.Model(window, FusedGRU(4, return_sequences=True)(window))
    random = np.random.default_rng(0)
    weights = [random.normal(size=w.shape) for w in theirs.get_weights()]
    theirs.set_weights(weights)
    ours.set_weights(weights)
    rows = random.normal(size=(7, 5, 2)).astype(np.float32)
    np.testing.assert_allclose(ours(rows), theirs(rows), atol=1e-6)
    ours.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "model.keras")(rows), ours(rows))


def panel(rows: int = 80) -> Series:
    """Three walks, each on a level of its own; of the last, a hundred times the first, deviations are larger too."""
    walks = [walk(rows, 1, 0).values * level for level in (1, 10, 100)]
    one = np.zeros(rows, np.int64)
    return Series(
        np.concatenate(walks),
        np.tile(np.arange(rows, dtype=np.float64), 3),
        np.repeat(np.arange(3), rows),
        ("a",),
        0,
        series=np.concatenate([one, one + 1, one + 2]),
        names=("low", "middle", "high"),
    )


def test_each_of_many_series_is_cut_in_time_by_itself() -> None:
    chosen = options("test_share=0.25", "validation_share=0.25")
    split = PIPELINE.split(panel(), chosen)
    processor = PIPELINE.fit_processor(split.train, chosen)
    train, validation, test = (
        PIPELINE.examples(part, processor, chosen) for part in (split.train, split.validation, split.test)
    )
    for index in range(3):
        times = [part.times[part.rows_of(index)] for part in (train, validation, test)]
        assert times[0].max() < times[1].min() == 45
        assert times[1].max() < times[2].min() == 60


def test_the_answer_to_a_window_follows_its_level_and_scale() -> None:
    chosen = options()
    serving, rows = serving_of(chosen, panel())
    shaken(serving)
    window = rows.inputs["window"][:4]
    plain = predict(serving, {"window": window})["forecast"]
    moved = predict(serving, {"window": window * 50 + 7000})["forecast"]
    np.testing.assert_allclose(moved, plain * 50 + 7000, rtol=1e-3)


def test_a_series_without_a_window_in_a_part_is_named() -> None:
    data = panel(20)
    chosen = options("test_share=0.1")
    PIPELINE.examples(PIPELINE.split(data, chosen).train, SeriesProcessor.fit(("a",), 6), chosen)
    with pytest.raises(DataError, match=r"every series in each part\. Found none in 3 of 3 series: low, middle, high"):
        PIPELINE.examples(PIPELINE.split(data, chosen).test, SeriesProcessor.fit(("a",), 6), chosen)


def test_each_of_many_series_counts_alike() -> None:
    chosen = options()
    _, rows = serving_of(chosen, panel())
    naive = np.repeat(rows.inputs["window"][:, -1:, 0], 3, axis=1)
    assert PIPELINE.evaluate({"forecast": naive}, rows, chosen)["relative_rmse"] == pytest.approx(1)
    better = np.where(rows.series[:, None] == 0, rows.targets, naive)
    assert PIPELINE.evaluate({"forecast": better}, rows, chosen)["relative_rmse"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (("task=text_classification", "horizon=3"), "options of task=text_classification. Received: horizon=3"),
        (("length=40",), "options of task=forecasting. Received: length=40"),
        (("series=shop", "each_column=series"), "Received: both"),
    ],
)
def test_options_that_contradict_each_other_are_refused(settings: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(InvalidArgument, match=complaint):
        parse(Options, settings)


def metrics_of(run: Any, chosen: Options) -> dict[str, float]:
    outputs = predict(run.serving, run.test.inputs)
    for plot in PIPELINE.figures(outputs, run.test, run.serving, chosen):
        plot.figure.canvas.draw()
    return PIPELINE.evaluate(outputs, run.test, chosen)


def test_sunspots_are_forecast_better_than_by_their_last_value(fitted: Callable[..., Any]) -> None:
    chosen = parse(Options, ["epochs=20"])
    metrics = metrics_of(fitted(PIPELINE, chosen), chosen)
    assert metrics["gain_step1"] > 0.15
    assert metrics["rmse_step1"] == pytest.approx(metrics["persistence_rmse_step1"] * (1 - metrics["gain_step1"]))


def test_real_temperatures_are_forecast_better_than_by_their_last_value(
    fitted: Callable[..., Any], real_data: Path
) -> None:
    chosen = parse(Options, ["epochs=8"])
    metrics = metrics_of(fitted(PIPELINE, chosen, Source(real_data / "daily_min_temperatures.csv")), chosen)
    assert metrics["gain_step1"] > 0.08
