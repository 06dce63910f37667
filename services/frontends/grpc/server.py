"""The grpcio transport: carries the method table over HTTP/2, and knows nothing of what the methods do."""

import asyncio
from collections.abc import AsyncIterator, Callable
from time import monotonic
from typing import Any, NoReturn, Self, cast

import grpc

from services import errors
from services.errors import CornetError, Unavailable
from services.frontends.grpc.call import (
    Call,
    Method,
    MethodTable,
    StreamContext,
    StreamMethod,
    UnaryMethod,
    bounded,
    serve,
    serve_stream,
)
from services.frontends.grpc.http2.limits import Limits
from services.frontends.grpc.listeners import remove_stale
from services.frontends.grpc.options import MAX_MESSAGE_BYTES, GrpcOptions, TlsOptions
from services.frontends.grpc.tls import read_pem, server_context
from services.telemetry.exchange import REQUEST_ID
from services.telemetry.metrics import Metrics

_STATUS = {status.value[0]: status for status in grpc.StatusCode}


class GrpcServer:
    """One port that serves a method table.

        server = GrpcServer(build_methods(engine, info), "127.0.0.1", 0)
        port = await server.start()
        await server.stop(grace_s=10)

    `start` returns the bound port, of the machine's choosing where 0 was asked for, and raises Unavailable where it cannot be
    had. `stop` refuses new calls at once, ends streams, and gives running calls `grace_s` seconds before it cancels them.
    `clock` must be the engine's: deadlines are points on it. All of it runs on one event loop.
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
        self._methods = methods
        self._host = f"[{host}]" if ":" in host and not host.startswith("[") else host
        self._port = port
        self._options = options or GrpcOptions()
        self._metrics = metrics or Metrics()
        self._clock = clock
        self._server: Any = None
        self._streams: set[asyncio.Task[Any]] = set()
        self._stopping = False

    async def start(self) -> int:
        options = self._options
        handlers = _Handlers({name: self._handler(method) for name, method in self._methods.items()})
        server = grpc.aio.server(
            handlers=(handlers,),
            options=(
                ("grpc.max_receive_message_length", options.max_message_bytes),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                ("grpc.so_reuseport", int(options.reuse_port)),
                *_channel_arguments(options.limits),
            ),
            compression=None if options.compression is None else _compression(options.compression),
        )
        address = f"{self._host}:{self._port}"
        try:
            port = self._open(server, address)
        except RuntimeError:
            raise Unavailable(
                f"Cannot listen for gRPC on {address}: expected a free port on an address of this machine."
            ) from None
        await server.start()
        if options.socket_path is not None:
            options.socket_path.chmod(0o600)
        self._server = server
        return port

    async def stop(self, grace_s: float) -> None:
        if self._server is None:
            return
        self._stopping = True
        for task in self._streams:
            task.cancel()
        await self._server.stop(grace_s)
        if self._options.socket_path is not None:
            self._options.socket_path.unlink(missing_ok=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop(grace_s=0)

    def _open(self, server: Any, address: str) -> int:
        """Have the server listen on the address, and on the unix socket of the options."""
        options = self._options
        credentials = None if options.tls is None else _credentials(options.tls)
        port = 0
        addresses = [address] if options.socket_path is None else [address, f"unix:{options.socket_path}"]
        if options.socket_path is not None:
            remove_stale(options.socket_path)
        for name in addresses:
            bound = server.add_insecure_port(name) if credentials is None else server.add_secure_port(name, credentials)
            port = port or bound
        return port

    def _handler(self, method: Method) -> Any:
        if isinstance(method, UnaryMethod):
            return grpc.unary_unary_rpc_method_handler(self._unary(method))
        return grpc.stream_stream_rpc_method_handler(self._stream(method))

    def _unary(self, method: UnaryMethod) -> Callable[[bytes, Any], Any]:
        async def handle(data: bytes, context: Any) -> bytes:
            remaining_s = context.time_remaining()
            deadline = None if remaining_s is None else self._clock() + remaining_s
            call = _AioCall(method, context.invocation_metadata() or (), deadline, self._metrics)
            serve(method, data, call)
            try:
                answer = await call.answered
            except asyncio.CancelledError:
                call.cancel()
                raise
            context.set_trailing_metadata(((REQUEST_ID, call.request_id),))
            if not isinstance(answer, bytes):
                await _abort(context, *answer)
            return answer

        return handle

    def _stream(self, method: StreamMethod) -> Callable[[Any, Any], AsyncIterator[bytes]]:
        async def handle(requests: Any, context: Any) -> AsyncIterator[bytes]:
            task = cast("asyncio.Task[Any]", asyncio.current_task())
            self._streams.add(task)
            caller = StreamContext(context.invocation_metadata() or ())
            try:
                async for data in serve_stream(method, aiter(requests), caller, self._metrics, lambda: self._stopping):
                    self._streams.discard(task)  # cancelled while grpcio sends, it would tell the client nothing
                    yield data
                    self._streams.add(task)
                    if self._stopping:
                        task.cancel()
            except CornetError as refusal:
                await _abort(context, refusal.code, bounded(str(refusal)))
            finally:
                self._streams.discard(task)

        return handle


class _AioCall(Call):
    """A call whose answer somebody awaits."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.answered: asyncio.Future[bytes | tuple[int, str]] = asyncio.get_running_loop().create_future()

    def _send(self, data: bytes) -> None:
        self._resolve(data)

    def _send_error(self, code: int, text: str) -> None:
        self._resolve((code, text))

    def _resolve(self, answer: bytes | tuple[int, str]) -> None:
        if not self.answered.done():
            self.answered.set_result(answer)


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc] # grpcio has no types
    """Finds a method by its full name; grpcio answers UNIMPLEMENTED where there is none."""

    def __init__(self, handlers: dict[str, Any]) -> None:
        self._handlers = handlers

    def service(self, handler_call_details: Any) -> Any:
        return self._handlers.get(handler_call_details.method)


def _channel_arguments(limits: Limits) -> list[tuple[str, int]]:
    """The limits that grpcio has as well."""
    times = {
        "grpc.keepalive_time_ms": limits.keepalive_s,
        "grpc.keepalive_timeout_ms": limits.keepalive_timeout_s,
        "grpc.max_connection_idle_ms": limits.max_idle_s,
        "grpc.max_connection_age_ms": limits.max_age_s,
        "grpc.max_connection_age_grace_ms": limits.max_age_grace_s,
    }
    milliseconds = [(name, round(time_s * 1e3)) for name, time_s in times.items() if time_s is not None]
    return [("grpc.max_concurrent_streams", limits.max_concurrent_streams), *milliseconds]


def _credentials(options: TlsOptions) -> Any:
    """The server's credentials. Raises InvalidArgument where the files do not fit, which grpcio itself would only log."""
    server_context(options)
    pair = (read_pem(options.key), read_pem(options.certificate))
    authority = None if options.client_ca is None else read_pem(options.client_ca)
    return grpc.ssl_server_credentials((pair,), authority, require_client_auth=authority is not None)


def _compression(name: str) -> Any:
    try:
        return {"gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate}[name]
    except KeyError:
        raise errors.InvalidArgument(f"Expected a gRPC compression out of gzip, deflate. Received: {name!r}.") from None


async def _abort(context: Any, code: int, text: str) -> NoReturn:
    """End the call with a status: `abort` raises what makes grpcio send it."""
    raise await context.abort(_STATUS[code], text)
