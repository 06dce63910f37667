"""Routes for those who run the server: liveness, readiness, metrics."""

import re
from collections.abc import Awaitable, Iterable
from functools import partial

import orjson

from services.engine.engine import Engine
from services.frontends.rest.http import Request, Response
from services.frontends.rest.routes import GET, Handler, Route
from services.frontends.status import Dialect
from services.telemetry.metrics import Metrics

PROTOCOL = "http"
_UNAVAILABLE = 503


def routes(engine: Engine, metrics: Metrics) -> Iterable[Route]:
    def route(name: str, handler: Handler) -> Route:
        return Route(name, PROTOCOL, Dialect.TYPED, re.compile(f"/{name}"), GET, handler)

    yield route("livez", partial(_livez, engine))
    yield route("readyz", partial(_readyz, engine))
    yield route("metrics", partial(_metrics, metrics))
    yield route("monitoring/prometheus/metrics", partial(_tensorflow_serving_metrics, metrics))


def _livez(engine: Engine, _: Request) -> Response:
    """200 as long as the event loop turns, and no GPU is lost: a process cannot have it back, and should be restarted."""
    if engine.healthy:
        return Response(b'{"live":true}')
    return Response(b'{"live":false,"reason":"the GPU is lost"}', status=_UNAVAILABLE)


def _readyz(engine: Engine, _: Request) -> Response:
    """200 when every configured model has an available version and the server is not draining, else 503 and what lacks."""
    ready = engine.ready
    waiting = [model for model in engine.models() if not engine.is_ready(model)]
    document: dict[str, object] = {"ready": ready, "not_ready": waiting}
    if not ready and not waiting:
        document["reason"] = "the server is starting or draining"
    return Response(orjson.dumps(document), status=200 if ready else _UNAVAILABLE)


def _metrics(metrics: Metrics, _: Request) -> Response | Awaitable[Response]:
    return _page(metrics.render()) if metrics.pages is None else _shared(metrics.pages.render())


def _tensorflow_serving_metrics(metrics: Metrics, _: Request) -> Response | Awaitable[Response]:
    if metrics.pages is None:
        return _page(metrics.render_tensorflow_serving())
    return _shared(metrics.pages.render_tensorflow_serving())


async def _shared(page: Awaitable[tuple[bytes, str]]) -> Response:
    """A page of all the processes that share the port."""
    return _page(await page)


def _page(page: tuple[bytes, str]) -> Response:
    body, content_type = page
    return Response(body, content_type=content_type.encode())
