"""Signatures other than serving_default, asked for by the official clients of both dialects."""

import json
from collections.abc import Callable, Iterator

import grpc
import httpx
import numpy as np
import pytest
import tensorflow as tf
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from services.launch import ServerProcess
from services.protocols.messages import ModelMetadataResponse

TIMEOUT_S = 30
X = np.array([[1, 3]], np.float32)
ANSWERS = {"": [[2.5, 3.5]], "serving_default": [[2.5, 3.5]], "halved": [[2.5, 3.5]], "doubled": [[2, 6]]}
"""By signature; the model's own order of them is that of the metadata, without the one that is not named."""
VALUES, MASK, ROWS = X, np.array([[True, False]]), [[1, 9]]

Infer = Callable[..., dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def tfs(grpc_server: ServerProcess) -> Iterator[prediction_service_pb2_grpc.PredictionServiceStub]:
    with grpc.insecure_channel(grpc_server.grpc_address) as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


def predict_request(signature: str, **inputs: np.ndarray) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "signatures", signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


@pytest.mark.parametrize("signature", ANSWERS)
def test_tensorflow_serving_s_client_chooses_one_by_name(tfs, signature: str) -> None:
    for factor in (1, 2):  # the second is of a form that was seen before
        response = tfs.Predict(predict_request(signature, x=X * factor), TIMEOUT_S)
        assert response.model_spec.signature_name == (signature or "serving_default")
        expected = np.array(ANSWERS[signature]) + (X / 2 if signature != "doubled" else 2 * X) * (factor - 1)
        assert tf.make_ndarray(response.outputs["y"]).tolist() == expected.tolist()


def test_tensorflow_serving_s_client_reaches_inputs_of_its_own(tfs) -> None:
    response = tfs.Predict(predict_request("filled", values=VALUES, mask=MASK), TIMEOUT_S)
    assert tf.make_ndarray(response.outputs["rows"]).tolist() == ROWS


def test_tensorflow_serving_s_client_is_told_of_all_of_them(tfs) -> None:
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "signatures"
    definitions = get_model_metadata_pb2.SignatureDefMap()
    tfs.GetModelMetadata(request, TIMEOUT_S).metadata["signature_def"].Unpack(definitions)
    assert set(definitions.signature_def) == {"serving_default", "halved", "doubled", "filled"}
    assert set(definitions.signature_def["filled"].inputs) == {"values", "mask"}


def test_tensorflow_serving_s_client_is_told_which_there_are(tfs) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        tfs.Predict(predict_request("nothing", x=X), TIMEOUT_S)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.details().startswith('Serving signature key "nothing" not found.')


@pytest.mark.parametrize("signature", ANSWERS)
def test_rest_predict_chooses_one_by_name(server: ServerProcess, signature: str) -> None:
    url = f"{server.http_url}/v1/models/signatures:predict"
    name = {"signature_name": signature} if signature else {}
    for body in ({"instances": X.tolist()}, {"inputs": X.tolist()}):
        answer = httpx.post(url, json=name | body).json()
        assert answer == {"predictions" if "instances" in body else "outputs": ANSWERS[signature]}


def test_rest_predict_reaches_inputs_of_its_own_and_refuses_what_is_not_there(server: ServerProcess) -> None:
    url = f"{server.http_url}/v1/models/signatures:predict"
    row = {"values": VALUES[0].tolist(), "mask": MASK[0].tolist()}
    assert httpx.post(url, json={"signature_name": "filled", "instances": [row]}).json() == {"predictions": ROWS}
    refused = httpx.post(url, json={"signature_name": "nothing", "instances": [row]})
    assert refused.status_code == 400
    assert 'Serving signature name: "nothing" not found in signature def' in refused.json()["error"]
    assert set(
        httpx.get(url.replace(":predict", "/metadata")).json()["metadata"]["signature_def"]["signature_def"]
    ) == {
        "serving_default",
        "halved",
        "doubled",
        "filled",
    }


@pytest.fixture(scope="module")
def triton(grpc_server: ServerProcess) -> Iterator[triton_grpc.InferenceServerClient]:
    with triton_grpc.InferenceServerClient(grpc_server.grpc_address) as client:
        yield client


@pytest.fixture(scope="module")
def triton_rest(server: ServerProcess) -> Iterator[triton_http.InferenceServerClient]:
    with triton_http.InferenceServerClient(server.http_url.removeprefix("http://")) as client:
        yield client


@pytest.fixture(params=["native", "grpcio", "http", "http-json"])
def infer(request: pytest.FixtureRequest, servers: Callable[[str], ServerProcess]) -> Iterator[Infer]:
    """`infer(parameters, **inputs)` by tritonclient, over each gRPC transport and both forms of REST: outputs by name."""
    over_http = request.param.startswith("http")
    library = triton_http if over_http else triton_grpc
    server = servers("native" if over_http else request.param)
    address = server.http_url.removeprefix("http://") if over_http else server.grpc_address
    json_tensors = {"binary_data": False} if request.param == "http-json" else {}
    client = library.InferenceServerClient(address)

    def call(parameters: dict[str, object] | None, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        tensors = []
        for name, values in inputs.items():
            tensors.append(library.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype)))
            tensors[-1].set_data_from_numpy(values, **json_tensors)
        result = client.infer("signatures", tensors, parameters=parameters)
        names = ("y", "rows")
        return {name: array for name in names if (array := result.as_numpy(name)) is not None}

    with client:
        yield call


