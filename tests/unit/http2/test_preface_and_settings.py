"""The start of a connection (RFC 9113, 3.4) and SETTINGS (6.5)."""

from collections.abc import Callable

import http2_frames as h2
import pytest
from http2_peer import Peer, request_fields
from hyperframe.frame import SettingsFrame

Connect = Callable[..., Peer]


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n" + b" " * 24, id="HTTP/1.1"),
        pytest.param(h2.PREFACE.replace(b"SM", b"MS") + h2.settings(), id="one byte is wrong"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 40, id="a TLS hello"),
        pytest.param(b"\0" * 64, id="zeros"),
    ],
)
def test_what_is_no_preface_ends_the_connection(connect: Connect, start: bytes) -> None:
    peer = connect(preface=False)
    peer.send(start)
    peer.expect_end()


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(h2.ping(), id="PING"),
        pytest.param(h2.window_update(0, 1), id="WINDOW_UPDATE"),
        pytest.param(h2.settings_ack(), id="an acknowledgement"),
        pytest.param(h2.headers(1, b"\x82"), id="HEADERS"),
    ],
)
def test_the_first_frame_must_be_settings(connect: Connect, first: bytes) -> None:
    peer = connect(preface=False)
    peer.send(h2.PREFACE, first)
    peer.expect_connection_error(h2.PROTOCOL_ERROR)


def test_the_servers_first_frame_is_its_settings(connect: Connect) -> None:
    first = connect().wait(lambda _: True, "a frame")
    assert isinstance(first, SettingsFrame)
    assert "ACK" not in first.flags


def test_a_preface_may_come_byte_by_byte(connect: Connect) -> None:
    peer = connect(preface=False)
    for byte in h2.PREFACE + h2.settings():
        peer.send(bytes((byte,)))
    peer.expect_served()


def test_a_call_may_come_in_one_write_with_the_preface(connect: Connect) -> None:
    peer = connect(preface=False)
    stream = peer.next_stream()
    peer.send(
        h2.PREFACE,
        h2.settings(),
        h2.headers(stream, peer.encode(request_fields("/t.T/Echo"))),
        h2.data(stream, h2.message(b"at once"), h2.END_STREAM),
    )
    assert peer.answer(stream).data == b"at once"


def test_frames_may_come_byte_by_byte(peer: Peer) -> None:
    stream = peer.open()
    for byte in h2.data(stream, h2.message(b"slowly"), h2.END_STREAM):
        peer.send(bytes((byte,)))
    assert peer.answer(stream).data == b"slowly"


def test_every_settings_frame_is_acknowledged_once(peer: Peer) -> None:
    def is_ack(frame: object) -> bool:
        return isinstance(frame, SettingsFrame) and "ACK" in frame.flags

    peer.wait(is_ack, "the acknowledgement of the preface's settings")
    peer.send(h2.settings(), h2.settings((h2.MAX_FRAME_SIZE, 20_000)))
    peer.wait(is_ack, "the first acknowledgement")
    peer.wait(is_ack, "the second acknowledgement")
    assert not [frame for frame in peer.seen_on(0) if is_ack(frame)]


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        pytest.param(h2.frame(h2.SETTINGS, payload=b"\0" * 5), h2.FRAME_SIZE_ERROR, id="5 bytes"),
        pytest.param(h2.frame(h2.SETTINGS, payload=b"\0" * 7), h2.FRAME_SIZE_ERROR, id="7 bytes"),
        pytest.param(h2.frame(h2.SETTINGS, h2.ACK, 0, b"\0" * 6), h2.FRAME_SIZE_ERROR, id="an ack with values"),
        pytest.param(h2.frame(h2.SETTINGS, 0, 1), h2.PROTOCOL_ERROR, id="on a stream"),
        pytest.param(h2.frame(h2.SETTINGS, h2.ACK, 1), h2.PROTOCOL_ERROR, id="an ack on a stream"),
        pytest.param(h2.settings((h2.ENABLE_PUSH, 2)), h2.PROTOCOL_ERROR, id="ENABLE_PUSH 2"),
        pytest.param(h2.settings((h2.INITIAL_WINDOW_SIZE, 2**31)), h2.FLOW_CONTROL_ERROR, id="INITIAL_WINDOW_SIZE"),
        pytest.param(h2.settings((h2.MAX_FRAME_SIZE, 2**14 - 1)), h2.PROTOCOL_ERROR, id="MAX_FRAME_SIZE too small"),
        pytest.param(h2.settings((h2.MAX_FRAME_SIZE, 2**24)), h2.PROTOCOL_ERROR, id="MAX_FRAME_SIZE too large"),
    ],
)
def test_settings_that_break_the_rules_end_the_connection(peer: Peer, sent: bytes, code: int) -> None:
    peer.send(sent)
    peer.expect_connection_error(code)


@pytest.mark.parametrize(
    "pairs",
    [
        pytest.param([], id="none"),
        pytest.param([(0, 1), (0x7F, 2**32 - 1), (0xFFFF, 0)], id="unknown ones"),
        pytest.param([(h2.ENABLE_PUSH, 0), (h2.ENABLE_PUSH, 1)], id="push"),
        pytest.param([(h2.MAX_CONCURRENT_STREAMS, 0)], id="no streams of the server's"),
        pytest.param([(h2.MAX_FRAME_SIZE, 2**14), (h2.MAX_FRAME_SIZE, 2**24 - 1)], id="the bounds of MAX_FRAME_SIZE"),
        pytest.param([(h2.HEADER_TABLE_SIZE, 2**32 - 1)], id="a giant table"),
        pytest.param([(h2.MAX_HEADER_LIST_SIZE, 2**32 - 1)], id="giant headers"),
        pytest.param([(h2.INITIAL_WINDOW_SIZE, 2**31 - 1)], id="the largest window"),
        pytest.param([(h2.INITIAL_WINDOW_SIZE, 0), (h2.INITIAL_WINDOW_SIZE, 1000)], id="the last value counts"),
    ],
)
def test_settings_within_the_rules_are_served(peer: Peer, pairs: list[tuple[int, int]]) -> None:
    peer.send(h2.settings(*pairs))
    peer.expect_served()


def test_the_settings_of_a_table_without_room_are_heeded(connect: Connect) -> None:
    """hpack's decoder refuses blocks that refer to a table which may hold nothing."""
    peer = connect(settings=[(h2.HEADER_TABLE_SIZE, 0)])
    peer.decoder.max_allowed_table_size = 0
    for _ in range(3):
        peer.expect_served()


def test_a_table_that_shrinks_and_grows_is_announced(peer: Peer) -> None:
    """RFC 7541, 4.2: the smallest size in between must be signalled."""
    peer.expect_served()
    peer.send(h2.settings((h2.HEADER_TABLE_SIZE, 0), (h2.HEADER_TABLE_SIZE, 4096)))
    peer.expect_alive()
    for _ in range(3):
        peer.expect_served()


def test_frames_are_no_larger_than_the_peer_allows(connect: Connect) -> None:
    plain, roomy = connect(), connect(settings=[(h2.MAX_FRAME_SIZE, 100_000)])
    assert len(plain.call("/t.T/Large", b"300000").data) == 300_000
    assert len(roomy.call("/t.T/Large", b"300000").data) == 300_000
    assert plain.largest_frame_bytes <= h2.DEFAULT_FRAME_SIZE
    assert roomy.largest_frame_bytes <= 100_000
