"""The composition root: settings to engine to front ends, and the orderly way down.

Start: HTTP opens (`/livez` answers, `/readyz` says what is still loading), the models load, gRPC opens, the `ready` line is
logged. Stop, on SIGTERM or SIGINT: readiness turns false, new
connections are refused after `drain_delay_s`, running requests finish within `drain_timeout_s`, models unload. A second
signal ends the process at once.
"""

import asyncio
import contextlib
import gc
import signal
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

import uvicorn
import uvloop

from services.engine.device import GpuOptions
from services.engine.engine import Engine, EngineOptions
from services.engine.model_config import ModelConfig, load_models_file
from services.errors import FailedPrecondition, Internal, InvalidArgument
from services.frontends.acceptor import Acceptor
from services.frontends.bento.app import TypedApp, typed_app
from services.frontends.grpc.http2.limits import Limits
from services.frontends.grpc.methods import build_methods
from services.frontends.grpc.options import GrpcOptions, TlsOptions
from services.frontends.grpc.transports import make_transport
from services.frontends.rest.connection import Connection
from services.frontends.rest.dispatcher import ASGIApp, Dispatcher
from services.launch import READY_EVENT
from services.server_info import ServerInfo
from services.settings import Settings, traces_configured
from services.telemetry.log import configure_logging, get_logger
from services.telemetry.metrics import Metrics
from services.telemetry.request_log import RequestLog, RequestLogOptions
from services.telemetry.tracing import Tracer

_log = get_logger("cornet")

_PREPARE_AFTER_S = 0.25
"""How long the typed endpoints' import lets those go first who wait for the server to be ready."""


@dataclass(frozen=True, slots=True)
class ProcessShare:
    """What one of several processes has of a machine: this many CPUs, and ports that others have too."""

    cpus: int


class Server:
    """One process's engine and the front ends on it.

    `start` loads the models and opens gRPC; HTTP is the caller's: `cornet serve` runs uvicorn on `http_app`, `bentoml
    serve` mounts it. `stop` ends what `start` reached, also when that was only a part. `configs` names the models to
    serve where the settings' own sources (models file, repository) are not to be used. `share` is of one worker of several.
    """

    def __init__(
        self, settings: Settings, configs: Sequence[ModelConfig] | None = None, *, share: ProcessShare | None = None
    ) -> None:
        self.settings = settings
        self.shares_ports = share is not None
        self.metrics = Metrics()
        self._tracer = _open_tracer(settings)
        if self._tracer is not None:
            self.metrics.listeners.append(self._tracer.listen)
        self._request_log = _open_request_log(settings, self.metrics)
        self.info = ServerInfo(name=settings.server_name)
        if configs is None and settings.models_file is not None:
            configs = load_models_file(settings.models_file)
        self.engine = Engine(_engine_options(settings, share), configs, metrics=self.metrics)
        self._grpc = make_transport(
            settings.grpc_transport,
            build_methods(self.engine, self.info),
            settings.host,
            settings.grpc_port,
            options=_grpc_options(settings, reuse_port=self.shares_ports),
            metrics=self.metrics,
        )

    def http_app(self, fallback: ASGIApp | None) -> Dispatcher:
        """The ASGI app of the protocol routes; requests for any other path go to `fallback`."""
        return Dispatcher(
            self.engine,
            info=self.info,
            fallback=fallback,
            max_body_bytes=self.settings.max_body_bytes,
            metrics=self.metrics,
        )

    def typed_app(self) -> TypedApp:
        """The app of the typed endpoints. It imports BentoML in the background, once it is first asked or prepared."""
        return typed_app(self.engine, info=self.info, max_body_bytes=self.settings.max_body_bytes)

    async def start(self) -> int:
        """Load the initial models, open gRPC and return its port."""
        await self.engine.start()
        port = await self._grpc.start()
        gc.freeze()  # a full collection of all that is loaded would hold up the loop for hundreds of requests' time
        gc.enable()  # `cornet serve` starts without it
        return port

    async def drain(self) -> None:
        """Turn readiness off, and give load balancers `drain_delay_s` to notice."""
        self.engine.drain()
        await asyncio.sleep(self.settings.drain_delay_s)

    async def stop(self, http: "HttpFront | None" = None) -> None:
        """Let running requests finish within `drain_timeout_s`, close gRPC and `http`, and only then unload the models."""
        closing = [self._grpc.stop(self.settings.drain_timeout_s)]
        if http is not None:
            closing.append(http.stop())
        await asyncio.gather(*closing)
        await self.engine.stop()
        if self._tracer is not None:
            await asyncio.to_thread(self._tracer.close)
        if self._request_log is not None:
            await asyncio.to_thread(self._request_log.close)


