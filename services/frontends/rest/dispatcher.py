"""The ASGI app in front of HTTP: finds the route, reads the body, asks the engine, answers."""

import asyncio
from collections.abc import Callable, Mapping
from functools import lru_cache
from urllib.parse import quote

import orjson

from services import errors
from services.engine.engine import Engine
from services.engine.request import InferenceRequest, InferenceResponse, Outcome
from services.errors import CornetError, FailedPrecondition
from services.frontends.rest import health, tfs, v2
from services.frontends.rest.direct import Carrier, DirectCall, may_go_direct
from services.frontends.rest.http import (
    ASGIApp,
    ClientGone,
    Receive,
    Request,
    Response,
    Scope,
    Send,
    compressed,
    read_body,
)
from services.frontends.rest.lifespan import run_lifespan
from services.frontends.rest.offload import offload, size_of
from services.frontends.rest.refusals import MethodNotAllowed, error_response
from services.frontends.rest.routes import LONGEST_REMEMBERED, Route, RouteTable
from services.frontends.status import Dialect, to_cornet
from services.server_info import ServerInfo
from services.telemetry.exchange import Exchange
from services.telemetry.metrics import Metrics

__all__ = ["ASGIApp", "Dispatcher"]

_WATCH_AFTER_S = 0.02
"""A request that runs longer is watched for its client hanging up: a watch costs a task, more than a small model's run."""

_SERVED = (
    *("/v1/models/{model}", "/v1/models/{model}/metadata", "/v1/models/{model}:predict"),
    *("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/{model}", "/v2/models/{model}/infer"),
    *("/livez", "/readyz", "/metrics"),
)


