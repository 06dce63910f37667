"""What a serving process holds in memory."""

import os
import subprocess
import sys
from pathlib import Path

from services import testing

_HEAVY = ("tensorflow", "keras", "tf2onnx", "onnx", "sklearn", "pandas", "matplotlib", "training", "ray")

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
