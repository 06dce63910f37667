"""The short way of small inference requests answers as the long way through ASGI does, and leaves it the special ones."""

import asyncio
import gzip
import http.client
import io
import json
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from services.frontends.rest.connection import Connection
from services.frontends.rest.direct import DirectCall
from services.frontends.rest.offload import THREAD_FROM_BYTES

PREDICT = "/v1/models/half_plus_two:predict"
INFER = "/v2/models/half_plus_two/infer"
ROW = b'{"instances": [[1.0]]}'


class Wire(asyncio.Transport):
    """What a client would see, and what it would do to the socket."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.closed = False
        self.written = asyncio.Event()

    def write(self, data: Any) -> None:
        self.sent += bytes(data)
        self.written.set()

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        """Nothing is read here: the test feeds the connection."""

    resume_reading = pause_reading


class Client:
    """One connection to the dispatcher of `rest`, on its loop."""

    def __init__(self, rest: Any) -> None:
        self._run = rest.runner.run
        self.wire = Wire()
        self.state = ServerState()
        self.connection = self._run(self._open(rest.app))

    async def _open(self, app: Any) -> Connection:
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", ws="none", proxy_headers=False)
        config.load()
        connection = Connection(
            app, config=config, server_state=self.state, app_state={}, _loop=asyncio.get_running_loop()
        )
        connection.connection_made(self.wire)
        return connection

    def feed(self, *chunks: bytes, then: Callable[[], None] = lambda: None) -> None:
        async def send() -> None:
            for chunk in chunks:
                self.connection.data_received(chunk)
            then()

        self._run(send())

    def answers(self, count: int = 1) -> list[tuple[int, dict[str, str], bytes]]:
        """Wait for so many whole answers: status, headers and body of each."""

        async def wait() -> None:
            async with asyncio.timeout(20):
                while self.state.total_requests < count:
                    await self.wire.written.wait()
                    self.wire.written.clear()

        self._run(wait())
        stream = io.BytesIO(self.wire.sent)
        return [read_answer(stream) for _ in range(count)]

    def hang_up(self) -> None:
        async def lose() -> None:
            self.connection.connection_lost(None)
            await asyncio.sleep(0)

        self._run(lose())

    @property
    def direct(self) -> bool:
        return isinstance(self.connection.cycle, DirectCall)


def read_answer(stream: io.BytesIO) -> tuple[int, dict[str, str], bytes]:
    class Socket:
        def makefile(self, _: str) -> Any:
            return io.BufferedReader(Unclosed())  # type: ignore[arg-type] # as much of a raw stream as it needs

    class Unclosed(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            data = stream.read(1)
            buffer[: len(data)] = data
            return len(data)

    answer = http.client.HTTPResponse(Socket())  # type: ignore[arg-type] # it only ever calls makefile
    answer.begin()
    body = answer.read()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, body


def post(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def chunked(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Transfer-Encoding: chunked", *headers, "", ""]
    chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
    return "\r\n".join(lines).encode() + chunk + b"0\r\n\r\n"


def infer(data: object, **more: object) -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": [2, 1], "data": data}
    return json.dumps({"inputs": [tensor], **more}).encode()


@pytest.fixture
def connect(rest) -> Callable[[], Client]:
    return lambda: Client(rest)


REQUESTS = {
    "a prediction": (PREDICT, ROW),
    "an inference": (INFER, infer([1.0, 2.0], id="seven")),
    "a version": ("/v2/models/offset/versions/1/infer", b'{"inputs": []}'),
    "a query": (f"{PREDICT}?trace=1", ROW),
    "no JSON": (PREDICT, b"{"),
    "an empty body": (INFER, b""),
    "a wrong shape": (INFER, infer([1.0])),
    "a wrong value": (INFER, infer([1.0, "two"])),
    "rows": (PREDICT, b'{"instances": [[1.0], [2], [3e40]]}'),
    "rows of a version": ("/v1/models/offset/versions/1:predict", b'{"instances": [[1.0, 2.0]]}'),
    "rows of a label": ("/v1/models/offset/labels/stable:predict", b'{"instances": [[1.0, 2.0]]}'),
    "rows and a signature": (PREDICT, b'{"signature_name": "serving_default", "instances": [[1.0], [2.0]]}'),
    "rows and an unknown signature": (PREDICT, b'{"signature_name": "other", "instances": [[1.0]]}'),
    "rows without a value": (PREDICT, b'{"instances": [[1.0], [null]]}'),
    "ragged rows": (PREDICT, b'{"instances": [[1.0], [1.0, 2.0]]}'),
    "no rows": (PREDICT, b'{"instances": []}'),
    "rows of a wrong width": (PREDICT, b'{"instances": [[1.0, 2.0]]}'),
    "flat rows": ("/v1/models/a%20model:predict", b'{"instances": [1, 2]}'),
    "whole numbers": ("/v1/models/a%20model:predict", b'{"instances": [1, 2.5]}'),
    "rows with NaN": ("/v1/models/floats:predict", b'{"instances": [[1.0, NaN]]}'),
    "rows that overflow": ("/v1/models/floats:predict", b'{"instances": [[1.0, 1e39]]}'),
    "an output by name": (INFER, infer([1.0, 2.0], outputs=[{"name": "y"}])),
    "an output in binary": (INFER, infer([1.0, 2.0], outputs=[{"name": "y", "parameters": {"binary_data": True}}])),
    "an unknown output": (INFER, infer([1.0, 2.0], outputs=[{"name": "z"}])),
    "nested values": (INFER, infer([[1.0], [2.0]])),
    "a value too large for JSON": ("/v2/models/floats/infer", infer([1.0, 1e39])),
    "a time limit": (INFER, infer([1.0, 2.0], parameters={"timeout": 10_000_000})),
    "an unknown model": ("/v1/models/nobody:predict", ROW),
    "an unknown model of v2": ("/v2/models/nobody/infer", infer([1.0, 2.0])),
    "an unknown version": ("/v1/models/half_plus_two/versions/99:predict", ROW),
    "an unknown input": (INFER, infer([1.0, 2.0]).replace(b'"x"', b'"z"')),
}


@pytest.mark.parametrize(("path", "body"), REQUESTS.values(), ids=REQUESTS.keys())
def test_both_ways_give_the_same_answer(connect, path, body):
    short, long = connect(), connect()
    short.feed(post(path, body, "X-Request-Id: mine"))
    long.feed(chunked(path, body, "X-Request-Id: mine"))
    assert (short.direct, long.direct) == (True, False)
    assert short.answers() == long.answers()


BINARY_REQUESTS = {
    "a binary tensor": ({"parameters": {"binary_data_size": 8}}, b"\0\0\x80?\0\0\0@"),
    "too few bytes": ({"parameters": {"binary_data_size": 8}}, b"\0\0\x80?"),
    "too many bytes": ({"parameters": {"binary_data_size": 8}}, b"\0\0\x80?\0\0\0@\0"),
    "a wrong size": ({"parameters": {"binary_data_size": 4}}, b"\0\0\x80?"),
    "a negative size": ({"parameters": {"binary_data_size": -1}}, b""),
    "no bytes": ({"shape": [0, 1], "parameters": {"binary_data_size": 0}}, b""),
    "values in JSON": ({"data": [1.0, 2.0]}, b""),
}


@pytest.mark.parametrize(("tensor", "tail"), BINARY_REQUESTS.values(), ids=BINARY_REQUESTS.keys())
@pytest.mark.parametrize("binary", [True, False])
def test_both_ways_give_the_same_answer_to_a_binary_tensor(connect, tensor, tail, binary):
    document = {"id": "b", "inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 1]} | tensor]}
    head = json.dumps(document | {"parameters": {"binary_data_output": binary}}).encode()
    headers = ("X-Request-Id: mine", f"Inference-Header-Content-Length: {len(head)}")
    short, long = connect(), connect()
    short.feed(post(INFER, head + tail, *headers))
    long.feed(chunked(INFER, head + tail, *headers))
    assert (short.direct, long.direct) == (True, False)
    assert short.answers() == long.answers()


def test_requests_of_several_forms_that_run_together_get_their_own_answers(rest, connect):
    """Rows, JSON and binary tensors of one model arrive in one turn of the loop, so that they share a run."""
    clients = [connect() for _ in range(9)]
    head = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"parameters":{"binary_data_size":4}}]}'
    length = f"Inference-Header-Content-Length: {len(head)}"

    async def arrive() -> None:
        for i, client in enumerate(clients):
            values = json.dumps({"instances": [[float(i)], [10.0]]}).encode()
            if i % 3 == 1:
                values = infer([float(i), 10.0])
            sent = post(PREDICT if i % 3 == 0 else INFER, values)
            if i % 3 == 2:
                sent = post(INFER, head + struct.pack("<f", i), length)
            client.connection.data_received(sent)

    rest.runner.run(arrive())
    for i, client in enumerate(clients):
        answer = json.loads(client.answers()[0][2])
        found = answer["predictions"] if i % 3 == 0 else answer["outputs"][0]["data"]
        assert found == [[[i / 2 + 2], [7.0]], [i / 2 + 2, 7.0], [i / 2 + 2]][i % 3]


def test_an_answer_that_the_client_wants_compressed_is_compressed_on_both_ways(connect):
    body = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [999, 1], "data": [0.5] * 999}]}).encode()
    short, long = connect(), connect()
    short.feed(post(INFER, body, "Accept-Encoding: gzip", "X-Request-Id: mine"))
    long.feed(chunked(INFER, body, "Accept-Encoding: gzip", "X-Request-Id: mine"))
    assert (short.direct, long.direct) == (True, False)
    ((_, headers, content),) = answers = short.answers()
    assert answers == long.answers()
    assert headers["content-encoding"] == "gzip"
    assert json.loads(gzip.decompress(content))["outputs"][0]["data"] == [2.25] * 999


def test_an_answer_with_much_to_write_comes_whole(connect):
    client = connect()
    rows = 12_000
    body = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[%d,1],"data":[%b]}]}' % (rows, b",".join([b"1"] * rows))
    client.feed(post(INFER, body))
    assert client.direct
    ((status, _, content),) = client.answers()
    assert (status, len(json.loads(content)["outputs"][0]["data"])) == (200, rows)


def test_a_body_may_come_in_pieces(connect):
    client = connect()
    sent = post(PREDICT, ROW)
    client.feed(*(sent[i : i + 1] for i in range(len(sent))))
    assert client.direct
    assert json.loads(client.answers()[0][2]) == {"predictions": [[2.5]]}


@pytest.mark.parametrize(
    "sent",
    [
        post(PREDICT, gzip.compress(ROW), "Content-Encoding: gzip"),
        post(PREDICT, ROW).replace(b"HTTP/1.1", b"HTTP/1.0"),
        post(PREDICT, ROW, "Connection: close"),
        post(PREDICT, ROW, "Expect: 100-continue"),
        post(PREDICT, ROW.ljust(THREAD_FROM_BYTES)),
        post("/v1/models/half_plus_two/metadata", ROW),
        post("/v1/models/half_plus_two/" + "a" * 1000 + ":predict", ROW),
        b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=["compressed", "old", "closing", "expecting", "long", "another route", "a long path", "another method"],
)
def test_what_is_special_goes_the_long_way(connect, sent):
    client = connect()
    client.feed(sent)
    assert not client.direct
    if b"100-continue" in sent:
        return
    ((status, _, _),) = client.answers()
    assert status in {200, 400, 404}


def test_requests_that_come_before_the_answer_are_answered_in_order(connect):
    client = connect()
    bodies = [json.dumps({"instances": [[float(i)]]}).encode() for i in range(5)]
    client.feed(b"".join(post(PREDICT, body) for body in bodies))
    answers = [json.loads(body)["predictions"] for _, _, body in client.answers(5)]
    assert answers == [[[i / 2 + 2]] for i in range(5)]


def test_the_short_way_is_taken_again_and_again(connect):
    client = connect()
    for i in range(3):
        client.feed(post(PREDICT, ROW))
        assert client.direct
        assert client.answers(i + 1)[-1][0] == 200


def test_a_client_that_hangs_up_withdraws_its_request(rest, connect):
    client = connect()
    client.feed(post("/v1/models/slow:predict", json.dumps({"instances": [[0.0] * 256]}).encode()))
    with rest.engine.acquire("slow") as handle:
        assert handle.servable.queued_rows == 1
        client.hang_up()
        assert handle.servable.queued_rows == 0
    assert client.wire.sent == b""
    assert ("tfs-rest", "predict", "slow", "", "CANCELLED") in rest.counted()


def test_a_client_that_hangs_up_before_its_body_is_whole_is_counted(rest, connect):
    client = connect()
    client.feed(post("/v1/models/multi:predict", b"{}" * 50)[:-10])
    client.hang_up()
    assert ("tfs-rest", "predict", "multi", "", "CANCELLED") in rest.counted()


def test_a_connection_that_is_to_be_shut_down_closes_behind_its_answer(connect):
    client = connect()
    client.feed(post(PREDICT, ROW), then=client.connection.shutdown)
    ((status, headers, _),) = client.answers()
    assert (status, headers["connection"], client.wire.closed) == (200, "close", True)


def test_a_client_that_does_not_read_waits_on_the_long_way(connect):
    client = connect()
    client.connection.pause_writing()
    client.feed(post(PREDICT, ROW))
    assert not client.direct
    client.connection.resume_writing()
    assert client.answers()[0][0] == 200


def test_a_fault_of_ours_is_told_without_a_traceback(rest, connect, monkeypatch):
    def fail(*_: object) -> Awaitable[None]:
        raise RuntimeError("secret")

    monkeypatch.setattr(rest.engine, "submit", fail)
    client = connect()
    client.feed(post(PREDICT, b'{"inputs": {"x": [[1.0]]}}'))
    ((status, headers, body),) = client.answers()
    assert status == 500
    assert b"secret" not in body
    assert headers["x-request-id"]
    assert ("tfs-rest", "predict", "half_plus_two", "", "INTERNAL") in rest.counted()
