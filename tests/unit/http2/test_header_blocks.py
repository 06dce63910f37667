"""Header blocks: how they are cut into frames (RFC 9113, 4.3 and 6.10), and what a request must say (8.2 and 8.3)."""

import http2_frames as h2
import pytest
from http2_peer import Answer, Peer, request_fields

END = h2.END_HEADERS | h2.END_STREAM
OPENING = h2.headers(3, b"\x82", 0)


def finish(peer: Peer, stream: int) -> Answer:
    peer.send_message(stream, b"x", end=True)
    return peer.answer(stream)


def expect_refused(peer: Peer, stream: int) -> None:
    """A malformed request gets RST_STREAM, or an HTTP error; never the handler's answer. The connection goes on."""
    answer = peer.answer(stream)
    if answer.reset is None:
        assert "400" <= answer.fields[":status"] < "500", answer
    else:
        assert answer.reset == h2.PROTOCOL_ERROR, answer
    peer.expect_served()


@pytest.mark.parametrize("cuts", [(1,), (3, 4), (0,), (10, 10), (1, 2, 3, 4, 5, 6)])
def test_a_block_may_be_cut_anywhere(peer: Peer, cuts: tuple[int, ...]) -> None:
    stream = peer.next_stream()
    block = peer.encode(request_fields("/t.T/Echo", [("cut", "anywhere")]))
    parts = [block[start:end] for start, end in zip((0, *cuts), (*cuts, len(block)), strict=True)]
    peer.send(h2.headers(stream, parts[0], 0))
    for part in parts[1:-1]:
        peer.send(h2.continuation(stream, part, 0))
    peer.send(h2.continuation(stream, parts[-1]))
    assert finish(peer, stream).data == b"x"


@pytest.mark.parametrize("padding", [0, 1, 255])
def test_headers_may_be_padded_and_prioritised(peer: Peer, padding: int) -> None:
    stream = peer.next_stream()
    block = b"\x80\0\0\x03\x10" + peer.encode(request_fields("/t.T/Echo"))
    peer.send(h2.padded(h2.HEADERS, stream, block, padding, h2.END_HEADERS | h2.HAS_PRIORITY))
    assert finish(peer, stream).data == b"x"


@pytest.mark.parametrize(
    "between",
    [
        pytest.param(h2.ping(), id="PING"),
        pytest.param(h2.settings(), id="SETTINGS"),
        pytest.param(h2.data(1, b""), id="DATA"),
        pytest.param(h2.headers(5, b"\x82"), id="HEADERS of another stream"),
        pytest.param(h2.headers(3, b"\x82"), id="HEADERS of the same stream"),
        pytest.param(h2.continuation(1, b"\x84"), id="CONTINUATION of another stream"),
        pytest.param(h2.window_update(0, 1), id="WINDOW_UPDATE"),
        pytest.param(h2.rst_stream(1), id="RST_STREAM"),
        pytest.param(h2.priority(3, 0), id="PRIORITY"),
        pytest.param(h2.goaway(), id="GOAWAY"),
        pytest.param(h2.frame(0x42), id="an unknown frame"),
    ],
)
def test_nothing_may_come_within_a_block(peer: Peer, between: bytes) -> None:
    peer.open("/t.T/Chat")
    peer.send(OPENING, between)
    peer.expect_connection_error(h2.PROTOCOL_ERROR)


def without(name: str) -> list[tuple[str, str]]:
    return [(key, value) for key, value in request_fields("/t.T/Echo") if key != name]


def replaced(name: str, value: str) -> list[tuple[str, str]]:
    return [(key, value if key == name else old) for key, old in request_fields("/t.T/Echo")]


PLAIN = request_fields("/t.T/Echo")

