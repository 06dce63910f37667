"""Small inputs that stand for large ones, peers that keep what they hold, and peers that say nothing: each is bounded."""

import gzip
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import http2_frames as h2
import pytest
from grpc_host import Host, pattern
from http2_peer import Peer, request_fields

RESOURCE_EXHAUSTED = 8
MIB = 2**20


@contextmanager
def growth_below(limit_bytes: int) -> Iterator[None]:
    """What this process, and so the server in it, has in memory at any time within the block is bounded."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is counted from here on
    before = _peak_bytes()
    yield
    assert _peak_bytes() - before < limit_bytes


def _peak_bytes() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


@pytest.fixture
def bounded(make_host) -> Host:
    """A server of the test's own. When the test is over, it must have got rid of all calls, and serve."""
    return make_host()


@pytest.fixture(autouse=True)
def still_served(bounded: Host):
    with Peer(bounded.address) as honest:
        honest.expect_served()
        yield
        honest.expect_served()
    bounded.settle(lambda: bounded.unfinished == 0, "no call left over")
    bounded.settle(lambda: bounded.connections() == 0, "no connection left over")


def expect_refused_head(peer: Peer, stream: int) -> None:
    """Too large a header list costs its call, or the connection."""
    answer = peer.answer(stream)
    refused = answer.status == RESOURCE_EXHAUSTED or answer.fields.get(":status") == "431" or answer.reset is not None
    assert refused, answer
    peer.expect_served()


def test_a_long_header_list_is_refused(bounded: Host) -> None:
    with Peer(bounded.address) as peer:
        stream = peer.next_stream()
        block = peer.encode(request_fields("/t.T/Echo", [(f"k{number}", "v" * 40) for number in range(300)]))
        half = len(block) // 2
        assert half < h2.DEFAULT_FRAME_SIZE
        peer.send(h2.headers(stream, block[:half], h2.END_STREAM), h2.continuation(stream, block[half:]))
        expect_refused_head(peer, stream)


def test_a_header_list_that_unpacks_to_megabytes_is_refused(bounded: Host) -> None:
    """The HPACK bomb, CVE-2016-6581: one large entry, and 12,000 references of a byte each: 48 MB."""
    with growth_below(40 * MIB), Peer(bounded.address) as peer:
        peer.call("/t.T/Echo", b"x", [("bomb", "b" * 4000)])
        stream = peer.next_stream()
        block = peer.encode([*request_fields("/t.T/Echo"), ("bomb", "b" * 4000)])
        peer.send(h2.headers(stream, block + b"\xbe" * 12_000, h2.END_HEADERS | h2.END_STREAM))
        expect_refused_head(peer, stream)


def test_a_thousand_small_fields_are_refused(bounded: Host) -> None:
    """Each costs 32 bytes more than its text, by RFC 9113, 6.5.2."""
    with Peer(bounded.address) as peer:
        stream = peer.next_stream()
        block = peer.encode(request_fields("/t.T/Echo")) + b"\x00\x01a\x00" * 3000
        peer.send(h2.headers(stream, block, h2.END_HEADERS | h2.END_STREAM))
        expect_refused_head(peer, stream)


def test_a_header_list_within_the_limit_is_served(bounded: Host) -> None:
    with Peer(bounded.address) as peer:
        assert peer.call("/t.T/Echo", b"x", [(f"k{number}", "v" * 100) for number in range(90)]).data == b"x"


@pytest.mark.parametrize("claimed", [2**31, 2**32 - 1])
def test_a_message_that_claims_more_than_allowed_is_refused_before_it_comes(bounded: Host, claimed: int) -> None:
    with growth_below(40 * MIB), Peer(bounded.address) as peer:
        for method in ("/t.T/Echo", "/t.T/Chat"):
            stream = peer.open(method)
            peer.send(h2.data(stream, h2.message(b"begin", length=claimed)))
            assert peer.answer(stream).status == RESOURCE_EXHAUSTED
        peer.expect_served()


def test_a_message_that_claims_the_most_takes_no_memory_before_it_comes(bounded: Host) -> None:
    with growth_below(40 * MIB), Peer(bounded.address) as peer:
        for method in ("/t.T/Echo", "/t.T/Chat") * 10:
            peer.send(h2.data(peer.open(method), h2.message(b"begin", length=2**31 - 1)))
        peer.expect_served()