@pytest.mark.parametrize("signature", ANSWERS)
def test_triton_s_client_chooses_one_by_a_parameter(infer: Infer, signature: str) -> None:
    for factor in (1, 2):
        answer = infer({"signature_name": signature} if signature else None, x=X * factor)
        expected = np.array(ANSWERS[signature]) + (X / 2 if signature != "doubled" else 2 * X) * (factor - 1)
        assert answer["y"].tolist() == expected.tolist()


def test_triton_s_client_reaches_inputs_of_its_own(infer: Infer) -> None:
    assert infer({"signature_name": "filled"}, values=VALUES, mask=MASK)["rows"].tolist() == ROWS


@pytest.mark.parametrize(
    ("value", "said"),
    [("nothing", 'Serving signature key "nothing" not found. Expected one of: serving_default, halved, doubled, filled'),
     (7, "signature_name")],
)  # fmt: skip
def test_triton_s_client_is_told_what_is_wrong_with_the_name(infer: Infer, value: object, said: str) -> None:
    with pytest.raises(InferenceServerException, match=said) as caught:
        infer({"signature_name": value}, x=X)
    assert caught.value.status() in {"StatusCode.INVALID_ARGUMENT", "400"}


def test_triton_s_clients_are_told_of_all_of_them(triton, triton_rest, grpc_server: ServerProcess) -> None:
    listed = triton_rest.get_model_metadata("signatures")["signatures"]
    assert listed["filled"] == {
        "inputs": [
            {"name": "values", "datatype": "FP32", "shape": [-1, 2]},
            {"name": "mask", "datatype": "BOOL", "shape": [-1, 2]},
        ],
        "outputs": [{"name": "rows", "datatype": "FP32", "shape": [-1, 2]}],
    }
    assert [tensor.name for tensor in triton.get_model_metadata("signatures").inputs] == ["x"]
    assert json.loads(triton.get_model_config("signatures").config.parameters["signatures"].string_value) == listed
    with grpc.insecure_channel(grpc_server.grpc_address) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelMetadata")
        metadata = ModelMetadataResponse.FromString(
            call(service_pb2.ModelMetadataRequest(name="signatures").SerializeToString(), timeout=TIMEOUT_S)
        )
    assert json.loads(metadata.parameters["signatures"].string_param) == listed


def test_a_model_with_one_signature_says_nothing_of_others(triton, triton_rest) -> None:
    assert "signatures" not in triton_rest.get_model_metadata("half_plus_two")
    assert not triton.get_model_config("half_plus_two").config.parameters
