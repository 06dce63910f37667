"""The Open Inference Protocol's REST routes on a real engine."""

import asyncio
import gzip
import json
import struct
import zlib

import pytest

HEADER_LENGTH = b"inference-header-content-length"


def infer(name: str, shape: list[int], datatype: str, data: list[object], **more: object) -> dict[str, object]:
    return {"inputs": [{"name": name, "shape": shape, "datatype": datatype, "data": data}]} | more


HALF = infer("x", [2, 1], "FP32", [1, 2])


def test_json_in_json_out(rest):
    answer = rest.post("/v2/models/half_plus_two/infer", infer("x", [2, 1], "FP32", [1, 2.0], id="7"))
    assert (answer.status, answer.headers[b"content-type"]) == (200, b"application/json")
    assert answer.json == {
        "id": "7",
        "model_name": "half_plus_two",
        "model_version": "1",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [2, 1], "data": [2.5, 3.0]}],
    }


def test_binary_in_binary_out(rest):
    tensor = {"name": "x", "shape": [2, 1], "datatype": "FP32", "parameters": {"binary_data_size": 8}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    body = head + struct.pack("<2f", 1, 2)
    answer = rest.post("/v2/models/half_plus_two/infer", body, [(HEADER_LENGTH, str(len(head)).encode())])
    length = int(answer.headers[HEADER_LENGTH])
    assert answer.headers[b"content-type"] == b"application/octet-stream"
    assert json.loads(answer.body[:length])["outputs"][0]["parameters"] == {"binary_data_size": 8}
    assert struct.unpack("<2f", answer.body[length:]) == (2.5, 3.0)


def test_a_raw_request_is_one_row(rest):
    answer = rest.post("/v2/models/half_plus_two/infer", struct.pack("<f", 1), [(HEADER_LENGTH, b"0")])
    assert struct.unpack("<f", answer.body[int(answer.headers[HEADER_LENGTH]) :]) == (2.5,)


def test_only_requested_outputs_come_back(rest):
    inputs = [
        {"name": "a", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]},
        {"name": "b", "shape": [1, 3], "datatype": "INT32", "data": [1, 1, 1]},
        {"name": "flag", "shape": [1, 1], "datatype": "BOOL", "data": [True]},
    ]
    answer = rest.post("/v2/models/multi/infer", {"inputs": inputs, "outputs": [{"name": "count"}]})
    assert answer.json["outputs"] == [{"name": "count", "datatype": "INT64", "shape": [1, 1], "data": [3]}]


def test_nan_is_refused_in_json_and_unharmed_in_binary(rest):
    refused = rest.post(
        "/v2/models/floats/infer", b'{"inputs":[{"name":"x","shape":[1,1],"datatype":"FP32","data":[NaN]}]}'
    )
    assert (refused.status, "no NaN" in refused.json["error"]) == (400, True)
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}
    head = json.dumps({"inputs": [tensor]}).encode()
    headers = [(HEADER_LENGTH, str(len(head)).encode())]
    data = struct.pack("<2f", float("nan"), float("inf"))
    in_json = rest.post("/v2/models/floats/infer", head + data, headers)
    assert (in_json.status, "binary data format" in in_json.json["error"]) == (400, True)
    head = json.dumps({"inputs": [tensor], "outputs": [{"name": "y", "parameters": {"binary_data": True}}]}).encode()
    in_binary = rest.post("/v2/models/floats/infer", head + data, [(HEADER_LENGTH, str(len(head)).encode())])
    assert in_binary.body.endswith(data)


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/v2/models/half_plus_two/infer", b"", 400, "The document is empty"),
        ("/v2/models/half_plus_two/infer", {"inputs": []}, 400, "Missing but required: {x}"),
        ("/v2/models/nosuch/infer", HALF, 404, "Servable not found for request: Latest(nosuch)"),
        ("/v2/models/half_plus_two/versions/9/infer", HALF, 404, "Specific(half_plus_two, 9)"),
        ("/v2/models/half_plus_two/versions/one/infer", HALF, 400, "Expected a version number. Received: 'one'."),
        ("/v2/models/half_plus_two/infer", infer("z", [1, 1], "FP32", [1]), 400, "Sent extra: {z}"),
        ("/v2/models/half_plus_two/infer", infer("x", [1, 1], "INT32", [1]), 400, "Expected x: float32 [-1, 1]"),
        ("/v2/models/half_plus_two/infer", infer("x", [1], "FP32", [1]), 400, "Expected x: float32 [-1, 1]"),
        ("/v2/models/half_plus_two/infer", infer("x", [0, 1], "FP32", []), 400, "at least one row"),
        (
            "/v2/models/half_plus_two/infer",
            infer("x", [1, 1], "FP32", [1, 2]),
            400,
            "expected 1 values for shape [1, 1]",
        ),
        ("/v2/models/half_plus_two/infer", HALF | {"outputs": [{"name": "q"}]}, 400, "Expected outputs out of y"),
        ("/v2/models/halves/infer", infer("x", [1, 1], "FP16", [1]), 400, "FP16 data via JSON"),
        ("/v2/models/multi/infer", b"1234", 400, "Is not object"),
    ],
)
def test_bad_requests_say_what_was_expected(rest, path, body, status, words):
    answer = rest.post(path, body)
    assert answer.status == status
    assert answer.json.keys() == {"error"}
    assert words in answer.json["error"]


