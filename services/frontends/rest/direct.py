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
from services.frontends.rest.offload import THREAD_FROM_BYTES, offload
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


class DirectCall:
    """One request and the one answer it gets. It stands where uvicorn keeps its own cycle, and has what uvicorn looks at:
    `response_complete`, `disconnected`, `keep_alive` and `message_event`.
    """

    __slots__ = (
        "_body",
        "_carrier",
        "_encode",
        "_engine",
        "_exchange",
        "_headers",
        "_parts",
        "_path",
        "_pending",
        "_route",
        "disconnected",
        "keep_alive",
        "response_complete",
    )
    message_event = _NobodyWaits()

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
        self._carrier = carrier
        self._engine = engine
        self._route = route
        self._path = path
        self._parts = parts
        self._headers = headers
        self._exchange = exchange = Exchange(metrics, route.protocol, route.name, headers)
        exchange.model = parts["model"]
        self._body = b""
        self._pending: Pending | None = None
        self._encode: Callable[[InferenceResponse], Response] | None = None
        self.keep_alive = True
        self.disconnected = False
        self.response_complete = False

    def add(self, data: bytes) -> None:
        """More of the body; its length was found to be short before the first of it came."""
        self._body = self._body + data if self._body else data

    def serve(self) -> None:
        """The body is whole: have it decoded and computed."""
        exchange = self._exchange
        exchange.received_bytes = len(self._body)
        try:
            inference = at_once(
                self._route.handler(Request("POST", self._path, self._parts, self._headers, self._body))
            )
            self._encode = inference.encode
            exchange.decoded(exchange.model)
            exchange.request = inference.request
            self._pending = self._engine.submit(inference.request, self._done)
        except Exception as error:  # noqa: BLE001 - the edge: the client gets an answer and the log the cause
            self._refuse(to_cornet(error))

    def gone(self) -> None:
        """The client hung up before its answer."""
        if self._pending is not None:
            self._pending.cancel()
        else:
            self._exchange.finish(errors.CANCELLED)

    def _done(self, outcome: Outcome) -> None:
        if self.disconnected:
            self._exchange.finish(errors.CANCELLED)
            return
        if isinstance(outcome, CornetError):
            self._refuse(outcome)
            return
        self._exchange.inferred(outcome, outcome.version)
        if sum(array.nbytes for array in outcome.outputs.values()) >= THREAD_FROM_BYTES:
            self._carrier.spawn(self._finish_slowly(outcome, None))
            return
        try:
            response = self._encoded(outcome)
        except Exception as error:  # noqa: BLE001 - as above
            self._refuse(to_cornet(error))
            return
        if response.compressible and len(response.body) >= COMPRESS_FROM_BYTES and b"accept-encoding" in self._headers:
            self._carrier.spawn(self._finish_slowly(outcome, response))
            return
        self._send(errors.OK, response)

    async def _finish_slowly(self, outcome: InferenceResponse, response: Response | None) -> None:
        """Encode and compress as the dispatcher does: what takes long, in a thread."""
        try:
            if response is None:
                size = sum(array.nbytes for array in outcome.outputs.values())
                response = await offload(size, self._encoded, outcome)
            if response.compressible and b"accept-encoding" in self._headers:
                response = await compressed(response, self._headers[b"accept-encoding"])
        except Exception as error:  # noqa: BLE001 - as above
            self._refuse(to_cornet(error))
        else:
            self._send(errors.OK, response)

    def _encoded(self, outcome: InferenceResponse) -> Response:
        assert self._encode is not None  # noqa: S101 - an outcome comes after the request was decoded
        return self._encode(outcome)

    def _refuse(self, error: CornetError) -> None:
        self._exchange.report(error)
        self._send(error.code, error_response(error, self._route.dialect))

    def _send(self, code: int, response: Response) -> None:
        exchange, body = self._exchange, response.body
        exchange.finish(code, len(body))
        if self.disconnected:
            return
        self.response_complete = True
        close = b"" if self.keep_alive else b"connection: close\r\n"
        extra = header_lines(response.headers) if response.headers else b""
        head = b"%b%b%b%bcontent-type: %b\r\ncontent-length: %d\r\nx-request-id: %b\r\n\r\n" % (
            STATUS_LINE[response.status],
            self._carrier.default_lines(),
            extra,
            close,
            response.content_type,
            len(body),
            exchange.request_id.encode(),
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
