"""An HTTP request to a typed call: JSON, an upload, or the bytes of one picture."""

from collections.abc import AsyncGenerator, Mapping
from typing import Any

import orjson
from starlette.datastructures import Headers, QueryParams, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from services.errors import InvalidArgument
from services.frontends.bento.calls import MAX_PICTURES, Call, check_pictures, picture_of
from services.frontends.bento.endpoints import IMAGES, Endpoint
from services.frontends.rest.offload import offload

_FORM = "multipart/form-data"
_RAW = ("image/", "application/octet-stream")


async def parse_call(endpoint: Endpoint, headers: Headers, query: QueryParams, body: bytes) -> Call:
    """Raises InvalidArgument naming the member. Model, version and top_k may stand in the query instead of the body."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if endpoint.images and kind == _FORM:
        members = await _form(headers, body)
    elif endpoint.images and kind.startswith(_RAW):
        members = {IMAGES: [body] if body else []}
    else:
        members = await offload(len(body), _json, endpoint, body)
    for name, value in query.multi_items():
        if name in members:
            raise InvalidArgument(f"{name}: expected once. Received: twice.")
        if name in endpoint.fields:
            raise InvalidArgument(f"{name}: expected in the body. Received: in the query.")
        members[name] = value if name == "model" else _integer(value)
    return _call(endpoint, members)


def _json(endpoint: Endpoint, body: bytes) -> dict[str, Any]:
    try:
        members = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        received = str(error) if body else "an empty body"
        also = ", or an image upload" if endpoint.images else ""
        raise InvalidArgument(
            f"Expected a JSON object with {endpoint.either} (JSON has no NaN){also}. Received: {received}."
        ) from None
    if not isinstance(members, dict):
        raise InvalidArgument(f"Expected a JSON object with {endpoint.either}. Received: {type(members).__name__}.")
    if endpoint.images and isinstance(members.get(IMAGES), list):
        check_pictures(endpoint, members[IMAGES])
        members[IMAGES] = [picture_of(f"{IMAGES}[{index}]", value) for index, value in enumerate(members[IMAGES])]
    return members


class _InMemory(MultiPartParser):
    """Keeps every part in memory: the whole body, within its limit, is there already."""

    spool_max_size = 2**62


async def _form(headers: Headers, body: bytes) -> dict[str, Any]:
    try:
        form = await _InMemory(headers, _once(body), max_files=MAX_PICTURES, max_fields=16).parse()
    except MultiPartException as error:
        raise InvalidArgument(f"Expected multipart/form-data. Received: {error.message}") from None
    members: dict[str, Any] = {IMAGES: []}
    try:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                members[IMAGES].append(await value.read())
            elif name in members:
                received = "a form field without a file" if name == IMAGES else "twice"
                raise InvalidArgument(
                    f"{name}: expected {'a file' if name == IMAGES else 'once'}. Received: {received}."
                )
            else:
                members[name] = _text(value) if name == "model" else _integer(value)
    finally:
        await form.close()
    return members


async def _once(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body


def _text(value: str) -> str | None:
    """A form field as it is, or as BentoML's client writes it: in JSON."""
    if value == "null":
        return None
    if value.startswith('"') and value.endswith('"') and len(value) > 1:
        try:
            plain: str = orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
        return plain
    return value


def _integer(value: str) -> Any:
    """An integer, None for `null`, and what is neither as it is: the check of the call names it."""
    if value == "null":
        return None
    return int(value) if value.isascii() and value.isdigit() and len(value) < 20 else value


def _call(endpoint: Endpoint, members: Mapping[str, Any]) -> Call:
    unknown = [name for name in members if name not in endpoint.members]
    if unknown:
        raise InvalidArgument(
            f"Expected only the members {', '.join(endpoint.members)}. "
            f"Received: {', '.join(repr(name) for name in unknown[:10])}."
        )
    given = [name for name in endpoint.fields if name in members]
    if len(given) != 1:
        expected = "a text" if endpoint.draws else "a list of at least one"
        raise InvalidArgument(f"{endpoint.either}: expected {expected}. Received: {'both' if given else 'none'}.")
    options = {name: members.get(name) for name in ("model", "version", "top_k", "scale")}
    if endpoint.draws:
        record = {name: members[name] for name in (endpoint.field, *endpoint.one) if name in members}
        return Call([record], **options)
    return Call(members[given[0]], **options)
