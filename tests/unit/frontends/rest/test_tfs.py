"""TensorFlow Serving's REST routes on a real engine."""

import gzip
import json

import pytest


def test_rows_are_predicted(rest):
    answer = rest.post("/v1/models/half_plus_two:predict", {"instances": [[1.0], [2.0], [5.0]]})
    assert (answer.status, answer.json) == (200, {"predictions": [[2.5], [3.0], [4.5]]})
    assert answer.headers[b"content-type"] == b"application/json"
    assert answer.headers[b"content-length"] == str(len(answer.body)).encode()


def test_columns_are_predicted(rest):
    answer = rest.post("/v1/models/half_plus_two:predict", {"inputs": {"x": [[1]]}})
    assert answer.json == {"outputs": [[2.5]]}


def test_several_outputs_are_objects(rest):
    rows = [{"a": [1, 2, 3], "b": [1, 1, 1], "flag": [True]}, {"a": [0, 0, 0], "b": [1, 2, 3], "flag": [False]}]
    answer = rest.post("/v1/models/multi:predict", {"instances": rows})
    assert answer.json["predictions"] == [
        {"total": [2.0, 3.0, 4.0], "count": [3], "above": [False, True, True]},
        {"total": [1.0, 2.0, 3.0], "count": [6], "above": [False, False, False]},
    ]


def test_strings_and_bytes_go_both_ways(rest):
    body = {"instances": [{"left": "caf", "right": "é"}, {"left": {"b64": "aGk="}, "right": "!"}]}
    assert rest.post("/v1/models/strings:predict", body).json == {"predictions": ["café", "hi!"]}


def test_tokens_of_not_finite_numbers_go_both_ways(rest):
    answer = rest.post("/v1/models/floats:predict", b'{"instances": [[NaN, 1, -Infinity, Infinity]]}')
    assert answer.body == b'{"predictions":[[NaN,1.0,-Infinity,Infinity]]}'


@pytest.mark.parametrize(
    ("path", "want"),
    [
        ("/v1/models/offset:predict", 21.0),
        ("/v1/models/offset/versions/1:predict", 11.0),
        ("/v1/models/offset/versions/00000001:predict", 11.0),
        ("/v1/models/offset/labels/stable:predict", 11.0),
        ("/V1/Models/offset/VERSIONS/2:Predict", 21.0),
        ("/v1/models/%6fffset:predict?query=ignored", 21.0),
    ],
)
def test_versions_and_labels_are_addressed(rest, path, want):
    assert rest.post(path, {"instances": [[1, 1]]}).json == {"predictions": [[want, want]]}


def test_names_are_percent_decoded(rest):
    answer = rest.post("/v1/models/a%20model:predict", {"instances": [2**53 + 1]})
    assert answer.json == {"predictions": [2**53 + 1]}


def test_a_gzip_body_is_inflated(rest):
    body = gzip.compress(json.dumps({"instances": [[1.0]]}).encode())
    answer = rest.post("/v1/models/half_plus_two:predict", body, [(b"content-encoding", b"gzip")])
    assert answer.json == {"predictions": [[2.5]]}


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/v1/models/half_plus_two:predict", b"", 400, "JSON Parse error: The document is empty"),
        ("/v1/models/nosuch:predict", b"", 400, "JSON Parse error: The document is empty"),
        ("/v1/models/nosuch:predict", {"instances": [1]}, 404, "Servable not found for request: Latest(nosuch)"),
        (
            "/v1/models/offset/versions/99:predict",
            {"instances": [1]},
            404,
            "Servable not found for request: Specific(offset, 99)",
        ),
        ("/v1/models/offset/labels/none:predict", {"instances": [1]}, 400, "Unrecognized servable version label: none"),
        (
            "/v1/models/offset/versions/99999999999999999999:predict",
            {"instances": [1]},
            400,
            "Failed to convert version",
        ),
        ("/v1/models/offset/versions/" + "9" * 5000 + ":predict", {"instances": [1]}, 400, "Failed to convert version"),
        (
            "/v1/models/offset:predict",
            {"signature_name": "x", "instances": [1]},
            400,
            'Serving signature name: "x" not found in signature def',
        ),
        ("/v1/models/offset:predict", {"instances": [["a", "b"]]}, 400, "not of expected type: float"),
        ("/v1/models/offset:predict", {"instances": [[1, 2, 3]]}, 400, "Expected x: float32 [-1, 2]"),
        ("/v1/models/offset:predict", {"inputs": []}, 400, "Expected"),
        ("/v1/models/offset:classify", {"examples": []}, 501, ":classify, which is not served"),
        ("/v1/models/offset/versions/1:REGRESS", {"examples": []}, 501, ":regress, which is not served"),
        ("/v1/models", {}, 400, "Malformed request: POST /v1/models"),
        ("/v1/models/offset/metadata", {}, 400, "Malformed request: POST"),
        ("/v1/models/offset/versions/HELLO:predict", {}, 400, "Malformed request: POST"),
        ("/v1/models/offset/versions/1/labels/stable:predict", {}, 400, "Malformed request: POST"),
        ("/v1/foo", {}, 400, "Malformed request: POST /v1/foo"),
    ],
)
def test_bad_requests_get_the_dialects_error(rest, path, body, status, words):
    answer = rest.post(path, body)
    assert answer.status == status
    assert answer.json.keys() == {"error"}
    assert words in answer.json["error"]


