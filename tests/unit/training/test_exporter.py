"""An export is published with proof, or not at all."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from services.engine.backend import OnnxBackend
from services.engine.verification import verify
from services.errors import FailedPrecondition, InvalidArgument, ParityError
from services.manifest import Manifest, ProcessorSpec, Provenance, verify_files
from services.parity import read_samples
from services.tensors import BY_NAME, DYNAMIC, Signature, TensorSpec
from training import gate
from training.environment import import_keras
from training.exporter import LEAST_SAMPLES, MOST_SAMPLES, STAGES, Exported, export
from training.pipeline import Endpoint, ServingModel

import_keras(0, deterministic=False)

import keras  # noqa: E402  # after the quiet import
from keras import layers  # noqa: E402  # after the quiet import

RNG = np.random.default_rng(0)


def serving_of(model: keras.Model) -> ServingModel:
    """A model with dict inputs and outputs under the signature it has."""

    def spec(name, tensor):
        return TensorSpec(name, BY_NAME[tensor.dtype], tuple(DYNAMIC if d is None else d for d in tensor.shape))

    inputs = model.input.items()
    outputs = model.output.items()
    return ServingModel(model, Signature(tuple(spec(*i) for i in inputs), tuple(spec(*o) for o in outputs)))


def publish(serving: ServingModel, samples: dict, repository: Path, **changes) -> Exported:
    arguments = {
        "repository": repository,
        "name": "model",
        "family": "test",
        "task": "",
        "processor": None,
        "samples": samples,
        "metrics": {},
        "baseline": {},
        "provenance": Provenance(),
    }
    return export(serving, **(arguments | changes))


def dense() -> tuple[ServingModel, dict]:
    x = keras.Input((4,), name="features")
    model = keras.Model({"features": x}, {"prediction": layers.Dense(1)(layers.Dense(8, activation="gelu")(x))})
    return serving_of(model), {"features": RNG.standard_normal((50, 4)).astype("float32")}


def convolution() -> tuple[ServingModel, dict]:
    image = keras.Input((12, 12, 3), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 255)(image)
    x = layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    x = layers.DepthwiseConv2D(3)(layers.BatchNormalization()(x))
    x = layers.Dropout(0.5)(layers.Flatten()(layers.AveragePooling2D(2)(layers.MaxPooling2D()(x))))
    model = keras.Model({"image": image}, {"probabilities": layers.Dense(5, activation="softmax")(x)})
    return serving_of(model), {"image": RNG.integers(0, 256, (41, 12, 12, 3)).astype("uint8")}


def recurrent() -> tuple[ServingModel, dict]:
    """Every cell, both directions, and dropout, which Keras draws masks for even where it does not apply them."""
    window = keras.Input((12, 2), name="window")
    normal = layers.Normalization()
    normal.adapt(RNG.standard_normal((30, 12, 2)).astype("float32"))
    x = layers.LSTM(6, return_sequences=True, recurrent_dropout=0.2)(normal(window))
    x = layers.Bidirectional(layers.GRU(5, return_sequences=True, dropout=0.2))(x)
    x = layers.SimpleRNN(4)(x)
    model = keras.Model({"window": window}, {"forecast": layers.Dense(3)(x)})
    return serving_of(model), {"window": RNG.standard_normal((40, 12, 2)).astype("float32")}


def activations() -> tuple[ServingModel, dict]:
    """Those that TensorFlow computes by operations ONNX lacks, among them."""
    x = keras.Input((6,), name="features")
    names = (
        "relu",
        "leaky_relu",
        "elu",
        "selu",
        "celu",
        "gelu",
        "silu",
        "mish",
        "tanh",
        "sigmoid",
        "softplus",
        "softsign",
    )
    model = keras.Model({"features": x}, {name: layers.Activation(name)(x) for name in names})
    return serving_of(model), {"features": 3 * RNG.standard_normal((40, 6)).astype("float32")}


def anomaly() -> tuple[ServingModel, dict]:
    """Two float outputs and a boolean one, given in another order than the alphabet's."""
    x = keras.Input((6,), name="features")
    normal = layers.Normalization()
    rows = RNG.standard_normal((100, 6)).astype("float32")
    normal.adapt(rows)
    scaled = normal(x)
    error = layers.Dense(6)(layers.Dense(2, activation="tanh")(scaled)) - scaled
    score = keras.ops.mean(keras.ops.square(error), axis=-1)
    outputs = {"score": score, "is_anomaly": score > 1.0, "reconstruction": error + x}
    return serving_of(keras.Model({"features": x}, outputs)), {"features": rows}


