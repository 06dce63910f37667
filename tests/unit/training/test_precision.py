"""Other precisions of a published version: made, judged, published beside it or not at all. No TensorFlow."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import typer
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from services.engine.backend import OnnxBackend
from services.engine.loader import LoadOptions, load
from services.engine.model_config import ModelConfig
from services.engine.verification import list_versions, verify
from services.errors import CornetError, DataError, FailedPrecondition, InvalidArgument, ParityError
from services.manifest import Manifest, ParityRecord, hash_files
from services.parity import Limits, write_samples
from services.tensors import BY_NAME, DYNAMIC, Signature, TensorSpec
from training.exporter import Exported
from training.precision import judge
from training.precision.command import register
from training.precision.evidence import Evidence
from training.precision.float16 import to_float16
from training.precision.int8 import CALIBRATION_ROWS, calibration_rows, method_for, to_int8
from training.precision.options import Precision, Quantization, VariantOptions
from training.precision.variants import Outcome, check_published, publish_variants

RNG = np.random.default_rng(0)
OFFSET, SCALE = 2e6, 1e5
"""Far beyond half precision's 65,504, as prices are."""

DENSE = """
    centred = Sub(features, mean)
    scaled = Mul(centred, spread)
    h1 = MatMul(scaled, w1)
    h2 = Add(h1, b1)
    h3 = Relu(h2)
    h4 = MatMul(h3, w2)
    stretched = Mul(h4, scale)
    prediction = Add(stretched, offset)
"""
CONVOLUTION = """
    numbers = Cast<to=1>(image)
    pixels = Mul(numbers, share)
    c = Conv<pads=[1,1,1,1]>(pixels, kernel, bias)
    r = Relu(c)
    p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
    flat = Reshape(p, rows)
    logits = MatMul(flat, w)
    probabilities = Softmax(logits)
"""
MASKED = """
    q = MatMul(x, w1)
    scores = Add(q, mask)
    p = Softmax(scores)
    y = MatMul(p, w2)
"""


def graph_of(body: str, inputs: list, outputs: list, **constants: np.ndarray) -> onnx.ModelProto:
    """A float32 model of the given operations; inputs and outputs as (name, element type, shape)."""
    names = ", ".join(f"float[n] {name}" for name, *_ in inputs), ", ".join(f"float[n] {name}" for name, *_ in outputs)
    nodes = onnx.parser.parse_graph(f"g ({names[0]}) => ({names[1]}) {{ {body} }}").node
    for position, node in enumerate(nodes):
        node.name = f"node_{position}"
    ends = [[helper.make_tensor_value_info(*value) for value in side] for side in (inputs, outputs)]
    initializers = [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()]
    graph = helper.make_graph(nodes, "toy", *ends, initializers)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def dense() -> onnx.ModelProto:
    return graph_of(
        DENSE,
        [("features", TensorProto.FLOAT, ["batch", 4])],
        [("prediction", TensorProto.FLOAT, ["batch", 1])],
        mean=np.full(4, OFFSET, "f4"),
        spread=np.full(4, 1 / SCALE, "f4"),
        w1=RNG.standard_normal((4, 32)).astype("f4"),
        b1=RNG.standard_normal(32).astype("f4"),
        w2=RNG.standard_normal((32, 1)).astype("f4"),
        scale=np.float32(SCALE),
        offset=np.float32(OFFSET),
    )


def convolution() -> onnx.ModelProto:
    return graph_of(
        CONVOLUTION,
        [("image", TensorProto.UINT8, ["batch", 1, 8, 8])],
        [("probabilities", TensorProto.FLOAT, ["batch", 3])],
        share=np.float32(1 / 255),
        kernel=RNG.standard_normal((4, 1, 3, 3)).astype("f4"),
        bias=np.zeros(4, "f4"),
        rows=[-1, 64],
        w=RNG.standard_normal((64, 3)).astype("f4"),
    )


def dense_rows(count: int = 40) -> dict[str, np.ndarray]:
    return {"features": (OFFSET + SCALE * RNG.standard_normal((count, 4))).astype("f4")}


