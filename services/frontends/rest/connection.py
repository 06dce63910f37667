"""One HTTP connection: uvicorn's, with a short way for small inference requests, and with bounds that uvicorn leaves to a
proxy in front.

A head (request line and headers) that grows without end is refused with 431, and a request that stops arriving is given up:
either would otherwise hold memory or a socket for as long as the client likes.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from services.frontends.rest.direct import DirectCall, header_lines
from services.frontends.rest.dispatcher import Dispatcher

MAX_HEAD_BYTES = 64 * 1024
"""Beyond it no client means well. A read of the socket may bring a little more before it is noticed."""

_TOO_LONG = b'{"error":"Expected a request line and headers of at most %d bytes. Received: more."}' % MAX_HEAD_BYTES
_REFUSAL = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(_TOO_LONG), _TOO_LONG)
)


class Connection(HttpToolsProtocol):
    """See the module. uvicorn's `timeout_keep_alive` is also how long a head may take, and how long a body may pause.

    `dispatcher` is asked for the short way of each POST; everything else is the ASGI app's, which it is too.
    """

    def __init__(self, dispatcher: Dispatcher, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._dispatcher = dispatcher
        self._arriving: DirectCall | None = None
        self._in_head = True
        self._head_bytes = 0
        self._unfinished = True
        self._since_s = self._heard_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._default_headers: list[tuple[bytes, bytes]] = []
        self._default_lines = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn declares it
        super().connection_made(transport)
        self._since_s = self.loop.time()
        self._timer = self.loop.call_later(self.timeout_keep_alive, self._close_if_overdue)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        waiting: Any = self.cycle
        super().connection_lost(exc)
        if isinstance(waiting, DirectCall) and not waiting.response_complete:
            waiting.gone()

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if not self._unfinished:
            return
        self._heard_s = self.loop.time()
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
            self.transport.write(_REFUSAL)
            self.transport.close()

    def on_message_begin(self) -> None:
        self._in_head = self._unfinished = True
        self._head_bytes = 0
        self._since_s = self.loop.time()
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._arriving = self._short_way()
        if self._arriving is not None:
            self.cycle = self._arriving  # type: ignore[assignment] # it has what uvicorn looks at
            return
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.headers, self.expect_100_continue = url, headers, expects
        self.scope["headers"] = headers
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self._arriving is not None:
            self._arriving.add(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._unfinished = False
        arrived, self._arriving = self._arriving, None
        if arrived is not None:
            arrived.serve()
        else:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """As uvicorn's, but for the timer: `_close_if_overdue` looks at every wait, so that none is set per answer."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self._since_s = self.loop.time()
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())

    def carry(self, data: bytes, *, close: bool) -> None:
        self.transport.write(data)
        if close:
            self.transport.close()
        self.on_response_complete()

    def default_lines(self) -> bytes:
        headers = self.server_state.default_headers  # a new list whenever uvicorn's clock has moved
        if headers is not self._default_headers:
            self._default_headers = headers
            self._default_lines = header_lines(headers)
        return self._default_lines

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def _short_way(self) -> DirectCall | None:
        """Where the request may go it: nothing before it is unanswered, and the client reads and keeps the connection."""
        parser = self.parser
        if parser.get_method() != b"POST" or not parser.should_keep_alive() or parser.get_http_version() != "1.1":
            return None
        if self.flow.write_paused or not (self.cycle is None or self.cycle.response_complete):
            return None
        return self._dispatcher.direct(self, self.url, dict(self.headers))

    def _close_if_overdue(self) -> None:
        """A head must be whole in time; a body only must not pause, unless it is we who do not read it; and between two
        requests a connection is kept for as long.
        """
        now_s, wait_s = self.loop.time(), self.timeout_keep_alive
        due_s = self._since_s + wait_s
        if self._unfinished and not self._in_head:
            due_s = now_s + wait_s if self.flow.read_paused else self._heard_s + wait_s
        elif not self._unfinished and not (self.cycle is None or self.cycle.response_complete):
            due_s = now_s + wait_s
        if due_s <= now_s:
            self.transport.close()
        else:
            self._timer = self.loop.call_at(due_s, self._close_if_overdue)
