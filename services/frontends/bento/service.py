"""The BentoML side: the service class with one `@bentoml.api` per task, and the lean app that serves it.

BentoML's own app costs half a millisecond of CPU per call before any work, labels its metrics with raw paths, answers some
errors with a list and others not at all, and its index page loads scripts from the network (measured, 1.4.39). So the
routes, the error bodies and the pages are ours; the service declaration, its life cycle and `/schema.json`, which
BentoML's clients read, are BentoML's.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

# Before the import: BentoML asks once, and takes no other word for it.
os.environ["BENTOML_DO_NOT_TRACK"] = "true"

import bentoml
import orjson
from _bentoml_impl.server.app import ServiceAppFactory
from _bentoml_sdk.service import Service
from bentoml.validators import ContentType
from starlette.applications import Starlette
from starlette.datastructures import Headers, QueryParams
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.responses import Response as StarletteResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from services import errors
from services.frontends.bento.calls import Call, Picture, TypedCalls
from services.frontends.bento.endpoints import ENDPOINTS, Endpoint
from services.frontends.bento.openapi import openapi
from services.frontends.bento.payload import parse_call
from services.frontends.rest.dispatcher import Watch, send_answer
from services.frontends.rest.http import ClientGone, Receive, Response, Scope, Send, compressed, read_body
from services.frontends.rest.refusals import error_response
from services.frontends.status import Dialect, to_cornet
from services.server_info import ServerInfo
from services.telemetry.exchange import CURRENT, Exchange

_STATIC = Path(__file__).parent / "static"
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:",
    "Cache-Control": "no-cache",
}

Answer = dict[str, Any]

_PngFile = Annotated[Path, ContentType("image/png")]
"""What BentoML's clients make of a picture."""

Method = TypeVar("Method", bound=Callable[..., Awaitable[Any]])


def _api(method: Method) -> Method:
    """`bentoml.api`, which has no types of its own."""
    declared: Method = bentoml.api(method)
    return declared


class TypedEndpoints:
    """The endpoints as BentoML knows them; each hands its call to `calls`, which must be set before the first request."""

    calls: TypedCalls
    info: ServerInfo
    max_body_bytes: int

    @_api
    async def regress(self, records: list[Any], model: str | None = None, version: int | None = None) -> Answer:
        """Predict a number for each record."""
        return await self.calls.answer(ENDPOINTS["regress"], Call(records, model, version))

    @_api
    async def classify(
        self, records: list[Any], model: str | None = None, version: int | None = None, top_k: int | None = None
    ) -> Answer:
        """Name the class of each record."""
        return await self.calls.answer(ENDPOINTS["classify"], Call(records, model, version, top_k))

    @_api
    async def classify_image(
        self, images: list[Path], model: str | None = None, version: int | None = None, top_k: int | None = None
    ) -> Answer:
        """Name the class of each picture."""
        return await self.calls.answer(ENDPOINTS["classify_image"], Call(images, model, version, top_k))

    @_api
    async def extract_features(
        self, images: list[Path], model: str | None = None, version: int | None = None
    ) -> Answer:
        """Turn each picture into a feature vector."""
        return await self.calls.answer(ENDPOINTS["extract_features"], Call(images, model, version))

    @_api
    async def forecast(self, windows: list[Any], model: str | None = None, version: int | None = None) -> Answer:
        """Continue each window of a series."""
        return await self.calls.answer(ENDPOINTS["forecast"], Call(windows, model, version))

    @_api
    async def classify_text(
        self, texts: list[str], model: str | None = None, version: int | None = None, top_k: int | None = None
    ) -> Answer:
        """Name the class of each text."""
        return await self.calls.answer(ENDPOINTS["classify_text"], Call(texts, model, version, top_k))

    @_api
    async def detect_anomaly(self, records: list[Any], model: str | None = None, version: int | None = None) -> Answer:
        """Say how unusual each record or picture is."""
        return await self.calls.answer(ENDPOINTS["detect_anomaly"], Call(records, model, version))

    @_api
    async def generate_image(
        self,
        prompt: str,
        temperature: float | None = None,
        seed: int | None = None,
        model: str | None = None,
        version: int | None = None,
        scale: int | None = None,
    ) -> _PngFile:
        """Draw what a prompt says, as a PNG."""
        record = {"prompt": prompt, "temperature": temperature, "seed": seed}
        call = Call([record], model, version, scale=scale)
        # To a client it is a file: `_Post` sends its bytes.
        return await self.calls.draw(ENDPOINTS["generate_image"], call)  # type: ignore[return-value]

    @_api
    async def encode_records(self, records: list[Any], model: str | None = None, version: int | None = None) -> Answer:
        """Turn each record into a feature vector."""
        return await self.calls.answer(ENDPOINTS["encode_records"], Call(records, model, version))

    @_api
    async def complete_records(
        self, records: list[Any], model: str | None = None, version: int | None = None
    ) -> Answer:
        """Fill in what is missing of each record."""
        return await self.calls.answer(ENDPOINTS["complete_records"], Call(records, model, version))


