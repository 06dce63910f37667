"""Frames that break a rule of their kind (RFC 9113, 4 and 6), and of the stream's state (5.1)."""

import http2_frames as h2
import pytest
from http2_peer import Peer
from hyperframe.frame import RstStreamFrame

END = h2.END_HEADERS | h2.END_STREAM

CONNECTION_ERRORS = {
    "PING of 7 bytes": (h2.ping(b"\0" * 7), h2.FRAME_SIZE_ERROR),
    "PING of 9 bytes": (h2.ping(b"\0" * 9), h2.FRAME_SIZE_ERROR),
    "PING on a stream": (h2.frame(h2.PING, 0, 1, b"\0" * 8), h2.PROTOCOL_ERROR),
    "RST_STREAM of 3 bytes": (h2.frame(h2.RST_STREAM, 0, 1, b"\0" * 3), h2.FRAME_SIZE_ERROR),
    "RST_STREAM of 5 bytes": (h2.frame(h2.RST_STREAM, 0, 1, b"\0" * 5), h2.FRAME_SIZE_ERROR),
    "RST_STREAM on stream 0": (h2.rst_stream(0), h2.PROTOCOL_ERROR),
    "RST_STREAM on an idle stream": (h2.rst_stream(3), h2.PROTOCOL_ERROR),
    "WINDOW_UPDATE of 3 bytes": (h2.frame(h2.WINDOW_UPDATE, 0, 0, b"\0" * 3), h2.FRAME_SIZE_ERROR),
    "WINDOW_UPDATE of 5 bytes": (h2.frame(h2.WINDOW_UPDATE, 0, 1, b"\0" * 5), h2.FRAME_SIZE_ERROR),
    "WINDOW_UPDATE of 0": (h2.window_update(0, 0), h2.PROTOCOL_ERROR),
    "WINDOW_UPDATE on an idle stream": (h2.window_update(3, 1), h2.PROTOCOL_ERROR),
    "WINDOW_UPDATE over the largest window": (h2.window_update(0, h2.LARGEST_WINDOW), h2.FLOW_CONTROL_ERROR),
    "GOAWAY on a stream": (h2.frame(h2.GOAWAY, 0, 1, b"\0" * 8), h2.PROTOCOL_ERROR),
    "GOAWAY of 7 bytes": (h2.frame(h2.GOAWAY, 0, 0, b"\0" * 7), h2.FRAME_SIZE_ERROR),
    "PRIORITY on stream 0": (h2.priority(0, 3), h2.PROTOCOL_ERROR),
    "PUSH_PROMISE": (h2.frame(h2.PUSH_PROMISE, h2.END_HEADERS, 1, b"\0\0\0\2\x82"), h2.PROTOCOL_ERROR),
    "DATA on stream 0": (h2.data(0, b"x"), h2.PROTOCOL_ERROR),
    "DATA on an idle stream": (h2.data(3, b"x"), h2.PROTOCOL_ERROR),
    "DATA with more padding than content": (h2.frame(h2.DATA, h2.PADDED, 1, b"\x05abcd"), h2.PROTOCOL_ERROR),
    "DATA with all of it padding": (h2.frame(h2.DATA, h2.PADDED, 1, b"\xff" + b"\0" * 200), h2.PROTOCOL_ERROR),
    "HEADERS on stream 0": (h2.headers(0, b"\x82", END), h2.PROTOCOL_ERROR),
    "HEADERS on an even stream": (h2.headers(2, b"\x82", END), h2.PROTOCOL_ERROR),
    "HEADERS with too much padding": (h2.frame(h2.HEADERS, END | h2.PADDED, 3, b"\x09\x82\x82"), h2.PROTOCOL_ERROR),
    "CONTINUATION of nothing": (h2.continuation(1, b"\x82"), h2.PROTOCOL_ERROR),
    "CONTINUATION on stream 0": (h2.continuation(0, b"\x82"), h2.PROTOCOL_ERROR),
}


