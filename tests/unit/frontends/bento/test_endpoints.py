"""The typed endpoints over HTTP, on the real engine: answers with labels, defaults, and every refusal as one JSON object."""

import asyncio
import base64
import gzip
import io
import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from services.engine.engine import Engine
from services.engine.request import InferenceResponse
from services.errors import QueueFull, ShuttingDown
from services.frontends.bento import calls
from services.frontends.bento.endpoints import ENDPOINTS
from services.manifest import Manifest, ProcessorSpec
from services.testing_typed import PICTURE_AUTOENCODER, toys, write_family

POINT = {"x": 1, "y": 2}
PNG = {"content-type": "image/png"}
FORM = {"content-type": "multipart/form-data"}


def png(value: int = 255, size: tuple[int, int] = (8, 8)) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", size, value).save(buffer, "PNG")
    return buffer.getvalue()


PIXEL = base64.b64encode(png(200, (1, 1))).decode()


def post(path: str, **request: Any) -> Any:
    async def send(client: httpx.AsyncClient, _: Engine) -> httpx.Response:
        return await client.post(path, **request)

    return send


@pytest.mark.parametrize(
    ("path", "body", "model", "prediction"),
    [
        ("/regress", {"records": [POINT]}, "regressor", {"prediction": 21.0}),
        ("/regress", {"records": [[1, 2]]}, "regressor", {"prediction": 21.0}),
        ("/forecast", {"windows": [[1, 2, 3]]}, "lstm", {"forecast": [2.0, 4.0]}),
        ("/forecast", {"windows": [{"temperature": [1, 2, 3]}]}, "lstm", {"forecast": [2.0, 4.0]}),
        (
            "/detect_anomaly",
            {"records": [{"x": 4, "y": 4}]},
            "autoencoder",
            {"score": 4.0, "is_anomaly": True, "reconstruction": {"x": 2.0, "y": 2.0}},
        ),
        ("/encode_records", {"records": [POINT]}, "rbm", {"features": [1.0, 2.0, 3.0]}),
        ("/complete_records", {"records": [{"x": None, "y": 2}]}, "rbm", {"record": {"x": 9.0, "y": 2.0}}),
    ],
)
def test_records_are_answered(serve: Any, path: str, body: Any, model: str, prediction: Any) -> None:
    response = serve(post(path, json=body))
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {"model": model, "version": 1, "predictions": [prediction]}


def test_classes_have_labels_and_top_k(serve: Any) -> None:
    body = {"records": [{"x": 3, "town": "Bonn"}, {"x": 0, "town": "Ulm"}], "top_k": 1}
    predictions = serve(post("/classify", json=body)).json()["predictions"]
    assert [list(p["probabilities"]) for p in predictions] == [["ant"], ["bee"]]
    assert [p["label"] for p in predictions] == ["ant", "bee"]


def test_texts_are_classified(serve: Any) -> None:
    predictions = serve(post("/classify_text", json={"texts": ["free", "see you on friday"]})).json()["predictions"]
    assert [p["label"] for p in predictions] == ["short", "long"]


@pytest.mark.parametrize(
    "request_",
    [
        {"files": [("images", ("a.png", png(255))), ("images", ("b.png", png(0)))]},
        {"files": [("file", ("a.png", png(255), "image/png")), ("other", ("b.png", png(0)))]},
        {"json": {"images": [base64.b64encode(png(255)).decode(), {"b64": base64.b64encode(png(0)).decode()}]}},
    ],
    ids=["multipart", "any field name", "base64"],
)
def test_several_images_in_one_call(serve: Any, request_: dict[str, Any]) -> None:
    predictions = serve(post("/classify_image", **request_)).json()["predictions"]
    assert [p["label"] for p in predictions] == ["white", "black"]


@pytest.mark.parametrize("kind", ["image/png", "image/jpeg", "application/octet-stream"])
def test_one_image_as_the_body_with_options_in_the_query(serve: Any, kind: str) -> None:
    request = post("/classify_image?model=cnn&version=1&top_k=1", content=png(0), headers={"content-type": kind})
    assert serve(request).json()["predictions"] == [{"label": "black", "probabilities": {"black": 1.0}}]


