"""tritonclient.http, unchanged, against a server process."""

import asyncio
import json
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from services.tensors import DTYPES


@pytest.fixture(scope="module")
def client(server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.http_url.removeprefix("http://"), concurrency=2) as client:
        yield client


def samples(dtype) -> np.ndarray:
    """Two rows that hold the type's extremes."""
    if dtype.is_string:
        return np.array([["any text, 文字".encode(), b""], [b'"\\n', b"x" * 1000]], object)
    if dtype.name == "bool":
        return np.array([[True, False], [False, True]])
    limits = np.finfo(dtype.numpy) if dtype.numpy.kind == "f" else np.iinfo(dtype.numpy)
    return np.array([[limits.min, limits.max], [0, 1]], dtype.numpy)


def tensor(name: str, array: np.ndarray, **options: object) -> triton.InferInput:
    made = triton.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array, **options)
    return made


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_every_element_type_in_binary(client, dtype):
    array = samples(dtype)
    answer = client.infer(f"identity_{dtype.name}", [tensor("x", array)])
    np.testing.assert_array_equal(answer.as_numpy("y"), array)
    assert answer.as_numpy("y").dtype == dtype.numpy


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype.name != "float16"], ids=lambda dtype: dtype.name)
def test_every_element_type_but_fp16_in_json(client, dtype):
    array = np.array([["é".encode(), b""]], object) if dtype.is_string else samples(dtype)
    outputs = [triton.InferRequestedOutput("y", binary_data=False)]
    answer = client.infer(f"identity_{dtype.name}", [tensor("x", array, binary_data=False)], outputs=outputs)
    got = answer.as_numpy("y")
    if dtype.is_string:
        got = np.array([text.encode() for text in got.ravel()], object).reshape(got.shape)
    np.testing.assert_array_equal(got, array)


def test_several_inputs_and_chosen_outputs(client):
    inputs = [
        tensor("a", np.array([[1, 2, 3]], np.float32)),
        tensor("b", np.array([[1, 1, 1]], np.int32), binary_data=False),
        tensor("flag", np.array([[True]])),
    ]
    outputs = [triton.InferRequestedOutput("above"), triton.InferRequestedOutput("count", binary_data=False)]
    answer = client.infer("multi", inputs, outputs=outputs, request_id="seven")
    assert answer.as_numpy("above").tolist() == [[False, True, True]]
    assert answer.as_numpy("count").tolist() == [[3]]
    assert answer.as_numpy("total") is None
    assert answer.get_response()["id"] == "seven"


def test_not_a_number_goes_through_in_binary(client):
    array = np.array([[np.nan, np.inf, -np.inf]], np.float32)
    np.testing.assert_array_equal(client.infer("identity_float32", [tensor("x", array)]).as_numpy("y"), array)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression_both_ways(client, algorithm):
    array = np.zeros((64, 64), np.float32)
    answer = client.infer(
        "identity_float32",
        [tensor("x", array)],
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    np.testing.assert_array_equal(answer.as_numpy("y"), array)


def test_versions_are_addressed(client):
    array = np.array([[0.0]], np.float32)
    for version in ("1", "2"):
        answer = client.infer("offset", [tensor("x", array)], model_version=version)
        assert answer.as_numpy("y").tolist() == [[float(version)]]
        assert answer.get_response()["model_version"] == version
    assert client.infer("offset", [tensor("x", array)]).get_response()["model_version"] == "2"


def test_a_timeout_that_is_long_enough_changes_nothing(client):
    answer = client.infer("half_plus_two", [tensor("x", np.array([[1]], np.float32))], timeout=60_000_000)
    assert answer.as_numpy("y").tolist() == [[2.5]]


def test_asynchronous_requests(client):
    inputs = [tensor("x", np.array([[1]], np.float32))]
    pending = [client.async_infer("half_plus_two", inputs) for _ in range(8)]
    assert [request.get_result().as_numpy("y").tolist() for request in pending] == [[[2.5]]] * 8


def test_health_and_metadata(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("offset", "1")
    assert not client.is_model_ready("offset", "9")
    assert not client.is_model_ready("nosuch")
    assert client.get_server_metadata()["name"] == "cornet"
    assert client.get_model_metadata("offset") == {
        "name": "offset",
        "versions": ["1", "2"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 1]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 1]}],
    }


@pytest.mark.parametrize(
    ("model", "array", "status", "words"),
    [
        ("nosuch", np.zeros((1, 1), np.float32), "404", "Servable not found for request: Latest(nosuch)"),
        ("half_plus_two", np.zeros((1, 1), np.int32), "400", "Expected x: float32 [-1, 1]. Received: int32 [1, 1]"),
        ("half_plus_two", np.zeros((1, 2), np.float32), "400", "Received: float32 [1, 2]"),
        ("half_plus_two", np.zeros((0, 1), np.float32), "400", "at least one row"),
    ],
)
def test_errors_reach_the_client(client, model, array, status, words):
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, [tensor("x", array)])
    assert caught.value.status() == status
    assert words in caught.value.message()


def test_a_runtime_error_is_no_fault_of_the_connection(client):
    with pytest.raises(InferenceServerException):
        client.infer("lookup", [tensor("id", np.array([10**6]))])
    assert client.infer("lookup", [tensor("id", np.array([3]))]).as_numpy("value").tolist() == [30.0]


def test_curl_style_json(server):
    body = {"inputs": [{"name": "x", "shape": [2, 1], "datatype": "FP32", "data": [[1], [2]]}]}
    answer = httpx.post(f"{server.http_url}/v2/models/half_plus_two/infer", content=json.dumps(body))
    assert answer.json()["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [2, 1], "data": [2.5, 3.0]}]


def test_the_asynchronous_client(server):
    async def ask() -> list[object]:
        async with triton_aio.InferenceServerClient(server.http_url.removeprefix("http://")) as client:
            inputs = [triton_aio.InferInput("x", (1, 1), "FP32")]
            inputs[0].set_data_from_numpy(np.array([[1]], np.float32))
            answer = await client.infer("half_plus_two", inputs, response_compression_algorithm="gzip")
            return answer.as_numpy("y").tolist()

    assert asyncio.run(ask()) == [[2.5]]