def run(settings: Settings, configs: Sequence[ModelConfig] | None = None, *, http: bool = True) -> None:
    """Serve until a signal. Returns after an orderly stop; raises CornetError where the server cannot start."""
    configure_logging(settings.log_level, settings.log_format)
    uvloop.run(_serve(Server(settings, configs), http=http))


async def _serve(server: Server, *, http: bool) -> None:
    settings = server.settings
    stop = _stop_on_signals()
    typed = server.typed_app() if http and settings.typed_endpoints else None
    front = await HttpFront.start(server, typed) if http else None
    try:
        grpc_port = await server.start()
        _log.info(
            READY_EVENT,
            grpc=f"{settings.host}:{grpc_port}",
            http=front.url if front else None,
            models=", ".join(server.engine.models()) or "none",
        )
        preparing = asyncio.create_task(prepare(typed)) if typed is not None else None
        await stop.wait()
        if preparing is not None:
            preparing.cancel()
        _log.info("draining")
        await server.drain()
    finally:
        await server.stop(front)
    _log.info("stopped")


async def prepare(typed: TypedApp) -> None:
    """Have the typed endpoints imported before somebody asks; both dialects serve meanwhile, and whatever comes of it."""
    await asyncio.sleep(_PREPARE_AFTER_S)
    try:
        await typed.prepare()
        gc.freeze()
    except Exception as error:  # noqa: BLE001 - reported; a typed request is answered with the same failure
        _log.error("the typed endpoints failed to start", cause=error)


def _stop_on_signals() -> asyncio.Event:
    """An event that the first SIGTERM or SIGINT sets; the second of them ends the process as it would any other."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    signals = (signal.SIGTERM, signal.SIGINT)

    def begin() -> None:
        for number in signals:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        stop.set()

    for number in signals:
        loop.add_signal_handler(number, begin)
    return stop


class HttpFront:
    """uvicorn in this loop, without its own signal handling. `url` is where it listens."""

    def __init__(self, server: uvicorn.Server, listener: socket.socket, url: str) -> None:
        self.url = url
        self._server = server
        self._task = asyncio.create_task(server.serve([listener]), name="http")

    @classmethod
    async def start(cls, server: Server, fallback: ASGIApp | None) -> Self:
        settings = server.settings
        listener = _listen(settings.host, settings.http_port, shared=server.shares_ports)
        app = server.http_app(fallback)
        config = uvicorn.Config(
            app,
            loop="none",
            http=partial(Connection, app),  # type: ignore[arg-type] # called as the class would be
            ws="none",
            lifespan="on",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=settings.keep_alive_s,
            timeout_graceful_shutdown=max(1, round(settings.drain_timeout_s)),
        )
        front = cls(_Uvicorn(config), listener, f"http://{_authority(listener)}")
        while not front._server.started:
            if front._task.done():
                raise Internal("The HTTP front end failed to start; the log says why.")
            await asyncio.sleep(0.005)
        return front

    async def stop(self) -> None:
        self._server.should_exit = True
        await self._task


class _Uvicorn(uvicorn.Server):
    """uvicorn, but for two things: it re-raises the signals it catches, which the composition root handles; and it has the
    event loop's own server take its connections, one per turn.
    """

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])
        connect = partial(  # type: ignore[call-arg] # a protocol of uvicorn's
            self.config.http_protocol_class,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        self.servers = [Acceptor(listener, connect) for listener in sockets or ()]  # type: ignore[misc] # to be closed

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listen(host: str, port: int, *, shared: bool) -> socket.socket:
    """A bound TCP socket; `shared` lets other processes bind the port too.

    Raises FailedPrecondition where the address is taken or not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise FailedPrecondition(
            f"Expected HTTP port {port} on {host} to be free. Received: {error.strerror}. Choose another with --http-port."
        ) from error
    listener.setblocking(False)
    return listener