def test_form_fields_may_be_json_as_bentoml_writes_them(serve: Any) -> None:
    files = [("images", ("a.png", png(255)))]
    data = {"model": '"cnn"', "version": "null", "top_k": "1"}
    assert serve(post("/classify_image", files=files, data=data)).json()["predictions"][0]["label"] == "white"


def test_features_of_an_image(serve: Any) -> None:
    response = serve(post("/extract_features", files=[("images", ("a.png", png(51)))]))
    assert response.json()["predictions"] == [{"features": [51.0, 51.0, 51.0]}]


@pytest.fixture(scope="module")
def both_kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An autoencoder of records under the family's name, and one of pictures under another."""
    root = tmp_path_factory.mktemp("both")
    write_family(root / "autoencoder" / "1", "autoencoder")
    write_family(root / "parts" / "1", PICTURE_AUTOENCODER, task="anomaly_detection")
    return root


@pytest.mark.parametrize(
    "request_",
    [
        {"files": [("images", ("a.png", png(200)))]},
        {"content": png(200), "headers": PNG},
        {"json": {"images": [base64.b64encode(png(200)).decode()]}},
        {"json": {"records": [base64.b64encode(png(200)).decode()], "model": "parts"}},
    ],
    ids=["multipart", "body", "base64", "as records"],
)
def test_a_picture_goes_to_the_model_of_pictures_and_comes_back_rebuilt(
    serve: Any, both_kinds: Path, request_: dict[str, Any]
) -> None:
    answer = serve(post("/detect_anomaly", **request_), folder=both_kinds).json()
    assert answer["model"] == "parts"
    (prediction,) = answer["predictions"]
    assert (prediction["score"], prediction["is_anomaly"]) == (200.0, True)
    rebuilt = np.asarray(Image.open(io.BytesIO(base64.b64decode(prediction["reconstruction"]))))
    np.testing.assert_array_equal(rebuilt, np.full((4, 6), 100))


def test_records_go_to_the_model_of_records(serve: Any, both_kinds: Path) -> None:
    assert serve(post("/detect_anomaly", json={"records": [POINT]}), folder=both_kinds).json()["model"] == "autoencoder"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"images": [PIXEL], "model": "autoencoder"}, "images: expected a model of pictures. Received: autoencoder"),
        ({"records": [POINT], "model": "parts"}, "records[0]: expected an image file in base64"),
        ({"records": [POINT], "images": [PIXEL]}, "records or images: expected a list of at least one. Received: both"),
        ({"model": "parts"}, "records or images: expected a list of at least one. Received: none"),
        ({"images": []}, "records or images: expected a list of at least one. Received: an empty list"),
    ],
)
def test_the_wrong_kind_for_a_detector_is_named(serve: Any, both_kinds: Path, body: Any, message: str) -> None:
    response = serve(post("/detect_anomaly", json=body), folder=both_kinds)
    assert response.status_code == 400
    assert message in response.json()["error"]


@pytest.mark.parametrize(
    ("path", "request_"),
    [
        ("/detect_anomaly", {"json": {"images": [PIXEL] * 3}}),
        ("/detect_anomaly", {"json": {"records": [PIXEL] * 3, "model": "parts"}}),
        ("/detect_anomaly", {"files": [("images", ("a.png", png()))] * 3}),
    ],
    ids=["base64", "as records", "multipart"],
)
def test_a_call_has_a_bounded_number_of_pictures_in_every_form(
    serve: Any, both_kinds: Path, monkeypatch: pytest.MonkeyPatch, path: str, request_: dict[str, Any]
) -> None:
    assert len(serve(post(path, **request_), folder=both_kinds).json()["predictions"]) == 3
    monkeypatch.setattr(calls, "MAX_PICTURES", 2)
    response = serve(post(path, **request_), folder=both_kinds)
    assert (response.status_code, response.json()) == (
        400,
        {"error": "records or images: expected at most 2 pictures. Received: 3."},
    )


def test_an_upload_has_as_many_files_at_most_as_a_call_has_pictures(serve: Any) -> None:
    files = [("images", ("a.png", b""))] * (calls.MAX_PICTURES + 1)
    response = serve(post("/classify_image", files=files))
    assert response.status_code == 400
    assert f"Maximum number of files is {calls.MAX_PICTURES}" in response.json()["error"]


