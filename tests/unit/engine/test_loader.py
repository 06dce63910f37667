import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from services import testing
from services.engine import loader
from services.engine.backend import BackendOptions
from services.engine.loader import LoadOptions, load, warm_up
from services.engine.model_config import BatchingConfig, BatchingOptions, ModelConfig
from services.errors import DataLoss, FailedPrecondition, InvalidArgument, ManifestError
from services.manifest import BatchingHints, Manifest, hash_files
from services.tensors import BY_NAME, Signature, TensorSpec

FLOAT = BY_NAME["float32"]
CLOSE = LoadOptions(verify_hashes=True)


def spec(name: str, *shape: int, dtype=FLOAT) -> TensorSpec:
    return TensorSpec(name, dtype, shape)


def publish(path: Path, *, inputs=None, outputs=None, **more) -> Path:
    """A half-plus-two version with a manifest that promises what the test says."""
    testing.write_half_plus_two(path)
    signature = Signature(inputs or (spec("x", -1, 1),), outputs or (spec("y", -1, 1),))
    Manifest(
        "m", "regressor", "regression", "now", {"serving_default": signature}, files=hash_files(path), **more
    ).write(path)
    return path


def open_version(path: Path, **batching):
    return load(ModelConfig("m", path.parent, batching=BatchingConfig(**batching)), 1, path, CLOSE)


def test_a_plain_onnx_model_is_served_by_its_own_signature(tmp_path):
    servable = open_version(testing.write_half_plus_two(tmp_path / "1").parent)
    assert servable.manifest is None
    assert servable.platform == "onnxruntime_onnx"
    assert servable.providers[0] == "CPUExecutionProvider"
    assert str(servable.signatures["serving_default"].inputs[0]) == "x: float32 [-1, 1]"


def test_a_manifest_that_fits_is_taken_at_its_word(tmp_path):
    servable = open_version(publish(tmp_path / "1", batching=BatchingHints(max_batch_rows=16, max_queue_delay_us=70)))
    assert servable.manifest is not None
    assert (servable.batching.max_batch_rows, servable.batching.max_queue_delay_us) == (16, 70)


def test_the_configuration_goes_before_the_manifest_s_hints(tmp_path):
    servable = open_version(publish(tmp_path / "1", batching=BatchingHints(max_batch_rows=16)), max_batch_rows=4)
    assert servable.batching.max_batch_rows == 4


def test_an_axis_may_be_promised_more_narrowly_than_the_model_needs(tmp_path):
    path = tmp_path / "1"
    testing.write_identity(path)
    signature = Signature((spec("x", -1, 4),), (spec("y", -1, 4),))
    Manifest("m", "f", "", "now", {"serving_default": signature}).write(path)
    assert open_version(path).signatures["serving_default"] == signature


@pytest.mark.parametrize(
    ("promise", "message"),
    [
        ({"inputs": (spec("features", -1, 1),)}, r"inputs: expected the model's own, x. Received: features"),
        ({"inputs": (spec("x", -1, 1), spec("z", -1))}, r"Received: x, z"),
        ({"outputs": (spec("y", -1, 1, dtype=BY_NAME["float64"]),)}, r"expected y: float32 .* Received: y: float64"),
        ({"inputs": (spec("x", -1, 2),)}, r"expected x: float32 \[-1, 1\].* Received: x: float32 \[-1, 2\]"),
        ({"inputs": (spec("x", -1, -1),)}, r"Received: x: float32 \[-1, -1\]"),
        ({"inputs": (spec("x", -1),)}, r"Received: x: float32 \[-1\]"),
    ],
)
def test_a_manifest_that_contradicts_the_model_fails_the_load(tmp_path, promise, message):
    with pytest.raises(ManifestError, match=message):
        open_version(publish(tmp_path / "1", **promise))


def test_a_malformed_manifest_fails_the_load(tmp_path):
    path = publish(tmp_path / "1")
    (path / "manifest.json").write_text('{"schema_version": 1, ')
    with pytest.raises(ManifestError, match=r"manifest.json: expected JSON"):
        open_version(path)


def test_weights_that_changed_under_their_hash_fail_the_load(tmp_path):
    path = publish(tmp_path / "1")
    testing.write_offset(path, 7.0)
    with pytest.raises(DataLoss, match=r"model.onnx: expected SHA-256 \w+, as in the manifest"):
        open_version(path)


def test_hashes_are_not_read_where_that_is_switched_off(tmp_path):
    path = publish(tmp_path / "1")
    testing.write_offset(path, 7.0)
    servable = load(ModelConfig("m", tmp_path), 1, path, LoadOptions(verify_hashes=False))
    assert servable.version == 1


def test_a_manifest_without_a_model_fails_the_load(tmp_path):
    path = publish(tmp_path / "1")
    (path / "model.onnx").unlink()
    with pytest.raises(DataLoss, match=r"model.onnx"):
        open_version(path)


def test_a_directory_with_neither_format_fails_the_load(tmp_path):
    path = tmp_path / "1"
    path.mkdir()
    with pytest.raises(DataLoss, match=r"Expected model.onnx or saved_model.pb"):
        open_version(path)


def test_a_plain_saved_model_without_tensorflow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    path = tmp_path / "1"
    path.mkdir()
    (path / "saved_model.pb").touch()
    with pytest.raises(FailedPrecondition, match=r"pip install 'cornet\[tensorflow\]'"):
        open_version(path)


