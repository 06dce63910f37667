"""Windows in both directions (RFC 9113, 5.2 and 6.9)."""

from collections.abc import Iterator

import http2_frames as h2
import pytest
from grpc_host import Host, pattern
from http2_peer import Peer, request_fields

OVERHEAD = len(h2.message(b""))


def ask_for(peer: Peer, size: int) -> int:
    stream = peer.open("/t.T/Large")
    peer.send_message(stream, str(size).encode(), end=True)
    return stream


def receives(peer: Peer, size: int) -> bool:
    """Whether just so many bytes of data come, in all, and then no more."""
    peer.pump_until(lambda: peer.received_bytes >= size, f"{size} bytes of data")
    for _ in range(2):  # what is answered later in the same turn comes before the second echo
        peer.expect_alive()
    return peer.received_bytes == size


def test_an_answer_stops_at_the_streams_window(connect) -> None:
    peer = connect(settings=[(h2.INITIAL_WINDOW_SIZE, 10)], opens_windows=False)
    stream = ask_for(peer, 30)
    assert receives(peer, 10)
    peer.send(h2.window_update(stream, 5))
    assert receives(peer, 15)
    peer.send(h2.window_update(stream, 20))
    assert peer.answer(stream).data == pattern(30)


def test_an_answer_stops_at_the_connections_window(connect) -> None:
    peer = connect(settings=[(h2.INITIAL_WINDOW_SIZE, 2**20)], opens_windows=False)
    stream = ask_for(peer, 100_000)
    assert receives(peer, h2.DEFAULT_WINDOW)
    peer.send(h2.window_update(0, 100_000))
    assert peer.answer(stream).data == pattern(100_000)


def test_small_answers_count_towards_the_connections_window(connect) -> None:
    peer = connect(settings=[(h2.INITIAL_WINDOW_SIZE, 2**20)], opens_windows=False)
    for _ in range(100):
        assert peer.call("/t.T/Echo", bytes(100), at_once=True).data == bytes(100)
    ask_for(peer, 100_000)
    assert receives(peer, h2.DEFAULT_WINDOW)


def test_without_a_window_headers_come_and_data_waits_for_new_settings(connect) -> None:
    peer = connect(settings=[(h2.INITIAL_WINDOW_SIZE, 0)], opens_windows=False)
    streams = [ask_for(peer, size) for size in (10, 20, 30)]
    assert [peer.headers_of(stream)[":status"] for stream in streams] == ["200"] * 3
    assert receives(peer, 0)
    peer.send(h2.settings((h2.INITIAL_WINDOW_SIZE, 1000)))
    assert [peer.answer(stream).messages for stream in streams] == [[pattern(10)], [pattern(20)], [pattern(30)]]


def test_new_settings_can_make_a_window_negative(connect) -> None:
    peer = connect(settings=[(h2.INITIAL_WINDOW_SIZE, 100)], opens_windows=False)
    stream = ask_for(peer, 300)
    assert receives(peer, 100)
    peer.send(h2.settings((h2.INITIAL_WINDOW_SIZE, 30)))  # the window is -70
    peer.send(h2.window_update(stream, 70))
    assert receives(peer, 100)
    peer.send(h2.window_update(stream, 1))
    assert receives(peer, 101)
    peer.send(h2.settings((h2.INITIAL_WINDOW_SIZE, 1000)))
    assert peer.answer(stream).data == pattern(300)


def test_the_connections_window_is_not_changed_by_settings(connect) -> None:
    peer = connect(settings=[(h2.INITIAL_WINDOW_SIZE, 2**20)], opens_windows=False)
    ask_for(peer, 200_000)
    assert receives(peer, h2.DEFAULT_WINDOW)
    peer.send(h2.settings((h2.INITIAL_WINDOW_SIZE, 2**21)))
    assert receives(peer, h2.DEFAULT_WINDOW)


def test_a_stream_that_waits_does_not_hold_up_the_others(connect) -> None:
    peer = connect(settings=[(h2.INITIAL_WINDOW_SIZE, 100)], opens_windows=False)
    waiting = ask_for(peer, 1000)
    for _ in range(5):
        peer.expect_served()
    peer.send(h2.window_update(waiting, 2000))
    assert peer.answer(waiting).data == pattern(1000)