def test_many_pictures_are_encoded_in_turns_and_answered_in_order(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[int] = []
    real = calls.ImageProcessor.encode

    def encode(self: Any, records: Any, **options: Any) -> Any:
        turns.append(len(records))
        return real(self, records, **options)

    monkeypatch.setattr(calls.ImageProcessor, "encode", encode)
    pictures = [base64.b64encode(png(value)).decode() for value in range(40)]
    predictions = serve(post("/extract_features", json={"images": pictures})).json()["predictions"]
    assert [prediction["features"][0] for prediction in predictions] == [float(value) for value in range(40)]
    assert turns == [16, 16, 8]


def test_no_more_pictures_are_encoded_for_a_client_that_is_gone(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[int] = []
    started, released = threading.Event(), threading.Event()
    real = calls.ImageProcessor.encode

    def encode(self: Any, records: Any, **options: Any) -> Any:
        turns.append(len(records))
        started.set()
        released.wait(20)
        return real(self, records, **options)

    monkeypatch.setattr(calls.ImageProcessor, "encode", encode)

    async def leave(client: httpx.AsyncClient, _: Engine) -> int:
        many = asyncio.ensure_future(client.post("/classify_image", files=[("images", ("a.png", png()))] * 40))
        await asyncio.to_thread(started.wait, 20)
        many.cancel()
        await asyncio.gather(many, return_exceptions=True)
        released.set()
        return (await client.post("/classify_image", content=png(), headers=PNG)).status_code

    assert serve(leave) == 200
    assert turns == [16, 1]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"images": [PIXEL] * 20 + ["AAAA"]}, "record 20: expected an image file"),
        ({"records": [PIXEL] * 20 + ["?"], "model": "parts"}, "records[20]: expected an image file in base64"),
    ],
)
def test_a_picture_in_a_later_turn_is_named_by_its_place_in_the_call(
    serve: Any, both_kinds: Path, body: Any, message: str
) -> None:
    assert message in serve(post("/detect_anomaly", json=body), folder=both_kinds).json()["error"]