def warmed(backend, **options) -> list[int]:
    warm_up(backend, "serving_default", backend.signatures["serving_default"], BatchingOptions(**options))
    return sorted({len(call["x"]) for call in backend.calls})


def test_powers_of_two_up_to_the_largest_batch_are_warmed_up():
    assert warmed(testing.PuppetBackend(), max_batch_rows=6) == [1, 2, 4, 6]


def test_every_allowed_size_is_warmed_up_and_no_other():
    assert warmed(testing.PuppetBackend(), max_batch_rows=12, allowed_batch_rows=(3, 12)) == [3, 12]


def test_a_variable_axis_gets_a_length_of_its_own():
    backend = testing.PuppetBackend(shape=(-1, -1, 3))
    warmed(backend, max_batch_rows=1)
    assert backend.calls[0]["x"].shape == (1, 8, 3)


def test_a_model_that_refuses_zeros_is_served_cold():
    backend = testing.PuppetBackend()
    backend.fail = InvalidArgument("zeros are no token")
    costs = warm_up(backend, "serving_default", backend.signatures["serving_default"], BatchingOptions())
    assert costs.estimate(1) == float("inf")


def test_a_quick_model_is_known_to_be_quick_once_warm(tmp_path):
    servable = open_version(testing.write_mlp(tmp_path / "1").parent)
    assert 0 < servable._costs["serving_default"].estimate(8) < 0.05


def test_the_signature_s_order_is_the_manifest_s(tmp_path):
    path = tmp_path / "1"
    testing.write_multi(path)
    backend_order = open_version(path).signatures["serving_default"]
    turned = Signature(backend_order.inputs[::-1], backend_order.outputs[::-1])
    Manifest("m", "f", "", "now", {"serving_default": turned}).write(path)
    assert [s.name for s in open_version(path).signatures["serving_default"].inputs] == ["flag", "b", "a"]


def test_zeros_of_a_string_model_are_empty_strings(tmp_path):
    servable = open_version(testing.write_string_join(tmp_path / "1").parent)
    assert servable._costs["serving_default"].estimate(2) < float("inf")
    assert np.dtype("object") == servable.signatures["serving_default"].inputs[0].dtype.numpy


@pytest.mark.parametrize(
    ("seconds", "asked", "opened"),
    [(1e-5, 0, [0, 1]), (1e-3, 0, [0]), (1e-5, 2, [2])],
    ids=["short runs", "long runs", "the user has chosen"],
)
def test_a_model_of_short_runs_gets_one_thread_unless_a_number_is_asked_for(
    tmp_path, monkeypatch, seconds, asked, opened
):
    clock, threads = testing.FakeClock(), []

    def open_backend(path: Path, manifest: Manifest | None, options: BackendOptions) -> testing.PuppetBackend:
        threads.append(options.intra_op_threads)
        return testing.PuppetBackend(clock, seconds=seconds)

    monkeypatch.setattr(loader, "open_backend", open_backend)
    monkeypatch.setattr(loader, "perf_counter", clock)
    load(ModelConfig("m", tmp_path), 1, tmp_path, LoadOptions(BackendOptions(intra_op_threads=asked)))
    assert threads == opened


def test_every_signature_of_a_manifest_is_loaded_and_warmed_up(tmp_path):
    servable = open_version(testing.write_signatures(tmp_path / "1"))
    assert list(servable.signatures) == ["serving_default", "halved", "doubled", "filled"]
    assert all(servable._costs[key].estimate(2) < 0.05 for key in servable.signatures)


def test_a_damaged_file_of_a_further_signature_is_found(tmp_path):
    path = testing.write_signatures(tmp_path / "1")
    file = path / "model-filled.onnx"
    file.write_bytes(file.read_bytes().replace(b"rows", b"cows"))
    with pytest.raises(DataLoss, match=r"model-filled\.onnx: expected SHA-256"):
        open_version(path)


def test_a_plain_version_has_one_signature_whatever_lies_beside_its_model(tmp_path):
    path = testing.write_signatures(tmp_path / "1")
    (path / "manifest.json").unlink()
    assert list(open_version(path).signatures) == ["serving_default"]


def without_a_default(version: Path) -> Path:
    """A version whose signatures all are of other files than model.onnx."""
    manifest = Manifest.read(testing.write_signatures(version))
    (version / "model.onnx").unlink()
    further = {key: manifest.signatures[key] for key in ("doubled", "filled")}
    replace(manifest, signatures=further, files=hash_files(version)).write(version)
    return version


def test_a_manifest_without_the_default_signature_needs_no_model_onnx(tmp_path):
    servable = open_version(without_a_default(tmp_path / "1"))
    assert servable.platform == "onnxruntime_onnx"
    assert list(servable.signatures) == ["doubled", "filled"]


def test_the_files_that_the_signatures_name_are_those_missed(tmp_path):
    path = without_a_default(tmp_path / "1")
    for file in path.glob("*.onnx"):
        file.unlink()
    options = LoadOptions(verify_hashes=False)
    with pytest.raises(DataLoss, match=r"Expected model-doubled\.onnx, model-filled\.onnx or saved_model\.pb"):
        load(ModelConfig("m", tmp_path), 1, path, options)
