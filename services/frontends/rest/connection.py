"""One HTTP connection: uvicorn's, with the bounds that it leaves to a proxy in front.

A head (request line and headers) that grows without end is refused with 431, and a request that stops arriving is given up:
either would otherwise hold memory or a socket for as long as the client likes.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 1024
"""Beyond it no client means well. A read of the socket may bring a little more before it is noticed."""

_TOO_LONG = b'{"error":"Expected a request line and headers of at most %d bytes. Received: more."}' % MAX_HEAD_BYTES
_REFUSAL = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(_TOO_LONG), _TOO_LONG)
)


class Connection(HttpToolsProtocol):
    """See the module. uvicorn's `timeout_keep_alive` is also how long a head may take, and how long a body may pause."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._in_head = True
        self._head_bytes = 0
        self._unfinished = True
        self._heard_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn declares it
        super().connection_made(transport)
        self._wait(self.timeout_keep_alive)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

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
        elif self._timer is None:
            self._wait(self.timeout_keep_alive)

    def on_message_begin(self) -> None:
        self._in_head = self._unfinished = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._unfinished = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        super().on_message_complete()

    def _wait(self, seconds: float) -> None:
        self._timer = self.loop.call_later(seconds, self._give_up_if_silent)

    def _give_up_if_silent(self) -> None:
        """A head must be whole by now; a body only must not have paused, unless it is we who do not read it."""
        rest_s = self._heard_s + self.timeout_keep_alive - self.loop.time()
        if not self._in_head and (self.flow.read_paused or rest_s > 0):
            self._wait(self.timeout_keep_alive if self.flow.read_paused else rest_s)
        else:
            self.transport.close()