def test_a_small_answer_does_not_wait_for_the_end_of_a_large_one(connect) -> None:
    peer = connect(settings=[(h2.INITIAL_WINDOW_SIZE, 2**20)])
    large = ask_for(peer, 8 * 2**20)
    peer.pump_until(lambda: peer.received_bytes > 0, "the beginning of the large answer")
    peer.expect_served()
    assert peer.received_bytes < 8 * 2**20
    assert peer.answer(large).data == pattern(8 * 2**20)


def test_an_empty_answer_needs_no_window(connect) -> None:
    peer = connect(settings=[(h2.INITIAL_WINDOW_SIZE, OVERHEAD)], opens_windows=False)
    assert peer.call("/t.T/Echo", b"").data == b""
    peer.send(h2.settings((h2.INITIAL_WINDOW_SIZE, 0)))
    assert peer.call("/t.T/Fail", b"no data").text == "no data"


def test_trailers_come_after_all_of_the_data(connect) -> None:
    """Where the window is just large enough, and where it opens byte by byte."""
    peer = connect(settings=[(h2.INITIAL_WINDOW_SIZE, 0)], opens_windows=False)
    stream = ask_for(peer, 20)
    for _ in range(20 + OVERHEAD):
        peer.send(h2.window_update(stream, 1))
    answer = peer.answer(stream)
    assert (answer.data, answer.header_blocks) == (pattern(20), 2)


def test_a_reset_frees_the_answer_that_waits_for_a_window(connect, host: Host) -> None:
    peer = connect(settings=[(h2.INITIAL_WINDOW_SIZE, 0)], opens_windows=False)
    streams = [ask_for(peer, 100_000) for _ in range(20)]
    peer.expect_alive()
    peer.send(*(h2.rst_stream(stream) for stream in streams))
    peer.send(h2.settings((h2.INITIAL_WINDOW_SIZE, 1000)))
    peer.expect_served()


def test_an_increment_of_zero_is_an_error_of_the_stream(peer: Peer) -> None:
    stream = peer.open("/t.T/Chat")
    peer.send(h2.window_update(stream, 0))
    peer.expect_stream_error(stream, h2.PROTOCOL_ERROR)
    peer.expect_served()


def test_a_window_over_the_largest_is_an_error_of_the_stream(peer: Peer) -> None:
    stream = peer.open("/t.T/Chat")
    peer.send(h2.window_update(stream, h2.LARGEST_WINDOW - h2.DEFAULT_WINDOW))
    peer.expect_alive()
    peer.send(h2.window_update(stream, 1))
    peer.expect_stream_error(stream, h2.FLOW_CONTROL_ERROR)
    peer.expect_served()


def test_settings_that_lift_a_window_over_the_largest_end_the_connection(peer: Peer) -> None:
    stream = peer.open("/t.T/Chat")
    peer.send(h2.window_update(stream, h2.LARGEST_WINDOW - h2.DEFAULT_WINDOW))
    peer.send(h2.settings((h2.INITIAL_WINDOW_SIZE, h2.DEFAULT_WINDOW + 1)))
    peer.expect_connection_error(h2.FLOW_CONTROL_ERROR)


def test_the_largest_windows_are_taken(peer: Peer) -> None:
    peer.send(h2.window_update(0, h2.LARGEST_WINDOW - h2.DEFAULT_WINDOW))
    stream = peer.open("/t.T/Chat")
    peer.send(h2.window_update(stream, h2.LARGEST_WINDOW - h2.DEFAULT_WINDOW))
    peer.send_message(stream, b"x", end=True)
    assert peer.answer(stream).data == b"x"


def fill(peer: Peer, stream: int) -> int:
    """Send messages of 1,000 bytes, flags and all, until the server lets no more through. Returns their number."""
    small, sent = h2.message(bytes(1000 - OVERHEAD)), 0
    peer.expect_alive()
    while min(peer.window, peer.windows[stream]) >= len(small):
        while min(peer.window, peer.windows[stream]) >= len(small):
            peer.send_data(stream, small)
            sent += 1
        assert sent < 50_000, "the window is opened although nobody reads"
        peer.expect_alive()
    return sent


def test_a_reader_that_pauses_holds_the_sender_back(peer: Peer, host: Host) -> None:
    """A handler that does not read leaves the window closed: memory is bounded by it. Nothing is lost when it reads on."""
    host.close_gate()
    stream = peer.open("/t.T/Gated")
    sent = fill(peer, stream)
    host.open_gate()
    peer.send_data(stream, h2.message(b"last"), end=True)
    assert peer.answer(stream).messages == [b"995"] * sent + [b"4"]