@pytest.mark.parametrize("value", [b"-1", b"x", b"99999", b"1" * 5000])
def test_a_header_length_that_cannot_be_is_refused(rest, value):
    answer = rest.post("/v2/models/half_plus_two/infer", b"{}", [(HEADER_LENGTH, value)])
    assert (answer.status, "Inference-Header-Content-Length" in answer.json["error"]) == (400, True)


@pytest.mark.parametrize(("encoding", "pack"), [(b"gzip", gzip.compress), (b"deflate", zlib.compress)])
def test_bodies_are_compressed_both_ways(rest, encoding, pack):
    rows = 500
    body = pack(json.dumps(infer("x", [rows, 1], "FP32", [0] * rows)).encode())
    headers = [(b"content-encoding", encoding), (b"accept-encoding", encoding)]
    answer = rest.post("/v2/models/half_plus_two/infer", body, headers)
    assert answer.headers[b"content-encoding"] == encoding
    assert answer.headers[b"content-length"] == str(len(answer.body)).encode()
    text = gzip.decompress(answer.body) if encoding == b"gzip" else zlib.decompress(answer.body)
    assert json.loads(text)["outputs"][0]["data"] == [2.0] * rows


@pytest.mark.parametrize("accept", [b"identity", b"br", b"gzip;q=0"])
def test_an_answer_is_plain_where_the_client_takes_nothing_else(rest, accept):
    body = infer("x", [500, 1], "FP32", [0] * 500)
    assert (
        b"content-encoding"
        not in rest.post("/v2/models/half_plus_two/infer", body, [(b"accept-encoding", accept)]).headers
    )


def test_an_expired_timeout_is_a_deadline(rest):
    body = infer("x", [1, 256], "FP32", [0] * 256, parameters={"timeout": 1})

    async def late() -> int:
        return (await rest.answer("POST", "/v2/models/slow/infer", [json.dumps(body).encode()])).status

    assert rest.runner.run(asyncio.wait_for(late(), 30)) == 504


def test_a_full_queue_is_429_with_retry_after(rest):
    body = [json.dumps(infer("x", [1, 256], "FP32", [0] * 256)).encode()]

    async def second() -> tuple[int, dict[bytes, bytes]]:
        first = asyncio.ensure_future(rest.answer("POST", "/v2/models/tiny_queue/infer", body))
        await asyncio.sleep(0)
        answer = await rest.answer("POST", "/v2/models/tiny_queue/infer", body)
        first.cancel()
        await asyncio.wait([first])
        return answer.status, answer.headers

    status, headers = rest.runner.run(second())
    assert status == 429
    assert int(headers[b"retry-after"]) >= 1


@pytest.mark.parametrize(
    ("path", "document"),
    [
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True}),
        ("/v2/models/offset/ready", {"name": "offset", "ready": True}),
        ("/v2/models/offset/versions/1/ready", {"name": "offset", "ready": True}),
    ],
)
def test_health_is_told(rest, path, document):
    answer = rest.get(path)
    assert (answer.status, answer.json) == (200, document)
    head = rest.get(path, method="HEAD")
    assert (head.status, head.body) == (200, b"")


def test_server_metadata_lists_only_what_is_served(rest):
    for path in ("/v2", "/v2/"):
        document = rest.get(path).json
        assert (document["name"], document["version"]) == ("cornet", "9.9")
        assert "binary_tensor_data" in document["extensions"]
        assert not {"classification", "system_shared_memory"} & set(document["extensions"])


@pytest.mark.parametrize(("path", "versions"), [("offset", ["1", "2"]), ("offset/versions/1", ["1"])])
def test_model_metadata_lists_the_available_versions_or_the_one_asked_for(rest, path, versions):
    assert rest.get(f"/v2/models/{path}").json == {
        "name": "offset",
        "versions": versions,
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
    }


@pytest.mark.parametrize("path", ["/v2/models/nosuch", "/v2/models/nosuch/ready", "/v2/models/offset/versions/7/ready"])
def test_unknown_models_are_not_found(rest, path):
    answer = rest.get(path)
    assert answer.status == 404
    assert "Servable not found" in answer.json["error"]


def test_unknown_paths_are_not_found(rest):
    answer = rest.get("/v2/nosuch")
    assert (answer.status, answer.json) == (404, {"error": "Not Found"})


@pytest.mark.parametrize(
    ("method", "path", "allow"), [("GET", "/v2/models/offset/infer", b"POST"), ("POST", "/v2", b"GET")]
)
def test_other_methods_are_told_which_are_allowed(rest, method, path, allow):
    answer = rest.get(path, method=method)
    assert (answer.status, answer.json) == (405, {"error": "Method Not Allowed"})
    assert allow in answer.headers[b"allow"]


def test_options_lists_the_methods(rest):
    answer = rest.get("/v2/models/offset/infer", method="OPTIONS")
    assert (answer.status, answer.headers[b"allow"]) == (200, b"POST, OPTIONS")
