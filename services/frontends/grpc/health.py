"""grpc.health.v1.Health: Check and Watch.

A name is '' for the whole server, one of the services, or a model. The first two serve while the engine is ready: while it
starts and while it drains they do not. A model serves while one of its versions is available.
"""

import asyncio
from collections.abc import AsyncIterator, Collection
from typing import Any

from services.engine.engine import Engine
from services.errors import NotFound
from services.frontends.grpc.call import Call, MethodTable, StreamContext, StreamMethod, UnaryMethod
from services.frontends.grpc.inference_service import is_ready
from services.protocols.messages import HealthCheckRequest, HealthCheckResponse, parse

SERVICE = "grpc.health.v1.Health"
PROTOCOL = "grpc-health"
WATCH_INTERVAL_S = 0.5

_Response: Any = HealthCheckResponse


class HealthService:
    """Health of the server, its `services` (full names) and its models."""

    def __init__(self, engine: Engine, services: Collection[str], watch_interval_s: float = WATCH_INTERVAL_S) -> None:
        self._engine = engine
        self._services = frozenset(("", *services))
        self._watch_interval_s = watch_interval_s

    def methods(self) -> MethodTable:
        return {
            f"/{SERVICE}/Check": UnaryMethod(PROTOCOL, "Check", self.check),
            f"/{SERVICE}/Watch": StreamMethod(PROTOCOL, "Watch", self.watch),
        }

    def check(self, data: bytes, call: Call) -> None:
        name = _service_name(data)
        status = self._status(name)
        if status == _Response.SERVICE_UNKNOWN:
            raise NotFound(f"Expected '', a service or a model of this server. Received: {name!r:.100}.")
        call.reply(_encoded(status))

    async def watch(self, requests: AsyncIterator[bytes], context: StreamContext) -> AsyncIterator[bytes]:  # noqa: ARG002 - the handlers' common form
        """The status at once, and again whenever it changes; a name that is not known may become known."""
        name = _service_name(await anext(requests, b""))
        sent = None
        while True:
            status = self._status(name)
            if status != sent:
                yield _encoded(status)
                sent = status
            await asyncio.sleep(self._watch_interval_s)

    def _status(self, name: str) -> Any:
        if name in self._services:
            serves = self._engine.ready
        elif name in self._engine.models():
            serves = is_ready(self._engine, name)
        else:
            return _Response.SERVICE_UNKNOWN
        return _Response.SERVING if serves else _Response.NOT_SERVING


def _service_name(data: bytes) -> str:
    name: str = parse(HealthCheckRequest, data, "HealthCheckRequest").service
    return name


def _encoded(status: Any) -> bytes:
    data: bytes = _Response(status=status).SerializeToString()
    return data
