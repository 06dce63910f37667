"""The typed endpoints in real servers: behind `cornet serve`, and as a BentoML service with the same engine and drain."""

import gc
import importlib
import io
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from services.launch import ServerProcess
from services.testing_typed import write_families

POINT = {"x": 1, "y": 2}
SUM = {"model": "regressor", "version": 1, "predictions": [{"prediction": 21.0}]}


@pytest.fixture(scope="module")
def typed_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("typed")
    write_families(root)
    return root


@pytest.fixture(scope="module")
def cornet(typed_repository: Path) -> Iterator[ServerProcess]:
    with ServerProcess(typed_repository) as server:
        yield server


@pytest.fixture(scope="module")
def bento(
    typed_repository: Path, free_port: int, tmp_path_factory: pytest.TempPathFactory, collector: Any
) -> Iterator[ServerProcess]:
    """`bentoml serve`, whose log does not name the port that its own options gave it."""
    flags = ["serve", "services.bento_service:ModelService", "--host", "127.0.0.1", "--port", str(free_port)]
    environment = {
        "BENTOML_DO_NOT_TRACK": "true",
        "BENTOML_HOME": str(tmp_path_factory.mktemp("bento")),
        "CORNET_REPOSITORY": str(typed_repository),
        "CORNET_GRPC_PORT": "0",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
    }
    with ServerProcess(typed_repository, command=["-m", "bentoml", *flags], environment=environment) as server:
        server.http_url = f"http://127.0.0.1:{free_port}"
        yield server


@pytest.fixture(params=["cornet", "bento"])
def url(request: pytest.FixtureRequest) -> str:
    server: ServerProcess = request.getfixturevalue(request.param)
    return server.http_url


def test_every_example_of_the_document_is_answered(url: str) -> None:
    with httpx.Client(base_url=url, timeout=60) as client:
        for path, item in client.get("/openapi.json").json()["paths"].items():
            example = item["post"]["requestBody"]["content"]["application/json"]["example"]
            response = client.post(path, json=example)
            assert response.status_code == 200, (path, response.text)


def test_bentoml_s_own_client_works(url: str, tmp_path: Path) -> None:
    picture = tmp_path / "white.png"
    Image.new("L", (8, 8), 255).save(picture)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # BentoML's dependencies warn of their own deprecations
        bentoml = importlib.import_module("bentoml")
        with bentoml.SyncHTTPClient(url, timeout=60) as client:
            assert client.regress(records=[POINT]) == SUM
            drawn = client.generate_image(prompt="a bold seven", seed=3, scale=4)
            assert Image.open(drawn).size == (8, 8)
            assert client.classify_image(images=[picture, picture], top_k=1)["predictions"][1]["label"] == "white"
        del client
        gc.collect()  # its temporary folder goes with it, and says so


def test_the_page_and_its_parts_load_nothing_from_elsewhere(url: str) -> None:
    with httpx.Client(base_url=url, timeout=60) as client:
        pages = {path: client.get(path) for path in ("/", "/static/page.js", "/static/page.css")}
    assert {page.status_code for page in pages.values()} == {200}
    assert not [path for path, page in pages.items() if re.search(r"//\w", page.text)]
    assert pages["/"].headers["content-security-policy"].startswith("default-src 'self'")


def test_protocol_routes_share_the_port(url: str) -> None:
    with httpx.Client(base_url=url, timeout=60) as client:
        body = {"instances": [[1, 2]]}
        assert client.post("/v1/models/regressor:predict", json=body).json() == {"predictions": [[21.0]]}
        assert client.get("/v2/models/regressor/ready").status_code == 200
        client.post("/regress", json={"records": [POINT]})
        assert 'method="regress",model="regressor",protocol="typed"' in client.get("/metrics").text


def test_errors_are_one_json_object(url: str) -> None:
    with httpx.Client(base_url=url, timeout=60) as client:
        response = client.post("/classify_image", content=b"hello", headers={"content-type": "image/png"})
        assert response.status_code == 400
        assert "expected an image file" in response.json()["error"]
        assert client.get("/made-up/../path").status_code == 404


def test_pictures_of_many_kinds_are_uploaded(url: str) -> None:
    files = []
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP"):
        buffer = io.BytesIO()
        Image.new("L", (20, 30), 255).save(buffer, kind)
        files.append(("images", (f"a.{kind.lower()}", buffer.getvalue())))
    predictions = httpx.post(f"{url}/classify_image", files=files, timeout=60).json()["predictions"]
    assert [p["label"] for p in predictions] == ["white"] * 5


def test_grpc_is_served_beside_bentoml(bento: ServerProcess) -> None:
    grpc = importlib.import_module("grpc")
    with grpc.insecure_channel(bento.grpc_address) as channel:
        ready = channel.unary_unary("/inference.GRPCInferenceService/ServerReady")
        assert ready(b"", timeout=20) == b"\x08\x01"


def test_bentoml_serve_drains_and_ends_in_order_with_its_traces_sent(bento: ServerProcess, collector: Any) -> None:
    context = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    for path, body in (("/regress", {"records": [POINT]}), ("/v1/models/regressor:predict", {"instances": [[1, 2]]})):
        httpx.post(bento.http_url + path, json=body, headers={"traceparent": context}, timeout=60).raise_for_status()
    assert bento.stop() == 0
    assert [line for line in bento.log if line["event"] != "output"][-1]["event"] == "stopped"
    parents = {span.name for span in collector.spans() if span.parent_span_id.hex() == context.split("-")[2]}
    assert parents == {"typed regress", "tfs-rest predict"}
