"""TensorFlow Serving's REST dialect over a socket, as its clients write it."""

import gzip
import json
from collections.abc import Iterator

import httpx
import pytest


@pytest.fixture(scope="module")
def http(server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.http_url) as client:
        yield client


def test_the_first_request_of_the_documentation(http):
    answer = http.post("/v1/models/half_plus_two:predict", content='{"instances": [[1.0], [2.0], [5.0]]}')
    assert answer.json() == {"predictions": [[2.5], [3.0], [4.5]]}
    assert answer.headers["content-type"] == "application/json"


def test_columns(http):
    answer = http.post("/v1/models/half_plus_two/versions/1:predict", json={"inputs": [[1.0], [2.0]]})
    assert answer.json() == {"outputs": [[2.5], [3.0]]}


def test_labels_choose_versions(http):
    for label, want in (("stable", 1.0), ("canary", 2.0)):
        answer = http.post(f"/v1/models/offset/labels/{label}:predict", json={"instances": [[0.0]]})
        assert answer.json() == {"predictions": [[want]]}


def test_named_rows(http):
    rows = [{"left": "a", "right": {"b64": "Yg=="}}]
    assert http.post("/v1/models/string_join:predict", json={"instances": rows}).json() == {"predictions": ["ab"]}


def test_gzip_request(http):
    body = gzip.compress(json.dumps({"instances": [[1.0]]}).encode())
    answer = http.post("/v1/models/half_plus_two:predict", content=body, headers={"content-encoding": "gzip"})
    assert answer.json() == {"predictions": [[2.5]]}


def test_tokens_of_not_finite_numbers(http):
    answer = http.post("/v1/models/identity_float32:predict", content='{"instances": [[NaN, -Infinity]]}')
    assert answer.text == '{"predictions":[[NaN,-Infinity]]}'


def test_status_and_metadata(http):
    status = http.get("/v1/models/half_plus_two").json()
    assert status == {
        "model_version_status": [
            {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        ]
    }
    metadata = http.get("/v1/models/half_plus_two/metadata").json()
    assert (
        metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"]["x"]["dtype"] == "DT_FLOAT"
    )


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        (
            "POST",
            "/v1/models/nosuch:predict",
            '{"instances": [1]}',
            404,
            "Servable not found for request: Latest(nosuch)",
        ),
        ("POST", "/v1/models/half_plus_two:predict", "", 400, "JSON Parse error: The document is empty"),
        ("POST", "/v1/models/half_plus_two:predict", '{"instances": ["x"]}', 400, "not of expected type: float"),
        ("POST", "/v1/models/half_plus_two:classify", "{}", 501, "not served"),
        ("GET", "/v1/models/nosuch", None, 404, "Could not find any versions of model nosuch"),
        ("PUT", "/v1/models/half_plus_two", "{}", 400, "Malformed request: PUT /v1/models/half_plus_two"),
        ("GET", "/v1/else", None, 400, "Malformed request: GET /v1/else"),
    ],
)
def test_errors(http, method, path, body, status, words):
    answer = http.request(method, path, content=body)
    assert answer.status_code == status
    assert words in answer.json()["error"]
