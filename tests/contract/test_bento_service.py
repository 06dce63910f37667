"""The typed endpoints in real servers: behind `cornet serve`, and as a BentoML service with the same engine and drain."""

import gc
import importlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from services.launch import ServerProcess
from services.testing_typed import toys, write_family

START_S = 90
POINT = {"x": 1, "y": 2}
SUM = {"model": "regressor", "version": 1, "predictions": [{"prediction": 21.0}]}


@pytest.fixture(scope="module")
def typed_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("typed")
    for family in toys():
        write_family(root / family / "1", family)
    return root


@pytest.fixture(scope="module")
def cornet(typed_repository: Path) -> Iterator[ServerProcess]:
    with ServerProcess(typed_repository) as server:
        yield server


@dataclass
class BentoServer:
    """A `bentoml serve` child: its process, HTTP address, gRPC address and log so far."""

    process: subprocess.Popen[str]
    url: str
    log: Path

    @property
    def events(self) -> list[dict[str, Any]]:
        lines = self.log.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


@pytest.fixture(scope="module")
def bento(typed_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BentoServer]:
    folder = tmp_path_factory.mktemp("bento")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "BENTOML_DO_NOT_TRACK": "true",
        "BENTOML_HOME": str(folder / "home"),
        "CORNET_REPOSITORY": str(typed_repository),
        "CORNET_GRPC_PORT": "0",
        "CORNET_LOG_FORMAT": "json",
    }
    command = ["serve", "services.bento_service:ModelService", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "bentoml", *command], stdout=log, stderr=log, text=True, env=environment
        )
    server = BentoServer(process, f"http://127.0.0.1:{port}", folder / "log")
    try:
        _wait_until_ready(server)
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(30)


def _wait_until_ready(server: BentoServer) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            if httpx.get(f"{server.url}/readyz", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError(f"bentoml serve was not ready: {server.log.read_text(encoding='utf-8')[-4000:]}")


@pytest.fixture(params=["cornet", "bento"])
def url(request: pytest.FixtureRequest) -> str:
    server = request.getfixturevalue(request.param)
    return server.http_url if request.param == "cornet" else server.url  # type: ignore[no-any-return]  # a fixture is Any


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


def test_grpc_is_served_beside_bentoml(bento: BentoServer) -> None:
    grpc = importlib.import_module("grpc")
    address = next(event["grpc"] for event in bento.events if event["event"] == "ready")
    with grpc.insecure_channel(address) as channel:
        ready = channel.unary_unary("/inference.GRPCInferenceService/ServerReady")
        assert ready(b"", timeout=20) == b"\x08\x01"


def test_bentoml_serve_drains_and_ends_in_order(bento: BentoServer) -> None:
    bento.process.send_signal(signal.SIGTERM)
    assert bento.process.wait(30) == 0
    assert bento.events[-1]["event"] == "stopped"