def _authority(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _open_tracer(settings: Settings) -> Tracer | None:
    """The tracer, where an exporter is configured. Raises FailedPrecondition where its packages are not installed."""
    if not traces_configured(settings):
        return None
    try:
        return Tracer.otlp(settings.trace_endpoint or None)
    except ImportError:
        raise FailedPrecondition(
            "Expected OpenTelemetry's packages for the exporter of traces that is configured. "
            "Received: none. Install cornet[trace], or unset CORNET_TRACE_ENDPOINT and OTEL_EXPORTER_OTLP_*ENDPOINT."
        ) from None


def _open_request_log(settings: Settings, metrics: Metrics) -> RequestLog | None:
    """The request log, where a folder is set, as a listener of the metrics. Raises FailedPrecondition where it cannot be."""
    if settings.request_log is None:
        return None
    options = RequestLogOptions(
        settings.request_log,
        format=settings.request_log_format,
        rate=settings.request_log_rate,
        errors=settings.request_log_errors,
        payload_bytes=settings.request_log_payload_bytes if settings.request_log_payloads else None,
        file_bytes=settings.request_log_file_bytes,
        file_s=settings.request_log_file_s,
        keep_bytes=settings.request_log_keep_bytes,
    )
    request_log = RequestLog(options, metrics.tables.request_log)
    metrics.listeners.append(request_log.listen)
    metrics.draws.append(request_log.draw)
    return request_log


def _engine_options(settings: Settings, share: ProcessShare | None) -> EngineOptions:
    return EngineOptions(
        repository=settings.repository,
        providers=settings.providers,
        allow_cpu_fallback=settings.allow_cpu_fallback,
        intra_op_threads=settings.intra_op_threads,
        cpus=0 if share is None else share.cpus,
        gpu=GpuOptions(
            settings.gpu_index, settings.gpu_memory_bytes, tf32=settings.gpu_tf32, conv_search=settings.gpu_conv_search
        ),
        poll_interval_s=settings.poll_interval_s,
        load_retries=settings.load_retries,
        drain_timeout_s=settings.drain_timeout_s,
    )


def _grpc_options(settings: Settings, *, reuse_port: bool) -> GrpcOptions:
    """Raises InvalidArgument where settings that belong together are not."""
    certificate, key = settings.grpc_tls_certificate, settings.grpc_tls_key
    if (certificate is None) != (key is None) or (settings.grpc_tls_client_ca is not None and certificate is None):
        raise InvalidArgument("Expected gRPC's TLS certificate and its key together, and a client CA only with them.")
    if reuse_port and settings.grpc_socket is not None:
        raise InvalidArgument("Expected one worker where gRPC has a unix socket, which processes cannot share.")
    return GrpcOptions(
        max_message_bytes=settings.grpc_max_message_bytes,
        reuse_port=reuse_port,
        compression=settings.grpc_compression,
        tls=None if certificate is None or key is None else TlsOptions(certificate, key, settings.grpc_tls_client_ca),
        socket_path=settings.grpc_socket,
        limits=Limits(
            max_concurrent_streams=settings.grpc_max_concurrent_streams,
            keepalive_s=settings.grpc_keepalive_s or None,
            max_idle_s=settings.grpc_max_connection_idle_s or None,
            max_age_s=settings.grpc_max_connection_age_s or None,
            max_age_grace_s=settings.grpc_max_connection_age_grace_s or None,
        ),
    )
