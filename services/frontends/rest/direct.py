"""The short way of a small inference request: from the HTTP parser to the engine and back, without a task or ASGI.

uvicorn starts a task per request and passes dicts between it and the app; for a small model that costs several times what
the model does. A POST to a `predict` or `infer` route whose whole body is short is therefore served by callbacks:
`services.frontends.rest.connection` collects it and calls the same route handler that the dispatcher calls. Whatever is
special (a long, chunked or compressed body, `Expect`, HTTP/1.0, pipelining, a client that does not read its answers) goes
the dispatcher's way. Answers, errors and counts are the same on both.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from services import errors
from services.engine.engine import Engine
from services.engine.request import InferenceResponse, Outcome
from services.engine.scheduling import Pending
from services.errors import CornetError
from services.frontends.rest.http import COMPRESS_FROM_BYTES, Request, Response, compressed
from services.frontends.rest.offload import THREAD_FROM_BYTES, offload, size_of
from services.frontends.rest.refusals import error_response
from services.frontends.rest.routes import Inference, Route
from services.frontends.status import to_cornet
from services.telemetry.exchange import Exchange
from services.telemetry.metrics import Metrics

_SPECIAL = frozenset((b"content-encoding", b"transfer-encoding", b"expect", b"upgrade"))


class Carrier(Protocol):
    """The connection that a call arrived on."""

    def carry(self, data: bytes, *, close: bool) -> None:
        """Send an answer's bytes and go on to the next request, or close the connection behind it."""
        ...

    def default_lines(self) -> bytes:
        """The header lines that every answer of this server has."""
        ...

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine as a task that a graceful shutdown waits for."""
        ...


class _NobodyWaits:
    def set(self) -> None:
        """The app's `receive`, which uvicorn would wake here."""


class DirectCall(Exchange):
    """One request and the one answer it gets. It stands where uvicorn keeps its own cycle, and has what uvicorn looks at:
    `response_complete`, `disconnected`, `keep_alive` and `message_event`.
    """

    message_event = _NobodyWaits()
    body = b""
    keep_alive = True
    disconnected = False
    response_complete = False
    headers: Mapping[bytes, bytes]
    _pending: Pending | None = None

    def __init__(
        self,
        carrier: Carrier,
        engine: Engine,
        metrics: Metrics,
        route: Route,
        path: str,
        parts: Mapping[str, str],
        headers: Mapping[bytes, bytes],
    ) -> None:
        super().__init__(metrics, route.protocol, route.name, headers)
        self.model = parts["model"]
        self.path = path
        self.parts = parts
        self._carrier = carrier
        self._engine = engine
        self._route = route

    def add(self, data: bytes) -> None:
        """More of the body; its length was found to be short before the first of it came."""
        self.body = self.body + data if self.body else data

    def serve(self) -> None:
        """The body is whole: have it decoded and computed."""
        self.received_bytes = len(self.body)
        route = self._route
        try:
            if route.short_way is not None:
                self._pending = route.short_way.enter(self)
                if self._pending is not None:
                    return
            inference = at_once(route.handler(Request("POST", self.path, self.parts, self.headers, self.body)))
            self.decoded(self.model)
            self.request = inference.request
            encode = inference.encode
            self._pending = self._engine.submit(inference.request, lambda outcome: self.answer(outcome, encode))
        except Exception as error:  # noqa: BLE001 - the edge: the client gets an answer and the log the cause
            self._refuse(to_cornet(error))

    def gone(self) -> None:
        """The client hung up before its answer."""
        if self._pending is not None:
            self._pending.cancel()
        else:
            self.finish(errors.CANCELLED)

    def answer(self, outcome: Outcome, encode: Callable[[InferenceResponse], Response]) -> None:
        """Answer with what the engine made of the request. Never raises: the engine's callbacks must not."""
        if self.response_complete:
            return
        if self.disconnected:
            self.finish(errors.CANCELLED)
            return
        if isinstance(outcome, CornetError):
            self._refuse(outcome)
            return
        self.inferred(outcome, outcome.version)
        if size_of(outcome) >= THREAD_FROM_BYTES:
            self._carrier.spawn(self._finish_slowly(outcome, encode, None))
            return
        try:
            response = encode(outcome)
        except Exception as error:  # noqa: BLE001 - as above
            self._refuse(to_cornet(error))
            return
        if response.compressible and len(response.body) >= COMPRESS_FROM_BYTES and b"accept-encoding" in self.headers:
            self._carrier.spawn(self._finish_slowly(outcome, encode, response))
            return
        self._send(errors.OK, response)

    def reply_counted(self, body: bytes, lines: bytes) -> None:
        """Answer a request that was counted with others of its run; `lines` are the headers that say what the body is."""
        if not self.disconnected:
            self._carry(STATUS_LINE[200], lines, body)

    async def _finish_slowly(
        self,
        outcome: InferenceResponse,
        encode: Callable[[InferenceResponse], Response],
        response: Response | None,
    ) -> None:
        """Encode and compress as the dispatcher does: what takes long, in a thread."""
        try:
            if response is None:
                response = await offload(size_of(outcome), encode, outcome)
            if response.compressible and b"accept-encoding" in self.headers:
                response = await compressed(response, self.headers[b"accept-encoding"])
        except Exception as error:  # noqa: BLE001 - as above
            self._refuse(to_cornet(error))
        else:
            self._send(errors.OK, response)

    def _refuse(self, error: CornetError) -> None:
        self.report(error)
        self._send(error.code, error_response(error, self._route.dialect))

    def _send(self, code: int, response: Response) -> None:
        self.finish(code, len(response.body))
        if not self.disconnected:
            lines = b"content-type: %b\r\n%b" % (response.content_type, header_lines(response.headers))
            self._carry(STATUS_LINE[response.status], lines, response.body)

    def _carry(self, status: bytes, lines: bytes, body: bytes) -> None:
        self.response_complete = True
        close = b"" if self.keep_alive else b"connection: close\r\n"
        head = b"%b%b%b%bcontent-length: %d\r\nx-request-id: %b\r\n\r\n" % (
            status,
            self._carrier.default_lines(),
            lines,
            close,
            len(body),
            self.request_id.encode(),
        )
        self._carrier.carry(head + body, close=not self.keep_alive)


def header_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join([b"%b: %b\r\n" % header for header in headers])


def may_go_direct(headers: Mapping[bytes, bytes], max_body_bytes: int) -> bool:
    """Whether a request's headers promise a plain body that is short enough to be decoded on the event loop."""
    length = headers.get(b"content-length")
    if length is None or len(length) > 6 or not length.isdigit():
        return False
    if int(length) >= min(THREAD_FROM_BYTES, max_body_bytes + 1):
        return False
    return _SPECIAL.isdisjoint(headers)


def at_once(work: Any) -> Inference:
    """The result of a route handler's coroutine, which for a short body never waits for anything."""
    try:
        work.send(None)
    except StopIteration as stop:
        inference: Inference = stop.value
        return inference
    work.close()
    raise asyncio.InvalidStateError("A handler of a short body must not wait.")