def masked_text(*, masked: bool = True) -> tuple[ServingModel, dict]:
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    x = layers.Embedding(30, 8)(tokens)
    seen = keras.ops.not_equal(tokens, 0)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 4)(x, x, attention_mask=seen[:, None, :]))
    weight = keras.ops.cast(seen, "float32")[:, :, None] if masked else keras.ops.ones_like(x[:, :, :1])
    pooled = keras.ops.sum(x * weight, axis=1) / keras.ops.maximum(keras.ops.sum(weight, axis=1), 1.0)
    model = keras.Model({"tokens": tokens}, {"probabilities": layers.Dense(3, activation="softmax")(pooled)})
    return serving_of(model), {"tokens": RNG.integers(1, 30, (45, 14)).astype("int32")}


def mask_zero() -> tuple[ServingModel, dict]:
    """Keras's own mask, which travels from the embedding to the recurrent layer."""
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    x = layers.LSTM(6)(layers.Embedding(30, 8, mask_zero=True)(tokens))
    rows = RNG.integers(1, 30, (45, 9)).astype("int32")
    rows[::2, 5:] = 0
    return serving_of(keras.Model({"tokens": tokens}, {"probabilities": layers.Dense(2)(x)})), {"tokens": rows}


def several() -> tuple[ServingModel, dict]:
    """Inputs of three types in an order that is not the alphabet's; one answer under two names."""
    right, left, flag = (
        keras.Input((3,), name="right"),
        keras.Input((2,), dtype="int64", name="left"),
        keras.Input((1,), dtype="bool", name="flag"),
    )
    x = layers.Concatenate()([right, keras.ops.cast(left, "float32"), keras.ops.cast(flag, "float32")])
    total = layers.Dense(1)(x)
    outputs = {"total": total, "again": total, "count": keras.ops.sum(left, axis=-1)}
    samples = {
        "right": RNG.standard_normal((40, 3)).astype("float32"),
        "left": RNG.integers(-9, 9, (40, 2)),
        "flag": RNG.random((40, 1)) < 0.5,
    }
    return serving_of(keras.Model({"right": right, "left": left, "flag": flag}, outputs)), samples


def half_precision() -> tuple[ServingModel, dict]:
    x = keras.Input((16,), name="features")
    hidden = layers.Dense(32, activation="relu", dtype="mixed_float16")(x)
    model = keras.Model({"features": x}, {"prediction": layers.Dense(2, dtype="float32")(hidden)})
    return serving_of(model), {"features": RNG.standard_normal((40, 16)).astype("float32")}


def free_image() -> tuple[ServingModel, dict]:
    image = keras.Input((None, None, 3), dtype="uint8", name="image")
    x = layers.Conv2D(4, 3)(keras.ops.cast(image, "float32"))
    model = keras.Model({"image": image}, {"features": layers.GlobalAveragePooling2D()(x)})
    return serving_of(model), {"image": RNG.integers(0, 256, (9, 20, 16, 3)).astype("uint8")}


class TextProcessor:
    """Stands for the processor of text: only its kind, and that 0 pads, matter to the exporter."""

    pads = True

    def save(self, directory: Path) -> ProcessorSpec:
        (directory / "assets" / "words.txt").write_text("a\nb\n")
        return ProcessorSpec("text", files=("assets/words.txt",))