MALFORMED = {
    "no :method": without(":method"),
    "no :scheme": without(":scheme"),
    "no :path": without(":path"),
    "an empty :path": replaced(":path", ""),
    "two :path": [(":path", "/t.T/Echo"), *PLAIN],
    "two :method": [(":method", "POST"), *PLAIN],
    "two :scheme": [(":scheme", "http"), *PLAIN],
    "two :authority": [(":authority", "other"), *PLAIN],
    "an unknown pseudo-header": [(":unknown", "x"), *PLAIN],
    "a pseudo-header of answers": [(":status", "200"), *PLAIN],
    "a pseudo-header after the others": [*without(":path"), (":path", "/t.T/Echo")],
    "CONNECT with a path": replaced(":method", "CONNECT"),
    "an upper-case name": [*PLAIN, ("Name", "x")],
    "an empty name": [*PLAIN, ("", "x")],
    "a space in a name": [*PLAIN, ("a b", "x")],
    "a colon in a name": [*PLAIN, ("a:b", "x")],
    "a control character in a name": [*PLAIN, ("a\x01", "x")],
    "DEL in a name": [*PLAIN, ("a\x7f", "x")],
    "a byte over 127 in a name": [*PLAIN, (b"a\xe9", b"x")],
    "NUL in a value": [*PLAIN, ("a", "x\0y")],
    "CR in a value": [*PLAIN, ("a", "x\ry")],
    "LF in a value": [*PLAIN, ("a", "x\ny")],
    "a space before a value": [*PLAIN, ("a", " x")],
    "a tab after a value": [*PLAIN, ("a", "x\t")],
    "connection": [*PLAIN, ("connection", "close")],
    "keep-alive": [*PLAIN, ("keep-alive", "timeout=5")],
    "proxy-connection": [*PLAIN, ("proxy-connection", "close")],
    "transfer-encoding": [*PLAIN, ("transfer-encoding", "chunked")],
    "upgrade": [*PLAIN, ("upgrade", "h2c")],
    "te that is not trailers": replaced("te", "gzip"),
    "LF in :path": replaced(":path", "/t.T/\nEcho"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_request_is_refused_and_the_next_one_served(peer: Peer, name: str) -> None:
    peer.expect_served()
    for _ in range(3):
        stream = peer.next_stream()
        peer.send(h2.headers(stream, peer.encode(MALFORMED[name])), h2.data(stream, h2.message(b"x"), h2.END_STREAM))
        expect_refused(peer, stream)


@pytest.mark.parametrize("claimed", ["5", "7", "x", "-6", "6, 6"])
def test_a_content_length_that_is_not_the_contents_is_refused(peer: Peer, claimed: str) -> None:
    wrong = [("content-length", claimed)]
    stream = peer.open("/t.T/Echo", wrong)
    peer.send_message(stream, b"x", end=True)
    expect_refused(peer, stream)
    for _ in range(3):
        expect_refused(peer, peer.ask("/t.T/Echo", b"x", wrong))


def test_a_content_length_that_is_right_is_served(peer: Peer) -> None:
    stream = peer.open("/t.T/Echo", [("content-length", "6")])
    assert finish(peer, stream).data == b"x"


SERVED = {
    ":scheme https": replaced(":scheme", "https"),
    "no :authority": without(":authority"),
    "host instead of :authority": [*without(":authority"), ("host", "localhost")],
    "cookies in crumbs": [*PLAIN, ("cookie", "a=1"), ("cookie", "b=2")],
    "an empty value": [*PLAIN, ("a", "")],
    "bytes over 127 in a value": [*PLAIN, (b"a", b"\xe9\xff")],
    "a tab within a value": [*PLAIN, ("a", "x\ty")],
    "every character a name may have": [*PLAIN, ("!#$%&'*+-.^_`|~09az", "x")],
    "pseudo-headers in another order": [*PLAIN[3::-1], *PLAIN[4:]],
    "user-agent": [*PLAIN, ("user-agent", "raw/1.0")],
}


@pytest.mark.parametrize("name", SERVED)
def test_a_request_within_the_rules_is_served(peer: Peer, name: str) -> None:
    stream = peer.next_stream()
    peer.send(h2.headers(stream, peer.encode(SERVED[name])))
    assert finish(peer, stream).data == b"x"


def test_trailers_of_the_client_end_its_message(peer: Peer) -> None:
    stream = peer.open()
    peer.send_message(stream, b"x")
    peer.send(h2.headers(stream, peer.encode([("checksum", "7")]), END))
    assert peer.answer(stream).data == b"x"
    peer.expect_served()


def test_trailers_of_the_client_end_its_stream_of_messages(peer: Peer) -> None:
    stream = peer.open("/t.T/Total")
    peer.send_message(stream, b"abc")
    block = peer.encode([("checksum", "7"), ("other", "x" * 50)])
    peer.send(h2.headers(stream, block[:5], h2.END_STREAM), h2.continuation(stream, block[5:]))
    assert peer.answer(stream).data == b"3"
    peer.expect_served()


@pytest.mark.parametrize(
    ("fields", "flags"),
    [
        pytest.param([("a", "b")], h2.END_HEADERS, id="that do not end the stream"),
        pytest.param([(":path", "/x")], END, id="with a pseudo-header"),
        pytest.param([("Upper", "x")], END, id="with an upper-case name"),
    ],
)
def test_malformed_trailers_are_refused(peer: Peer, fields: list[tuple[str, str]], flags: int) -> None:
    stream = peer.open("/t.T/Chat")
    peer.send(h2.headers(stream, peer.encode(fields), flags))
    expect_refused(peer, stream)
