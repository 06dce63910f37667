"""A diagnosis looks and does not touch: the same weights bit for bit, and figures that agree with hand-made ones."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from training.diagnosis.figures import CSV_FILE, JSON_FILE, Diagnosis, EpochFigures, append, write
from training.diagnosis.plots import plots
from training.diagnosis.probe import Probe
from training.diagnosis.recorder import Recorder
from training.layers.text import MaskedSelfAttention
from training.pipeline import Examples, show_rows
from training.report import image

ROWS = 48


@pytest.fixture(scope="module")
def series() -> Examples:
    random = np.random.default_rng(0)
    tokens = random.integers(1, 20, (ROWS, 6)).astype(np.int32)
    return Examples({"tokens": tokens}, (tokens.sum(axis=1) > 60).astype(np.int64))


def network() -> keras.Model:
    """All that keeps something between steps or hides its weights: dropout, batch norm, a cell, attention, a nested model."""
    keras.utils.set_random_seed(3)
    tokens = keras.Input((6,), dtype="int32", name="tokens")
    state = keras.layers.Embedding(20, 8)(tokens)
    state = MaskedSelfAttention(2, dropout=0.2, seed=1)(state, keras.ops.ones_like(tokens[:, :], dtype="float32"))
    state = keras.layers.Dropout(0.2)(keras.layers.LSTM(8)(state))
    inner = [keras.layers.Dense(8, use_bias=False), keras.layers.BatchNormalization(), keras.layers.ReLU()]
    state = keras.Sequential([*inner, keras.layers.Dense(8, "sigmoid", name="gate")], name="nested")(state)
    model = keras.Model({"tokens": tokens}, keras.layers.Dense(2, "softmax", name="classes")(state))
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def fitted(examples: Examples, callbacks: list[Any], epochs: int = 2, initial_epoch: int = 0) -> keras.Model:
    model = network()
    show_rows(callbacks, examples)
    model.fit(
        examples.inputs, examples.targets, 16, epochs, 0, callbacks, initial_epoch=initial_epoch
    )  # batches are shuffled: a diagnosis must not disturb that either
    return model


@pytest.fixture(scope="module")
def diagnosed(series: Examples, tmp_path_factory: pytest.TempPathFactory) -> tuple[keras.Model, Recorder, Path]:
    folder = tmp_path_factory.mktemp("run")
    recorder = Recorder(folder, batch_size=16, seed=0)
    return fitted(series, [recorder]), recorder, folder


def test_what_is_learnt_is_the_same_bit_for_bit(
    series: Examples, diagnosed: tuple[keras.Model, Recorder, Path]
) -> None:
    watched, plain = diagnosed[0], fitted(series, [])
    for own, other in zip(watched.variables, plain.variables, strict=True):
        assert np.array_equal(own.value.numpy(), other.value.numpy()), own.path


def test_layers_within_layers_and_models_are_seen(diagnosed: tuple[keras.Model, Recorder, Path]) -> None:
    diagnosis = diagnosed[1].diagnosis
    named = " ".join(diagnosis.layers)
    for part in ("embedding", "project", "combine", "lstm_cell", "batch_normalization", "gate", "classes"):
        assert part in named
    kinds = {activation.layer.rpartition("/")[2]: activation for activation in diagnosis.activations}
    assert kinds["gate"].kind == "sigmoid"
    assert (kinds["classes"].kind, kinds["classes"].output) == ("softmax", True)
    assert {"relu", "softmax"} <= {each.kind for each in diagnosis.activations if not each.output}
    first = diagnosis.epochs[0]
    assert set(first.gradient_norm) == set(first.update_ratio) == set(diagnosis.layers)
    assert all(0 < value < 100 for value in first.gradient_norm.values())
    assert all(0 < value < 1 for value in first.update_ratio.values())


def test_both_files_hold_every_figure(diagnosed: tuple[keras.Model, Recorder, Path]) -> None:
    _, recorder, folder = diagnosed
    write(folder, recorder.diagnosis)
    record = json.loads((folder / JSON_FILE).read_text())
    rows = list(csv.DictReader((folder / CSV_FILE).read_text().splitlines()))
    assert [epoch["epoch"] for epoch in record["epochs"]] == [1, 2]
    layer = recorder.diagnosis.layers[0]
    written = [float(r["value"]) for r in rows if (r["layer"], r["figure"]) == (layer, "gradient_norm")]
    assert written == pytest.approx([epoch["gradient_norm"][layer] for epoch in record["epochs"]])


def test_a_resumed_run_continues_the_files(series: Examples, tmp_path: Path) -> None:
    fitted(series, [Recorder(tmp_path, batch_size=16, seed=0)], epochs=2)
    resumed = Recorder(tmp_path, batch_size=16, seed=0, first_epoch=1)
    fitted(series, [resumed], epochs=3, initial_epoch=1)
    assert [epoch.epoch for epoch in resumed.diagnosis.epochs] == [1, 2, 3]
    rows = list(csv.DictReader((tmp_path / CSV_FILE).read_text().splitlines()))
    assert [row["epoch"] for row in rows if row["figure"] == "loss"] == ["1", "2", "3"]


def test_a_run_resumed_after_its_last_epoch_still_has_its_plots(tmp_path: Path) -> None:
    append(tmp_path, EpochFigures(1, 0.5, {"classes": 0.1}, {"classes": 1e-3}))
    resumed = Recorder(tmp_path, batch_size=16, seed=0, first_epoch=1)
    assert resumed.diagnosis.layers == ("classes",)
    assert next(plot.title for plot in plots(resumed.diagnosis) if image(plot.figure)).startswith("Gradient norm")


def test_stages_are_counted_through_and_marked(tmp_path: Path) -> None:
    """As in transfer learning: first the head alone, on other rows than the whole network, then layers before it, too."""
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    pixels = keras.Input((5,), name="pixels")
    features = keras.Input((4,), name="features")
    frozen = keras.layers.Dense(4, "relu", name="frozen")
    base = keras.Sequential([frozen, keras.layers.Dense(4, "relu", name="last")], name="base")
    head = keras.Model({"features": features}, keras.layers.Dense(2, "softmax", name="classes")(features), name="head")
    whole = keras.Model({"pixels": pixels}, head({"features": base(pixels)}))
    rows = random.normal(size=(ROWS, 5)).astype(np.float32)
    targets = (rows[:, 0] > 0).astype(np.int64)
    recorder = Recorder(tmp_path, batch_size=16, seed=0)
    frozen.trainable = False
    for name, model, inputs in (
        ("head", head, {"features": np.asarray(base(rows))}),
        ("rest", whole, {"pixels": rows}),
    ):
        model.compile("adam", "sparse_categorical_crossentropy")
        recorder.enter(name)
        recorder.watch(Examples(inputs, targets))
        model.fit(inputs, targets, 16, 2, 0, [recorder])

    diagnosis = recorder.diagnosis
    assert diagnosis.layers == ("base/last", "classes")
    assert [(epoch.epoch, epoch.stage) for epoch in diagnosis.epochs] == [
        (1, "head"),
        (2, "head"),
        (3, "rest"),
        (4, "rest"),
    ]
    assert [set(epoch.gradient_norm) for epoch in diagnosis.epochs[1:3]] == [{"classes"}, {"base/last", "classes"}]
    relus = [activation.layer for activation in diagnosis.activations if activation.kind == "relu"]
    assert relus == ["base/last"], "what is frozen is nobody's fault"
    for plot in plots(diagnosis):
        words = {text.get_text() for text in plot.figure.axes[0].texts}
        assert words == {"head", "rest"}
    resumed = Recorder(tmp_path, batch_size=16, seed=0, first_epoch=3)
    assert list(resumed.diagnosis.stages) == ["head", "rest"]


def test_the_plots_can_be_drawn(diagnosed: tuple[keras.Model, Recorder, Path]) -> None:
    drawn = plots(diagnosed[1].diagnosis)
    assert [plot.title for plot in drawn] == [
        "Gradient norm by layer and epoch",
        "Size of a step over the size of the weights",
        "Saturated activations",
        "Dead ReLU units",
    ]
    assert all(image(plot.figure).startswith("data:image/") for plot in drawn)


def one_layer(activation: str, bias: list[float]) -> keras.Model:
    rows = keras.Input((2,), name="x")
    model = keras.Model({"x": rows}, keras.layers.Dense(4, activation, name="hidden")(rows))
    model.compile("sgd", "mse")
    model.get_layer("hidden").set_weights([np.eye(2, 4), np.array(bias)])
    return model


def look(model: keras.Model) -> tuple[Probe, Any]:
    probe = Probe(model)
    return probe, probe.look({"x": ROWS_OF_TWO}, np.zeros((3, 4), np.float32), None)


ROWS_OF_TWO = np.array([[0.5, -0.5], [0.25, 0.5], [-0.5, 0.25]], np.float32)


def test_gradient_norms_are_those_of_the_loss() -> None:
    model = one_layer("linear", [0.0, 0.0, 0.0, 1.0])
    _, seen = look(model)
    outputs = ROWS_OF_TWO @ np.eye(2, 4) + np.array([0, 0, 0, 1])
    slopes = 2 * outputs / outputs.size
    expected = math.hypot(np.linalg.norm(ROWS_OF_TWO.T @ slopes), np.linalg.norm(slopes.sum(axis=0)))
    assert seen.gradient_norm == {"hidden": pytest.approx(expected)}


def test_a_units_greatest_value_tells_whether_it_is_dead() -> None:
    _, seen = look(one_layer("relu", [0.0, 0.0, -9.0, 1.0]))
    (peaks,) = seen.peaks.values()
    assert peaks.tolist() == [0.5, 0.5, 0.0, 1.0]


@pytest.mark.parametrize(("activation", "near"), [("sigmoid", 4.4), ("tanh", 2.2)])
def test_values_near_a_bound_are_saturated(activation: str, near: float) -> None:
    _, seen = look(one_layer(activation, [0.0, 0.0, near, -near]))
    assert list(seen.saturation.values()) == [0.5]


@pytest.mark.parametrize("activation", ["silu", "mish", "gelu"])
def test_a_gate_within_an_activation_is_no_activation(activation: str) -> None:
    probe, _ = look(one_layer(activation, [9.0, 9.0, 9.0, 9.0]))
    assert probe.activations == ()


def test_a_gradient_that_is_no_number_is_infinite() -> None:
    _, seen = look(one_layer("linear", [math.nan, 0.0, 0.0, 0.0]))
    assert seen.gradient_norm == {"hidden": math.inf}


def test_the_ratio_of_a_step_takes_weights_that_begin_at_zero_for_as_large_as_they_become() -> None:
    probe = Probe(one_layer("linear", [0.0] * 4))
    before, after = [np.zeros((2, 4)), np.zeros(4)], [np.full((2, 4), 0.1), np.zeros(4)]
    assert probe.update_ratio(before, after) == {"hidden": pytest.approx(1.0)}
    assert probe.update_ratio(before, before) == {"hidden": 0.0}


def test_an_empty_diagnosis_has_no_plots() -> None:
    assert plots(Diagnosis((), (), ())) == []