def test_data_over_the_window_is_refused(peer: Peer, host: Host) -> None:
    host.close_gate()
    stream = peer.open("/t.T/Gated")
    fill(peer, stream)
    peer.send(h2.data(stream, bytes(h2.DEFAULT_FRAME_SIZE)))
    peer.expect_flow_control_error(stream)


def test_what_is_read_opens_the_windows_again(peer: Peer) -> None:
    size, whole_window = 8 * 2**20, peer.window
    stream = peer.open("/t.T/Total")
    for _ in range(8):
        peer.send_message(stream, bytes(size // 8))
    peer.send_data(stream, b"", end=True)
    assert peer.answer(stream).data == str(size).encode()
    peer.expect_alive()
    assert whole_window // 2 <= peer.window <= whole_window


def test_a_large_message_fits_through_the_windows(peer: Peer) -> None:
    content = pattern(5 * 2**20 + 1)
    assert peer.call("/t.T/Echo", content).data == content


@pytest.fixture
def narrow(make_host) -> Iterator[Peer]:
    """A connection to a server that has the smallest windows."""
    host = make_host(stream_window_bytes=h2.DEFAULT_WINDOW, connection_window_bytes=h2.DEFAULT_WINDOW)
    host.methods.gate.clear()
    with Peer(host.address) as peer:
        peer.expect_alive()
        yield peer


def test_padding_counts_and_is_given_back(narrow: Peer) -> None:
    """More padding than the windows hold, in all."""
    stream = narrow.open("/t.T/Total")
    content = h2.message(pattern(1000))
    for byte in content:
        while min(narrow.window, narrow.windows[stream]) < 257:
            narrow.pump("room for padding")
        narrow.send(h2.padded(h2.DATA, stream, bytes((byte,)), 255))
        narrow.window -= 257
        narrow.windows[stream] -= 257
    narrow.send_data(stream, b"", end=True)
    assert narrow.answer(stream).data == b"1000"


def test_data_of_streams_that_were_reset_is_given_back_to_the_connection(narrow: Peer) -> None:
    """Whatever was on its way, read or not: the next call has the whole window."""
    for _ in range(10):
        stream = narrow.open("/t.T/Gated")
        narrow.send_data(stream, h2.message(bytes(15_000)) + h2.message(bytes(15_000))[:9000])
        narrow.send(h2.rst_stream(stream))
    content = pattern(200_000)
    assert narrow.call("/t.T/Echo", content).data == content


def test_data_after_an_early_answer_is_given_back_to_the_connection(narrow: Peer) -> None:
    """The client had not heard yet that the call is refused."""
    for _ in range(10):
        stream = narrow.open("/t.T/Nope")
        narrow.send_data(stream, bytes(24_000))
        assert narrow.answer(stream).status == 12
    content = pattern(200_000)
    assert narrow.call("/t.T/Echo", content).data == content


def test_data_of_a_call_that_was_refused_for_its_headers_is_given_back_to_the_connection(narrow: Peer) -> None:
    for _ in range(10):
        stream = narrow.open("/t.T/Echo", [("Upper", "x")])
        narrow.send_data(stream, bytes(24_000))
        narrow.expect_stream_error(stream, h2.PROTOCOL_ERROR)
    content = pattern(200_000)
    assert narrow.call("/t.T/Echo", content).data == content


def test_a_writer_waits_for_a_reader_that_pauses(connect, host: Host) -> None:
    """A handler's answers are not piled up while the client's window is closed."""
    peer = connect(opens_windows=False)
    before = host.methods.produced
    stream = peer.open("/t.T/Count")
    peer.send_message(stream, b"1000 10000", end=True)
    assert receives(peer, h2.DEFAULT_WINDOW)
    assert host.methods.produced - before < 100
    peer.opens_windows = True
    peer.send(h2.window_update(0, 2**24), h2.window_update(stream, 2**24))
    assert [len(message) for message in peer.answer(stream).messages] == [10_000] * 1000
    assert host.methods.produced - before == 1000


def test_settings_in_flight_do_not_lose_the_window_of_a_stream_that_opens(connect) -> None:
    """The preface, new settings and a call in one write."""
    peer = connect(settings=[(h2.INITIAL_WINDOW_SIZE, 1)])
    stream = peer.next_stream()
    peer.send(
        h2.settings((h2.INITIAL_WINDOW_SIZE, 40)),
        h2.headers(stream, peer.encode(request_fields("/t.T/Echo"))),
        h2.data(stream, h2.message(b"y" * 30), h2.END_STREAM),
    )
    assert peer.answer(stream).data == b"y" * 30
