"""Routes of TensorFlow Serving's REST dialect, below /v1."""

import re
from collections.abc import Iterable
from functools import partial

from services.engine.engine import Engine
from services.engine.request import InferenceRequest, InferenceResponse
from services.errors import InvalidArgument, ModelNotFound, NotFound, Unimplemented
from services.frontends.rest.http import Request, Response
from services.frontends.rest.offload import offload
from services.frontends.rest.routes import GET, POST, Handler, Inference, Route
from services.frontends.status import Dialect
from services.protocols import tfs_rest

PROTOCOL = "tfs-rest"
PREFIX = re.compile(r"/v1/.*", re.IGNORECASE | re.ASCII | re.DOTALL)

_MODEL = r"/v1/models/(?P<model>[^/:]+)(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
_MAX_VERSION = 2**63 - 1


def routes(engine: Engine) -> Iterable[Route]:
    """Paths are matched in any case, as there; names in them keep theirs."""

    def route(name: str, pattern: str, methods: tuple[str, ...], handler: Handler) -> Route:
        matched = re.compile(pattern, re.IGNORECASE | re.ASCII)
        return Route(name, PROTOCOL, Dialect.TFS, matched, methods, handler, infers=name == "predict")

    yield route("predict", rf"{_MODEL}:predict", POST, partial(_predict, engine))
    yield route("classify", rf"{_MODEL}:(?P<method>classify|regress)", POST, _classify_or_regress)
    yield route("metadata", rf"{_MODEL}/metadata", GET, partial(_metadata, engine))
    yield route("status", _MODEL, GET, partial(_status, engine))
    yield route("status", r"/v1/models(?:/metadata)?", GET, _no_model)


def malformed(method: str, path: str) -> InvalidArgument:
    """What TensorFlow Serving answers to every other path and method below /v1."""
    return InvalidArgument(f"Malformed request: {method} {path:.512}")


async def _predict(engine: Engine, request: Request) -> Inference:
    size = len(request.body)
    document, signature_name = await offload(size, tfs_rest.parse_predict, request.body)
    model, version, label = request.parts["model"], _version(request), request.parts.get("label")
    with engine.acquire(model, version, label) as handle:
        signatures = handle.servable.signatures
    if signature_name not in signatures:
        raise tfs_rest.unknown_signature(signature_name, signatures)
    predict = await offload(size, tfs_rest.decode_predict, document, signatures[signature_name])

    def encode(response: InferenceResponse) -> Response:
        return Response(tfs_rest.encode_predict(response.outputs, row_format=predict.row_format))

    return Inference(
        InferenceRequest(model=model, inputs=predict.inputs, version=version, label=label, signature=signature_name),
        encode,
    )


def _classify_or_regress(request: Request) -> Response:
    method = request.parts["method"].lower()
    raise Unimplemented(
        f"Expected :predict for model {request.parts['model']}. Received: :{method}, which is not served."
    )


def _metadata(engine: Engine, request: Request) -> Response:
    with engine.acquire(request.parts["model"], _version(request), request.parts.get("label")) as handle:
        servable = handle.servable
        return Response(tfs_rest.encode_metadata(servable.name, servable.version, servable.signatures))


def _status(engine: Engine, request: Request) -> Response:
    """States of all versions, or of one. A label is let pass unread, as in TensorFlow Serving."""
    model, version = request.parts["model"], _version(request)
    try:
        statuses = engine.statuses(model, version)
    except ModelNotFound:
        statuses = []
    if not statuses and version is not None:
        raise NotFound(f"Could not find version {version} of model {model}")
    if not statuses:
        raise NotFound(f"Could not find any versions of model {model}")
    rows = sorted(((status.version, status.state.name, status.error) for status in statuses), reverse=True, key=_first)
    return Response(tfs_rest.encode_status(rows))


def _no_model(_: Request) -> Response:
    raise InvalidArgument("Missing model name in request.")


def _first(row: tuple[int, str, object]) -> int:
    return row[0]


def _version(request: Request) -> int | None:
    text = request.parts.get("version")
    if text is None:
        return None
    if len(text) > 20 or int(text) > _MAX_VERSION:
        raise InvalidArgument(f"Failed to convert version: {text:.64} to numeric.")
    return int(text)
