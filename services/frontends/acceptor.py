"""Taking connections from a listening socket as fast as they come.

uvloop's own server takes one connection per turn of the loop, as libuv does. Where each turn serves the
requests of all connections that are there already, the last of 64 clients that come together waits for 64 of those: 0.2 s
where a request costs a tenth of a millisecond, and a second and more where it costs one.
"""

import asyncio
import errno
import socket
from collections.abc import Callable
from ssl import SSLContext

from services.telemetry.log import get_logger

BACKLOG = 2048
"""Connections that may wait to be taken."""

_MOST = 32
"""Taken per turn: half a millisecond's worth or so, as those that have one open wait meanwhile."""
_PAUSE_S = 1.0
_EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))

_log = get_logger(__name__)


class Acceptor:
    """A listening socket whose connections become protocols of `factory`'s, until `close`.

        acceptor = Acceptor(listener, Connection)       # bound, and not blocking; on a running loop
        acceptor.close()                                # connections that are open stay so

    `tls` has them encrypted; a client whose handshake fails, or takes longer than `handshake_timeout_s`, is gone, and nobody
    else is told. Where the process has no more file descriptors, or the system no memory, connections wait for a second.
    """

    def __init__(
        self,
        listener: socket.socket,
        factory: Callable[[], asyncio.Protocol],
        tls: SSLContext | None = None,
        handshake_timeout_s: float | None = None,
    ) -> None:
        self._listener = listener
        self._factory = factory
        self._tls = tls
        self._handshake_timeout_s = None if tls is None else handshake_timeout_s
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[None]] = set()
        self._resumption: asyncio.TimerHandle | None = None
        listener.listen(BACKLOG)
        self._resume()

    def close(self) -> None:
        """Take no more connections: those that wait, or are in their handshake, are refused. May be called twice."""
        if self._resumption is not None:
            self._resumption.cancel()
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener)
            self._listener.close()
        if self._tls is not None:
            for handshake in self._opening:
                handshake.cancel()

    async def wait_closed(self) -> None:
        """Until the connections that were taken last are open, or refused."""
        await asyncio.gather(*self._opening, return_exceptions=True)

    def _resume(self) -> None:
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        for _ in range(_MOST):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:
                continue  # it has gone while it waited
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                _log.error("no connection can be taken", cause=error, pause_s=_PAUSE_S)
                self._loop.remove_reader(self._listener)
                self._resumption = self._loop.call_later(_PAUSE_S, self._resume)
                return
            connection.setblocking(False)
            opening = self._loop.create_task(self._open(connection))
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)

    async def _open(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._factory, connection, ssl=self._tls, ssl_handshake_timeout=self._handshake_timeout_s
            )
        except OSError as error:  # of TLS, too
            _log.debug("a connection was not opened", reason=str(error))
            connection.close()