def test_status_of_all_versions_comes_highest_first(rest):
    answer = rest.get("/v1/models/offset")
    available = {"state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    assert answer.json == {"model_version_status": [{"version": "2"} | available, {"version": "1"} | available]}


@pytest.mark.parametrize("path", ["/v1/models/offset/versions/1", "/V1/MODELS/offset/versions/01"])
def test_status_of_one_version(rest, path):
    assert [row["version"] for row in rest.get(path).json["model_version_status"]] == ["1"]


def test_status_lets_a_label_pass_unread(rest):
    assert len(rest.get("/v1/models/offset/labels/stable").json["model_version_status"]) == 2


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/v1/models/nosuch", 404, "Could not find any versions of model nosuch"),
        ("/v1/models/offset/versions/7", 404, "Could not find version 7 of model offset"),
        ("/v1/models/nosuch/metadata", 404, "Servable not found for request: Latest(nosuch)"),
        ("/v1/models", 400, "Missing model name in request."),
        ("/v1/models/", 400, "Malformed request: GET /v1/models/"),
        ("/v1/", 400, "Malformed request: GET /v1/"),
        ("/v1/models/offset/", 400, "Malformed request: GET"),
        ("/v1/models/offset:predict", 400, "Malformed request: GET /v1/models/offset:predict"),
    ],
)
def test_bad_questions_get_the_dialects_error(rest, path, status, words):
    answer = rest.get(path)
    assert (answer.status, answer.headers[b"content-type"]) == (status, b"application/json")
    assert words in answer.json["error"]


@pytest.mark.parametrize("path", ["/v1/models/offset/metadata", "/v1/models/offset/labels/stable/metadata"])
def test_metadata_names_the_version_and_the_signature(rest, path):
    answer = rest.get(path).json
    assert answer["model_spec"] == {
        "name": "offset",
        "signature_name": "",
        "version": "1" if "stable" in path else "2",
    }
    definition = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert definition["inputs"]["x"]["dtype"] == "DT_FLOAT"
    assert [dim["size"] for dim in definition["outputs"]["y"]["tensor_shape"]["dim"]] == ["-1", "2"]


def test_a_full_queue_is_unavailable_here(rest):
    async def two() -> list[int]:
        import asyncio

        body = [json.dumps({"instances": [[0.0] * 256]}).encode()]
        first = asyncio.ensure_future(rest.answer("POST", "/v1/models/tiny_queue:predict", body))
        await asyncio.sleep(0)
        second = await rest.answer("POST", "/v1/models/tiny_queue:predict", body)
        first.cancel()
        await asyncio.wait([first])
        assert int(second.headers[b"retry-after"]) >= 1
        return second.status

    assert rest.runner.run(two()) == 503


def test_cors_preflight_needs_an_origin(rest):
    path = "/v1/models/offset:predict"
    assert rest.get(path, [(b"origin", b"https://example.com")], "OPTIONS").status == 200
    refused = rest.get(path, method="OPTIONS")
    assert (refused.status, refused.json["error"]) == (400, "Origin header is missing in CORS preflight")


def test_head_answers_without_a_body(rest):
    got, head = rest.get("/v1/models/offset"), rest.get("/v1/models/offset", method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers[b"content-length"] == got.headers[b"content-length"]
