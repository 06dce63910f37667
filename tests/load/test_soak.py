"""A soak: a server under load neither grows nor leaks. Seconds by default; CORNET_SOAK_SECONDS=600 for ten minutes.

It is loaded over every protocol in turn, and then by clients that give up: those leave what a server is most likely to keep.
"""

import os
import socket
import struct
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.launch import ServerProcess
from services.loadtest.plan import Bounds, Load, Target
from services.loadtest.protocols import PROTOCOLS
from services.loadtest.requests import Model, Request
from services.loadtest.session import run_steps
from services.loadtest.thresholds import Thresholds

MOST_GROWTH_BYTES = 24 * 1024 * 1024
SECONDS = min(float(os.environ.get("CORNET_SOAK_SECONDS", "2")), 1800.0)
_TYPED = "typed"
_TURN_S = 30.0
_CALL_S = 5.0
_GONE_AT_ONCE = struct.pack("ii", 1, 0)
"""SO_LINGER: closing resets the connection."""


@dataclass(frozen=True)
class Usage:
    memory_bytes: int
    files: int
    threads: int


def usage(pid: int) -> Usage:
    process = Path(f"/proc/{pid}")
    pages = int((process / "statm").read_text().split()[1])
    files, threads = (len(list((process / name).iterdir())) for name in ("fd", "task"))
    return Usage(pages * os.sysconf("SC_PAGE_SIZE"), files, threads)


def load(server: ServerProcess, protocol: str, seconds: float) -> None:
    address = server.grpc_address if PROTOCOLS[protocol].is_grpc else server.http_url.removeprefix("http://")
    model = Model("regressor" if protocol == _TYPED else "mlp")
    bounds = Bounds(seconds=seconds, warmup_s=0.0)
    result = run_steps(Target(protocol, address, model), bounds, [Load("closed", 8)], Thresholds(max_error_rate=0.0))
    assert result["passed"], result["steps"][0]["errors"]


def give_up(server: ServerProcess, seconds: float) -> None:
    """Clients that do not stay for their answers: deadlines too short, calls withdrawn, streams and connections dropped."""
    request = PROTOCOLS["oip-grpc"].predict(Model("mlp"), {"features": np.ones((1, 8), np.float32)})
    unknown = PROTOCOLS["oip-grpc"].predict(Model("absent"), {"features": np.ones((1, 8), np.float32)})
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with grpc.insecure_channel(server.grpc_address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            next(watch)
            call = channel.unary_unary(request.path)
            for _ in range(8):
                call.future(request.body, timeout=_CALL_S).cancel()
                with suppress(grpc.RpcError):
                    call(request.body, timeout=1e-4)
            with suppress(grpc.RpcError):
                call(unknown.body, timeout=_CALL_S)
            call(request.body, timeout=_CALL_S)
        drop(server.grpc_address, opening(request))
        drop(
            server.http_url.removeprefix("http://"),
            b"POST /v2/models/mlp/infer HTTP/1.1\r\ncontent-length: 99\r\n\r\n{",
        )


def opening(request: Request) -> bytes:
    """The first bytes of an HTTP/2 connection: preface, SETTINGS, and the head of a call without its message."""
    path = request.path.encode()
    block = b"\x83\x86\x04" + bytes((len(path),)) + path + b"\x0f\x10\x10application/grpc\x00\x02te\x08trailers"
    head = len(block).to_bytes(3, "big") + b"\x01\x04" + (1).to_bytes(4, "big") + block
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5) + head


def drop(address: str, beginning: bytes) -> None:
    """A connection that is reset in the middle of a request, once the server has answered or a moment has passed."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=_CALL_S) as connection:
        connection.sendall(beginning)
        connection.settimeout(0.01)
        with suppress(TimeoutError):
            connection.recv(1024)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _GONE_AT_ONCE)


def go_round(server: ServerProcess, seconds: float) -> None:
    """Every protocol and those who give up, each in its turn, for so many seconds together."""
    turns = max(1, round(seconds / _TURN_S))
    share = seconds / turns / (len(PROTOCOLS) + 1)
    for _ in range(turns):
        for protocol in PROTOCOLS:
            load(server, protocol, share)
        give_up(server, share)


def test_memory_files_and_threads_stay_where_they_are(server: ServerProcess) -> None:
    go_round(server, max(1.0, SECONDS / 5))
    before = usage(server.pid)
    go_round(server, SECONDS)
    after = usage(server.pid)

    assert after.memory_bytes - before.memory_bytes < MOST_GROWTH_BYTES, (before, after)
    assert after.files <= before.files + 8, (before, after)  # connections of the last run that are still being closed
    assert after.threads <= before.threads + 2, (before, after)