@pytest.mark.parametrize("name", CONNECTION_ERRORS)
def test_a_frame_against_the_rules_ends_the_connection(peer: Peer, name: str) -> None:
    sent, code = CONNECTION_ERRORS[name]
    assert peer.open("/t.T/Chat") == 1
    peer.send(sent)
    peer.expect_connection_error(code)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(h2.frame(h2.DATA, h2.PADDED, 1), id="DATA"),
        pytest.param(h2.frame(h2.HEADERS, END | h2.PADDED, 3), id="HEADERS"),
        pytest.param(h2.frame(h2.HEADERS, END | h2.HAS_PRIORITY, 3, b"\0\0\0\0"), id="HEADERS with a priority"),
    ],
)
def test_a_frame_too_short_for_its_fields_ends_the_connection(peer: Peer, sent: bytes) -> None:
    peer.open("/t.T/Chat")
    peer.send(sent)
    peer.expect_connection_error(h2.FRAME_SIZE_ERROR, h2.PROTOCOL_ERROR)


@pytest.mark.parametrize("kind", [h2.DATA, h2.HEADERS, h2.SETTINGS, h2.PING, h2.GOAWAY, 0x77])
def test_a_frame_larger_than_allowed_is_refused_before_it_is_read(peer: Peer, kind: int) -> None:
    stream = peer.open("/t.T/Chat") if kind in (h2.DATA, h2.HEADERS) else 0
    allowed = peer.server_settings.get(h2.MAX_FRAME_SIZE, h2.DEFAULT_FRAME_SIZE)
    peer.send(h2.frame(kind, 0, stream, b"", length=allowed + 1))
    peer.expect_connection_error(h2.FRAME_SIZE_ERROR)


def test_a_frame_of_the_largest_size_is_taken(peer: Peer) -> None:
    size = peer.server_settings.get(h2.MAX_FRAME_SIZE, h2.DEFAULT_FRAME_SIZE)
    stream = peer.open("/t.T/Echo")
    assert size <= peer.windows[stream], "this test needs a window of a whole frame"
    content = bytes(size - 5)
    peer.send(h2.data(stream, h2.message(content), h2.END_STREAM))
    assert peer.answer(stream).data == content


IGNORED = {
    "an unknown frame on the connection": h2.frame(0x42, 0xFF, 0, b"anything"),
    "an unknown frame on an open stream": h2.frame(0x42, 0xFF, 1, b"anything"),
    "an unknown frame on an idle stream": h2.frame(0xFF, 0, 99, b"anything"),
    "an unknown frame without content": h2.frame(0x0A),
    "flags PING does not have": h2.ping(flags=0xFE),
    "flags SETTINGS does not have": h2.frame(h2.SETTINGS, 0xFE),
    "flags WINDOW_UPDATE does not have": h2.frame(h2.WINDOW_UPDATE, 0xFF, 0, b"\0\0\0\1"),
    "flags DATA does not have": h2.data(1, h2.message(b"first"), 0xF6),
    "a reserved bit before the stream": h2.data(1 | 1 << 31, h2.message(b"first")),
    "a reserved bit before the increment": h2.window_update(0, 1 | 1 << 31),
    "PRIORITY on an open stream": h2.priority(1, 0),
    "PRIORITY on an idle stream": h2.priority(99, 1),
    "the echo of a PING that was not sent": h2.ping(b"whatever", h2.ACK),
    "an empty DATA frame": h2.data(1),
}


@pytest.mark.parametrize("name", IGNORED)
def test_what_has_no_meaning_is_ignored(peer: Peer, name: str) -> None:
    stream = peer.open("/t.T/Total")
    peer.send(IGNORED[name])
    peer.send_message(stream, b"last", end=True)
    first = len(b"first") if b"first" in IGNORED[name] else 0
    assert peer.answer(stream).data == str(first + len(b"last")).encode()
    peer.expect_served()


@pytest.mark.parametrize("size", [0, 4, 6])
def test_a_priority_of_a_wrong_size_costs_no_more_than_its_stream(peer: Peer, size: int) -> None:
    stream = peer.open("/t.T/Chat")
    peer.send(h2.frame(h2.PRIORITY, 0, stream, bytes(size)))
    peer.expect_stream_error(stream, h2.FRAME_SIZE_ERROR)
    peer.expect_served()


def test_a_stream_that_depends_on_itself_harms_nobody(peer: Peer) -> None:
    """RFC 7540 made it an error of the stream; RFC 9113 has done away with priorities."""
    stream = peer.open("/t.T/Chat")
    peer.send(h2.priority(stream, stream))
    peer.expect_served()


def test_a_ping_is_echoed(peer: Peer) -> None:
    peer.send(h2.ping(b"\x01\x02\x03\x04\x05\x06\x07\x08"))
    seen = peer.wait(lambda frame: getattr(frame, "opaque_data", b"") == b"\x01\x02\x03\x04\x05\x06\x07\x08", "an echo")
    assert "ACK" in seen.flags


