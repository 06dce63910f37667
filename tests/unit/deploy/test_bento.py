"""The Bento of deploy/bento: built offline from a checkout, and serving its own copy of the code and the models."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from services.launch import ServerProcess
from services.testing_typed import write_families

VERSION = "9.9.9"
"""A version that the installed package does not have: who says it speaks from the Bento's copy."""


@pytest.fixture
def checkout(project: Path, tmp_path: Path) -> Path:
    """What a Bento is built from, with toy models and a version of its own."""
    root = tmp_path / "checkout"
    shutil.copytree(project / "services", root / "services", ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("deploy/bento/bentofile.yaml", "deploy/locks/cpu.txt"):
        (root / file).parent.mkdir(parents=True)
        shutil.copy(project / file, root / file)
    (root / "cornet.egg-info").mkdir()
    (root / "cornet.egg-info" / "PKG-INFO").write_text(f"Metadata-Version: 2.4\nName: cornet\nVersion: {VERSION}\n")
    write_families(root / "exported_models")
    return root


def test_a_built_bento_serves_its_own_models_from_anywhere(checkout: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    environment = {
        "BENTOML_HOME": str(home),
        "BENTOML_DO_NOT_TRACK": "true",
        "CORNET_GRPC_PORT": "0",
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
        "no_proxy": "127.0.0.1",
    }
    command = [sys.executable, "-m", "bentoml", "build", "--bentofile", "deploy/bento/bentofile.yaml", "."]
    built = subprocess.run(
        command, cwd=checkout, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )
    assert built.returncode == 0, built.stderr
    shutil.rmtree(checkout)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    serve = ["-m", "bentoml", "serve", "cornet:latest", "--host", "127.0.0.1", "--port", port]

    with ServerProcess("exported_models", command=serve, environment=environment) as server:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10, trust_env=False) as client:
            typed = client.post("/regress", json={"records": [{"x": 1, "y": 2}]})
            about = client.get("/v2").json()
        status = server.stop()

    assert typed.json()["predictions"] == [{"prediction": 21.0}]
    assert about["version"] == VERSION
    assert status == 0
