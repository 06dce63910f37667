"""The transformer as a forecaster: the lstm's signature, data and metrics, another network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from services.engine.backend import BackendOptions, OnnxBackend
from training.environment import import_keras
from training.formats import serving_function
from training.onnx_format import write_onnx
from training.options import parse
from training.pipeline import Source
from training.pipelines.transformer import PIPELINE, Options
from training.runner import predict

SMALL = ["task=forecasting", "window=12", "width=16", "heads=2", "feed_forward=16", "blocks=1", "learning_rate=0.003"]


def test_sunspots_are_forecast_better_than_by_their_last_value(fitted: Callable[..., Any], tmp_path: Path) -> None:
    options = parse(Options, [*SMALL, "epochs=20"])
    pipeline = PIPELINE.chosen(options)
    run = fitted(pipeline, options)
    forecast = predict(run.serving, run.test.inputs)
    assert pipeline.evaluate(forecast, run.test, options)["gain_step1"] > 0.1

    signature = run.serving.signature
    assert [(spec.name, spec.shape) for spec in (*signature.inputs, *signature.outputs)] == [
        ("window", (-1, 12, 1)),
        ("forecast", (-1, 7)),
    ]
    write_onnx(
        tmp_path / "model.onnx",
        run.serving.model,
        serving_function(run.serving.model, signature),
        signature,
        name="transformer",
    )
    backend = OnnxBackend(tmp_path / "model.onnx", BackendOptions())
    got = backend.run("serving_default", {"window": run.test.inputs["window"][:33]}, ())["forecast"]
    np.testing.assert_allclose(got, forecast["forecast"][:33], rtol=1e-4)
    backend.close()


def test_the_order_of_a_window_matters() -> None:
    options = parse(Options, [*SMALL, "shortcut=none"])
    pipeline = PIPELINE.chosen(options)
    data = pipeline.load(Source(), options).data
    processor = pipeline.fit_processor(data, options)
    rows = pipeline.examples(data, processor, options)
    import_keras(0, deterministic=False)
    model = pipeline.build(rows, processor, options)
    window = rows.inputs["window"][:1].copy()
    before = np.asarray(model({"window": window}))
    window[0, [1, 7]] = window[0, [7, 1]]
    assert np.abs(np.asarray(model({"window": window})) - before).max() > 0.01