def pictures(count: int = 40) -> dict[str, np.ndarray]:
    return {"image": RNG.integers(0, 256, (count, 1, 8, 8)).astype("u1")}


def run(path: Path, rows: dict) -> dict[str, np.ndarray]:
    with judge.runner(path) as answer:
        return answer(rows)


def publish(repository: Path, proto: onnx.ModelProto, rows: dict, name: str = "toy") -> Exported:
    """A version as the exporter leaves one, but for its SavedModel."""
    directory = repository / name / "3"
    directory.mkdir(parents=True)
    (directory / "model.onnx").write_bytes(proto.SerializeToString())
    backend = OnnxBackend(directory / "model.onnx")
    answers = backend.run("serving_default", rows)
    signature = backend.signatures["serving_default"]
    write_samples(directory, rows, answers)
    (directory / "saved_model.pb").write_bytes(b"not read here")
    manifest = Manifest(
        name, "test", "", "2026-01-01T00:00:00+00:00", {"serving_default": signature}, files=hash_files(directory)
    )
    manifest.write(directory)
    return Exported(3, directory, manifest)


@pytest.fixture
def source(tmp_path: Path) -> Exported:
    return publish(tmp_path, dense(), dense_rows())


def options(*precisions: Precision, **changes) -> VariantOptions:
    return VariantOptions(precisions or (Precision.FP16, Precision.INT8), **changes)


def make(source: Exported, options: VariantOptions, evidence: Evidence | None = None) -> list[Outcome]:
    return publish_variants(source, options, evidence or Evidence(), repository=source.path.parent.parent)


def types_of(proto: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True).graph
    values = (*inferred.input, *inferred.output, *inferred.value_info)
    return {value.name: value.type.tensor_type.elem_type for value in values}


def test_half_precision_is_between_the_multiplications_alone():
    proto = dense()
    converted, kept = to_float16(proto)
    assert (converted, kept) == ({"MatMul": 2}, {})
    types = types_of(proto)
    assert {name for name in ("h1", "h2", "h3", "h4") if types[name] == TensorProto.FLOAT16} == {"h1", "h2", "h3", "h4"}
    for name in ("features", "centred", "scaled", "stretched", "prediction"):
        assert types[name] == TensorProto.FLOAT


def test_raw_units_beyond_half_precision_survive(tmp_path: Path):
    proto, rows = dense(), dense_rows()
    want = (tmp_path / "a.onnx", tmp_path / "b.onnx")
    want[0].write_bytes(proto.SerializeToString())
    to_float16(proto)
    want[1].write_bytes(proto.SerializeToString())
    before, after = (run(path, rows)["prediction"] for path in want)
    assert np.abs(before).max() > 65504
    np.testing.assert_allclose(after, before, rtol=2e-3)


def test_a_mask_is_added_and_a_softmax_taken_in_float32():
    proto = graph_of(
        MASKED,
        [("x", TensorProto.FLOAT, ["b", 4]), ("mask", TensorProto.FLOAT, ["b", 4])],
        [("y", TensorProto.FLOAT, ["b", 2])],
        w1=np.ones((4, 4), "f4"),
        w2=np.ones((4, 2), "f4"),
    )
    to_float16(proto)
    types = types_of(proto)
    assert (types["q"], types["scores"], types["p"]) == (TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.FLOAT)


def test_outputs_and_what_a_branch_reads_keep_their_type(tmp_path: Path):
    inner = onnx.parser.parse_graph("then () => (float[b,4] inner) { inner = Relu(q) }")
    proto = graph_of(
        "q = MatMul(x, w1) y = MatMul(q, w1)",
        [("x", TensorProto.FLOAT, ["b", 4])],
        [("y", TensorProto.FLOAT, ["b", 4])],
        w1=RNG.standard_normal((4, 4)).astype("f4"),
        yes=np.array(True),
    )
    branch = helper.make_node("If", ["yes"], ["z"], then_branch=inner, else_branch=inner)
    proto.graph.node.insert(1, branch)
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["b", 4]))
    before = proto.SerializeToString()
    converted, kept = to_float16(proto)
    assert (converted, kept) == ({"MatMul": 2}, {})
    assert types_of(proto)["q"] == TensorProto.FLOAT
    rows = {"x": RNG.standard_normal((3, 4)).astype("f4")}
    for name, data in (("a.onnx", before), ("b.onnx", proto.SerializeToString())):
        (tmp_path / name).write_bytes(data)
    want, got = (run(tmp_path / name, rows) for name in ("a.onnx", "b.onnx"))
    for output in ("y", "z"):
        np.testing.assert_allclose(got[output], want[output], rtol=1e-2, atol=1e-2)


