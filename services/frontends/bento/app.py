"""What `cornet serve` mounts behind its protocol routes: the BentoML app on the running engine."""

import asyncio
from typing import Any

from services.engine.engine import Engine
from services.frontends.rest.http import ASGIApp, Receive, Scope, Send
from services.frontends.rest.lifespan import run_lifespan
from services.server_info import ServerInfo

MAX_BODY_BYTES = 64 * 1024 * 1024


class TypedApp:
    """The ASGI app of the typed endpoints, built by `prepare` or by the first request, whichever comes first.

    Importing BentoML takes a second or two of CPU and some 40 MB. It happens in a thread, after the server is ready and
    answers both protocol dialects; a typed request that comes before waits for it.
    """

    def __init__(self, engine: Engine, info: ServerInfo, max_body_bytes: int) -> None:
        self._options = (engine, info, max_body_bytes)
        self._building: asyncio.Future[ASGIApp] | None = None

    async def prepare(self) -> None:
        """Import and build, once."""
        await self._app()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            app = await self._app()
            await app(scope, receive, send)
        elif scope["type"] == "lifespan":
            await run_lifespan(None, scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def _app(self) -> ASGIApp:
        if self._building is None:
            self._building = asyncio.ensure_future(asyncio.to_thread(_build, *self._options))
        return await asyncio.shield(self._building)


def typed_app(engine: Engine, *, info: ServerInfo | None = None, max_body_bytes: int = MAX_BODY_BYTES) -> TypedApp:
    """The typed endpoints of an engine. It follows the engine's life: there is nothing to start or stop."""
    return TypedApp(engine, info or ServerInfo(), max_body_bytes)


def _build(engine: Engine, info: ServerInfo, max_body_bytes: int) -> Any:
    from services.frontends.bento.calls import TypedCalls
    from services.frontends.bento.service import LeanApp, LeanService, TypedEndpoints

    service = LeanService(name=info.name, config={"workers": 1}, inner=TypedEndpoints)
    service.inject_config()
    endpoints = TypedEndpoints()
    endpoints.calls, endpoints.info, endpoints.max_body_bytes = TypedCalls(engine), info, max_body_bytes
    app = LeanApp(service)
    app.bind(endpoints)
    return app()
