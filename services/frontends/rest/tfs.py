"""Routes of TensorFlow Serving's REST dialect, below /v1."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from services.engine.engine import Engine
from services.engine.request import InferenceRequest, InferenceResponse
from services.engine.scheduling import Identity
from services.errors import InvalidArgument, ModelNotFound, NotFound, Unimplemented
from services.frontends.rest.http import JSON, Request, Response
from services.frontends.rest.offload import offload
from services.frontends.rest.routes import GET, POST, Handler, Inference, Route
from services.frontends.rest.short_way import Arrays, Seen, ShortCall, ShortWay
from services.frontends.status import Dialect
from services.protocols import tfs_rest
from services.tensors import DType

PROTOCOL = "tfs-rest"
PREFIX = re.compile(r"/v1/.*", re.IGNORECASE | re.ASCII | re.DOTALL)

_MODEL = r"/v1/models/(?P<model>[^/:]+)(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
_MAX_VERSION = 2**63 - 1
_JSON_LINES = b"content-type: %b\r\n" % JSON


def routes(engine: Engine) -> Iterable[Route]:
    """Paths are matched in any case, as there; names in them keep theirs."""

    def route(name: str, pattern: str, methods: tuple[str, ...], handler: Handler) -> Route:
        return Route(name, PROTOCOL, Dialect.TFS, re.compile(pattern, re.IGNORECASE | re.ASCII), methods, handler)

    predict = route("predict", rf"{_MODEL}:predict", POST, partial(_predict, engine))
    yield replace(predict, infers=True, short_way=_PredictShortWay(engine, PROTOCOL, "predict"))
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
    model, version, label = request.parts["model"], _version(request.parts), request.parts.get("label")
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


class _PredictShortWay(ShortWay):
    def see(self, call: ShortCall) -> Seen | None:
        seen = tfs_rest.packed_rows(call.body)
        return None if seen is None else Seen(seen[0], seen[2], seen[1])

    def request(self, call: ShortCall, seen: Seen) -> tuple[InferenceRequest, DType]:
        form: tfs_rest.RowsForm = seen.form
        model, version, label = call.parts["model"], _version(call.parts), call.parts.get("label")
        with self.engine.acquire(model, version, label) as handle:
            signature = handle.servable.signatures.get(form.signature_name)
        if signature is None or len(signature.inputs) != 1:
            raise InvalidArgument("Expected a signature with a single input.")
        [spec] = signature.inputs
        inputs = {spec.name: np.zeros(seen.shape, spec.dtype.numpy)}
        return InferenceRequest(model, inputs, version=version, label=label, signature=form.signature_name), spec.dtype

    def encode_run(
        self,
        identity: Identity,  # noqa: ARG002 - these answers do not say who computed them
        outputs: Arrays,
        form: tfs_rest.RowsForm,  # noqa: ARG002 - or how they were asked
        rows: int,
        firsts: Sequence[int],
    ) -> tuple[list[bytes], bytes] | None:
        bodies = tfs_rest.encode_packed(outputs, rows, firsts)
        return None if bodies is None else (bodies, _JSON_LINES)

    def encode(self, response: InferenceResponse, form: tfs_rest.RowsForm) -> Response:  # noqa: ARG002 - as above
        return Response(tfs_rest.encode_predict(response.outputs, row_format=True))


def _classify_or_regress(request: Request) -> Response:
    method = request.parts["method"].lower()
    raise Unimplemented(
        f"Expected :predict for model {request.parts['model']}. Received: :{method}, which is not served."
    )


def _metadata(engine: Engine, request: Request) -> Response:
    with engine.acquire(request.parts["model"], _version(request.parts), request.parts.get("label")) as handle:
        servable = handle.servable
        return Response(tfs_rest.encode_metadata(servable.name, servable.version, servable.signatures))


def _status(engine: Engine, request: Request) -> Response:
    """States of all versions, or of one. A label is let pass unread, as in TensorFlow Serving."""
    model, version = request.parts["model"], _version(request.parts)
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


def _version(parts: Mapping[str, str]) -> int | None:
    text = parts.get("version")
    if text is None:
        return None
    if len(text) > 20 or int(text) > _MAX_VERSION:
        raise InvalidArgument(f"Failed to convert version: {text:.64} to numeric.")
    return int(text)
