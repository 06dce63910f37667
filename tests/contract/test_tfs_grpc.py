"""TensorFlow Serving's own client stubs against our server."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from services.launch import ServerProcess
from services.tensors import BY_NAME, DTYPES

TIMEOUT_S = 30
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@pytest.fixture(scope="module")
def channel(grpc_server: ServerProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(grpc_server.grpc_address, options=UNLIMITED) as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> prediction_service_pb2_grpc.PredictionServiceStub:
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def models(channel: grpc.Channel) -> model_service_pb2_grpc.ModelServiceStub:
    return model_service_pb2_grpc.ModelServiceStub(channel)


def predict_request(model: str, outputs: tuple[str, ...] = (), **inputs: object) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest(output_filter=outputs)
    request.model_spec.name = model
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


def outputs_of(response: predict_pb2.PredictResponse) -> dict[str, np.ndarray]:
    return {name: tf.make_ndarray(tensor) for name, tensor in response.outputs.items()}


def refused(call, code: grpc.StatusCode) -> str:
    """The error text of a call that must end with `code`."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert caught.value.code() is code, caught.value.details()
    return caught.value.details()


def values_of(dtype: str) -> np.ndarray:
    if dtype == "string":
        return np.array([[b"", b"a\x00b"], ["é".encode(), b"x" * 300]], object)
    if dtype == "bool":
        return np.array([[True, False], [False, True]])
    if dtype.startswith("float"):
        return np.array([[0.5, -1.25], [np.inf, 3]], dtype)
    info = np.iinfo(dtype)
    return np.array([[info.min, info.max], [0, 1]], dtype)


@pytest.mark.parametrize("dtype", [dtype.name for dtype in DTYPES])
@pytest.mark.parametrize("encoding", ["typed", "content"])
def test_every_element_type_comes_back_as_it_was_sent(stub, dtype: str, encoding: str) -> None:
    values = values_of(dtype)
    request = predict_request(f"identity_{dtype}", x=values)
    if encoding == "typed":
        tensor = tf.compat.v1.make_tensor_proto(values.ravel()[:1], shape=(1, 1))
        assert not tensor.tensor_content
        request.inputs["x"].CopyFrom(tensor)
        values = values[:1, :1]
    got = outputs_of(stub.Predict(request, TIMEOUT_S))["y"]
    assert got.dtype == values.dtype
    np.testing.assert_array_equal(got, values)


def test_an_answer_uses_typed_fields_and_echoes_what_was_resolved(stub) -> None:
    response = stub.Predict(predict_request("half_plus_two", x=np.array([[1.0], [2.0]], np.float32)), TIMEOUT_S)
    spec, tensor = response.model_spec, response.outputs["y"]
    assert (spec.name, spec.version.value, spec.signature_name) == ("half_plus_two", 1, "serving_default")
    assert (list(tensor.float_val), tensor.tensor_content) == ([2.5, 3.0], b"")


def test_the_last_value_is_repeated_up_to_the_shape(stub) -> None:
    request = predict_request("half_plus_two")
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(2.0, dtype=tf.float32, shape=(3, 1)))
    assert len(request.inputs["x"].float_val) == 1
    assert outputs_of(stub.Predict(request, TIMEOUT_S))["y"].tolist() == [[3], [3], [3]]


def test_several_inputs_and_outputs_of_several_types(stub) -> None:
    request = predict_request(
        "multi",
        a=np.array([[1, 2, 3]], np.float32),
        b=np.array([[1, 1, 5]], np.int32),
        flag=np.array([[True]]),
    )
    outputs = outputs_of(stub.Predict(request, TIMEOUT_S))
    assert {name: (array.dtype, array.tolist()) for name, array in outputs.items()} == {
        "total": (np.float32, [[2, 3, 8]]),
        "count": (np.int64, [[7]]),
        "above": (np.bool_, [[False, True, False]]),
    }


def test_the_output_filter_chooses_outputs(stub) -> None:
    request = predict_request(
        "multi", ("count",), a=np.zeros((1, 3), np.float32), b=np.zeros((1, 3), np.int32), flag=np.array([[True]])
    )
    assert list(stub.Predict(request, TIMEOUT_S).outputs) == ["count"]


@pytest.mark.parametrize(
    ("choice", "want"),
    [({}, 2), ({"version": {"value": 1}}, 1), ({"version_label": "stable"}, 1), ({"version_label": "canary"}, 2)],
)
def test_a_version_or_label_chooses_who_answers(stub, choice: dict[str, object], want: int) -> None:
    request = predict_request("offset", x=np.array([[10.0]], np.float32))
    request.model_spec.MergeFrom(type(request.model_spec)(**choice))
    response = stub.Predict(request, TIMEOUT_S)
    assert response.model_spec.version.value == want
    assert outputs_of(response)["y"].tolist() == [[10 + want]]


def test_a_large_tensor_goes_both_ways(stub) -> None:
    values = np.arange(4 * 1024 * 1024, dtype=np.float32).reshape(4, -1)
    got = outputs_of(stub.Predict(predict_request("identity_float32", x=values), TIMEOUT_S))["y"]
    np.testing.assert_array_equal(got, values)


def test_calls_at_once_each_get_their_own_answer(stub) -> None:
    def ask(value: int) -> float:
        response = stub.Predict(predict_request("half_plus_two", x=np.array([[value]], np.float32)), TIMEOUT_S)
        return outputs_of(response)["y"].item()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(200))) == [value / 2 + 2 for value in range(200)]