@pytest.mark.parametrize("method", ["/t.T/Echo", "/t.T/Total"])
def test_a_message_in_the_smallest_frames_takes_no_more_memory_than_others(bounded: Host, method: str) -> None:
    size = 600_000
    with growth_below(6 * MIB), Peer(bounded.address) as peer:
        stream = peer.open(method)
        peer.send(h2.data(stream, h2.message(b"", length=size)))
        dribble = h2.data(stream, b"ab") * 1000
        for _ in range(size // 2000):
            peer.send(dribble)
        peer.expect_alive()
        peer.close()


@pytest.mark.parametrize("method", ["/t.T/Echo", "/t.T/Total"])
def test_a_message_over_the_servers_limit_is_refused(make_host, method: str) -> None:
    host = make_host(options={"max_message_bytes": 1000})
    with Peer(host.address) as peer:
        assert peer.call(method, bytes(1000)).status == 0
        assert peer.call(method, bytes(1001)).status == RESOURCE_EXHAUSTED
        assert peer.call(method, bytes(1000), at_once=True).status == 0
        assert peer.call(method, bytes(1001), at_once=True).status == RESOURCE_EXHAUSTED
        peer.expect_served()


@pytest.mark.parametrize("method", ["/t.T/Echo", "/t.T/Total"])
def test_a_message_that_unpacks_over_the_limit_is_refused(make_host, method: str) -> None:
    """The gzip bomb: 100 kB that stand for 100 MB."""
    host = make_host(options={"max_message_bytes": MIB})
    packed = h2.message(gzip.compress(bytes(100 * MIB), 1), flag=1)
    assert len(packed) < MIB
    with growth_below(60 * MIB), Peer(host.address) as peer:
        stream = peer.open(method, [("grpc-encoding", "gzip")])
        peer.send_data(stream, packed, end=True)
        assert peer.answer(stream).status == RESOURCE_EXHAUSTED
        peer.expect_served()


def test_unfinished_requests_share_a_bound(make_host) -> None:
    host = make_host(max_receiving_bytes=MIB)
    with Peer(host.address) as attacker, Peer(host.address) as honest:
        streams = []
        for _ in range(20):
            streams.append(attacker.open())
            attacker.send_data(streams[-1], h2.message(b"", length=10 * MIB) + bytes(100_000))
        attacker.expect_alive()
        assert attacker.answer(streams[-1]).status == RESOURCE_EXHAUSTED
        attacker.close()
        host.settle(lambda: host.connections() == 1, "the attacker's end")
        assert honest.call("/t.T/Echo", bytes(900_000)).data == bytes(900_000)


def test_a_reader_that_never_opens_its_window_keeps_a_bounded_amount(make_host) -> None:
    host = make_host(max_sending_bytes=MIB)
    with Peer(host.address, settings=[(h2.INITIAL_WINDOW_SIZE, 0)]) as attacker, Peer(host.address) as honest:
        streams = []
        for _ in range(50):
            streams.append(attacker.open("/t.T/Large"))
            attacker.send_message(streams[-1], b"100000", end=True)
        honest.expect_served()
        assert attacker.answer(streams[-1]).status == RESOURCE_EXHAUSTED
        attacker.send(h2.settings((h2.INITIAL_WINDOW_SIZE, h2.DEFAULT_WINDOW)))
        assert attacker.answer(streams[0]).data == pattern(100_000)
        attacker.expect_served()


def test_large_answers_that_nobody_takes_from_the_socket_are_a_bounded_amount(make_host) -> None:
    """CVE-2019-9517: the windows are open, but nothing is read."""
    host = make_host(max_sending_bytes=16 * MIB)
    largest = [(h2.INITIAL_WINDOW_SIZE, h2.LARGEST_WINDOW)]
    with (
        growth_below(200 * MIB),
        Peer(host.address, settings=largest, receive_buffer_bytes=4096) as attacker,
        Peer(host.address) as honest,
    ):
        attacker.send(h2.window_update(0, h2.LARGEST_WINDOW - h2.DEFAULT_WINDOW))
        for _ in range(500):
            attacker.send_message(attacker.open("/t.T/Large"), b"1000000", end=True)
        honest.expect_served()
        honest.expect_served()
    host.settle(lambda: host.connections() == 0, "the end of both")


@pytest.mark.parametrize("method", ["/t.T/Large", "/t.T/Count"])
def test_a_reader_that_never_opens_its_window_is_given_up(make_host, method: str) -> None:
    host = make_host(stall_timeout_s=0.3)
    with Peer(host.address, settings=[(h2.INITIAL_WINDOW_SIZE, 0)]) as attacker, Peer(host.address) as honest:
        for _ in range(5):
            attacker.send_message(attacker.open(method), b"100000" if method.endswith("Large") else b"10 100", end=True)
        attacker.expect_alive()
        host.settle(lambda: host.unfinished == 0, "the end of all its calls")
        honest.expect_served()


def test_a_reader_that_takes_no_byte_is_given_up(make_host) -> None:
    host = make_host(stall_timeout_s=0.3)
    largest = [(h2.INITIAL_WINDOW_SIZE, h2.LARGEST_WINDOW)]
    with Peer(host.address, settings=largest, receive_buffer_bytes=4096) as attacker, Peer(host.address) as honest:
        attacker.send(h2.window_update(0, h2.LARGEST_WINDOW - h2.DEFAULT_WINDOW))
        attacker.send_message(attacker.open("/t.T/Large"), b"30000000", end=True)
        honest.expect_served()
        host.settle(lambda: host.connections() == 1, "the attacker's end")
        honest.expect_served()


def test_a_reader_that_is_slow_is_served_to_the_end(make_host) -> None:
    """Nobody who takes something now and then is given up."""
    host = make_host(stall_timeout_s=0.5)
    with Peer(host.address, opens_windows=False, settings=[(h2.INITIAL_WINDOW_SIZE, 1000)]) as slow:
        stream = slow.open("/t.T/Large")
        slow.send_message(stream, b"4995", end=True)
        for taken in range(1000, 5000, 1000):
            slow.pump_until(lambda least=taken: slow.received_bytes >= least, "a window of data")
            slow.socket.settimeout(0.2)
            with pytest.raises(AssertionError):
                slow.pump("nothing")
            slow.socket.settimeout(10)
            slow.send(h2.window_update(stream, 1000))
        assert slow.answer(stream).data == pattern(4995)


def test_connections_that_say_nothing_are_many_and_then_gone(make_host) -> None:
    host = make_host(handshake_timeout_s=0.5)
    with ExitStack() as silent, Peer(host.address) as honest:
        for _ in range(200):
            silent.enter_context(socket.create_connection(host.address, timeout=5))
        honest.expect_served()
        host.settle(lambda: host.connections() == 1, "the end of the silent ones")
        honest.expect_served()


def test_connections_that_are_half_open_are_found_out(make_host) -> None:
    """A peer that is gone without a word: nothing it owes ever comes, and its calls are withdrawn."""
    host = make_host(keepalive_s=0.1, keepalive_timeout_s=0.2)
    with ExitStack() as gone:
        for _ in range(20):
            peer = gone.enter_context(Peer(host.address))
            peer.send_message(peer.open("/t.T/Hang"), b"", end=True)
        for _ in range(20):
            host.withdrawn.get(timeout=10)
        host.settle(lambda: host.connections() == 0, "the end of them all")


def test_streams_that_are_opened_and_left_go_with_their_connection(bounded: Host) -> None:
    with Peer(bounded.address) as attacker:
        attacker.expect_alive()
        for _ in range(attacker.server_settings[h2.MAX_CONCURRENT_STREAMS]):
            attacker.open("/t.T/Chat")
        attacker.expect_alive()
        bounded.settle(lambda: bounded.methods.open_streams > 0, "handlers that run")
    bounded.settle(lambda: bounded.methods.open_streams == 0, "the end of all handlers")


def test_many_connections_are_served_at_once(bounded: Host) -> None:
    with ExitStack() as stack:
        peers = [stack.enter_context(Peer(bounded.address)) for _ in range(200)]
        streams = [peer.open() for peer in peers]
        for number, (peer, stream) in enumerate(zip(peers, streams, strict=True)):
            peer.send_message(stream, b"%d" % number, end=True)
        answers = [peer.answer(stream).data for peer, stream in zip(peers, streams, strict=True)]
    assert answers == [b"%d" % number for number in range(200)]
