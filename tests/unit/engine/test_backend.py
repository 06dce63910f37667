import logging
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services import testing
from services.engine.backend import BackendOptions, OnnxBackend, available_cpus
from services.errors import (
    DataLoss,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    SignatureNotFound,
)
from services.manifest import Manifest
from services.tensors import DTYPES

SIGNATURE = "serving_default"


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_every_element_type_goes_in_and_comes_out(tmp_path, dtype):
    backend = OnnxBackend(testing.write_identity(tmp_path / "1", dtype.name))
    if dtype.is_string:
        array = np.array([[b"", b"a\0b", "größe 🐘".encode()]], object)
    else:
        array = np.array([[0, 1, 100]]).astype(dtype.numpy)
    array.flags.writeable = False
    answer = backend.run(SIGNATURE, {"x": array})["y"]
    assert answer.dtype == dtype.numpy
    assert answer.tolist() == array.tolist()
    assert backend.signatures[SIGNATURE].inputs[0].dtype is dtype


@pytest.fixture(scope="module")
def joiner(tmp_path_factory):
    return OnnxBackend(testing.write_string_join(tmp_path_factory.mktemp("join") / "1"))


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=5))
def test_any_text_survives_as_utf8_bytes(joiner, pairs):
    left = np.array([a.encode() for a, _ in pairs], object)
    right = np.array([b.encode() for _, b in pairs], object)
    answer = joiner.run(SIGNATURE, {"left": left, "right": right}, ("joined",))
    assert answer["joined"].tolist() == [(a + b).encode() for a, b in pairs]


def test_bytes_that_are_no_text_are_refused(joiner):
    with pytest.raises(InvalidArgument, match="left: expected strings of UTF-8 bytes"):
        joiner.run(SIGNATURE, {"left": np.array([b"\xff"], object), "right": np.array([b""], object)})


def test_a_string_array_of_something_else_is_refused(joiner):
    with pytest.raises(InvalidArgument, match="left: expected strings"):
        joiner.run(SIGNATURE, {"left": np.array([None], object), "right": np.array([b""], object)})


def test_the_graph_s_own_signature_has_variable_axes_as_minus_one(tmp_path):
    backend = OnnxBackend(testing.write_multi(tmp_path / "1"))
    signature = backend.signatures[SIGNATURE]
    assert [str(spec) for spec in signature.inputs] == ["a: float32 [-1, 3]", "b: int32 [-1, 3]", "flag: bool [-1, 1]"]
    assert [str(spec) for spec in signature.outputs] == [
        "total: float32 [-1, 3]",
        "count: int64 [-1, 1]",
        "above: bool [-1, 3]",
    ]
    assert signature.batchable


def test_several_inputs_and_the_outputs_asked_for(tmp_path):
    backend = OnnxBackend(testing.write_multi(tmp_path / "1"))
    inputs = {
        "a": np.array([[1, 2, 3]], np.float32),
        "b": np.array([[2, 1, 2]], np.int32),
        "flag": np.array([[True]]),
    }
    answer = backend.run(SIGNATURE, inputs, ("above", "count"))
    assert list(answer) == ["above", "count"]
    assert answer["above"].tolist() == [[False, True, True]]
    assert answer["count"].tolist() == [[5]]


def test_a_view_that_is_not_contiguous_is_read_right(tmp_path):
    backend = OnnxBackend(testing.write_identity(tmp_path / "1"))
    array = np.arange(12, dtype=np.float32).reshape(3, 4)[:, ::2]
    assert backend.run(SIGNATURE, {"x": array})["y"].tolist() == array.tolist()


def test_an_unknown_signature_names_the_known_one(tmp_path):
    backend = OnnxBackend(testing.write_identity(tmp_path / "1"))
    with pytest.raises(SignatureNotFound, match="serving_default"):
        backend.run("other", {})


def test_values_the_graph_refuses_are_the_caller_s_fault(tmp_path):
    backend = OnnxBackend(testing.write_lookup(tmp_path / "1"))
    with pytest.raises(InvalidArgument, match=r"idx=99 must be within the inclusive range \[-10,9\]"):
        backend.run(SIGNATURE, {"id": np.array([99])})


def test_a_fault_of_the_runtime_is_internal_and_its_cause_is_logged(tmp_path, caplog):
    backend = OnnxBackend(testing.write_identity(tmp_path / "1"))
    with caplog.at_level(logging.ERROR), pytest.raises(Internal, match="the server's log has the cause"):
        backend.run(SIGNATURE, {"wrong name": np.zeros((1, 1), np.float32)})
    assert "wrong name" in caplog.text


@pytest.mark.parametrize("content", [b"", b"not a model", None], ids=["empty", "rubbish", "cut short"])
def test_a_corrupt_file_is_data_loss_and_tells_no_path(tmp_path, content):
    path = testing.write_mlp(tmp_path / "1")
    path.write_bytes(path.read_bytes()[:5000] if content is None else content)
    with pytest.raises(DataLoss, match=r"model.onnx is no model ONNX Runtime can load") as error:
        OnnxBackend(path)
    assert str(tmp_path) not in str(error.value)