def test_a_graph_without_multiplications_is_refused():
    ends = [("x", TensorProto.FLOAT, ["b"])], [("y", TensorProto.FLOAT, ["b"])]
    with pytest.raises(FailedPrecondition, match="without"):
        to_float16(graph_of("y = Relu(x)", *ends))


@pytest.mark.parametrize(("proto", "method"), [(dense(), Quantization.DYNAMIC), (convolution(), Quantization.STATIC)])
def test_the_operations_choose_the_method_unless_the_user_does(proto, method):
    assert method_for(proto, Quantization.AUTO) is method
    assert method_for(proto, Quantization.STATIC) is Quantization.STATIC


def test_preprocessing_is_not_quantised(tmp_path: Path):
    source, target = tmp_path / "a.onnx", tmp_path / "b.onnx"
    source.write_bytes(convolution().SerializeToString())
    converted, kept = to_int8(source, target, Quantization.STATIC, pictures())
    assert (converted, kept) == ({"Conv": 1, "MatMul": 1}, {})
    proto = onnx.load(target)
    first = next(node for node in proto.graph.node if node.op_type == "QuantizeLinear")
    assert first.input[0] == "pixels"
    assert {node.domain for node in proto.graph.node} == {""}
    assert (proto.ir_version, [entry.version for entry in proto.opset_import if not entry.domain]) == (8, [18])


def test_the_same_rows_give_the_same_file(tmp_path: Path):
    source = tmp_path / "a.onnx"
    source.write_bytes(convolution().SerializeToString())
    rows = pictures()
    files = [tmp_path / name for name in ("b.onnx", "c.onnx")]
    for target in files:
        to_int8(source, target, Quantization.STATIC, rows)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_static_quantisation_takes_rows(tmp_path: Path):
    source = tmp_path / "a.onnx"
    source.write_bytes(convolution().SerializeToString())
    with pytest.raises(FailedPrecondition, match="training rows"):
        to_int8(source, tmp_path / "b.onnx", Quantization.STATIC, None)


def test_calibration_takes_rows_from_the_whole_of_the_training_part():
    chosen = calibration_rows({"x": np.arange(10_000)})["x"]
    assert (len(chosen), chosen[0], chosen[-1]) == (CALIBRATION_ROWS, 0, 9_999)


def test_variants_are_published_beside_the_version_under_names_of_their_own(source: Exported):
    outcomes = make(source, options())
    repository = source.path.parent.parent
    assert [outcome.refusal for outcome in outcomes] == ["", ""]
    assert [outcome.exported.path for outcome in outcomes if outcome.exported] == [
        repository / "toy-fp16" / "1",
        repository / "toy-int8" / "1",
    ]
    assert [path.name for path in (repository / "toy").iterdir()] == ["3"]


def test_a_variant_has_the_tensors_of_its_source_and_no_saved_model(source: Exported):
    for outcome in make(source, options()):
        assert outcome.exported is not None
        backend = OnnxBackend(outcome.exported.path / "model.onnx")
        assert backend.signatures == source.manifest.signatures
        assert sorted(outcome.exported.manifest.files) == ["assets/samples.npz", "model.onnx"]


