"""Mixed precision: inner layers multiply in bfloat16 while they learn, and what is published computes in float32."""

import io
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from rich.console import Console

from services.errors import InvalidArgument
from training import mixed_precision
from training.callbacks import Checkpoint
from training.environment import import_keras
from training.mixed_precision import BFLOAT16, FLOAT32, computing_in, inner_layers, shortcoming, training_dtype
from training.options import parse
from training.pipeline import CommonOptions, Examples, Pipeline, Source
from training.pipelines import find
from training.runner import Job, Outcome, train

# Keras's own callbacks use a NumPy protocol that NumPy 2 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SMALL = {
    "regressor": ("units=8,8", "batch_norm=true"),
    "cnn": ("filters=4", "dense=8"),
    "autoencoder": ("units=8",),
    "finetune": ("backbone=mobilenet", "weights=random", "height=32", "width=32"),
    "lstm": ("units=4",),
    "text_to_image": ("blocks=1", "width=8", "heads=2", "feed_forward=8", "wordings=1"),
    "lstm, texts": ("task=text_classification", "cell=gru", "bidirectional=true", "units=4", "width=8", "length=12"),
}
ROWS = 32


@pytest.fixture(autouse=True)
def _warned_of_nothing() -> Iterator[None]:
    mixed_precision._warn.cache_clear()
    yield
    mixed_precision._warn.cache_clear()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is quicker in bfloat16, whatever this one is: bfloat16 works on any, if slowly."""
    monkeypatch.setattr(mixed_precision, "shortcoming", lambda: "")


def some(part: Examples) -> Examples:
    return replace(part, inputs={name: rows[:ROWS] for name, rows in part.inputs.items()}, targets=part.targets[:ROWS])


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A few short texts: the default ones take seconds to read."""
    file = tmp_path_factory.mktemp("texts") / "texts.tsv"
    words = ("of time and tide", "a tale of two cities"), ("no sale today", "buy two today, get one")
    lines = [f"{label}\t{words[label][row % 2]} {row}" for row in range(100) for label in (0, 1)]
    file.write_text("\n".join(["label\ttext", *lines]), encoding="utf-8")
    return Source(file, "label")


def built(name: str, texts: Source) -> tuple[Pipeline, CommonOptions, Any, keras.Model, Examples, Examples]:
    pipeline = find(name.partition(",")[0])
    options = parse(pipeline.options, [*SMALL[name], "epochs=1", "batch_size=16"])
    pipeline = pipeline.chosen(options)
    source = texts if pipeline.task == "text_classification" else Source()
    split = pipeline.split(pipeline.load(source, options).data, options)
    processor = pipeline.fit_processor(split.train, options)
    training, validation = (
        some(pipeline.examples(part, processor, options)) for part in (split.train, split.validation)
    )
    import_keras(options.seed, deterministic=False)
    return pipeline, options, processor, pipeline.build(training, processor, options), training, validation


@pytest.mark.parametrize("name", ["finetune", "lstm", "text_to_image", "lstm, texts"])
def test_a_network_learns_in_bfloat16_and_answers_in_float32(name: str, texts: Source) -> None:
    """Families with models in models, cells in layers, attention and pooling of their own."""
    pipeline, options, processor, model, training, validation = built(name, texts)
    layers = list(model._flatten_layers())
    before = [layer.dtype_policy for layer in layers]
    history = keras.callbacks.History()
    with computing_in(model, BFLOAT16):
        assert {layer.compute_dtype for layer in inner_layers(model)} == {"bfloat16"}
        assert {weight.dtype for weight in model.weights if "float" in weight.dtype} == {"float32"}
        assert {output.dtype for output in model.outputs} == {"float32"}
        pipeline.fit(model, training, validation, options, [history])
    assert np.isfinite(history.history["val_loss"][0])
    assert [layer.dtype_policy for layer in layers] == before

    # A network that never computed in anything else, with the same weights, answers alike to the last bit.
    plain = pipeline.build(training, processor, options)
    plain.set_weights(model.get_weights())
    own, other = (np.asarray(each(training.inputs, training=False)) for each in (model, plain))
    assert own.dtype == np.float32
    np.testing.assert_array_equal(own, other)


@pytest.mark.parametrize(
    ("name", "inner", "outer"),
    [
        ("regressor", {"Dense", "BatchNormalization", "Activation", "Dropout"}, {"encoding", "standardised"}),
        ("cnn", {"Conv2D", "ReLU", "MaxPooling2D", "Flatten", "Dense", "Dropout"}, {"scaling", "random_zoom"}),
        ("lstm", {"LSTM", "LSTMCell", "Dropout"}, {"scaling", "flatten", "add", "forecast"}),
        ("autoencoder", {"Dense", "Activation"}, {"encoding", "corruption"}),
        ("text_to_image", {"Embedding", "MaskedSelfAttention", "DecoderBlock", "LayerNormalization"}, {"decoder"}),
    ],
)
def test_what_sees_raw_units_and_what_answers_is_no_inner_layer(
    name: str, inner: set[str], outer: set[str], texts: Source
) -> None:
    model = built(name, texts)[3]
    chosen = inner_layers(model)
    assert inner <= {type(layer).__name__ for layer in chosen}
    left = [layer for layer in model._flatten_layers() if all(layer is not each for each in chosen)]
    assert all(any(layer.name.startswith(word) for layer in left) for word in outer)
    last = [layer for layer in left if layer.weights and not isinstance(layer, keras.Model)]
    assert last, "the layer that answers"