class Dispatcher:
    """Both REST dialects, health and metrics on one engine; every other path is `fallback`'s, or 404.

    It starts and stops nothing but `fallback`, whose lifespan it forwards; the engine is its owner's. Errors leave as JSON
    in the dialect of the path, never with a traceback. A body over `max_body_bytes`, as sent or as inflated, is refused. A
    client that hangs up withdraws its request from the engine.

        app = Dispatcher(engine, info=ServerInfo(), fallback=None, max_body_bytes=64 << 20, metrics=metrics)
        uvicorn.run(app)
    """

    def __init__(
        self,
        engine: Engine,
        *,
        info: ServerInfo,
        fallback: ASGIApp | None,
        max_body_bytes: int,
        metrics: Metrics,
    ) -> None:
        self._engine = engine
        self._fallback = fallback
        self._max_body_bytes = max_body_bytes
        self._metrics = metrics
        self._table = RouteTable((*tfs.routes(engine), *v2.routes(engine, info), *health.routes(engine, metrics)))
        self._direct = lru_cache(maxsize=1024)(self._find_inference)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            path = _path(scope)
            found = self._table.find(path)
            if found is not None:
                await self._serve(*found, path, scope, receive, send)
            else:
                await self._serve_no_route(path, scope, receive, send)
        elif kind == "lifespan":
            await run_lifespan(self._fallback, scope, receive, send)
        elif self._fallback is not None:
            await self._fallback(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    def direct(self, carrier: Carrier, url: bytes, headers: Mapping[bytes, bytes]) -> DirectCall | None:
        """The short way of a POST whose headers have arrived; None for what must come as ASGI. See `rest.direct`."""
        found = self._direct(url) if len(url) <= LONGEST_REMEMBERED else None
        if found is None or not may_go_direct(headers, self._max_body_bytes):
            return None
        route, parts, path = found
        return DirectCall(carrier, self._engine, self._metrics, route, path, parts, headers)

    def _find_inference(self, url: bytes) -> tuple[Route, Mapping[str, str], str] | None:
        path = url.partition(b"?")[0].decode("utf-8", "replace")
        found = self._table.find(path)
        return None if found is None or not found[0].infers else (*found, path)

    async def _serve(
        self, route: Route, parts: Mapping[str, str], path: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answer one request of a route, and count it."""
        method: str = scope["method"]
        headers = dict(scope["headers"])
        exchange = Exchange(self._metrics, route.protocol, route.name, headers)
        exchange.model = parts.get("model", "")
        code = errors.OK
        try:
            if method not in route.methods:
                response = _other_method(route, method, path, headers)
            else:
                request = Request(method, path, parts, headers)
                if method == "POST":
                    request.body = await read_body(receive, headers, self._max_body_bytes)
                    exchange.received_bytes = len(request.body)
                made = route.handler(request)
                answer = made if isinstance(made, Response) else await made
                if isinstance(answer, Response):
                    response = answer
                else:
                    exchange.decoded(exchange.model)
                    exchange.request = answer.request
                    outcome = await self._infer(answer.request, receive)
                    exchange.inferred(outcome, outcome.version)
                    response = await offload(size_of(outcome), answer.encode, outcome)
                if response.compressible and b"accept-encoding" in headers:
                    response = await compressed(response, headers[b"accept-encoding"])
        except ClientGone:
            exchange.finish(errors.CANCELLED)
            return
        except asyncio.CancelledError:
            exchange.finish(errors.CANCELLED)
            raise
        except Exception as error:  # noqa: BLE001 - the edge: whatever it is, the client gets an answer and the log the cause
            refusal = to_cornet(error)
            exchange.report(refusal)
            code, response = refusal.code, error_response(refusal, route.dialect)
        await send_answer(exchange, code, response, send, head=method == "HEAD")

    async def _infer(self, request: InferenceRequest, receive: Receive) -> InferenceResponse:
        """The engine's response. Withdraws the request when the client hangs up or this task is cancelled."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Outcome] = loop.create_future()

        def done(outcome: Outcome) -> None:
            if not future.done():
                future.set_result(outcome)

        pending = self._engine.submit(request, done)
        watch = Watch(loop, receive, pending.cancel)
        try:
            outcome = await future
        except asyncio.CancelledError:
            pending.cancel()
            raise
        finally:
            watch.stop()
        if isinstance(outcome, CornetError):
            raise outcome
        return outcome

    async def _serve_no_route(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Paths below a dialect's prefix get that dialect's refusal, others the fallback."""
        method: str = scope["method"]
        code = errors.NOT_FOUND
        if tfs.PREFIX.fullmatch(path):
            protocol, code, response = tfs.PROTOCOL, errors.INVALID_ARGUMENT, _malformed(method, path, scope)
        elif v2.PREFIX.fullmatch(path):
            protocol, response = v2.PROTOCOL, Response(b'{"error":"Not Found"}', status=404)
        elif self._fallback is not None:
            await self._fallback(scope, receive, send)
            return
        else:
            document = {"error": f"Not Found: {path:.512}", "served": _SERVED}
            protocol, response = health.PROTOCOL, Response(orjson.dumps(document), status=404)
        exchange = Exchange(self._metrics, protocol, "unknown", dict(scope["headers"]))
        await send_answer(exchange, code, response, send, head=method == "HEAD")


class Watch:
    """Calls `gone` once the client hangs up, looked for only after a while. `stop` ends it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, receive: Receive, gone: Callable[[], None]) -> None:
        self._receive = receive
        self._gone = gone
        self._task: asyncio.Task[None] | None = None
        self._timer = loop.call_later(_WATCH_AFTER_S, self._begin, loop)

    def stop(self) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._task = loop.create_task(self._run())

    async def _run(self) -> None:
        if (await self._receive())["type"] == "http.disconnect":  # after a whole body, nothing else may come
            self._gone()


async def send_answer(exchange: Exchange, code: int, response: Response, send: Send, *, head: bool = False) -> None:
    """Count the request, and send its answer with the id that the log knows it by."""
    exchange.finish(code, len(response.body))
    response.headers = (*response.headers, (b"x-request-id", exchange.request_id.encode()))
    await response.send(send, head=head)


def _other_method(route: Route, method: str, path: str, headers: Mapping[bytes, bytes]) -> Response:
    """OPTIONS, and methods that the route has not: TensorFlow Serving calls those malformed."""
    if route.dialect is Dialect.TFS:
        if method == "OPTIONS":
            return _preflight(headers, route.allow)
        raise tfs.malformed(method, path)
    if method == "OPTIONS":
        return Response(headers=((b"allow", route.allow),))
    raise MethodNotAllowed(route.allow)


def _malformed(method: str, path: str, scope: Scope) -> Response:
    """TensorFlow Serving's answer below /v1 where nothing is: an error, but preflights are answered for any path."""
    if method == "OPTIONS":
        return _preflight(dict(scope["headers"]), b"GET, HEAD, POST, OPTIONS")
    return error_response(tfs.malformed(method, path), Dialect.TFS)


def _preflight(headers: Mapping[bytes, bytes], allow: bytes) -> Response:
    if not headers.get(b"origin", b"").startswith((b"http://", b"https://")):
        return error_response(FailedPrecondition("Origin header is missing in CORS preflight"), Dialect.TFS)
    return Response(headers=((b"allow", allow),))


def _path(scope: Scope) -> str:
    """The path as it was sent, percent-encoded, below the app's root."""
    raw: bytes | None = scope.get("raw_path")
    path = raw.partition(b"?")[0].decode("utf-8", "replace") if raw else quote(scope["path"])
    root: str = scope.get("root_path", "")
    return path[len(root) :] if root and path.startswith(root) else path