def test_the_manifest_says_how_a_variant_was_made_and_what_it_came_to(source: Exported):
    (outcome,) = make(source, options(Precision.INT8))
    assert outcome.exported is not None
    manifest = Manifest.read(outcome.exported.path)
    variant = manifest.variant
    assert variant is not None
    assert (manifest.name, manifest.precision) == ("toy-int8", "int8")
    assert (variant.source, variant.source_version, variant.method) == ("toy", 3, "dynamic")
    assert variant.source_sha256 == source.manifest.files["model.onnx"]
    assert variant.converted == {"MatMul": 2}
    assert variant.bytes == (outcome.exported.path / "model.onnx").stat().st_size
    assert [record.rows for record in variant.latency] == [1, 64]
    assert all(record.source_us > 0 and record.variant_us > 0 for record in variant.latency)
    assert manifest.parity[0].nrmse_limit == judge.INT8_LIMITS.nrmse
    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest


def test_a_static_variant_says_what_it_was_calibrated_on(tmp_path: Path):
    source = publish(tmp_path, convolution(), pictures())
    (outcome,) = make(source, options(Precision.INT8), Evidence(pictures(20), "training rows of toys"))
    assert outcome.variant is not None
    assert (outcome.variant.method, outcome.variant.calibration_rows) == ("static", 20)
    assert outcome.variant.calibration_source == "training rows of toys"


def test_variants_load_verify_and_are_listed(source: Exported):
    outcomes = make(source, options())
    repository = source.path.parent.parent
    assert {row.name: row.status for row in list_versions(repository)} == dict.fromkeys(
        ("toy", "toy-fp16", "toy-int8"), "exported"
    )
    for outcome in outcomes:
        assert outcome.exported is not None
        assert verify(outcome.exported.path).problems == ()
        config = ModelConfig(outcome.name, outcome.exported.path.parent)
        servable = load(config, 1, outcome.exported.path, LoadOptions())
        assert servable.signatures == source.manifest.signatures
        servable.close()


def ruined() -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model that looks at small numbers beside a large one: eight bits for all of them leave nothing of the small."""
    weights = RNG.standard_normal((4, 1)).astype("f4")
    weights[0] = 0
    proto = graph_of(
        "y = MatMul(features, w)",
        [("features", TensorProto.FLOAT, ["batch", 4])],
        [("y", TensorProto.FLOAT, ["batch", 1])],
        w=weights,
    )
    rows = RNG.standard_normal((40, 4)).astype("f4")
    rows[:, 0] = 1e4
    return proto, {"features": rows}


def test_a_model_that_eight_bits_ruin_is_refused_and_nothing_of_it_is_left(tmp_path: Path):
    source = publish(tmp_path, *ruined())
    (outcome,) = make(source, options(Precision.INT8))
    assert outcome.exported is None
    assert "normalised RMSE" in outcome.refusal
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]
    with pytest.raises(ParityError, match="toy-int8"):
        check_published([outcome])


def test_a_variant_that_costs_too_much_of_the_metric_is_refused_with_its_figures(source: Exported):
    def score(outputs) -> dict[str, float]:
        """1 for float32's own answers, less for any others."""
        return {"accuracy": 1.0 if np.array_equal(outputs["prediction"], want) else 0.9}

    held_out = dense_rows(130)
    want = judge.answers(OnnxBackendRun(source), held_out, 64)["prediction"]
    evidence = Evidence(held_out=held_out, evaluate=score, metric="accuracy")
    strict, lenient = (make(source, options(Precision.INT8, most_loss=loss), evidence)[0] for loss in (0.05, 0.2))
    assert strict.exported is None
    assert strict.variant is not None
    assert (strict.variant.metric_source, strict.variant.metric_variant) == (1.0, 0.9)
    assert "accuracy" in strict.refusal
    assert lenient.exported is not None
    assert lenient.exported.manifest.metrics == {"accuracy": 0.9}


class OnnxBackendRun:
    """A source's answers as the gate takes them."""

    def __init__(self, source: Exported) -> None:
        self._path = source.path / "model.onnx"

    def __call__(self, inputs) -> dict[str, np.ndarray]:
        return run(self._path, inputs)


