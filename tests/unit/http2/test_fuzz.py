"""Generated connections, right and wrong: nothing crashes, hangs or leaks, and what is right is answered rightly."""

import json
from base64 import b64decode, b64encode
from collections.abc import Iterator
from itertools import pairwise

import hpack_blocks as blocks
import http2_frames as h2
import pytest
from fuzzing import fuzzed
from grpc_host import Host, pattern
from hpack import Encoder
from http2_fixtures import PATIENT
from http2_peer import Peer, request_fields
from hypothesis import given
from hypothesis import strategies as st

METHODS = ("Echo", "Fail", "Hang", "Chat", "Count", "Total", "Nope")
"""All but those that log an error, which is what is looked for."""


@pytest.fixture(scope="module")
def fuzzed_host() -> Iterator[Host]:
    """A server for all of it. In the end nothing is left of what it went through, and nothing was logged as an error."""
    with Host("native", limits=PATIENT) as host:
        tasks = host.tasks()
        objects = host.connection_objects()
        yield host
        host.settle(lambda: host.unfinished == 0, "no call left over")
        host.settle(lambda: host.connections() == 0, "no connection left over")
        host.settle(lambda: host.tasks() <= tasks, "no task left over")
        host.forget()
        host.settle(lambda: host.connection_objects() <= objects, "no connection's memory left over")
        with Peer(host.address) as honest:
            honest.expect_served()
        assert host.problems == []


streams = st.one_of(st.integers(0, 9), st.just(2**31 - 1), st.integers(0, 2**32 - 1))
flags = st.one_of(st.sampled_from([0, 1, 4, 5, 8, 0x25]), st.integers(0, 255))
kinds = st.one_of(st.integers(0, 9), st.integers(0, 255))
numbers = st.one_of(st.integers(0, 70_000), st.integers(0, 2**32 - 1))
raw = st.binary(max_size=40)

extras = st.lists(
    st.one_of(
        st.sampled_from(
            [
                ("grpc-timeout", "1m"),
                ("grpc-timeout", "10S"),
                ("grpc-timeout", "?"),
                ("grpc-encoding", "gzip"),
                ("grpc-encoding", "br"),
                ("content-length", "7"),
                ("trace-bin", "AAE"),
                ("trace-bin", "!"),
                ("te", "gzip"),
                (":path", "/t.T/Echo"),
                ("Upper", "x"),
            ]
        ),
        st.tuples(st.binary(max_size=6), st.binary(max_size=6)),
    ),
    max_size=3,
)


def written(method: str, extra: list[tuple[str | bytes, str | bytes]], table_bytes: int) -> bytes:
    """A header block that needs no state; with a table, one that makes state which later blocks do not know of."""
    encoder = Encoder()
    encoder.header_table_size = table_bytes
    return encoder.encode([*request_fields(f"/t.T/{method}"), *extra])


heads = st.builds(written, st.sampled_from(METHODS), extras, st.sampled_from([0, 0, 4096]))
header_blocks = st.one_of(heads, heads, raw, st.integers(0, 80).map(blocks.indexed))
messages = st.one_of(
    raw.map(h2.message),
    st.builds(h2.message, raw, st.integers(0, 3), length=numbers),
    st.just(h2.message(b"3 1000")),
    raw,
)
ends = st.sampled_from([h2.END_HEADERS, h2.END_HEADERS | h2.END_STREAM, h2.END_HEADERS | h2.END_STREAM, 0])


@st.composite
def calls(draw: st.DrawFn) -> bytes:
    """A call, or most of one, on one stream."""
    stream = draw(st.sampled_from([1, 3, 5, 7, 9, 11, 13]))
    start = h2.headers(stream, draw(heads), h2.END_HEADERS)
    body = b"".join(draw(st.lists(messages, min_size=1, max_size=2)))
    cut = draw(st.integers(0, len(body)))
    last = draw(st.sampled_from([0, h2.END_STREAM, h2.END_STREAM]))
    return start + h2.data(stream, body[:cut]) + h2.data(stream, body[cut:], last)


frames = st.one_of(
    calls(),
    st.builds(h2.headers, streams, header_blocks, ends),
    st.builds(h2.continuation, streams, header_blocks, ends),
    st.builds(h2.data, streams, messages, flags),
    st.builds(h2.window_update, streams, numbers),
    st.builds(h2.rst_stream, streams, numbers),
    st.builds(h2.priority, streams, numbers, st.integers(0, 255)),
    st.lists(st.tuples(st.integers(0, 8), numbers), max_size=3).map(lambda pairs: h2.settings(*pairs)),
    st.builds(h2.goaway, numbers, numbers, raw),
    st.builds(h2.frame, kinds, flags, streams, raw),
    st.builds(h2.frame, kinds, flags, streams, raw, length=st.integers(0, 60)),
    st.just(h2.ping()),
)


@fuzzed(300)
@given(st.lists(frames, min_size=1, max_size=12), st.booleans())
def test_generated_frames_harm_nobody(fuzzed_host: Host, sent: list[bytes], at_once: bool) -> None:
    """The peer parses all that the server says meanwhile; then it closes its side, and the server must, too."""
    host = fuzzed_host
    with Peer(host.address) as peer:
        if at_once:
            peer.send(*sent)
        else:
            for part in sent:
                peer.send(part)
        peer.hang_up()
        peer.expect_end()
    with Peer(host.address) as honest:
        honest.expect_served()


@fuzzed(100)
@given(st.binary(max_size=300))
def test_generated_bytes_harm_nobody(fuzzed_host: Host, sent: bytes) -> None:
    host = fuzzed_host
    for start in (b"", h2.PREFACE, h2.PREFACE + h2.settings()):
        with Peer(host.address, preface=False) as peer:
            peer.send(start, sent)
            peer.hang_up()
            peer.expect_end()


