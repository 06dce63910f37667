"""Requests to calls: whatever bytes arrive, the result is a call or an InvalidArgument."""

import asyncio
import json
import threading
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.datastructures import Headers, QueryParams

from services.errors import InvalidArgument
from services.frontends.bento.calls import MAX_PICTURES, Call, check
from services.frontends.bento.endpoints import ENDPOINTS, Endpoint
from services.frontends.bento.payload import parse_call

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
_MEMBERS = st.dictionaries(
    st.sampled_from(["records", "images", "texts", "windows", "prompt", "model", "version", "top_k", "x"]),
    _JSON,
    max_size=4,
)
_ENDPOINTS = st.sampled_from(list(ENDPOINTS.values()))


def parse(endpoint: Endpoint, body: bytes, content_type: str = "application/json", query: str = "") -> Call:
    call = asyncio.run(parse_call(endpoint, Headers({"content-type": content_type}), QueryParams(query), body))
    check(endpoint, call)
    return call


def well_formed(call: Call) -> bool:
    numbers = (call.version, call.top_k)
    return (
        bool(call.records)
        and (call.model is None or isinstance(call.model, str))
        and all(number is None or (type(number) is int and number > 0) for number in numbers)
    )


@given(_ENDPOINTS, _MEMBERS)
@settings(max_examples=200, deadline=None)
def test_any_json_object_is_a_call_or_refused(endpoint: Endpoint, members: dict[str, Any]) -> None:
    try:
        call = parse(endpoint, json.dumps(members).encode())
    except InvalidArgument:
        return
    assert well_formed(call)
    assert call.model == members.get("model")
    assert call.version == members.get("version")


@given(
    _ENDPOINTS,
    st.binary(max_size=60),
    st.sampled_from(["application/json", "multipart/form-data; boundary=b", "image/png", ""]),
)
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_a_call_or_refused(endpoint: Endpoint, body: bytes, content_type: str) -> None:
    try:
        call = parse(endpoint, body, content_type)
    except InvalidArgument:
        return
    assert well_formed(call)


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_uploaded_files_keep_their_bytes_and_order(files: list[bytes]) -> None:
    parts = [
        b'--end-of-part\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n' + content + b"\r\n"
        for content in files
    ]
    body = b"".join([*parts, b"--end-of-part--\r\n"])
    assert parse(ENDPOINTS["classify_image"], body, "multipart/form-data; boundary=end-of-part").records == files


@pytest.mark.parametrize(
    ("query", "call"),
    [
        ("model=m&version=3&top_k=2", Call([1], "m", 3, 2)),
        ("version=null", Call([1])),
        ("", Call([1])),
    ],
)
def test_options_in_the_query(query: str, call: Call) -> None:
    assert parse(ENDPOINTS["classify"], b'{"records": [1]}', query=query) == call


@pytest.mark.parametrize(
    "query", ["version=-1", "version=1.0", "version=٣", "version=1&version=2", "version=" + "9" * 30, "color=red"]
)
def test_options_in_the_query_that_do_not_fit(query: str) -> None:
    with pytest.raises(InvalidArgument):
        parse(ENDPOINTS["classify"], b'{"records": [1]}', query=query)


def test_a_large_upload_stays_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.TemporaryFile", None)
    content = b"x" * (2 << 20)
    body = b'--b\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n' + content + b"\r\n--b--\r\n"
    assert parse(ENDPOINTS["classify_image"], body, "multipart/form-data; boundary=b").records == [content]


@pytest.mark.parametrize(("texts", "at_once"), [(1, True), (10_000, False)])
def test_json_is_read_on_the_loop_only_where_it_is_short(
    monkeypatch: pytest.MonkeyPatch, texts: int, at_once: bool
) -> None:
    threads: list[int] = []
    real = orjson.loads

    def loads(body: bytes) -> Any:
        threads.append(threading.get_ident())
        return real(body)

    monkeypatch.setattr(orjson, "loads", loads)
    call = parse(ENDPOINTS["classify_text"], json.dumps({"texts": ["some text"] * texts}).encode())
    assert len(call.records) == texts
    assert (threads == [threading.get_ident()]) is at_once


def test_pictures_are_counted_before_any_is_decoded() -> None:
    body = orjson.dumps({"images": ["no base64"] * (MAX_PICTURES + 1)})
    with pytest.raises(InvalidArgument, match=rf"at most {MAX_PICTURES} pictures\. Received: {MAX_PICTURES + 1}"):
        parse(ENDPOINTS["extract_features"], body)
