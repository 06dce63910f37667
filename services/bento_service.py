"""`bentoml serve services.bento_service:ModelService`: the server of `cornet serve` inside BentoML's.

The same engine and gRPC server start with the worker and drain with it. BentoML's port (3000) carries the typed endpoints,
the docs page and, mounted behind them, both REST dialects, health and metrics. Settings come from the same environment.

Set BENTOML_DO_NOT_TRACK=true in the environment of `bentoml serve`: its command line reports usage before it reads this file.
"""

import logging

import bentoml

from services.app import Server
from services.frontends.bento.calls import TypedCalls
from services.frontends.bento.service import LeanService, TypedEndpoints
from services.frontends.rest.dispatcher import ASGIApp
from services.frontends.rest.http import Receive, Scope, Send
from services.launch import READY_EVENT
from services.settings import read_settings
from services.telemetry.log import configure_logging, get_logger

_log = get_logger("cornet")


class _Protocols:
    """The protocol routes, mounted when BentoML reads the class, served once the worker has started."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


_protocols = _Protocols()


@bentoml.service(name="cornet", service_class=LeanService, workers=1)
@bentoml.asgi_app(_protocols)
class ModelService(TypedEndpoints):
    """Typed endpoints, one per task, beside both protocol dialects over gRPC and REST."""

    @bentoml.on_startup  # type: ignore[untyped-decorator]  # BentoML's hooks have no types
    async def start(self) -> None:
        """Load the models and open gRPC."""
        settings = read_settings()
        configure_logging(settings.log_level, settings.log_format)
        logging.getLogger("uvicorn.access").propagate = False  # the metrics count requests; a line each would cost more
        self._server = server = Server(settings)
        self.calls = TypedCalls(server.engine)
        self.info, self.max_body_bytes = server.info, settings.max_body_bytes
        _protocols.app = server.http_app(None)
        try:
            port = await server.start()
        except BaseException:
            await server.stop()
            raise
        _log.info(READY_EVENT, grpc=f"{settings.host}:{port}", models=", ".join(server.engine.models()) or "none")

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]  # BentoML's hooks have no types
    async def stop(self) -> None:
        """Drain: readiness turns false, running requests finish, models unload."""
        await self._server.drain()
        await self._server.stop()
        self.calls.close()
        _log.info("stopped")