def cut(data: bytes, places: list[int]) -> list[bytes]:
    at = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in pairwise(at)]


@fuzzed(100)
@given(
    st.lists(st.binary(max_size=200), max_size=6),
    st.lists(st.integers(0, 2**16), max_size=12),
    st.lists(st.integers(0, 2**16), max_size=8),
    st.integers(0, 20),
)
def test_a_call_cut_anywhere_is_the_same_call(
    fuzzed_host: Host, contents: list[bytes], data_cuts: list[int], head_cuts: list[int], padding: int
) -> None:
    with Peer(fuzzed_host.address) as peer:
        stream = peer.next_stream()
        head, *rest = cut(peer.encode(request_fields("/t.T/Chat")), head_cuts)
        peer.send(h2.headers(stream, head, 0 if rest else h2.END_HEADERS))
        for number, part in enumerate(rest, 1):
            peer.send(h2.continuation(stream, part, h2.END_HEADERS if number == len(rest) else 0))
        for part in cut(b"".join(map(h2.message, contents)), data_cuts):
            peer.send(h2.padded(h2.DATA, stream, part, padding) if padding else h2.data(stream, part))
        peer.send(h2.data(stream, b"", h2.END_STREAM))
        answer = peer.answer(stream)
        assert (answer.status, answer.messages) == (0, contents)


names = st.sampled_from(["a", "b", "user-agent", "traceparent", "x-request-id", "grpc-timeout", "trace-bin"])
values = {
    "grpc-timeout": st.sampled_from(["10S", "20S", "100S", "1000S"]),
    "trace-bin": st.binary(max_size=4).map(lambda data: b64encode(data).decode()),
}
pairs = names.flatmap(
    lambda name: st.tuples(
        st.just(name), values.get(name, st.one_of(st.sampled_from(["1", "2", "x" * 40]), st.uuids().map(str)))
    )
)
metadata = st.lists(pairs, max_size=5).filter(
    lambda sent: all([name for name, _ in sent].count(once) < 2 for once in ("grpc-timeout", "x-request-id"))
)


def of(name: str, pairs: list[tuple[str, str]] | list[list[str]]) -> list[str]:
    return [value for key, value in pairs if key == name]


@fuzzed(80)
@given(st.lists(st.tuples(metadata, st.sampled_from(["indexed", "literal"]), st.booleans()), max_size=12))
def test_every_call_has_its_own_headers(
    fuzzed_host: Host, calls: list[tuple[list[tuple[str, str]], str, bool]]
) -> None:
    """Whatever the server remembers of the headers that came before, and however they are written."""
    with Peer(fuzzed_host.address) as peer:
        for number, (sent, how, at_once) in enumerate(calls):
            stream, fields, message = peer.next_stream(), request_fields("/t.T/Seen", sent), b"%d" % number
            if how == "literal":
                block = b"".join(blocks.literal(name.encode(), value.encode()) for name, value in fields)
            else:
                block = peer.encode(fields)
            parts = [h2.headers(stream, block), h2.data(stream, h2.message(message), h2.END_STREAM)]
            for part in [b"".join(parts)] if at_once else parts:
                peer.send(part)
            answer = peer.answer(stream)
            remaining, seen, data = json.loads(answer.data)
            assert bytes.fromhex(data) == message
            for name in ("a", "b", "user-agent", "traceparent"):
                assert of(name, seen) == of(name, sent)
            assert of("trace-bin", seen) == [b64decode(value).hex() for value in of("trace-bin", sent)]
            assert [answer.trailers["x-request-id"]] == (of("x-request-id", sent) or [answer.trailers["x-request-id"]])
            timeout = [int(value[:-1]) for value in of("grpc-timeout", sent)]
            assert [seconds - 5 < remaining <= seconds for seconds in timeout] == [remaining is not None] * len(timeout)
            assert timeout or remaining is None


steps = st.lists(
    st.one_of(
        st.tuples(st.just("stream"), st.integers(1, 3000)),
        st.tuples(st.just("connection"), st.integers(1, 60_000)),
        st.tuples(st.just("initial"), st.integers(0, 5000)),
    ),
    max_size=10,
)


@fuzzed(150)
@given(st.integers(0, 2000), st.integers(0, 80_000), steps)
def test_an_answer_takes_just_what_the_windows_allow(
    fuzzed_host: Host, initial: int, size: int, changes: list[tuple[str, int]]
) -> None:
    """After any change of the windows, as much has come as both let through, and not a byte more."""
    with Peer(fuzzed_host.address, settings=[(h2.INITIAL_WINDOW_SIZE, initial)], opens_windows=False) as peer:
        stream = peer.open("/t.T/Large")
        peer.send_message(stream, str(size).encode(), end=True)
        peer.headers_of(stream)
        whole, allowed, connection = size + len(h2.message(b"")), initial, h2.DEFAULT_WINDOW
        for what, number in [("nothing", 0), *changes]:
            if what == "stream" and peer.received_bytes < whole:
                peer.send(h2.window_update(stream, number))
                allowed += number
            elif what == "connection":
                peer.send(h2.window_update(0, number))
                connection += number
            elif what == "initial":
                peer.send(h2.settings((h2.INITIAL_WINDOW_SIZE, number)))
                allowed += number - initial
                initial = number
            expected = max(peer.received_bytes, min(whole, allowed, connection))
            peer.pump_until(lambda least=expected: peer.received_bytes >= least, f"{expected} bytes")
            peer.expect_alive()
            assert peer.received_bytes == expected
        peer.send(h2.window_update(0, 2**20))
        if peer.received_bytes < whole:
            peer.send(h2.window_update(stream, 2**20))
        assert peer.answer(stream).messages == [pattern(size)]