class LeanService(Service):  # type: ignore[misc]  # BentoML's implementation modules are not typed
    """A BentoML service whose HTTP app is `LeanApp`; handed to `@bentoml.service(service_class=...)`."""

    def to_asgi(self, is_main: bool = True) -> Starlette:  # noqa: ARG002  # BentoML's signature
        self.inject_config()
        return LeanApp(self)()


class LeanApp(ServiceAppFactory):  # type: ignore[misc]  # BentoML's implementation modules are not typed
    """Builds the HTTP app of a `TypedEndpoints` service: endpoints, docs page, OpenAPI, `/schema.json`, mounted apps."""

    def __init__(self, service: LeanService) -> None:
        super().__init__(service, is_main=True, enable_metrics=False)
        self._endpoints: TypedEndpoints | None = None
        self._methods: dict[str, Callable[..., Awaitable[Answer | Picture]]] = {}

    def bind(self, endpoints: TypedEndpoints) -> None:
        """Answer with this instance; BentoML's life cycle makes one by itself."""
        self._endpoints = endpoints
        self._methods = {name: getattr(endpoints, name).local for name in ENDPOINTS}

    async def call(self, endpoint: Endpoint, call: Call) -> Answer | Picture:
        """Call BentoML's method of an endpoint."""
        members: dict[str, Any] = {"model": call.model, "version": call.version}
        if endpoint.draws:
            members |= {"scale": call.scale, **call.records[0]}
        else:
            members[endpoint.field] = call.records
        if endpoint.ranked:
            members["top_k"] = call.top_k
        return await self._methods[endpoint.name](**members)

    def __call__(self) -> Starlette:
        options = {"middleware": self.middlewares, "lifespan": self.lifespan}
        app = Starlette(routes=self.routes, exception_handlers={HTTPException: _http_error}, **options)
        app.router.redirect_slashes = False
        return app

    @property
    def middlewares(self) -> list[Middleware]:
        return [Middleware(kind, **options) for kind, options in self.service.middlewares]

    @property
    def routes(self) -> list[BaseRoute]:
        apis = [Route(f"/{name}", _Post(self, endpoint), methods=["POST"]) for name, endpoint in ENDPOINTS.items()]
        pages = [
            Route("/", self._page),
            Route("/docs", self._page),
            Route("/openapi.json", self._openapi),
            Route("/docs.json", self._openapi),
            Route("/schema.json", self.schema_view),
            Mount("/static", StaticFiles(directory=_STATIC)),
        ]
        return [*apis, *pages, *(Mount(path, app, name=name) for app, path, name in self.service.mount_apps)]

    async def create_instance(self, app: Starlette) -> None:  # noqa: ARG002  # BentoML's signature
        self.bind(self.service())
        await self._run_hooks("__bentoml_startup_hook__")

    async def destroy_instance(self, app: Starlette) -> None:  # noqa: ARG002  # BentoML's signature
        await self._run_hooks("__bentoml_shutdown_hook__")

    async def _run_hooks(self, mark: str) -> None:
        for name in dir(type(self._endpoints)):
            hook = getattr(type(self._endpoints), name)
            if getattr(hook, mark, False):
                await hook(self._endpoints)

    def bound(self) -> TypedEndpoints:
        """The instance that answers."""
        if self._endpoints is None:
            raise RuntimeError("LeanApp.bind() was not called")
        return self._endpoints

    async def _openapi(self, request: Request) -> StarletteResponse:  # noqa: ARG002  # Starlette's signature
        endpoints = self.bound()
        document = await openapi(endpoints.calls, endpoints.info)
        return StarletteResponse(orjson.dumps(document), media_type="application/json")

    async def _page(self, request: Request) -> StarletteResponse:  # noqa: ARG002  # Starlette's signature
        return FileResponse(_STATIC / "index.html", headers=_PAGE_HEADERS)


