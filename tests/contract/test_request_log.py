"""The request log of a real server: every protocol leaves its record, and what was logged can be asked again."""

import json
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import orjson
import pytest

from services.launch import ServerProcess
from services.protocols.messages import ModelInferRequest, PredictRequest
from services.telemetry.request_log.reading import Logged, read
from services.testing_typed import write_families

POINT = np.array([[1.0, 2.0]], np.float32)
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def post(server: ServerProcess, path: str, body: bytes, **headers: str) -> None:
    request = urllib.request.Request(server.http_url + path, body, {"x-request-id": path.strip("/"), **headers})
    try:
        urllib.request.urlopen(request, timeout=30).close()
    except urllib.error.HTTPError as error:
        error.close()


def call(server: ServerProcess, method: str, message: object) -> None:
    with grpc.insecure_channel(server.grpc_address) as channel:
        metadata = (("traceparent", TRACE), ("authorization", "secret"))
        channel.unary_unary(method)(message.SerializeToString(), metadata=metadata, timeout=30)


def ask_everybody(server: ServerProcess) -> None:
    """The same row over each protocol; a request that fails; and housekeeping."""
    predict = PredictRequest()
    predict.model_spec.name = "regressor"
    predict.inputs["features"].dtype = 1
    for size in POINT.shape:
        predict.inputs["features"].tensor_shape.dim.add(size=size)
    predict.inputs["features"].tensor_content = POINT.tobytes()
    call(server, "/tensorflow.serving.PredictionService/Predict", predict)
    infer = ModelInferRequest(model_name="regressor", raw_input_contents=[POINT.tobytes()])
    infer.inputs.add(name="features", datatype="FP32", shape=POINT.shape)
    call(server, "/inference.GRPCInferenceService/ModelInfer", infer)
    post(server, "/v1/models/regressor:predict", orjson.dumps({"instances": POINT.tolist()}))
    tensor = {"name": "features", "datatype": "FP32", "shape": POINT.shape}
    post(server, "/v2/models/regressor/infer", orjson.dumps({"inputs": [{**tensor, "data": [1, 2]}]}))
    header = orjson.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": POINT.nbytes}}]})
    length = {"inference-header-content-length": str(len(header))}
    post(server, "/v2/models/regressor/infer", header + POINT.tobytes(), **length)
    json_type = {"content-type": "application/json"}
    post(server, "/regress", orjson.dumps({"records": [{"x": 1, "y": 2}]}), **json_type)
    post(server, "/v1/models/nobody:predict", b'{"instances": [[1]]}')
    urllib.request.urlopen(f"{server.http_url}/readyz", timeout=30).close()


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> list[Logged]:
    """What a server that was stopped has left."""
    repository, folder = tmp_path_factory.mktemp("typed"), tmp_path_factory.mktemp("log") / "below"
    write_families(repository)
    environment = {"CORNET_REQUEST_LOG_FORMAT": "parquet", "CORNET_REQUEST_LOG_PAYLOADS": "true"}
    with ServerProcess(repository, "--request-log", str(folder), environment=environment) as server:
        ask_everybody(server)
        assert server.stop() == 0
    assert [path.suffix for path in folder.iterdir()] == [".parquet"]
    return list(read(folder))


def test_every_protocol_leaves_one_record_with_its_tensors(logged: list[Logged]) -> None:
    answered = [one for one in logged if one.fields["code"] == "OK"]
    kinds = [(one.fields["protocol"], one.fields["method"]) for one in answered]
    assert kinds == [
        ("tfs-grpc", "Predict"),
        ("oip-grpc", "ModelInfer"),
        ("tfs-rest", "predict"),
        ("oip-rest", "infer"),
        ("oip-rest", "infer"),
        ("typed", "regress"),
    ]
    for one in answered:
        assert (one.fields["model"], one.fields["version"], one.fields["rows"]) == ("regressor", 1, 1)
        assert one.fields["received_bytes"] > 0 < one.fields["sent_bytes"]
        assert one.inputs is not None
        assert one.outputs is not None
        np.testing.assert_array_equal(one.inputs["features"], POINT)
        np.testing.assert_array_equal(one.outputs["prediction"], [[21.0]])
        assert one.fields["total_ms"] >= one.fields["compute_ms"] > 0


def test_a_failure_leaves_a_record_and_housekeeping_none(logged: list[Logged]) -> None:
    failed = [one for one in logged if one.fields["code"] != "OK"]
    assert [(one.fields["model"], one.fields["code"]) for one in failed] == [("nobody", "NOT_FOUND")]
    assert "/readyz" not in {one.fields["request_id"] for one in logged}
    assert len(logged) == 7


def test_of_a_client_s_headers_a_record_has_those_that_join_it_with_the_client_s_own(logged: list[Logged]) -> None:
    assert logged[0].fields["traceparent"] == TRACE
    assert "secret" not in str([one.fields for one in logged])
    assert logged[2].fields["request_id"] == "v1/models/regressor:predict"


def test_logged_inputs_are_a_request_of_the_open_inference_protocol(tmp_path: Path, server: ServerProcess) -> None:
    """The line's `inputs` are sent as they are."""
    with ServerProcess(
        server.repository, "--request-log", str(tmp_path), "--no-typed-endpoints",
        environment={"CORNET_REQUEST_LOG_PAYLOADS": "true"},
    ) as logging:  # fmt: skip
        post(logging, "/v1/models/half_plus_two:predict", json.dumps({"instances": [[2.0], [4.0]]}).encode())
        infer = ModelInferRequest(model_name="half_plus_two", raw_input_contents=[POINT[:, :1].tobytes()])
        infer.inputs.add(name="x", datatype="FP32", shape=(1, 1))
        for _ in range(3):  # a form that has been seen goes another way, and is logged as well
            call(logging, "/inference.GRPCInferenceService/ModelInfer", infer)
    line, *others = map(orjson.loads, next(tmp_path.iterdir()).read_bytes().splitlines())
    assert [other["inputs"][0]["data"] for other in others] == [[1.0]] * 3
    request = urllib.request.Request(
        f"{server.http_url}/v2/models/half_plus_two/infer", orjson.dumps({"inputs": line["inputs"]})
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        outputs = orjson.loads(answer.read())["outputs"]
    assert [output["data"] for output in outputs] == [output["data"] for output in line["outputs"]]
