"""What the metrics cost: their share of the server's CPU time per request, on the fastest served paths.

    python tests/load/metrics_cost.py [seconds per load]

A server of a small MLP is loaded by h2load: 64 streams of one gRPC connection, which
is the fastest path there is; 64 gRPC connections; 64 HTTP connections with JSON. All the while the server counts for one
window of time, and does nothing at all for the metrics in the next: no counts, no histograms, no clock read for them. A
window without is compared with those before and behind it, so that what else the machine does falls on both; figures are
medians.
"""

import asyncio
import json
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import uvloop
from hot_path import infer_request

from services import testing
from services.app import HttpFront, Server
from services.engine import lanes
from services.frontends.grpc.http2.unary import NativeCall
from services.frontends.rest.short_way import ShortWay
from services.frontends.runs import RunCounter
from services.settings import Settings
from services.telemetry.arrivals import ArrivalClock
from services.telemetry.exchange import Exchange

SETTLING = 800
"""Requests after a change: the interpreter takes some hundred of them to be as quick as before."""
COUNTED = 3000
"""Requests of a window."""

_LOOK_S = 0.002
_SUMMARY = re.compile(r"(\d+) succeeded, (\d+) failed[\s\S]*\((\d+)\) data")
_GRPC_HEADERS = ("-H", "content-type: application/grpc", "-H", "te: trailers")


class Load(NamedTuple):
    """One way to ask; `answered` counts the requests that the server has had so far."""

    name: str
    url: str
    body: bytes
    options: Sequence[str]
    answered: Callable[[], int]


def loads(server: Server, front: HttpFront, port: int) -> list[Load]:
    rows = np.random.default_rng(1).random((1, 8), np.float32)
    message = infer_request("mlp", "features", rows)
    framed = b"\0" + len(message).to_bytes(4, "big") + message
    tensor = {"name": "features", "shape": [1, 8], "datatype": "FP32", "data": rows.ravel().tolist()}
    document = json.dumps({"inputs": [tensor]}).encode()
    json_options = ("--h1", "-c64", "-H", "content-type: application/json")
    url = f"http://127.0.0.1:{port}/inference.GRPCInferenceService/ModelInfer"
    connections, state = server._grpc._context.connections, front._server.server_state

    def calls() -> int:
        return sum((one.last_sid + 1) // 2 for one in connections)

    return [
        Load("gRPC, 64 streams of one connection", url, framed, ("-c1", "-m64", *_GRPC_HEADERS), calls),
        Load("gRPC, 64 connections", url, framed, ("-c64", "-m1", *_GRPC_HEADERS), calls),
        Load(
            *("REST JSON, 64 connections", f"{front.url}/v2/models/mlp/infer", document, json_options),
            lambda: state.total_requests,
        ),
    ]


class NoSeries:
    """Takes the place of a batcher's histograms."""

    FULL = 1
    kept = property(lambda _: [], lambda _, value: None)

    def observe(self, value: float, times: int = 1) -> None:
        pass


NO_TIMES = lanes.Times([0.0], [0.0])


def _uncounted_call(
    self: NativeCall, connection: Any, sid: int, send_window: int, head: Any, deadline: float | None
) -> None:
    self._connection = connection
    self.sid = sid
    self.send_window = send_window
    self.head = head
    self.deadline = deadline


def _uncounted_exchange(self: Exchange, metrics: Any, protocol: str, operation: str, headers: Any) -> None:
    self.metrics = metrics
    self.protocol = protocol
    self.operation = operation
    self.headers = headers


def leave_out(server: Server) -> ExitStack:
    """Have the server count nothing until what is returned is closed."""
    stack, batches = ExitStack(), server.metrics.tables.batches.values()
    for owner, name, stub in (
        (NativeCall, "__init__", _uncounted_call),
        (Exchange, "__init__", _uncounted_exchange),
        (ArrivalClock, "now", lambda _: 0.0),
        (lanes, "times_of", lambda *_: NO_TIMES),
        *((batch, "queue_seconds", NoSeries()) for batch in batches),
        (RunCounter, "count", lambda *_: None),
        (ShortWay, "count", lambda *_: None),
        *((batch, "runs", NoSeries()) for batch in batches),
    ):
        stack.enter_context(patch.object(owner, name, stub))
    stack.enter_context(patch.object(Exchange, "started_at", 0.0, create=True))
    return stack


async def window_us(answered: Callable[[], int]) -> float:
    """CPU microseconds per request, over some thousand of them."""
    await reach(answered, answered() + SETTLING)
    before, began = answered(), time.process_time()
    await reach(answered, before + COUNTED)
    return (time.process_time() - began) / (answered() - before) * 1e6


async def reach(answered: Callable[[], int], number: int) -> None:
    while answered() < number:  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(_LOOK_S)


async def measure(server: Server, load: Load, seconds: float, folder: Path) -> tuple[list[float], list[float]]:
    """Costs per request with the metrics, and without them: in turn, the first and the last with them."""
    body, output = folder / "body", folder / "output"
    body.write_bytes(load.body)
    command = ("h2load", "-t1", f"-D{seconds + 2:.0f}", *load.options, "-d", str(body), load.url)
    with output.open("wb") as file:
        generator = await asyncio.create_subprocess_exec(*command, stdout=file)
    await asyncio.sleep(1.0)
    end = time.perf_counter() + seconds
    costs, bare_costs = [await window_us(load.answered)], []
    while time.perf_counter() < end:
        with leave_out(server):
            bare_costs.append(await window_us(load.answered))
        costs.append(await window_us(load.answered))
    await generator.wait()
    found = _SUMMARY.search(output.read_text())
    succeeded, failed, answer_bytes = (0, 0, 0) if found is None else map(int, found.groups())
    if not succeeded or failed or answer_bytes < succeeded:  # an error of gRPC has a status of 200, and no data
        raise RuntimeError(f"{load.name}: expected answers. Received: {output.read_text()[-600:]}")
    return costs, bare_costs


def report(name: str, costs: Sequence[float], bare_costs: Sequence[float]) -> str:
    """The medians, with the standard error of the share's, as the quartiles tell it: a few windows are always disturbed."""
    beside = [(before + behind) / 2 for before, behind in pairwise(costs)]
    shares = [1 - bare / counted for bare, counted in zip(bare_costs, beside, strict=True)]
    low, share, high = statistics.quantiles(shares, n=4)
    error = 1.253 * (high - low) / 1.349 / len(shares) ** 0.5
    whole = statistics.median(costs)
    return (
        f"{name}: the metrics are {share:.1%} (+- {error:.1%}) of the server's CPU per request, "
        f"{share * whole:.2f} us of {whole:.2f} us\n"
    )


async def main(seconds: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "models"
        testing.write_mlp(repository / "mlp" / "1")
        settings = Settings(repository=repository, grpc_port=0, http_port=0, intra_op_threads=1, log_level="warning")
        server = Server(settings)
        front = await HttpFront.start(server, None)
        port = await server.start()
        for load in loads(server, front, port):
            sys.stdout.write(report(load.name, *await measure(server, load, seconds, Path(folder))))
            sys.stdout.flush()
        await server.stop(front)


if __name__ == "__main__":
    if shutil.which("h2load") is None:
        raise SystemExit("Expected h2load to be installed (Debian's nghttp2-client). Received: none.")
    uvloop.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 40.0))