def test_a_network_whose_every_layer_sees_raw_units_or_answers_is_refused() -> None:
    rows = keras.Input((3,), name="x")
    model = keras.Model({"x": rows}, keras.layers.Dense(1)(rows), name="line")
    refused = pytest.raises(InvalidArgument, match=r"layers between its first weights and its last.*Received: line")
    with refused, computing_in(model, BFLOAT16):
        pass
    with computing_in(model, FLOAT32):
        pass


def test_a_layer_that_answers_in_one_place_stays_in_float32_in_all() -> None:
    rows = keras.Input((4,), name="x")
    shared = keras.layers.Dense(4, name="shared")
    model = keras.Model({"x": rows}, shared(keras.layers.Dense(4, name="inner")(shared(rows))))
    assert [layer.name for layer in inner_layers(model)] == ["inner"]


def test_a_boltzmann_machine_refuses_it() -> None:
    with pytest.raises(InvalidArgument, match=r"Option mixed_precision: expected false.*one layer"):
        parse(find("rbm").options, ["mixed_precision=true"])


def trained(folder: Path, *settings: str) -> tuple[Outcome, str]:
    pipeline = find("regressor")
    options = parse(pipeline.options, ["epochs=12", "units=64", "bins=0", *settings])
    console = Console(file=io.StringIO(), width=200)
    outcome = train(Job(pipeline, options, Source(), "r", folder / "models", folder / "runs", diagnose=True), console)
    assert isinstance(console.file, io.StringIO)
    return outcome, console.file.getvalue()


@pytest.mark.usefixtures("quick")
def test_a_run_is_proven_and_published_as_any_other_and_learns_as_much(tmp_path: Path) -> None:
    plain, _ = trained(tmp_path / "plain")
    outcome, printed = trained(tmp_path / "mixed", "mixed_precision=true")
    assert "in bfloat16" in printed
    assert outcome.exported.manifest.notes["trained_in"] == "bfloat16"
    assert outcome.metrics["rmse"] == pytest.approx(plain.metrics["rmse"], rel=0.05)
    assert outcome.metrics["rmse"] != plain.metrics["rmse"]  # or it was not in bfloat16 at all
    assert outcome.diagnosis
    assert len(outcome.diagnosis.epochs) == len(outcome.history)


@pytest.mark.parametrize(
    ("began", "lacking", "goes_on", "warned"),
    [
        ("", "", BFLOAT16, ""),
        ("", "an abacus", FLOAT32, "or a CPU with AMX. Found an abacus: training in float32."),
        (BFLOAT16, "", BFLOAT16, ""),
        (BFLOAT16, "an abacus", BFLOAT16, "began in bfloat16 and goes on in it: here float32 would be quicker"),
        (FLOAT32, "", FLOAT32, "began in float32 and goes on in it: here bfloat16 would be quicker"),
    ],
)
def test_the_hardware_decides_once_and_a_resumed_run_goes_on_in_what_it_began_in(
    began: str,
    lacking: str,
    goes_on: str,
    warned: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(mixed_precision, "shortcoming", lambda: lacking)
    options = parse(find("regressor").options, ["mixed_precision=true"])
    with caplog.at_level(logging.WARNING):
        assert training_dtype(options, began) == goes_on
    assert warned in caplog.text
    assert bool(caplog.records) == bool(warned)


def test_a_checkpoint_knows_what_its_run_computes_in(tmp_path: Path) -> None:
    rows = keras.Input((2,), name="x")
    model = keras.Model({"x": rows}, keras.layers.Dense(1)(rows))
    model.compile("sgd", "mse")
    data = np.ones((4, 2), np.float32), np.ones((4, 1), np.float32)
    checkpoint = Checkpoint(tmp_path / "checkpoint.npz", patience=2)
    checkpoint.dtype = BFLOAT16
    checkpoint.enter(model, 0)
    model.fit({"x": data[0]}, data[1], validation_data=({"x": data[0]}, data[1]), verbose=0, callbacks=[checkpoint])
    found = Checkpoint(tmp_path / "checkpoint.npz", patience=2)
    assert found.dtype == ""
    found.read()
    assert found.dtype == BFLOAT16


@pytest.mark.parametrize(
    ("capability", "flags", "lacking"),
    [
        ((8, 6), "", ""),
        ((7, 5), "amx_bf16", "a GPU of compute capability 7.5"),
        (None, "fma amx_bf16 avx2", ""),
        (None, "fma avx2", "a CPU without AMX"),
    ],
)
def test_hardware_is_told_apart(
    capability: tuple[int, int] | None, flags: str, lacking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorflow as tf

    info = tmp_path / "cpuinfo"
    info.write_text(f"flags : {flags}\n")
    monkeypatch.setattr(mixed_precision, "_CPU_INFO", info)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: ["a GPU"] if capability else [])
    monkeypatch.setattr(
        tf.config.experimental, "get_device_details", lambda _: {"compute_capability": capability}, raising=False
    )
    assert shortcoming() == lacking
