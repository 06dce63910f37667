"""Routes of the Open Inference Protocol's REST dialect, below /v2."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import orjson

from services.engine.engine import Engine
from services.engine.request import InferenceRequest, InferenceResponse
from services.engine.scheduling import Identity
from services.errors import InvalidArgument
from services.frontends.model_description import describe_model
from services.frontends.model_statistics import statistics_of
from services.frontends.rest.http import BINARY, JSON, Request, Response
from services.frontends.rest.offload import offload
from services.frontends.rest.routes import GET, POST, Handler, Inference, Route
from services.frontends.rest.short_way import Arrays, Seen, ShortCall, ShortWay, Values
from services.frontends.status import Dialect
from services.protocols import model_configuration, model_statistics, oip_rest
from services.server_info import ServerInfo
from services.tensors import DType

PROTOCOL = "oip-rest"
PREFIX = re.compile(r"/v2/.*", re.DOTALL)
NOT_READY = 400
"""The status of a health or readiness question whose answer is no, as Triton answers it."""

_MODEL = r"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?"
_HEADER_LENGTH = b"inference-header-content-length"
_MAX_VERSION = 2**63 - 1
_JSON_LINES = b"content-type: %b\r\n" % JSON
_BINARY_LINES = b"content-type: %b\r\n%b: %%d\r\n" % (BINARY, _HEADER_LENGTH)


def routes(engine: Engine, info: ServerInfo) -> Iterable[Route]:
    def route(name: str, pattern: str, methods: tuple[str, ...], handler: Handler) -> Route:
        return Route(name, PROTOCOL, Dialect.OIP, re.compile(pattern), methods, handler)

    infer = route("infer", rf"{_MODEL}/infer", POST, partial(_infer, engine))
    yield replace(infer, infers=True, short_way=_InferShortWay(engine, PROTOCOL, "infer"))
    yield route("model_statistics", r"/v2/models/stats", GET, partial(_model_statistics, engine))
    yield route("model_ready", rf"{_MODEL}/ready", GET, partial(_model_ready, engine))
    yield route("model_metadata", rf"{_MODEL}/?", GET, partial(_model_metadata, engine))
    yield route("model_config", rf"{_MODEL}/config", GET, partial(_model_config, engine))
    yield route("model_statistics", rf"{_MODEL}/stats", GET, partial(_model_statistics, engine))
    yield route("live", r"/v2/health/live", GET, _live)
    yield route("ready", r"/v2/health/ready", GET, partial(_ready, engine))
    yield route("server_metadata", r"/v2/?", GET, partial(_server_metadata, info))


async def _infer(engine: Engine, request: Request) -> Inference:
    model, version = request.parts["model"], _version(request.parts)
    header_length = _header_length(request)
    if header_length == 0:
        with engine.acquire(model, version) as handle:
            signature = handle.servable.default_signature
        infer = oip_rest.decode_raw_infer(request.body, signature, model=model, version=version)
    else:
        decode = partial(oip_rest.decode_infer, model=model, version=version, now_s=engine.clock())
        infer = await offload(len(request.body), decode, request.body, header_length)

    return Inference(infer.request, lambda response: _answer(*oip_rest.encode_infer(response, infer)))


def _answer(parts: list[bytes], json_length: int | None) -> Response:
    if json_length is None:
        return Response(parts[0], compressible=True)
    headers = ((_HEADER_LENGTH, b"%d" % json_length),)
    return Response(b"".join(parts), content_type=BINARY, headers=headers, compressible=True)


class _InferShortWay(ShortWay):
    def see(self, call: ShortCall) -> Seen | None:
        length = call.headers.get(_HEADER_LENGTH)
        seen: tuple[oip_rest.PackedForm, Values] | None = None
        if length is None:
            seen = oip_rest.packed_json(call.body)
        elif length.isdigit() and len(length) <= 5 and length != b"0":
            seen = oip_rest.packed_binary(call.body, int(length))
        return None if seen is None else Seen(seen[0], seen[0].shape, seen[1])

    def request(self, call: ShortCall, seen: Seen) -> tuple[InferenceRequest, DType]:
        form: oip_rest.PackedForm = seen.form
        inputs = {form.name: np.zeros(form.shape, form.dtype.numpy)}
        version = _version(call.parts)
        request = InferenceRequest(
            call.parts["model"], inputs, version=version, signature=form.signature, outputs=form.outputs
        )
        return request, form.dtype

    def encode_run(
        self, identity: Identity, outputs: Arrays, form: oip_rest.PackedForm, rows: int, firsts: Sequence[int]
    ) -> tuple[list[bytes], bytes] | None:
        encoded = oip_rest.encode_packed(identity.model, identity.version, outputs, form, rows, firsts)
        if encoded is None:
            return None
        bodies, json_length = encoded
        return bodies, _JSON_LINES if json_length is None else _BINARY_LINES % json_length

    def encode(self, response: InferenceResponse, form: oip_rest.PackedForm) -> Response:
        return _answer(*oip_rest.encode_infer(response, form))


def _model_ready(engine: Engine, request: Request) -> Response:
    model, version = request.parts["model"], _version(request.parts)
    engine.statuses(model, version)  # an unknown model is another answer than one that is not ready
    ready = engine.is_ready(model, version)
    return _health({"name": model, "ready": ready}, ready=ready)


def _model_metadata(engine: Engine, request: Request) -> Response:
    model, version = request.parts["model"], _version(request.parts)
    with engine.acquire(model, version) as handle:
        servable = handle.servable
        versions = engine.available_versions(model) if version is None else [version]
        body = oip_rest.encode_model_metadata(model, versions, servable.platform, servable.signatures)
    return Response(body, content_type=JSON)


def _model_config(engine: Engine, request: Request) -> Response:
    with engine.acquire(request.parts["model"], _version(request.parts)) as handle:
        body = model_configuration.encode_json(describe_model(handle.servable))
    return Response(body, content_type=JSON)


async def _model_statistics(engine: Engine, request: Request) -> Response:
    found = statistics_of(engine, request.parts.get("model", ""), _version(request.parts))
    counted = found if isinstance(found, list) else await found
    return Response(model_statistics.encode_json(counted), content_type=JSON, compressible=True)


def _live(_: Request) -> Response:
    return _health({"live": True}, ready=True)


def _ready(engine: Engine, _: Request) -> Response:
    return _health({"ready": engine.ready}, ready=engine.ready)


def _server_metadata(info: ServerInfo, _: Request) -> Response:
    return Response(oip_rest.encode_server_metadata(info.name, info.version, info.extensions))


def _health(document: dict[str, object], *, ready: bool) -> Response:
    return Response(orjson.dumps(document), status=200 if ready else NOT_READY)


def _version(parts: Mapping[str, str]) -> int | None:
    text = parts.get("version")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 20 and int(text) <= _MAX_VERSION):
        raise InvalidArgument(f"Expected a version number. Received: {text!r:.64}.")
    return int(text)


def _header_length(request: Request) -> int | None:
    """The length of the JSON in front of binary tensors; None without the header. Raises InvalidArgument."""
    text = request.headers.get(_HEADER_LENGTH)
    if text is None:
        return None
    if not text.isdigit() or len(text) > 20:
        raise InvalidArgument(f"Unable to parse Inference-Header-Content-Length, got: {text.decode('latin-1'):.64}")
    length = int(text)
    if length > len(request.body):
        raise InvalidArgument(
            f"Inference-Header-Content-Length: expected at most the body's {len(request.body)} bytes. Received: {length}."
        )
    return length
