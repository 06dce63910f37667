"""Triton's own gRPC client against our server."""

import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from services.launch import ServerProcess
from services.tensors import DTYPES, DType

TIMEOUT_S = 30

TYPED = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


@pytest.fixture(scope="module")
def client(grpc_server: ServerProcess) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(grpc_server.grpc_address) as client:
        yield client


@pytest.fixture(scope="module")
def stub(grpc_server: ServerProcess) -> Iterator[service_pb2_grpc.GRPCInferenceServiceStub]:
    with grpc.insecure_channel(grpc_server.grpc_address) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def tensor(name: str, values: np.ndarray, datatype: str) -> triton.InferInput:
    sent = triton.InferInput(name, list(values.shape), datatype)
    sent.set_data_from_numpy(values)
    return sent


def values_of(dtype: DType) -> np.ndarray:
    if dtype.is_string:
        return np.array([[b"", b"a\x00b"], ["é".encode(), b"x" * 300]], object)
    if dtype.name == "bool":
        return np.array([[True, False], [False, True]])
    if dtype.name.startswith("float"):
        return np.array([[0.5, -1.25], [np.inf, 3]], dtype.name)
    info = np.iinfo(dtype.name)
    return np.array([[info.min, info.max], [0, 1]], dtype.name)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.oip)
def test_every_datatype_comes_back_as_it_was_sent_raw(client, dtype: DType) -> None:
    values = values_of(dtype)
    result = client.infer(f"identity_{dtype.name}", [tensor("x", values, dtype.oip)], client_timeout=TIMEOUT_S)
    got = result.as_numpy("y")
    assert got.dtype == values.dtype
    np.testing.assert_array_equal(got, values)


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d.oip in TYPED], ids=lambda dtype: dtype.oip)
def test_every_datatype_comes_back_as_it_was_sent_typed(stub, dtype: DType) -> None:
    values = values_of(dtype)
    request = service_pb2.ModelInferRequest(model_name=f"identity_{dtype.name}")
    sent = request.inputs.add(name="x", datatype=dtype.oip, shape=values.shape)
    getattr(sent.contents, TYPED[dtype.oip]).extend(values.ravel().tolist())
    response = stub.ModelInfer(request, TIMEOUT_S)
    assert not response.outputs[0].HasField("contents")
    got = triton.InferResult(response).as_numpy("y")
    assert got.dtype == values.dtype
    np.testing.assert_array_equal(got, values)


def test_an_answer_names_model_version_and_request(client) -> None:
    one = tensor("x", np.ones((1, 1), np.float32), "FP32")
    response = client.infer("offset", [one], request_id="r-7", client_timeout=TIMEOUT_S).get_response()
    assert (response.model_name, response.model_version, response.id) == ("offset", "2", "r-7")


def test_a_version_chooses_who_answers(client) -> None:
    one = tensor("x", np.ones((1, 1), np.float32), "FP32")
    result = client.infer("offset", [one], model_version="1", client_timeout=TIMEOUT_S)
    assert result.as_numpy("y").tolist() == [[2]]


def test_requested_outputs_come_alone_and_in_their_order(client) -> None:
    inputs = [
        tensor("a", np.ones((1, 3), np.float32), "FP32"),
        tensor("b", np.ones((1, 3), np.int32), "INT32"),
        tensor("flag", np.array([[True]]), "BOOL"),
    ]
    outputs = [triton.InferRequestedOutput("total"), triton.InferRequestedOutput("count")]
    response = client.infer("multi", inputs, outputs=outputs, client_timeout=TIMEOUT_S).get_response()
    assert [output.name for output in response.outputs] == ["total", "count"]


def test_parameters_of_the_clients_own_do_no_harm(client) -> None:
    one = tensor("x", np.ones((1, 1), np.float32), "FP32")
    result = client.infer("half_plus_two", [one], parameters={"tenant": "a", "n": 1}, client_timeout=TIMEOUT_S)
    assert result.as_numpy("y").tolist() == [[2.5]]


def test_a_large_tensor_goes_both_ways(client) -> None:
    values = np.arange(4 * 1024 * 1024, dtype=np.float32).reshape(4, -1)
    result = client.infer("identity_float32", [tensor("x", values, "FP32")], client_timeout=TIMEOUT_S)
    np.testing.assert_array_equal(result.as_numpy("y"), values)


def test_calls_at_once_each_get_their_own_answer(client) -> None:
    def ask(value: int) -> float:
        sent = tensor("x", np.array([[value]], np.float32), "FP32")
        return client.infer("half_plus_two", [sent], client_timeout=TIMEOUT_S).as_numpy("y").item()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(200))) == [value / 2 + 2 for value in range(200)]