def test_pictures_are_read_and_written_in_threads(
    serve: Any, both_kinds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: dict[str, str] = {}
    read, decode = calls.picture_of, calls.decode

    def reading(*arguments: Any) -> Any:
        threads["base64"] = threading.current_thread().name
        return read(*arguments)

    def answering(*arguments: Any, **options: Any) -> Any:
        threads["png"] = threading.current_thread().name
        return decode(*arguments, **options)

    monkeypatch.setattr(calls, "picture_of", reading)
    monkeypatch.setattr(calls, "decode", answering)
    serve(post("/detect_anomaly", json={"records": [PIXEL], "model": "parts"}), folder=both_kinds)
    assert {name.rpartition("_")[0] for name in threads.values()} == {"cornet-encode"}
    assert sorted(threads) == ["base64", "png"]


def test_a_large_call_is_answered_in_order(serve: Any) -> None:
    records = [[i, 0] for i in range(1500)]
    predictions = serve(post("/regress", json={"records": records})).json()["predictions"]
    assert [p["prediction"] for p in predictions] == [float(i) for i in range(1500)]


def test_gzip_both_ways(serve: Any) -> None:
    body = gzip.compress(json.dumps({"records": [[1, 2]] * 200}).encode())
    response = serve(post("/regress", content=body, headers={"content-encoding": "gzip", "accept-encoding": "gzip"}))
    assert response.headers["content-encoding"] == "gzip"
    assert len(response.json()["predictions"]) == 200


@pytest.mark.parametrize(
    ("path", "request_", "status", "message"),
    [
        ("/regress", {"content": b""}, 400, "Received: an empty body"),
        ("/regress", {"content": b"{"}, 400, "Expected a JSON object with records"),
        ("/regress", {"content": b'{"records": [[NaN, 1]]}'}, 400, "JSON has no NaN"),
        ("/regress", {"content": b"[1]"}, 400, "Received: list"),
        ("/regress", {"json": {}}, 400, "records: expected a list of at least one. Received: none"),
        ("/regress", {"json": {"records": None}}, 400, "records: expected a list of at least one. Received: none"),
        ("/regress", {"json": {"records": []}}, 400, "records: expected a list of at least one. Received: an empty list"),
        ("/regress", {"json": {"records": "x"}}, 400, "Received: str"),
        ("/regress", {"json": {"records": [POINT], "recrods": 1}}, 400, "Received: 'recrods'"),
        ("/regress", {"json": {"records": [POINT], "top_k": 1}}, 400, "Received: 'top_k'"),
        ("/regress", {"json": {"records": [POINT], "version": "1"}}, 400, "a positive integer. Received: '1'"),
        ("/regress", {"json": {"records": [POINT], "version": True}}, 400, "version: expected a positive integer"),
        ("/regress", {"json": {"records": [POINT], "version": 2**64 - 1}}, 400, "version: expected a positive integer"),
        ("/regress?version=0", {"json": {"records": [POINT]}}, 400, "version: expected a positive integer"),
        ("/regress?version=1", {"json": {"records": [POINT], "version": 1}}, 400, "version: expected once"),
        ("/regress?records=1", {"json": {}}, 400, "records: expected in the body"),
        ("/regress", {"json": {"records": [POINT], "model": ["x"]}}, 400, "model: expected a name"),
        ("/regress", {"json": {"records": [POINT], "model": "nobody"}}, 404, "not found for request: Latest(nobody)"),
        ("/regress", {"json": {"records": [POINT], "version": 7}}, 404, "Specific(regressor, 7)"),
        ("/regress", {"json": {"records": [POINT], "model": "cnn"}}, 400, "for image_classification; call /classify_image"),
        ("/regress", {"json": {"records": [POINT, {"x": 1}]}}, 400, "record 1: expected the columns 'x', 'y'"),
        ("/regress", {"json": {"records": [{"x": "many", "y": 1}]}}, 400, "record 0, column 'x': expected a number"),
        ("/classify", {"json": {"records": [[1, "Ulm"]], "top_k": 0}}, 400, "top_k: expected a positive integer"),
        ("/classify_text", {"json": {"texts": "free"}}, 400, "texts: expected a list"),
        ("/classify_text", {"json": {"texts": ["free", 1]}}, 400, "record 1: expected a text"),
        ("/forecast", {"json": {"windows": [[1, 2]]}}, 400, "record 0: expected 3 steps"),
        ("/classify_image", {"json": {"images": ["?"]}}, 400, "images[0]: expected an image file in base64"),
        ("/classify_image", {"json": {"images": [1]}}, 400, "images[0]: expected an image file in base64"),
        ("/classify_image", {"content": b"hello", "headers": PNG}, 400, "expected an image file (JPEG"),
        ("/classify_image", {"content": b"", "headers": PNG}, 400, "an empty list"),
        ("/classify_image", {"content": b"x", "headers": FORM}, 400, "multipart/form-data"),
        ("/classify_image", {"files": [("images", ("a.txt", b"hello"))]}, 400, "record 0: expected an image file"),
        ("/classify_image", {"files": [("images", ("a.png", png()))], "data": {"version": "x"}}, 400, "version: expected"),
        ("/classify_image", {"files": {"model": (None, "cnn")}}, 400, "an empty list"),
        ("/regress", {"content": b"x", "headers": {"content-encoding": "br"}}, 400, "Expected Content-Encoding"),
        ("/regress", {"content": b"[" * 100_000}, 400, "Expected a JSON object"),
        ("/nothing", {"json": {}}, 404, "Received: /nothing"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_json_object(
    serve: Any, path: str, request_: Any, status: int, message: str
) -> None:
    response = serve(post(path, **request_))
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    assert message in response.json()["error"]


def test_another_method_is_refused_with_the_right_one(serve: Any) -> None:
    async def get(client: httpx.AsyncClient, _: Engine) -> httpx.Response:
        return await client.get("/regress")

    response = serve(get)
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert response.json() == {"error": "Expected POST. Received: GET."}


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_over_the_limit_is_refused(serve: Any, declared: bool) -> None:
    async def chunks() -> Any:
        for _ in range(20):
            yield b" " * 100

    content = b" " * 2000 if declared else chunks()
    response = serve(post("/regress", content=content), max_body_bytes=1000)
    assert response.status_code == 413
    assert "at most 1000 bytes" in response.json()["error"]


def test_a_bad_call_does_not_hurt_its_neighbours(serve: Any) -> None:
    async def both(client: httpx.AsyncClient, _: Engine) -> list[httpx.Response]:
        bodies = [{"records": [[i, 0]]} if i % 2 else {"records": [["x", 0]]} for i in range(20)]
        return list(await asyncio.gather(*(client.post("/regress", json=body) for body in bodies)))

    statuses = [response.status_code for response in serve(both)]
    assert statuses == [400, 200] * 10


@pytest.mark.parametrize(
    ("error", "status", "headers"),
    [
        (QueueFull("full", retry_after_s=3.0), 429, {"retry-after": "3"}),
        (ShuttingDown("leaving"), 503, {}),
        (RuntimeError("a fault of ours"), 500, {}),
    ],
)
def test_errors_of_the_engine_are_answered(
    serve: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, headers: dict[str, str]
) -> None:
    async def refuse(client: httpx.AsyncClient, engine: Engine) -> httpx.Response:
        async def infer(_: object) -> None:
            raise error

        monkeypatch.setattr(engine, "infer", infer)
        return await client.post("/regress", json={"records": [POINT]})

    response = serve(refuse)
    assert response.status_code == status
    assert list(response.json()) == ["error"]
    assert headers.items() <= dict(response.headers).items()
    assert "fault of ours" not in response.text


def test_a_stopped_engine_says_503(serve: Any) -> None:
    async def late(client: httpx.AsyncClient, engine: Engine) -> httpx.Response:
        await client.post("/regress", json={"records": [POINT]})
        await engine.stop()
        return await client.post("/regress", json={"records": [POINT]})

    response = serve(late)
    assert response.status_code == 503
    assert list(response.json()) == ["error"]


def test_nan_in_an_answer_is_an_error(serve: Any) -> None:
    response = serve(post("/regress", json={"records": [[None, 1]]}))
    assert response.status_code == 500
    assert "prediction: expected finite numbers" in response.json()["error"]


@pytest.mark.parametrize(
    ("outputs", "status", "error"),
    [
        ({"rows": [[np.nan, 2]]}, 500, "rows: expected finite numbers"),
        ({"rows": [[1, np.inf]]}, 500, "rows: expected finite numbers"),
        ({"rows": [[1, 2, 3]]}, 400, "rows: expected shape [rows, 2]. The model gave [1, 3]."),
        ({"some": [[1, 2]], "other": [[1, 2]]}, 400, "Expected an output named rows. The model gave some, other."),
    ],
)
def test_completed_rows_that_are_not_what_they_must_be_are_an_error(
    serve: Any, monkeypatch: pytest.MonkeyPatch, outputs: dict[str, Any], status: int, error: str
) -> None:
    async def send(client: httpx.AsyncClient, engine: Engine) -> httpx.Response:
        async def infer(_: object) -> InferenceResponse:
            arrays = {name: np.array(value, np.float32) for name, value in outputs.items()}
            return InferenceResponse("rbm", 1, "impute", arrays)

        monkeypatch.setattr(engine, "infer", infer)
        return await client.post("/complete_records", json={"records": [[None, 2]]})

    response = serve(send)
    assert response.status_code == status
    assert error in response.json()["error"]


def test_records_of_a_model_without_columns_cannot_be_completed(serve: Any, tmp_path: Path) -> None:
    write_family(tmp_path / "prompts" / "1", "text_to_image", task="tabular_features")
    response = serve(post("/complete_records", json={"records": ["seven"]}), folder=tmp_path)
    assert (response.status_code, response.json()) == (
        400,
        {"error": "Expected a model of tabular records. Received: one of prompt."},
    )


def test_requests_are_counted_by_endpoint_and_model(serve: Any) -> None:
    async def scrape(client: httpx.AsyncClient, engine: Engine) -> str:
        await client.post("/regress", json={"records": [POINT]})
        await client.post("/regress", json={"records": [POINT], "model": "made-up"})
        return engine.metrics.render()[0].decode()

    text = serve(scrape)
    assert (
        'cornet_request_seconds_count{code="OK",method="regress",model="regressor",protocol="typed",version="1"} 1.0'
        in text
    )
    assert "made-up" not in text


class TestWhichModelAnswers:
    def test_the_only_one_of_the_task_where_the_family_has_another_name(self, serve: Any, tmp_path: Path) -> None:
        write_family(tmp_path / "house_prices" / "3", "regressor")
        response = serve(post("/regress", json={"records": [POINT]}), folder=tmp_path)
        assert response.json() == {"model": "house_prices", "version": 3, "predictions": [{"prediction": 21.0}]}

    def test_several_of_the_task_are_named(self, serve: Any, tmp_path: Path) -> None:
        for name in ("houses", "boats"):
            write_family(tmp_path / name / "1", "regressor")
        response = serve(post("/regress", json={"records": [POINT]}), folder=tmp_path)
        assert (response.status_code, response.json()) == (
            400,
            {"error": "model: expected one of boats, houses. Received: none."},
        )

    def test_a_variant_in_another_precision_does_not_stand_in_for_its_model(self, serve: Any, tmp_path: Path) -> None:
        for name in ("houses", "houses-int8"):
            write_family(tmp_path / name / "1", "regressor")
        manifest = Manifest.read(tmp_path / "houses-int8" / "1")
        replace(manifest, precision="int8").write(tmp_path / "houses-int8" / "1")
        response = serve(post("/regress", json={"records": [POINT]}), folder=tmp_path)
        assert response.json()["model"] == "houses"

    def test_none_of_the_task_says_what_is_served(self, serve: Any, tmp_path: Path) -> None:
        write_family(tmp_path / "houses" / "1", "regressor")
        response = serve(post("/forecast", json={"windows": [[1, 2, 3]]}), folder=tmp_path)
        assert (response.status_code, response.json()) == (
            404,
            {"error": "Expected a model for forecasting. Served: houses (regression)."},
        )

    def test_a_family_name_used_for_another_task_is_not_the_default(self, serve: Any, tmp_path: Path) -> None:
        write_family(tmp_path / "regressor" / "1", "autoencoder")
        write_family(tmp_path / "houses" / "1", "regressor")
        response = serve(post("/regress", json={"records": [POINT]}), folder=tmp_path)
        assert response.json()["model"] == "houses"

    def test_a_model_without_a_task_is_sent_to_the_tensor_protocols(self, serve: Any, tmp_path: Path) -> None:
        write_family(tmp_path / "foreign" / "1", "regressor", task="")
        response = serve(post("/regress", json={"records": [POINT], "model": "foreign"}), folder=tmp_path)
        assert response.status_code == 400
        assert "call /v2/models/foreign/infer with tensors" in response.json()["error"]

    def test_a_processor_that_cannot_be_read_is_said(self, serve: Any, tmp_path: Path) -> None:
        version = tmp_path / "houses" / "1"
        manifest = write_family(version, "regressor")
        Manifest(**{**_fields(manifest), "processor": ProcessorSpec("audio")}).write(version)
        response = serve(post("/regress", json={"records": [POINT]}), folder=tmp_path)
        assert response.status_code == 400
        assert "manifest.processor.kind" in response.json()["error"]


def _fields(manifest: Manifest) -> dict[str, Any]:
    return {name: getattr(manifest, name) for name in manifest.__dataclass_fields__}


def test_the_processor_is_read_once_per_version(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Path] = []
    real = calls.load_processor

    def load(path: Path, spec: ProcessorSpec) -> Any:
        reads.append(path)
        return real(path, spec)

    monkeypatch.setattr(calls, "load_processor", load)

    async def many(client: httpx.AsyncClient, _: Engine) -> None:
        await asyncio.gather(*(client.post("/regress", json={"records": [POINT]}) for _ in range(10)))

    serve(many)
    assert len(reads) == 1


def test_a_prompt_is_answered_with_a_picture_and_what_drew_it(serve: Any) -> None:
    body = {"prompt": "a bold seven", "temperature": 0.5, "seed": 3, "scale": 2}
    response = serve(post("/generate_image", json=body))
    assert response.status_code == 200
    origin = {name: response.headers[name] for name in ("content-type", "x-model", "x-model-version", "x-seed")}
    assert origin == {"content-type": "image/png", "x-model": "text_to_image", "x-model-version": "1", "x-seed": "3"}
    assert response.headers["x-request-id"]
    drawn = (np.random.default_rng(3).random(4, np.float32) * np.float32(0.5) * 100 + 3).astype(np.uint8).reshape(2, 2)
    np.testing.assert_array_equal(picture(response), drawn.repeat(2, axis=0).repeat(2, axis=1))


def test_a_picture_without_a_seed_names_the_one_that_draws_it_again(serve: Any) -> None:
    async def twice(client: httpx.AsyncClient, _: Engine) -> tuple[httpx.Response, httpx.Response]:
        first = await client.post("/generate_image", json={"prompt": "seven"})
        return first, await client.post(f"/generate_image?seed={first.headers['x-seed']}", json={"prompt": "seven"})

    first, again = serve(twice)
    assert first.content == again.content
    assert picture(first).shape == (32, 32)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({}, "prompt: expected a text. Received: none."),
        ({"prompt": None}, "prompt: expected a text. Received: None."),
        ({"prompt": ["seven"]}, "prompt: expected a text. Received: ['seven']."),
        ({"prompt": ""}, "prompt: expected a known word, out of 7, a, bold, digit, seven, the. Received: ''."),
        ({"prompt": "zebra"}, "prompt: expected a known word"),
        ({"prompt": "seven", "temperature": -1}, "temperature: expected a number from 0 to 100. Received: -1."),
        ({"prompt": "seven", "temperature": "NaN"}, "temperature: expected a number from 0 to 100. Received: 'NaN'."),
        ({"prompt": "seven", "seed": 1.5}, "seed: expected a whole number"),
        ({"prompt": "seven", "scale": 0}, "scale: expected a whole number from 1 to 64. Received: 0."),
        ({"prompt": "seven", "scale": 65}, "scale: expected a whole number from 1 to 64. Received: 65."),
        ({"prompt": "seven", "scale": True}, "scale: expected a whole number"),
        (
            {"prompt": "seven", "top_k": 1},
            "Expected only the members prompt, temperature, seed, model, version, scale.",
        ),
        ({"prompt": "seven", "model": "cnn"}, "cnn version 1: expected a model for text_to_image."),
    ],
)
def test_a_call_that_cannot_be_drawn_is_refused_by_member(serve: Any, body: dict[str, Any], error: str) -> None:
    response = serve(post("/generate_image", json=body))
    assert response.status_code == 400
    assert response.json()["error"].startswith(error)


@pytest.mark.parametrize("nothing", ["", "  ", None])
def test_a_seed_that_holds_nothing_is_drawn(serve: Any, nothing: str | None) -> None:
    response = serve(post("/generate_image", json={"prompt": "seven", "seed": nothing}))
    assert response.status_code == 200
    assert response.headers["x-seed"].isdigit()


def test_the_side_of_a_picture_is_bounded_whatever_the_model_draws(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MAX_SIDE", 9)
    assert picture(serve(post("/generate_image", json={"prompt": "seven"}))).shape == (8, 8)
    assert picture(serve(post("/generate_image", json={"prompt": "seven", "scale": 4}))).shape == (8, 8)
    response = serve(post("/generate_image", json={"prompt": "seven", "scale": 5}))
    assert (response.status_code, response.json()) == (
        400,
        {"error": "scale: expected at most 4 for a picture of 2 x 2 pixels. Received: 5."},
    )
    monkeypatch.setattr(calls, "MAX_SIDE", 1)
    assert picture(serve(post("/generate_image", json={"prompt": "seven"}))).shape == (2, 2)


def picture(response: httpx.Response) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(response.content)))


def test_every_task_has_a_toy_that_answers_its_example(serve: Any) -> None:
    async def examples(client: httpx.AsyncClient, _: Engine) -> dict[str, int]:
        spec = (await client.get("/openapi.json")).json()
        statuses = {}
        for path, item in spec["paths"].items():
            example = item["post"]["requestBody"]["content"]["application/json"]["example"]
            statuses[path] = (await client.post(path, json=example)).status_code
        return statuses

    statuses = serve(examples)
    assert set(statuses.values()) == {200}
    assert {ENDPOINTS[path[1:]].task for path in statuses} == {toy.task for toy in toys().values()}


def test_the_example_of_a_category_is_one_of_its_texts(serve: Any) -> None:
    async def spec(client: httpx.AsyncClient, _: Engine) -> Any:
        return (await client.get("/docs.json")).json()

    body = serve(spec)["paths"]["/classify"]["post"]["requestBody"]["content"]["application/json"]
    assert body["example"] == {"records": [{"x": 0.0, "town": "Ulm"}]}


def test_bounded_images_reach_the_model_as_they_are(serve: Any) -> None:
    picture = np.zeros((8, 8), np.uint8)
    picture[:2] = 255
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    response = serve(post("/classify_image", content=buffer.getvalue(), headers={"content-type": "image/png"}))
    assert response.json()["predictions"][0]["probabilities"]["white"] == pytest.approx(0.25)
