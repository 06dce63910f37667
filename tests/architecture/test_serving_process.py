"""What a serving process holds in memory."""

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