class _Post:
    """The ASGI app of one endpoint: read, parse, call BentoML's method, answer, count."""

    def __init__(self, app: LeanApp, endpoint: Endpoint) -> None:
        self._app = app
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint, engine = self._endpoint, self._app.bound().calls.engine
        exchange = Exchange(engine.metrics, "typed", endpoint.name, dict(scope["headers"]))
        CURRENT.set(exchange)
        code = errors.OK
        try:
            call = await self._read(scope, receive, exchange)
            exchange.model = call.model if isinstance(call.model, str) else ""
            answer = await self._answer(call, receive)
            response = _response(answer, exchange)
            response = await compressed(response, _header(scope, b"accept-encoding"))
        except ClientGone:
            exchange.finish(errors.CANCELLED)
            return
        except asyncio.CancelledError:
            exchange.finish(errors.CANCELLED)
            raise
        except Exception as error:  # noqa: BLE001  # the edge: the client gets an answer, the log the cause
            refusal = to_cornet(error)
            exchange.report(refusal)
            code, response = refusal.code, error_response(refusal, Dialect.TYPED)
        await send_answer(exchange, code, response, send)

    async def _answer(self, call: Call, receive: Receive) -> Answer | Picture:
        """BentoML's method of the endpoint. Raises ClientGone, its rows withdrawn, when the client hangs up meanwhile."""
        task, gone = asyncio.current_task(), False

        def leave() -> None:
            nonlocal gone
            gone = True
            if task is not None:
                task.cancel()

        watch = Watch(asyncio.get_running_loop(), receive, leave)
        try:
            return await self._app.call(self._endpoint, call)
        except asyncio.CancelledError:
            if gone and task is not None and not task.uncancel():
                raise ClientGone from None
            raise
        finally:
            watch.stop()

    async def _read(self, scope: Scope, receive: Receive, exchange: Exchange) -> Call:
        body = await read_body(receive, dict(scope["headers"]), self._app.bound().max_body_bytes)
        exchange.received_bytes = len(body)
        return await parse_call(self._endpoint, Headers(raw=scope["headers"]), QueryParams(scope["query_string"]), body)


def _response(answer: Answer | Picture, exchange: Exchange) -> Response:
    """The HTTP answer; `exchange` learns which version it is from."""
    if isinstance(answer, Picture):
        exchange.model, exchange.version = answer.model, answer.version
        origin = ((b"x-model", answer.model), (b"x-model-version", answer.version), (b"x-seed", answer.seed))
        headers = tuple((name, str(value).encode()) for name, value in origin)
        return Response(answer.png, content_type=b"image/png", headers=headers)
    exchange.model, exchange.version = answer["model"], answer["version"]
    return Response(orjson.dumps(answer), compressible=True)


def _header(scope: Scope, name: bytes) -> bytes:
    value: bytes = dict(scope["headers"]).get(name, b"")
    return value


async def _http_error(request: Request, error: Exception) -> StarletteResponse:
    if not isinstance(error, HTTPException):
        raise error
    if error.status_code == 404:
        detail = f"Expected one of {', '.join(f'/{name}' for name in ENDPOINTS)}. Received: {request.url.path}."
    elif error.status_code == 405:
        detail = f"Expected {(error.headers or {}).get('Allow', 'another method')}. Received: {request.method}."
    else:
        detail = error.detail
    body = orjson.dumps({"error": detail})
    return StarletteResponse(body, error.status_code, dict(error.headers or {}), media_type="application/json")
