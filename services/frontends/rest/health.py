"""Routes for those who run the server: liveness, readiness, metrics."""

import re
from collections.abc import Callable, Iterable
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

    yield route("livez", _livez)
    yield route("readyz", partial(_readyz, engine))
    yield route("metrics", partial(_page, metrics.render))
    yield route("monitoring/prometheus/metrics", partial(_page, metrics.render_tensorflow_serving))


def _livez(_: Request) -> Response:
    """200 as long as the event loop turns: a process that should be restarted does not answer."""
    return Response(b'{"live":true}')


def _readyz(engine: Engine, _: Request) -> Response:
    """200 when every configured model has an available version and the server is not draining, else 503 and what lacks."""
    ready = engine.ready
    waiting = [model for model in engine.models() if not engine.is_ready(model)]
    document: dict[str, object] = {"ready": ready, "not_ready": waiting}
    if not ready and not waiting:
        document["reason"] = "the server is starting or draining"
    return Response(orjson.dumps(document), status=200 if ready else _UNAVAILABLE)


def _page(render: Callable[[], tuple[bytes, str]], _: Request) -> Response:
    body, content_type = render()
    return Response(body, content_type=content_type.encode())