def test_a_missing_file_is_data_loss(tmp_path):
    with pytest.raises(DataLoss, match=r"Expected a file model.onnx"):
        OnnxBackend(tmp_path / "model.onnx")


def test_the_provider_that_really_runs_is_told(tmp_path):
    options = BackendOptions(providers=("CPUExecutionProvider",))
    assert OnnxBackend(testing.write_identity(tmp_path / "1"), options).providers == ("CPUExecutionProvider",)


@pytest.fixture
def only_cpu(monkeypatch):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])


@pytest.mark.usefixtures("only_cpu")
def test_a_provider_that_is_asked_for_and_absent_is_an_error(tmp_path):
    path = testing.write_identity(tmp_path / "1")
    with pytest.raises(FailedPrecondition, match="Expected the execution provider CUDAExecutionProvider"):
        OnnxBackend(path, BackendOptions(providers=("CUDAExecutionProvider",)))


@pytest.mark.usefixtures("only_cpu")
def test_the_cpu_may_stand_in_where_that_is_allowed(tmp_path):
    path = testing.write_identity(tmp_path / "1")
    backend = OnnxBackend(path, BackendOptions(providers=("CUDAExecutionProvider",), allow_cpu_fallback=True))
    assert backend.providers == ("CPUExecutionProvider",)


def test_an_unknown_provider_is_an_error_even_with_the_fallback(tmp_path):
    path = testing.write_identity(tmp_path / "1")
    with pytest.raises(InvalidArgument, match="Received: FastProvider"):
        OnnxBackend(path, BackendOptions(providers=("FastProvider",), allow_cpu_fallback=True))


def test_a_closed_backend_says_so(tmp_path):
    backend = OnnxBackend(testing.write_identity(tmp_path / "1"))
    backend.close()
    with pytest.raises(FailedPrecondition, match="unloaded"):
        backend.run(SIGNATURE, {"x": np.zeros((1, 1), np.float32)})


def test_there_is_at_least_one_cpu():
    assert available_cpus() >= 1


def several(version: Path) -> dict[str, Path]:
    manifest = Manifest.read(testing.write_signatures(version))
    return {key: version / manifest.onnx_file(key) for key in manifest.signatures}


@pytest.mark.parametrize("as_device", [False, True])
def test_each_signature_runs_its_own_file(tmp_path, as_device):
    backend = OnnxBackend(several(tmp_path / "1"), BackendOptions(as_device=as_device))
    x, mask = np.array([[1, 3]], np.float32), np.array([[True, False]])
    for _ in range(2):  # on a device the second run has its outputs placed
        answers = {key: backend.run(key, {"x": x})["y"].tolist() for key in (SIGNATURE, "halved", "doubled")}
        assert answers == {SIGNATURE: [[2.5, 3.5]], "halved": [[2.5, 3.5]], "doubled": [[2.0, 6.0]]}
        assert backend.run("filled", {"values": x, "mask": mask})["rows"].tolist() == [[1.0, 9.0]]
    backend.close()
    with pytest.raises(FailedPrecondition, match="unloaded"):
        backend.run("doubled", {"x": x})


def test_signatures_of_one_file_share_a_session(tmp_path):
    backend = OnnxBackend(several(tmp_path / "1"))
    assert len({id(graph.session) for graph in backend._graphs.values()}) == 3


def test_a_missing_file_of_a_further_signature_is_named(tmp_path):
    files = several(tmp_path / "1")
    files["doubled"].unlink()
    with pytest.raises(DataLoss, match=r"model-doubled\.onnx"):
        OnnxBackend(files)


AZURE = "AzureExecutionProvider"  # of every build of ONNX Runtime a known name
CPU = "CPUExecutionProvider"


@pytest.fixture
def only_the_first_file_fits(monkeypatch):
    """ONNX Runtime as it is where a further file's session cannot have the provider: it falls back without an error."""

    class Session(ort.InferenceSession):
        def __init__(
            self, path: str, settings: ort.SessionOptions, providers: list[tuple[str, dict[str, str]]]
        ) -> None:
            super().__init__(path, settings, providers=[CPU])
            self._told = [AZURE, CPU] if Path(path).name == "model.onnx" else [CPU]

        def get_providers(self) -> list[str]:
            return self._told

    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [AZURE, CPU])
    monkeypatch.setattr("onnxruntime.InferenceSession", Session)


@pytest.mark.usefixtures("only_the_first_file_fits")
def test_a_further_file_that_falls_back_to_the_cpu_is_an_error(tmp_path):
    with pytest.raises(FailedPrecondition, match=rf"Expected model-doubled\.onnx to run on {AZURE}. Received: {CPU}"):
        OnnxBackend(several(tmp_path / "1"), BackendOptions(providers=(AZURE,)))


@pytest.mark.usefixtures("only_the_first_file_fits")
def test_where_that_is_allowed_the_provider_of_the_worst_file_is_told(tmp_path):
    backend = OnnxBackend(several(tmp_path / "1"), BackendOptions(providers=(AZURE,), allow_cpu_fallback=True))
    assert backend.providers == (CPU,)
