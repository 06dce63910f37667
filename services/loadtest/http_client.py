"""A lean HTTP/1.1 client: the cost of a request in the client is what limits the load it can offer.

What it does: keep-alive, one request at a time per connection, answers with Content-Length or in chunks, a time limit.
What it does not: TLS, redirects, proxies, cookies, compressed answers, pipelining, HTTP/2, answers that end with the
connection; a failed request is not repeated.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable

import httptools

from services.loadtest.requests import CONNECTION, OK, TIMEOUT, Answer, Request

_JSON_LENGTH = b"inference-header-content-length"
_HTTP_OK = 200


class HttpClient:
    """At most `connections` connections, opened as they are needed; a request waits for a free one.

    The time limit `timeout_s` counts from the moment the request has a connection.
    """

    def __init__(self, host: str, port: int, *, connections: int, timeout_s: float) -> None:
        self._host, self._port = host, port
        self._limit = connections
        self._timeout_s = timeout_s
        self._idle: list[_Connection] = []
        self._all: set[_Connection] = set()
        self._opening = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._wires: dict[Request, bytes] = {}

    async def send(self, request: Request) -> Answer:
        wire = self._wires.get(request)
        if wire is None:
            wire = self._wires[request] = self._wire(request)
        try:
            connection = await self._take()
        except TimeoutError:
            return Answer(TIMEOUT, b"no connection in time")
        except OSError as error:
            return Answer(CONNECTION, str(error).encode())
        try:
            return await connection.exchange(wire, self._timeout_s)
        finally:
            self._give_back(connection)

    async def close(self) -> None:
        for connection in list(self._all):
            connection.close()
        await asyncio.sleep(0)  # the transports tell their protocols

    async def _take(self) -> "_Connection":
        while True:
            while self._idle:
                connection = self._idle.pop()
                if connection.usable:
                    return connection
            if len(self._all) + self._opening < self._limit:
                return await self._open()
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn

    async def _open(self) -> "_Connection":
        self._opening += 1
        try:
            async with asyncio.timeout(self._timeout_s):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: _Connection(self._all, self._wake), self._host, self._port
                )
        except OSError:
            self._wake()
            raise
        finally:
            self._opening -= 1
        return connection

    def _give_back(self, connection: "_Connection") -> None:
        if connection.usable:
            self._idle.append(connection)
        self._wake()

    def _wake(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def _wire(self, request: Request) -> bytes:
        host = f"[{self._host}]" if ":" in self._host else self._host
        lines = [f"{request.verb} {request.path} HTTP/1.1", f"Host: {host}:{self._port}"]
        if request.verb == "POST":
            lines += ["Content-Type: application/json", f"Content-Length: {len(request.body)}"]
        lines += [f"{name}: {value}" for name, value in request.headers]
        return "\r\n".join((*lines, "", "")).encode() + request.body


class _Connection(asyncio.Protocol):
    """One connection: `exchange` sends a request and returns its answer; never raises for what the network does."""

    def __init__(self, registry: "set[_Connection]", on_lost: Callable[[], None]) -> None:
        self._registry = registry
        self._on_lost = on_lost
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._chunks: list[bytes] = []
        self._json_length: int | None = None

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def exchange(self, wire: bytes, timeout_s: float) -> Answer:
        if self._transport is None:
            return Answer(CONNECTION, b"the connection was closed")
        loop = asyncio.get_running_loop()
        self._answer = loop.create_future()
        timer = loop.call_later(timeout_s, self._expire)
        self._transport.write(wire)
        try:
            return await self._answer
        except asyncio.CancelledError:
            self.close()  # an answer that nobody waits for would be taken for the next one's
            raise
        finally:
            timer.cancel()
            self._answer = None

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _expire(self) -> None:
        self._finish(Answer(TIMEOUT, b"no answer in time"))
        self.close()

    def _finish(self, answer: Answer) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)

    # asyncio's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport) or hasattr(transport, "write"):
            self._transport = transport  # type: ignore[assignment] # uvloop's transports are no asyncio.Transport to mypy
        self._registry.add(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._finish(Answer(CONNECTION, f"no HTTP: {error}".encode()))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._registry.discard(self)
        self._finish(Answer(CONNECTION, str(exc or "the server closed the connection").encode()))
        self._on_lost()  # there is room for another

    # httptools's side.

    def on_message_begin(self) -> None:
        self._chunks, self._json_length = [], None

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == _JSON_LENGTH:
            with contextlib.suppress(ValueError):
                self._json_length = int(value)

    def on_body(self, data: bytes) -> None:
        self._chunks.append(data)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._finish(Answer(OK if status == _HTTP_OK else str(status), body, self._json_length))
        if not self._parser.should_keep_alive():
            self.close()
