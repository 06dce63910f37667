"""The native gRPC transport's server: listeners, the connections on them, and their orderly end."""

import asyncio
import contextlib
from collections.abc import Callable
from time import monotonic
from typing import Self

from services.errors import ShuttingDown
from services.frontends.acceptor import Acceptor
from services.frontends.grpc.call import MethodTable
from services.frontends.grpc.http2.connection import Connection
from services.frontends.grpc.http2.context import Context
from services.frontends.grpc.http2.frames import ConnectionFault
from services.frontends.grpc.http2.limits import Limits
from services.frontends.grpc.http2.messages import check_encoding
from services.frontends.grpc.http2.streaming import STOPPING, StreamingCall
from services.frontends.grpc.listeners import listen, listen_unix
from services.frontends.grpc.options import GrpcOptions
from services.frontends.grpc.tls import server_context
from services.telemetry.metrics import Metrics

_LOOKS = 4
"""How often a time limit is looked at within its span."""
_MAX_LOOK_S = 1.0
_MIN_LOOK_S = 0.01
_CLOSE_S = 5.0
"""How long connections have to write their last bytes once their calls have ended."""


class NativeServer:
    """One port, and a unix socket where the options name one, that serve a method table over HTTP/2.

        server = NativeServer(build_methods(engine, info), "127.0.0.1", 0)
        port = await server.start()
        await server.stop(grace_s=10)

    It is what `GrpcServer` is, on asyncio alone: see there for what `start` and `stop` promise. `clock` must be the
    engine's: deadlines are points on it. All of it runs on one event loop.
    """

    def __init__(
        self,
        methods: MethodTable,
        host: str,
        port: int,
        *,
        options: GrpcOptions | None = None,
        metrics: Metrics | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._host = host
        self._port = port
        self._options = options = options or GrpcOptions()
        check_encoding(options.compression)
        self._context = Context(
            methods,
            metrics or Metrics(),
            clock,
            options.limits,
            max_message_bytes=options.max_message_bytes,
            compression=options.compression or "",
        )
        self._acceptors: list[Acceptor] = []
        self._looker: asyncio.TimerHandle | None = None
        self._look_s = _look_interval_s(options.limits)

    async def start(self) -> int:
        options = self._options
        tls = None if options.tls is None else server_context(options.tls)
        timeout_s = None if tls is None else options.limits.handshake_timeout_s
        sockets = listen(self._host, self._port, reuse_port=options.reuse_port)
        port: int = sockets[0].getsockname()[1]
        if options.socket_path is not None:
            try:
                sockets.append(listen_unix(options.socket_path))
            except BaseException:
                for socket in sockets:
                    socket.close()
                raise
        self._acceptors = [Acceptor(socket, self._connect, tls, timeout_s) for socket in sockets]
        self._look()
        return port

    async def stop(self, grace_s: float) -> None:
        if not self._acceptors:
            return
        loop = asyncio.get_running_loop()
        self._context.stopping = True
        for acceptor in self._acceptors:
            acceptor.close()
        if self._options.socket_path is not None:
            self._options.socket_path.unlink(missing_ok=True)
        for connection in list(self._context.connections):
            connection.lifetime.drain(loop.time())
            for stream in [it for it in connection.streams.values() if isinstance(it, StreamingCall)]:
                stream.abort(ShuttingDown(STOPPING))
        await self._emptied(grace_s)
        for connection in list(self._context.connections):
            connection.abort_streams(ShuttingDown(STOPPING))
            connection.lifetime.drained()
        await self._emptied(_CLOSE_S)
        for connection in list(self._context.connections):
            connection.abort()
        self._context.deadlines.close()
        if self._looker is not None:
            self._looker.cancel()
        self._acceptors = []

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop(grace_s=0)

    def _connect(self) -> Connection:
        return Connection(self._context)

    async def _emptied(self, timeout_s: float) -> None:
        """Until there are no connections any more, or the time is over."""
        if self._context.connections:
            self._context.emptied = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._context.emptied.wait(), timeout_s)

    def _look(self) -> None:
        """Have every connection look at its clocks."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in list(self._context.connections):
            try:
                connection.lifetime.look(now)
            except ConnectionFault as fault:
                connection.end(fault)
        self._looker = loop.call_later(self._look_s, self._look)


def _look_interval_s(limits: Limits) -> float:
    times = (
        *(limits.handshake_timeout_s, limits.header_timeout_s, limits.keepalive_s, limits.keepalive_timeout_s),
        *(limits.stall_timeout_s, limits.max_idle_s, limits.max_age_s, limits.max_age_grace_s, limits.linger_s),
    )
    shortest = min((time for time in times if time is not None), default=_MAX_LOOK_S * _LOOKS)
    return min(max(shortest / _LOOKS, _MIN_LOOK_S), _MAX_LOOK_S)