@pytest.mark.parametrize("at_once", [False, True])
def test_data_after_the_end_is_refused(peer: Peer, at_once: bool) -> None:
    stream = peer.ask("/t.T/Hang") if at_once else peer.open("/t.T/Hang")
    if not at_once:
        peer.send_message(stream, b"", end=True)
    peer.send(h2.data(stream, h2.message(b"more")))
    peer.expect_stream_error(stream, h2.STREAM_CLOSED)
    peer.expect_served()


def test_headers_after_the_end_are_refused(peer: Peer) -> None:
    stream = peer.open("/t.T/Hang")
    peer.send_message(stream, b"", end=True)
    peer.send(h2.headers(stream, peer.encode([("a", "b")]), END))
    peer.expect_stream_error(stream, h2.STREAM_CLOSED)
    peer.expect_served()


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(lambda stream: h2.window_update(stream, 10), id="WINDOW_UPDATE"),
        pytest.param(h2.rst_stream, id="RST_STREAM"),
        pytest.param(lambda stream: h2.priority(stream, 0), id="PRIORITY"),
    ],
)
def test_late_frames_on_a_stream_that_ended_are_ignored(peer: Peer, sent) -> None:
    stream = peer.open()
    peer.send_message(stream, b"x", end=True)
    assert peer.answer(stream).data == b"x"
    peer.send(sent(stream))
    assert not peer.seen_on(stream)
    peer.expect_served()


def test_data_on_its_way_to_a_stream_the_server_has_ended_is_no_error(peer: Peer) -> None:
    """The server answers early, by an error; what the client had sent meanwhile must not hurt the connection."""
    stream = peer.open("/t.T/Nope")
    peer.send_message(stream, b"x" * 1000)
    assert peer.answer(stream).status == 12
    peer.send(h2.data(stream, b"x" * 1000))
    peer.expect_served()


def test_headers_on_a_stream_below_the_last_end_the_connection(peer: Peer) -> None:
    for _ in range(2):
        peer.next_stream()
    stream = peer.open("/t.T/Chat")
    assert stream == 5
    peer.send(h2.headers(3, peer.encode([(":method", "POST")]), END))
    peer.expect_connection_error(h2.PROTOCOL_ERROR, h2.STREAM_CLOSED)


def test_a_stream_cannot_be_used_twice(peer: Peer) -> None:
    stream = peer.open()
    peer.send_message(stream, b"x", end=True)
    assert peer.answer(stream).data == b"x"
    peer.send(h2.headers(stream, peer.encode([(":method", "POST")]), END))
    peer.expect_connection_error(h2.STREAM_CLOSED, h2.PROTOCOL_ERROR)


def test_streams_may_be_skipped(peer: Peer) -> None:
    for _ in range(1000):
        peer.next_stream()
    peer.expect_served()


def test_the_last_stream_is_served(peer: Peer) -> None:
    peer.windows[2**31 - 1] = h2.DEFAULT_WINDOW
    peer.next_stream = lambda: 2**31 - 1  # type: ignore[method-assign]
    peer.expect_served()


def test_a_stream_over_the_servers_limit_is_refused(peer: Peer, host) -> None:
    limit = peer.server_settings.get(h2.MAX_CONCURRENT_STREAMS)
    assert limit is not None, "a server without a limit can be flooded"
    assert limit >= 100, "RFC 9113, 5.1.2 recommends no fewer"
    streams = [peer.open("/t.T/Chat") for _ in range(limit)]
    peer.expect_alive()
    peer.expect_stream_error(peer.open("/t.T/Chat"), h2.REFUSED_STREAM, h2.PROTOCOL_ERROR)
    peer.expect_stream_error(peer.ask("/t.T/Echo", b"x"), h2.REFUSED_STREAM, h2.PROTOCOL_ERROR)
    peer.send(h2.rst_stream(streams[0]))
    peer.expect_served()
    for stream in streams[1:]:
        peer.send(h2.data(stream, b"", h2.END_STREAM))
        assert peer.answer(stream).status == 0


def test_a_reset_is_not_answered_by_a_reset(peer: Peer) -> None:
    stream = peer.open("/t.T/Chat")
    peer.send(h2.rst_stream(stream))
    peer.expect_alive()
    assert not any(isinstance(frame, RstStreamFrame) for frame in peer.seen_on(stream))
