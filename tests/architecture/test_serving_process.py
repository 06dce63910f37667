"""What a serving process holds in memory."""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services import testing
from services.launch import ServerProcess

_HAS_DRIVER = Path("/dev/nvidiactl").exists()

_HEAVY = ("tensorflow", "keras", "tf2onnx", "onnx", "sklearn", "pandas", "matplotlib", "training", "ray")

_LATE = ("typer", "pydantic", "pydantic_core", "grpc", "rich", "bentoml", "starlette", "prometheus_client")
"""What a server without typed endpoints does not need for its first answer, and would start later and heavier for."""

_COMMAND = """
import atexit, json, pathlib, sys
modules = pathlib.Path(sys.argv.pop(1))
atexit.register(lambda: modules.write_text(json.dumps(sorted({name.partition(".")[0] for name in sys.modules}))))
from services.cli import main
main()
"""

_PROGRAM = """
import asyncio, json, sys, urllib.request
from services.app import Server
from services.settings import read_settings

async def main():
    server = Server(read_settings(repository=sys.argv[1], grpc_port=0))
    await server.start()
    typed = server.typed_app()
    await typed.prepare()
    server.http_app(typed)
    with server.engine.acquire("half_plus_two"):
        await server.drain()
    await server.stop()
    print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))

asyncio.run(main())
"""


def test_a_serving_process_imports_nothing_of_training(tmp_path: Path) -> None:
    testing.write_half_plus_two(tmp_path / "half_plus_two" / "1")

    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )

    assert "onnxruntime" in done.stdout
    assert [name for name in _HEAVY if f'"{name}"' in done.stdout] == []


@pytest.mark.parametrize("transport", ["native", "grpcio"])
def test_a_server_answers_before_it_imports_what_only_others_need(tmp_path: Path, transport: str) -> None:
    repository, modules = tmp_path / "models", tmp_path / "modules.json"
    testing.write_half_plus_two(repository / "half_plus_two" / "1")
    options = ("--grpc-port", "0", "--http-port", "0", "--no-typed-endpoints", "--grpc-transport", transport)
    command = ("-c", _COMMAND, str(modules), "serve", "--repository", str(repository), *options)

    with ServerProcess(repository, command=command) as server:
        url = f"{server.http_url}/v1/models/half_plus_two:predict"
        with urllib.request.urlopen(url, b'{"instances": [[2.0]]}', timeout=30) as answer:
            assert json.load(answer) == {"predictions": [[3.0]]}
        with grpc.insecure_channel(server.grpc_address) as channel:
            health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
            assert health.status == health_pb2.HealthCheckResponse.SERVING

    found = set(json.loads(modules.read_text()))
    unwanted = {*_LATE, *(() if _HAS_DRIVER else ("pynvml",))}
    assert "onnxruntime" in found
    assert found & unwanted == ({"grpc"} if transport == "grpcio" else set())


def test_a_serving_process_leaves_no_trace_in_the_user_s_home(tmp_path: Path) -> None:
    """ONNX Runtime would keep a device id and a database of events there, to report them."""
    repository, home = tmp_path / "models", tmp_path / "home"
    testing.write_half_plus_two(repository / "half_plus_two" / "1")
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}

    environment |= {"HOME": str(home), "BENTOML_HOME": str(tmp_path / "bentoml")}
    subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(repository)], env=environment, capture_output=True, timeout=60, check=True
    )

    assert sorted(path.name for path in home.rglob("*")) == []