MODELS = {
    "dense": dense,
    "convolution": convolution,
    "recurrent": recurrent,
    "activations": activations,
    "anomaly": anomaly,
    "masked_text": masked_text,
    "mask_zero": mask_zero,
    "several": several,
    "half_precision": half_precision,
    "free_image": free_image,
}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Exports by kind of model, each made once."""
    made: dict[str, tuple[Exported, ServingModel, dict]] = {}

    def get(kind: str) -> tuple[Exported, ServingModel, dict]:
        if kind not in made:
            serving, samples = MODELS[kind]()
            made[kind] = (publish(serving, samples, tmp_path_factory.mktemp(kind)), serving, samples)
        return made[kind]

    return get


@pytest.mark.parametrize("kind", MODELS)
def test_both_formats_are_proven_for(published, kind):
    exported, serving, _ = published(kind)
    compared = {(record.format, record.output) for record in exported.manifest.parity}
    outputs = [spec.name for spec in serving.signature.outputs]
    assert compared == {(format_, output) for format_ in ("saved_model", "onnx") for output in outputs}


@pytest.mark.parametrize("kind", MODELS)
def test_the_onnx_file_has_the_signature_s_tensors_in_its_order(published, kind):
    exported, serving, _ = published(kind)
    assert OnnxBackend(exported.path / "model.onnx").signatures["serving_default"] == serving.signature


def test_the_manifest_lists_every_file_with_its_hash(published):
    exported, _, _ = published("dense")
    manifest = Manifest.read(exported.path)
    assert {"model.onnx", "saved_model.pb", "assets/samples.npz"} <= set(manifest.files)
    verify_files(exported.path, manifest)


def test_the_manifest_records_the_operator_set(published):
    assert published("dense")[0].manifest.provenance.packages["onnx-opset"] == "18"


def test_free_axes_have_names_in_the_onnx_file(published):
    import onnx

    graph = onnx.load(published("masked_text")[0].path / "model.onnx").graph
    assert [axis.dim_param for axis in graph.input[0].type.tensor_type.shape.dim] == ["batch", "tokens_axis_1"]


def test_stored_samples_hold_keras_s_answers(published):
    exported, serving, _ = published("anomaly")
    inputs, answers = read_samples(exported.path)
    again = serving.model(inputs)
    np.testing.assert_allclose(answers["score"], np.asarray(again["score"]), rtol=1e-5)
    assert answers["is_anomaly"].dtype == bool


def test_a_half_precision_graph_is_held_to_half_precision(published):
    assert {record.rtol for record in published("half_precision")[0].manifest.parity} == {2e-2}


def test_stages_are_told_in_order(tmp_path):
    serving, samples = dense()
    told: list[str] = []
    publish(serving, samples, tmp_path, progress=told.append)
    assert tuple(told) == STAGES


def test_versions_count_up_past_the_highest(tmp_path):
    (tmp_path / "model" / "0007").mkdir(parents=True)
    serving, samples = dense()
    assert publish(serving, samples, tmp_path).version == 8


def test_few_rows_of_large_inputs_are_stored(tmp_path):
    image = keras.Input((400, 400, 3), dtype="uint8", name="image")
    model = keras.Model({"image": image}, {"mean": keras.ops.mean(keras.ops.cast(image, "float32"), axis=(1, 2, 3))})
    exported = publish(serving_of(model), {"image": np.zeros((20, 400, 400, 3), "uint8")}, tmp_path)
    assert len(read_samples(exported.path)[0]["image"]) == LEAST_SAMPLES


def test_stored_rows_are_spread_over_the_held_out_ones(tmp_path):
    serving, _ = dense()
    rows = np.repeat(np.arange(1000, dtype="float32")[:, None], 4, axis=1)
    stored = read_samples(publish(serving, {"features": rows}, tmp_path).path)[0]["features"][:, 0]
    assert (len(stored), stored[0], stored[-1]) == (MOST_SAMPLES, 0, 999)


def test_a_single_held_out_row_is_enough(tmp_path):
    serving, samples = dense()
    exported = publish(serving, {"features": samples["features"][:1]}, tmp_path)
    assert [record.samples for record in exported.manifest.parity] == [1, 1]


def test_padding_of_text_is_measured(tmp_path):
    serving, samples = masked_text()
    exported = publish(serving, samples, tmp_path, processor=TextProcessor())
    padding = [record for record in exported.manifest.parity if record.format == "padding"]
    assert [record.output for record in padding] == ["probabilities"]
    assert padding[0].max_abs < 1e-6


def test_a_text_model_whose_answer_padding_changes_is_refused(tmp_path):
    serving, samples = masked_text(masked=False)
    with pytest.raises(ParityError, match="padding answers probabilities differently"):
        publish(serving, samples, tmp_path, processor=TextProcessor())
    assert list((tmp_path / "model").iterdir()) == []


def test_an_answer_that_depends_on_neighbouring_rows_is_refused(tmp_path):
    x = keras.Input((2,), name="features")
    model = keras.Model({"features": x}, {"prediction": x - keras.ops.mean(x, axis=0, keepdims=True)})
    with pytest.raises(ParityError, match="prediction"):
        publish(serving_of(model), {"features": RNG.standard_normal((40, 2)).astype("float32")}, tmp_path)


def test_a_format_that_answers_differently_publishes_nothing_and_says_by_how_much(tmp_path, monkeypatch):
    serving, samples = dense()
    other, _ = dense()
    another_model = gate.keras_runner(other)
    monkeypatch.setattr(gate, "keras_runner", lambda _serving: another_model)
    with pytest.raises(ParityError) as refusal:
        publish(serving, samples, tmp_path)
    assert list((tmp_path / "model").iterdir()) == []
    for word in ("saved_model", "prediction", "max abs", "max rel", "Expected at most", "worst in row"):
        assert word in str(refusal.value)


def test_an_operation_onnx_lacks_is_named(tmp_path):
    x = keras.Input((4,), name="features")
    model = keras.Model({"features": x}, {"spectrum": keras.ops.real(keras.ops.cast(x, "complex64"))})
    serving = ServingModel(
        model,
        Signature(
            (TensorSpec("features", BY_NAME["float32"], (-1, 4)),),
            (TensorSpec("spectrum", BY_NAME["float32"], (-1, 4)),),
        ),
    )
    with pytest.raises(FailedPrecondition, match="ONNX"):
        publish(serving, {"features": np.ones((4, 4), "float32")}, tmp_path)
    assert list((tmp_path / "model").iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "../model"}, "model name"),
        ({"name": ".hidden"}, "model name"),
        ({"name": ""}, "model name"),
        ({"name": "a/b"}, "model name"),
        ({"name": "x" * 129}, "model name"),
        ({"task": "guessing"}, "task"),
        ({"samples": {"features": np.zeros((0, 4), "float32")}}, "at least one"),
        ({"samples": {"features": np.zeros((5, 3), "float32")}}, r"shape \[5, 3\]"),
        ({"samples": {"features": np.zeros((5, 4), "float64")}}, "float64"),
        ({"samples": {"rows": np.zeros((5, 4), "float32")}}, "Received: rows"),
        ({"metrics": {"rmse": float("nan")}}, "finite metrics"),
    ],
)
def test_a_contradiction_is_refused_before_anything_is_written(tmp_path, changes, message):
    serving, samples = dense()
    repository = tmp_path / "repository"
    with pytest.raises(InvalidArgument, match=message):
        publish(serving, **({"samples": samples, "repository": repository} | changes))
    assert not repository.exists()


@pytest.mark.parametrize(
    ("shape", "message"), [((-1, 2), "output prediction"), ((2, 1), "counts rows"), ((-1, 1, 1), "output prediction")]
)
def test_a_signature_the_model_does_not_have_is_refused(tmp_path, shape, message):
    serving, samples = dense()
    wrong = Signature(serving.signature.inputs, (TensorSpec("prediction", BY_NAME["float32"], shape),))
    with pytest.raises(InvalidArgument, match=message):
        publish(ServingModel(serving.model, wrong), samples, tmp_path)


def test_a_repository_that_is_a_file_is_named(tmp_path):
    (tmp_path / "repository").write_text("")
    serving, samples = dense()
    with pytest.raises(FailedPrecondition, match="repository"):
        publish(serving, samples, tmp_path / "repository")


def test_tracing_leaves_the_layers_as_they_were(published):
    _, serving, _ = published("recurrent")
    lstm = next(layer for layer in serving.model.layers if isinstance(layer, layers.LSTM))
    assert (lstm.use_cudnn, lstm.recurrent_dropout) == ("auto", 0.2)


def test_the_manifest_is_plain_json(published):
    text = (published("several")[0].path / "manifest.json").read_text()
    assert json.loads(text)["signatures"]["serving_default"]["inputs"][0]["name"] == "right"


def several() -> tuple[ServingModel, dict]:
    """A model whose hidden layer is a signature of its own, under two names, and one with inputs of its own."""
    serving, samples = dense()
    hidden = keras.Model({"features": serving.model.inputs[0]}, {"hidden": serving.model.layers[1].output})
    values, mask = keras.Input((4,), name="values"), keras.Input((4,), dtype="bool", name="mask")
    known = layers.Multiply()([values, layers.Lambda(lambda flags: keras.ops.cast(flags, "float32"))(mask)])
    fill = serving_of(keras.Model({"values": values, "mask": mask}, {"rows": layers.Dense(3)(known)}))

    def rows(held_out: dict) -> dict:
        return {"values": held_out["features"], "mask": held_out["features"] > 0}

    encode = Endpoint(hidden, serving_of(hidden).signature)
    further = {
        "encode": encode,
        "embed": Endpoint(encode.model, encode.signature),
        "predict": Endpoint(serving.model, serving.signature),
        "fill": Endpoint(fill.model, fill.signature, rows),
    }
    return replace(serving, further=further), samples


@pytest.fixture(scope="module")
def with_several(tmp_path_factory) -> Exported:
    return publish(*several(), tmp_path_factory.mktemp("several"))


def test_every_signature_is_written_once_and_proven_in_both_formats(with_several):
    manifest = with_several.manifest
    assert sorted(path.name for path in with_several.path.glob("*.onnx")) == [
        "model-encode.onnx",
        "model-fill.onnx",
        "model.onnx",
    ]
    assert manifest.onnx_files == {
        "encode": "model-encode.onnx",
        "embed": "model-encode.onnx",
        "fill": "model-fill.onnx",
    }
    assert {(record.signature, record.format) for record in manifest.parity} == {
        (signature, format_) for signature in manifest.signatures for format_ in ("saved_model", "onnx")
    }
    assert verify(with_several.path, saved_model=True).ok


def test_further_signatures_are_proven_on_rows_of_their_own_inputs(with_several):
    inputs, answers = read_samples(with_several.path, "assets/samples-fill.npz")
    assert (set(inputs), set(answers)) == ({"values", "mask"}, {"rows"})
    assert inputs["mask"].any()
    assert not inputs["mask"].all()


def test_a_further_signature_that_differs_is_named_and_nothing_is_published(tmp_path, monkeypatch):
    serving, samples = several()
    real = gate.keras_runner

    def wrong(endpoint: Endpoint):
        run = real(endpoint)
        if endpoint is not serving.further["fill"]:
            return run
        return lambda inputs: {name: answer + 1 for name, answer in run(inputs).items()}

    monkeypatch.setattr(gate, "keras_runner", wrong)
    with pytest.raises(ParityError, match="Signature fill: saved_model answers rows differently"):
        publish(serving, samples, tmp_path)
    assert list((tmp_path / "model").iterdir()) == []


@pytest.mark.parametrize("name", ["serving_default", "a-b", "", "7th"])
def test_a_further_signature_needs_a_name_that_all_clients_take(tmp_path, name):
    serving, samples = dense()
    with pytest.raises(InvalidArgument, match="signature"):
        publish(replace(serving, further={name: Endpoint(serving.model, serving.signature)}), samples, tmp_path)