def test_answers_that_are_not_finite_have_no_metric():
    want = {"y": np.array([1.0, np.nan, 3.0])}
    judge.check_finite({"y": np.array([1.5, 2.0, 3.0])}, want)
    with pytest.raises(ParityError, match="1 that are not"):
        judge.check_finite({"y": np.array([np.inf, np.nan, 3.0])}, want)


def test_one_refused_variant_does_not_keep_another_back(source: Exported, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(judge, "INT8_LIMITS", Limits(nrmse=0.0))
    outcomes = make(source, options())
    assert {str(outcome.precision): outcome.exported is not None for outcome in outcomes} == {
        "fp16": True,
        "int8": False,
    }


def test_what_onnxruntime_cannot_quantise_is_a_refusal(tmp_path: Path):
    ends = [("x", TensorProto.FLOAT, ["b", 2])], [("y", TensorProto.FLOAT, ["b", 2])]
    source = publish(tmp_path, graph_of("y = Relu(x)", *ends), {"x": np.ones((4, 2), "f4")})
    for outcome in make(source, options()):
        assert outcome.exported is None
        assert "Received one without" in outcome.refusal


def test_a_variant_is_not_made_of_a_variant(source: Exported):
    (outcome,) = make(source, options(Precision.FP16))
    assert outcome.exported is not None
    with pytest.raises(FailedPrecondition, match="toy-fp16"):
        make(outcome.exported, options(Precision.INT8))


@pytest.mark.parametrize(
    ("got", "smaller_is_better", "fits"),
    [
        (0.99, False, True),
        (0.98, False, False),
        (1.5, False, True),
        (1.01, True, True),
        (1.02, True, False),
        (0.5, True, True),
        (float("nan"), True, False),
    ],
)
def test_the_metric_may_be_worse_by_a_share_of_float32_s(got: float, smaller_is_better: bool, fits: bool):
    arguments = {"smaller_is_better": smaller_is_better, "most_loss": 0.0100001}
    if fits:
        judge.check_metric("m", got, 1.0, **arguments)
    else:
        with pytest.raises(ParityError, match=r"at most 1\.00% worse"):
            judge.check_metric("m", got, 1.0, **arguments)


def test_free_lengths_are_tried_too(tmp_path: Path):
    proto = graph_of(
        "h = MatMul(x, w) y = ReduceSum<keepdims=0>(h, axis)",
        [("x", TensorProto.FLOAT, ["batch", "length", 4])],
        [("y", TensorProto.FLOAT, ["batch", 2])],
        w=RNG.standard_normal((4, 2)).astype("f4"),
        axis=[1],
    )
    rows = {"x": RNG.standard_normal((30, 6, 4)).astype("f4")}
    path = tmp_path / "a.onnx"
    path.write_bytes(proto.SerializeToString())
    float32 = BY_NAME["float32"]
    signature = Signature((TensorSpec("x", float32, (DYNAMIC, DYNAMIC, 4)),), (TensorSpec("y", float32, (DYNAMIC, 2)),))
    seen: Counter[int] = Counter()
    with judge.runner(path) as answer:

        def watched(inputs):
            seen[inputs["x"].shape[1]] += 1
            return answer(inputs)

        (record,) = judge.check(watched, answer, signature, rows, Precision.FP16, padding=False)
    assert sorted(seen) == [1, 3, 6]
    assert isinstance(record, ParityRecord)


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    register(app)
    app.callback()(lambda: None)
    return app


def test_convert_publishes_and_shows_the_figures(app: typer.Typer, source: Exported):
    result = CliRunner().invoke(
        app, ["convert", str(source.path), "--precision", "fp16", "--precision", "int8"], env={"COLUMNS": "120"}
    )
    assert result.exit_code == 0, result.output
    assert (source.path.parent.parent / "toy-int8" / "1" / "manifest.json").is_file()
    for word in ("toy-fp16", "toy-int8", "nrmse", "CPU time of 64 rows"):
        assert word in result.output


def test_convert_calibrates_on_rows_of_the_user(app: typer.Typer, tmp_path: Path):
    source = publish(tmp_path / "models", convolution(), pictures())
    np.savez(tmp_path / "rows.npz", **pictures(10))
    arguments = ["convert", str(source.path), "--precision", "int8", "--calibration", str(tmp_path / "rows.npz")]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    manifest = Manifest.read(tmp_path / "models" / "toy-int8" / "1")
    assert manifest.variant is not None
    assert manifest.variant.calibration_source.startswith("rows of rows.npz, sha256:")


def test_a_refusal_fails_the_command(app: typer.Typer, tmp_path: Path):
    source = publish(tmp_path, *ruined())
    result = CliRunner().invoke(app, ["convert", str(source.path), "--precision", "int8"])
    assert isinstance(result.exception, ParityError)
    assert "toy-int8 is not published" in result.output


@pytest.mark.parametrize(
    ("change", "error"),
    [
        pytest.param("no precision", InvalidArgument, id="nothing asked for"),
        pytest.param("no version", DataError, id="a folder that is no version"),
        pytest.param("damaged", CornetError, id="a damaged version"),
    ],
)
def test_convert_refuses(app: typer.Typer, source: Exported, change: str, error: type[CornetError]):
    path, arguments = source.path, ["--precision", "fp16"]
    if change == "no precision":
        arguments = ["--precision", "fp32"]
    elif change == "no version":
        path = source.path.parent
    else:
        (path / "model.onnx").write_bytes(b"")
    result = CliRunner().invoke(app, ["convert", str(path), *arguments])
    assert isinstance(result.exception, error)


def test_a_precision_is_made_once_and_fp32_is_none_of_them():
    wanted = (Precision.INT8, Precision.FP32, Precision.INT8)
    assert replace(VariantOptions(), precisions=wanted).wanted == (Precision.INT8,)


@pytest.fixture
def two_functions(tmp_path: Path) -> Exported:
    """The convolution, the dense model as a signature `score`, and another name for it."""
    first = publish(tmp_path, convolution(), pictures())
    second = publish(tmp_path, dense(), dense_rows(), "score")
    (first.path / "model-score.onnx").write_bytes((second.path / "model.onnx").read_bytes())
    backend = OnnxBackend(second.path / "model.onnx")
    rows = dense_rows()
    write_samples(first.path, rows, backend.run("serving_default", rows), "assets/samples-score.npz")
    signatures = {
        **first.manifest.signatures,
        **dict.fromkeys(("score", "rate"), backend.signatures["serving_default"]),
    }
    manifest = replace(
        first.manifest,
        signatures=signatures,
        onnx_files=dict.fromkeys(("score", "rate"), "model-score.onnx"),
        files=hash_files(first.path),
    )
    manifest.write(first.path)
    return Exported(3, first.path, manifest)


def test_every_signature_of_a_version_is_converted_and_judged(two_functions: Exported):
    (outcome,) = make(two_functions, options(Precision.FP16))
    assert outcome.exported is not None, outcome.refusal
    manifest = outcome.exported.manifest
    assert {(record.signature, record.output) for record in manifest.parity} == {
        ("serving_default", "probabilities"),
        ("score", "prediction"),
        ("rate", "prediction"),
    }
    assert outcome.variant is not None
    assert outcome.variant.converted == {"Conv": 1, "MatMul": 3}
    assert outcome.variant.source_bytes == sum(file.stat().st_size for file in two_functions.path.glob("*.onnx"))
    types = types_of(onnx.load(outcome.exported.path / "model-score.onnx"))
    assert types["h1"] == TensorProto.FLOAT16
    assert verify(outcome.exported.path).ok


def test_calibration_rows_that_a_signature_lacks_are_asked_for(two_functions: Exported):
    evidence = Evidence(pictures(20), "training rows of toys")
    (outcome,) = make(two_functions, options(Precision.INT8, quantization=Quantization.STATIC), evidence)
    assert outcome.exported is None
    assert "Signature score: expected calibration rows of features" in outcome.refusal
    (outcome,) = make(two_functions, options(Precision.INT8), evidence)  # the dense model's ranges are taken as it runs
    assert outcome.variant is not None
    assert "score" not in outcome.refusal
    assert outcome.variant.converted == {"Conv": 1, "MatMul": 3}
