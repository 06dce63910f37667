"""A request's head: what is malformed, what is refused and how, and what a call gets of it."""

import pytest

from services import errors
from services.frontends.grpc.call import UnaryMethod
from services.frontends.grpc.http2.frames import PROTOCOL_ERROR, StreamFault
from services.frontends.grpc.http2.headers import HeadReader, check_trailers, is_grpc
from services.frontends.grpc.http2.hpack import Field

METHOD = UnaryMethod("t", "M", lambda data, call: None)
HEAD = {
    ":method": "POST",
    ":scheme": "http",
    ":path": "/s/M",
    ":authority": "here",
    "content-type": "application/grpc",
    "te": "trailers",
}


def fields(*more: tuple[str, str | bytes], **changes: str | None) -> list[Field]:
    """The usual head, with pseudo-headers changed by name (None leaves one out) and fields added."""
    named = {":" + name: value for name, value in changes.items()}
    usual = [(name, named.get(name, value)) for name, value in HEAD.items()]
    sent = [*((name, value) for name, value in usual if value is not None), *more]
    coded = [(name.encode(), value if isinstance(value, bytes) else value.encode()) for name, value in sent]
    return [(name, value, len(name) + len(value) + 32) for name, value in coded]


@pytest.fixture
def reader() -> HeadReader:
    return HeadReader({"/s/M": METHOD})


def test_a_head_names_its_method_and_the_callers_metadata(reader: HeadReader) -> None:
    head, timeout_s = reader.read(fields(("user-agent", "me"), ("a", "1"), ("a", "2"), ("host", "h")), 500)
    assert head.method is METHOD
    assert head.metadata == (("user-agent", "me"), ("a", "1"), ("a", "2"))
    assert timeout_s is None


@pytest.mark.parametrize(
    ("sent", "received"),
    [("AAH/", [b"\0\1\xff"]), ("AAE=", [b"\0\1"]), ("AAE", [b"\0\1"]), ("AA, AQ==,", [b"\0", b"\1", b""]), ("", [b""])],
)
def test_binary_metadata_comes_padded_or_not_alone_or_joined(
    reader: HeadReader, sent: str, received: list[bytes]
) -> None:
    head, _ = reader.read(fields(("k-bin", sent)), 500)
    assert head.metadata == tuple(("k-bin", value) for value in received)


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [("5S", 5.0), ("0n", 0.0), ("100m", 0.1), ("7u", 7e-6), ("2M", 120.0), ("1H", 3600.0), ("99999999n", 0.099999999)],
)
def test_timeouts_have_units(reader: HeadReader, timeout: str, seconds: float) -> None:
    _, timeout_s = reader.read(fields(("grpc-timeout", timeout)), 500)
    assert timeout_s == pytest.approx(seconds)


def test_what_differs_between_requests_is_never_taken_from_another(reader: HeadReader) -> None:
    """Heads are remembered without these fields."""
    for number in range(3):
        own = (("grpc-timeout", f"{number}S"), ("x-request-id", f"id-{number}"), ("traceparent", f"00-{number}"))
        head, timeout_s = reader.read(fields(("k", "v"), *own), 500)
        assert timeout_s == number
        assert head.request_id == f"id-{number}"
        assert head.metadata == (("k", "v"), ("x-request-id", f"id-{number}"), ("traceparent", f"00-{number}"))
    assert reader.read(fields(("k", "v")), 500)[0].metadata == (("k", "v"),)


def test_a_request_id_that_is_not_fit_to_repeat_stays_metadata(reader: HeadReader) -> None:
    head, _ = reader.read(fields(("x-request-id", "a b")), 500)
    assert head.request_id == ""
    assert head.metadata == (("x-request-id", "a b"),)


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (fields(("grpc-timeout", "5")), 400, errors.INTERNAL),
        (fields(("grpc-timeout", "123456789S")), 400, errors.INTERNAL),
        (fields(("k-bin", "*")), 400, errors.INTERNAL),
        (fields(("grpc-trace-bin", "*")), 400, errors.INTERNAL),
        (fields(method="GET"), 405, errors.INTERNAL),
        (fields(path="/s/N"), 200, errors.UNIMPLEMENTED),
        (fields(("grpc-encoding", "br")), 200, errors.UNIMPLEMENTED),
        (fields()[:4] + fields()[5:], 415, errors.INVALID_ARGUMENT),
        (fields()[:5], 200, errors.UNKNOWN),
    ],
)
def test_what_is_no_grpc_call_is_refused_with_the_status_it_prescribes(
    reader: HeadReader, sent: list[Field], status: int, code: int
) -> None:
    for _ in range(2):  # the second time from memory
        head, timeout_s = reader.read(sent, 500)
        assert head.method is None
        assert head.refusal is not None
        assert (head.refusal.http_status, head.refusal.code) == (status, code)
        assert timeout_s is None


@pytest.mark.parametrize("kind", ["application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8"])
def test_content_types_of_grpc(reader: HeadReader, kind: str) -> None:
    sent = [
        field
        for field in fields(("content-type", kind))
        if field[1] != b"application/grpc" or kind == "application/grpc"
    ]
    assert is_grpc(sent)
    assert reader.read(sent, 500)[0].method is METHOD


@pytest.mark.parametrize("kind", ["application/json", "application/grpc-web", "application/grpcx", ""])
def test_content_types_of_others(kind: str) -> None:
    assert not is_grpc([(b"content-type", kind.encode(), 60)])


@pytest.mark.parametrize(
    "sent",
    [
        fields(scheme=None),
        fields(path=""),
        fields(("A", "1")),
        fields(("a b", "1")),
        fields(("", "1")),
        fields(("a", "1\n")),
        fields(("a", "\0")),
        fields(("a", " 1")),
        fields(("a", "1\t")),
        fields(("connection", "close")),
        fields(("te", "gzip")),
        fields((":path", "/again")),
        fields((":status", "200")),
        fields(("content-length", "1x")),
        fields(("content-length", "1"), ("content-length", "2")),
        [*fields()[5:], *fields()[:5]],
        [*fields(("grpc-timeout", "1S"))[-1:], *fields()],
        fields(("x-request-id", "a\r")),
    ],
)
def test_malformed_heads_are_faults_each_time(reader: HeadReader, sent: list[Field]) -> None:
    for _ in range(2):
        with pytest.raises(StreamFault) as caught:
            reader.read(sent, 500)
        assert caught.value.code == PROTOCOL_ERROR


def test_trailers_have_no_pseudo_headers() -> None:
    check_trailers([(b"k", b"v", 34)])
    with pytest.raises(StreamFault):
        check_trailers([(b":path", b"/", 38)])


def test_what_is_remembered_is_bounded(reader: HeadReader) -> None:
    for number in range(2000):
        reader.read(fields(("k", str(number))), 500)
    assert len(reader._heads) <= 256
    assert len(reader._fields) <= 256