ONE = np.array([[1.0]], np.float32)


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        (predict_pb2.PredictRequest(), grpc.StatusCode.INVALID_ARGUMENT, "Missing ModelSpec"),
        (predict_request("", x=ONE), grpc.StatusCode.INVALID_ARGUMENT, "ModelSpec has no name specified."),
        (predict_request("nope", x=ONE), grpc.StatusCode.NOT_FOUND, "Servable not found for request: Latest(nope)"),
        (predict_request("half_plus_two"), grpc.StatusCode.INVALID_ARGUMENT, "Missing but required: {x}"),
        (predict_request("half_plus_two", x=ONE, z=ONE), grpc.StatusCode.INVALID_ARGUMENT, "Sent extra: {z}"),
        (predict_request("half_plus_two", x=np.array([[1]], np.int32)), grpc.StatusCode.INVALID_ARGUMENT, "int32"),
        (predict_request("mlp", features=np.zeros((1, 7), np.float32)), grpc.StatusCode.INVALID_ARGUMENT, "7"),
        (predict_request("half_plus_two", ("nope",), x=ONE), grpc.StatusCode.INVALID_ARGUMENT, "nope"),
        (
            predict_request("half_plus_two", ("y", "y"), x=ONE),
            grpc.StatusCode.INVALID_ARGUMENT,
            "duplicate output tensor alias: y",
        ),
    ],
)
def test_a_request_that_cannot_work_is_refused(stub, request_, code: grpc.StatusCode, text: str) -> None:
    assert text in refused(lambda: stub.Predict(request_, TIMEOUT_S), code)


def test_an_unknown_version_is_not_found(stub) -> None:
    request = predict_request("half_plus_two", x=ONE)
    request.model_spec.version.value = 99
    text = refused(lambda: stub.Predict(request, TIMEOUT_S), grpc.StatusCode.NOT_FOUND)
    assert "Servable not found for request: Specific(half_plus_two, 99)" in text


def test_an_unknown_label_is_an_invalid_argument(stub) -> None:
    request = predict_request("offset", x=ONE)
    request.model_spec.version_label = "nope"
    text = refused(lambda: stub.Predict(request, TIMEOUT_S), grpc.StatusCode.INVALID_ARGUMENT)
    assert "Unrecognized servable version label: nope" in text


def test_an_unknown_signature_is_a_failed_precondition(stub) -> None:
    request = predict_request("half_plus_two", x=ONE)
    request.model_spec.signature_name = "nope"
    text = refused(lambda: stub.Predict(request, TIMEOUT_S), grpc.StatusCode.FAILED_PRECONDITION)
    assert 'Serving signature key "nope" not found.' in text


def test_an_unserved_element_type_is_named(stub) -> None:
    request = predict_request("half_plus_two", x=np.array([[1j]], np.complex64))
    assert "DT_COMPLEX64" in refused(lambda: stub.Predict(request, TIMEOUT_S), grpc.StatusCode.INVALID_ARGUMENT)


def test_metadata_describes_the_signature(stub) -> None:
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "multi"
    response = stub.GetModelMetadata(request, TIMEOUT_S)
    assert (response.model_spec.name, response.model_spec.version.value) == ("multi", 1)
    definitions = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(definitions)
    definition = definitions.signature_def["serving_default"]
    inputs = {name: (info.dtype, [d.size for d in info.tensor_shape.dim]) for name, info in definition.inputs.items()}
    assert inputs == {
        "a": (BY_NAME["float32"].tf_enum, [-1, 3]),
        "b": (BY_NAME["int32"].tf_enum, [-1, 3]),
        "flag": (BY_NAME["bool"].tf_enum, [-1, 1]),
    }
    assert set(definition.outputs) == {"total", "count", "above"}


@pytest.mark.parametrize("fields", [[], ["signature_def", "assets"]])
def test_metadata_of_another_kind_is_refused(stub, fields: list[str]) -> None:
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
    request.model_spec.name = "multi"
    assert "etadata" in refused(lambda: stub.GetModelMetadata(request, TIMEOUT_S), grpc.StatusCode.INVALID_ARGUMENT)


def test_status_lists_every_version(models) -> None:
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "offset"
    rows = models.GetModelStatus(request, TIMEOUT_S).model_version_status
    available = get_model_status_pb2.ModelVersionStatus.AVAILABLE
    assert [(row.version, row.state, row.status.error_code) for row in sorted(rows, key=lambda row: row.version)] == [
        (1, available, 0),
        (2, available, 0),
    ]


@pytest.mark.parametrize(
    ("model", "version", "text"),
    [
        ("nope", None, "Could not find any versions of model nope"),
        ("offset", 9, "Could not find version 9 of model offset"),
    ],
)
def test_status_of_what_is_unknown_is_not_found(models, model: str, version: int | None, text: str) -> None:
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = model
    if version is not None:
        request.model_spec.version.value = version
    assert refused(lambda: models.GetModelStatus(request, TIMEOUT_S), grpc.StatusCode.NOT_FOUND) == text


def test_a_deadline_that_passes_ends_the_call(stub) -> None:
    request = predict_request("slow", x=np.ones((64, 1024), np.float32))
    refused(lambda: stub.Predict(request, 0.001), grpc.StatusCode.DEADLINE_EXCEEDED)


def test_a_cancelled_call_leaves_the_server_able_to_answer(stub) -> None:
    call = stub.Predict.future(predict_request("slow", x=np.ones((64, 1024), np.float32)), TIMEOUT_S)
    call.cancel()
    assert call.cancelled()
    response = stub.Predict(predict_request("half_plus_two", x=ONE), TIMEOUT_S)
    assert outputs_of(response)["y"].tolist() == [[2.5]]


def test_compressed_requests_are_read(stub) -> None:
    request = predict_request("identity_float32", x=np.zeros((10, 1000), np.float32))
    response = stub.Predict(request, TIMEOUT_S, compression=grpc.Compression.Gzip)
    assert outputs_of(response)["y"].shape == (10, 1000)