def test_an_asynchronous_call_is_answered(client) -> None:
    answers: queue.Queue = queue.Queue()
    one = tensor("x", np.ones((1, 1), np.float32), "FP32")
    client.async_infer("half_plus_two", [one], lambda result, error: answers.put((result, error)))
    result, error = answers.get(timeout=TIMEOUT_S)
    assert error is None
    assert result.as_numpy("y").tolist() == [[2.5]]


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests_are_read(client, algorithm: str) -> None:
    sent = tensor("x", np.zeros((10, 1000), np.float32), "FP32")
    result = client.infer("identity_float32", [sent], compression_algorithm=algorithm, client_timeout=TIMEOUT_S)
    assert result.as_numpy("y").shape == (10, 1000)


def test_the_server_is_live_and_ready(client) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()


@pytest.mark.parametrize(
    ("model", "version", "ready"),
    [("offset", "", True), ("offset", "1", True), ("offset", "9", False), ("nope", "", False)],
)
def test_a_model_is_ready_when_it_is_available(client, model: str, version: str, ready: bool) -> None:
    assert client.is_model_ready(model, version) is ready


def test_server_metadata_lists_what_is_served(client) -> None:
    metadata = client.get_server_metadata()
    assert metadata.name == "cornet"
    assert metadata.version
    assert "binary_tensor_data" in metadata.extensions
    assert not {"system_shared_memory", "cuda_shared_memory", "sequence"} & set(metadata.extensions)


@pytest.mark.parametrize(("version", "versions"), [("", ["1", "2"]), ("1", ["1"])])
def test_model_metadata_lists_versions_and_tensors(client, version: str, versions: list[str]) -> None:
    metadata = client.get_model_metadata("offset", version)
    assert (metadata.name, list(metadata.versions), metadata.platform) == ("offset", versions, "onnxruntime_onnx")
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs] == [("x", "FP32", [-1, 1])]
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.outputs] == [("y", "FP32", [-1, 1])]


ONE = tensor("x", np.ones((1, 1), np.float32), "FP32")


@pytest.mark.parametrize(
    ("model", "version", "inputs", "code", "text"),
    [
        ("nope", "", [ONE], "StatusCode.NOT_FOUND", "nope"),
        ("offset", "9", [ONE], "StatusCode.NOT_FOUND", "Specific(offset, 9)"),
        ("offset", "new", [ONE], "StatusCode.INVALID_ARGUMENT", "positive integer"),
        ("half_plus_two", "", [], "StatusCode.INVALID_ARGUMENT", "x"),
        ("half_plus_two", "", [ONE, ONE], "StatusCode.INVALID_ARGUMENT", "twice"),
        (
            "half_plus_two",
            "",
            [tensor("x", np.ones((1, 1), np.int32), "INT32")],
            "StatusCode.INVALID_ARGUMENT",
            "int32",
        ),
        (
            "mlp",
            "",
            [tensor("features", np.ones((1, 7), np.float32), "FP32")],
            "StatusCode.INVALID_ARGUMENT",
            "7",
        ),
    ],
)
def test_a_request_that_cannot_work_is_refused(client, model, version, inputs, code: str, text: str) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, inputs, model_version=version, client_timeout=TIMEOUT_S)
    assert caught.value.status() == code
    assert text in caught.value.message()


def test_an_unknown_requested_output_is_refused(client) -> None:
    with pytest.raises(InferenceServerException, match="nope"):
        client.infer("half_plus_two", [ONE], outputs=[triton.InferRequestedOutput("nope")], client_timeout=TIMEOUT_S)


def test_shared_memory_is_refused_by_name(client) -> None:
    sent = triton.InferInput("x", [1, 1], "FP32")
    sent.set_shared_memory("region", 4)
    with pytest.raises(InferenceServerException, match="shared_memory_region") as caught:
        client.infer("half_plus_two", [sent], client_timeout=TIMEOUT_S)
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"


def test_bytes_that_contradict_the_shape_are_refused(stub) -> None:
    request = service_pb2.ModelInferRequest(model_name="half_plus_two", raw_input_contents=[b"1234567"])
    request.inputs.add(name="x", datatype="FP32", shape=[2, 1])
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request, TIMEOUT_S)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "expected 8 bytes of FP32 for shape [2, 1]. Received: 7" in caught.value.details()


def test_methods_that_are_not_served_say_so(client) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.get_model_repository_index()
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"


def test_a_deadline_that_passes_ends_the_call(client) -> None:
    sent = tensor("x", np.ones((64, 1024), np.float32), "FP32")
    with pytest.raises(InferenceServerException) as caught:
        client.infer("slow", [sent], client_timeout=0.001)
    assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"


def test_a_cancelled_call_leaves_the_server_able_to_answer(client) -> None:
    answers: queue.Queue = queue.Queue()
    sent = tensor("x", np.ones((64, 1024), np.float32), "FP32")
    call = client.async_infer("slow", [sent], lambda result, error: answers.put(error))
    call.cancel()
    assert answers.get(timeout=TIMEOUT_S).status() == "StatusCode.CANCELLED"
    assert client.infer("half_plus_two", [ONE], client_timeout=TIMEOUT_S).as_numpy("y").tolist() == [[2.5]]
