"""The end of a connection: GOAWAY from either side (RFC 9113, 6.8), a draining server, keepalive, age and silence."""

import contextlib
import queue
import socket

import http2_frames as h2
import pytest
from grpc_host import Host
from http2_peer import Closed, Peer
from hyperframe.frame import GoAwayFrame, PingFrame

UNAVAILABLE, CANCELLED = 14, 1
NEVER = {"keepalive_s": None, "max_ping_strikes": 10_000}


def hang(peer: Peer, host: Host) -> int:
    """A call that runs until the test answers it."""
    stream = peer.open("/t.T/Hang")
    peer.send_message(stream, b"", end=True)
    return stream


def goaway(peer: Peer) -> GoAwayFrame:
    return peer.wait(lambda frame: isinstance(frame, GoAwayFrame), "a GOAWAY")


def test_a_server_that_stops_lets_running_calls_end(make_host) -> None:
    host = make_host()
    with Peer(host.address) as peer:
        stream = hang(peer, host)
        call = host.hung.get(timeout=10)
        stopped = host.stopping(30)
        first = goaway(peer)
        assert first.error_code == h2.NO_ERROR
        assert first.last_stream_id >= stream
        host.soon(call.reply, b"in the end")
        assert peer.answer(stream).data == b"in the end"
        peer.expect_end()
        stopped.result(10)


def test_a_server_that_stops_says_which_stream_was_its_last(make_host) -> None:
    """The first GOAWAY may leave room for calls that are on their way; the last one before the end must not."""
    host = make_host()
    with Peer(host.address) as peer:
        stream = hang(peer, host)
        call = host.hung.get(timeout=10)
        stopped = host.stopping(30)
        last = goaway(peer)
        peer.expect_alive()
        while last.last_stream_id > stream:
            last = goaway(peer)
        assert (last.last_stream_id, last.error_code) == (stream, h2.NO_ERROR)
        host.soon(call.reply, b"")
        peer.expect_end()
        stopped.result(10)


def test_a_draining_connection_serves_no_new_stream(make_host) -> None:
    """They are beyond the last stream of the GOAWAY: the client may safely try them elsewhere."""
    host = make_host()
    with Peer(host.address) as peer:
        stream = hang(peer, host)
        call = host.hung.get(timeout=10)
        stopped = host.stopping(30)
        last = goaway(peer)
        peer.expect_alive()
        while last.last_stream_id > stream:
            last = goaway(peer)
        late = hang(peer, host)
        peer.ask("/t.T/Hang")
        peer.expect_alive()
        with pytest.raises(queue.Empty):
            host.hung.get(timeout=0.05)
        host.soon(call.reply, b"")
        assert peer.answer(stream).data == b""
        with pytest.raises(Closed):
            peer.data_of(late)
        stopped.result(10)


def test_a_server_that_stops_takes_no_new_connection(make_host) -> None:
    host = make_host()
    with Peer(host.address) as peer:
        hang(peer, host)
        call = host.hung.get(timeout=10)
        stopped = host.stopping(30)
        goaway(peer)
        with pytest.raises(OSError, match="refused"), socket.create_connection(host.address, timeout=5):
            pass
        host.soon(call.reply, b"")
        stopped.result(10)


def test_an_idle_connection_does_not_hold_up_a_server_that_stops(make_host) -> None:
    host = make_host()
    with Peer(host.address) as served, Peer(host.address) as fresh, Peer(host.address, preface=False) as silent:
        served.expect_served()
        fresh.expect_alive()
        silent.wait(lambda _: True, "the server's settings")
        host.stopping(60).result(10)
        served.expect_end()
        fresh.expect_end()
        silent.expect_end()


def test_calls_that_outlast_the_grace_are_withdrawn(make_host) -> None:
    host = make_host()
    with Peer(host.address) as peer:
        stream = hang(peer, host)
        call = host.hung.get(timeout=10)
        host.stopping(0.05).result(10)
        assert host.withdrawn.get(timeout=10) is call
        answer = peer.answer(stream)
        assert answer.status in (UNAVAILABLE, CANCELLED) or answer.reset is not None
        peer.expect_end()


def test_streams_end_as_soon_as_the_server_stops(make_host) -> None:
    host = make_host()
    with Peer(host.address) as peer:
        stream = peer.open("/t.T/Chat")
        peer.send_message(stream, b"x")
        assert peer.data_of(stream) == h2.message(b"x")
        stopped = host.stopping(60)
        assert peer.answer(stream).status == UNAVAILABLE
        stopped.result(10)
        peer.expect_end()


def test_a_client_that_says_goaway_gets_its_running_answers(peer: Peer, host: Host) -> None:
    stream = hang(peer, host)
    call = host.hung.get(timeout=10)
    peer.send(h2.goaway(0, h2.NO_ERROR, b"bye"))
    peer.expect_alive()
    host.soon(call.reply, b"still")
    assert peer.answer(stream).data == b"still"


def test_a_client_that_says_goaway_twice_does_no_harm(peer: Peer) -> None:
    peer.send(h2.goaway(0, h2.NO_ERROR), h2.goaway(0, h2.INTERNAL_ERROR, b"\xff\xfe not text"))


def test_a_client_that_closes_its_side_is_answered_or_let_go(connect, host: Host) -> None:
    """Or the end of the connection, and its call withdrawn or answered in vain: what it does not do is wait for ever."""
    peer = connect()
    stream = hang(peer, host)
    call = host.hung.get(timeout=10)
    peer.socket.shutdown(socket.SHUT_WR)
    host.soon(call.reply, b"answer")
    with contextlib.suppress(Closed):
        assert peer.answer(stream).data == b"answer"
    peer.expect_end()


def test_a_connection_of_age_is_drained(make_host) -> None:
    host = make_host(max_age_s=0.2, max_age_grace_s=30.0)
    with Peer(host.address) as peer:
        stream = hang(peer, host)
        call = host.hung.get(timeout=10)
        assert goaway(peer).error_code == h2.NO_ERROR
        host.soon(call.reply, b"answer")
        assert peer.answer(stream).data == b"answer"
        peer.expect_end()
    with Peer(host.address) as another:
        another.expect_served()


def test_calls_that_outlast_the_grace_of_an_aged_connection_are_withdrawn(make_host) -> None:
    host = make_host(max_age_s=0.1, max_age_grace_s=0.1)
    with Peer(host.address) as peer:
        hang(peer, host)
        call = host.hung.get(timeout=10)
        assert host.withdrawn.get(timeout=10) is call
        peer.expect_end()


def test_a_connection_without_calls_is_closed_after_its_time(make_host) -> None:
    host = make_host(max_idle_s=0.1)
    with Peer(host.address) as peer, Peer(host.address) as busy:
        hang(busy, host)
        peer.expect_served()
        assert goaway(peer).error_code == h2.NO_ERROR
        peer.expect_end()
        busy.expect_alive()
        host.soon(host.hung.get(timeout=10).reply, b"")


def test_a_silent_connection_is_asked_for_a_sign_of_life(make_host) -> None:
    host = make_host(keepalive_s=0.1, keepalive_timeout_s=10.0)
    with Peer(host.address) as peer:
        for _ in range(2):
            asked = peer.wait(lambda frame: isinstance(frame, PingFrame), "a PING")
            assert "ACK" not in asked.flags
        peer.expect_served()


def test_a_connection_that_gives_no_sign_of_life_is_ended(make_host) -> None:
    host = make_host(keepalive_s=0.1, keepalive_timeout_s=0.2)
    with Peer(host.address) as peer:
        peer.acknowledges = False
        hang(peer, host)
        call = host.hung.get(timeout=10)
        peer.expect_end()
        assert host.withdrawn.get(timeout=10) is call
    host.settle(lambda: host.connections() == 0, "no connection left")


def test_too_many_pings_without_a_call_end_the_connection(make_host) -> None:
    """gRPC's keepalive rules: what asks for life without need is told `too_many_pings`."""
    host = make_host(max_ping_strikes=2)
    with Peer(host.address) as peer:
        for _ in range(10):
            peer.send(h2.ping())
        assert peer.expect_connection_error(h2.ENHANCE_YOUR_CALM) == "too_many_pings"


def test_pings_between_calls_are_no_strikes(make_host) -> None:
    host = make_host(max_ping_strikes=2)
    with Peer(host.address) as peer:
        for _ in range(20):
            peer.expect_alive()
            peer.expect_served()


@pytest.mark.parametrize("sent", [b"", h2.PREFACE[:10], h2.PREFACE, h2.PREFACE + b"\0\0"])
def test_a_preface_that_does_not_come_ends_the_connection(make_host, sent: bytes) -> None:
    host = make_host(handshake_timeout_s=0.2)
    with Peer(host.address, preface=False) as peer:
        peer.send(sent)
        peer.expect_end()


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(h2.frame(h2.PING, payload=b"", length=8)[:9], id="a frame without its content"),
        pytest.param(h2.ping()[:5], id="half a frame's head"),
        pytest.param(h2.headers(1, b"\x82", 0), id="a header block without its end"),
        pytest.param(h2.headers(1, b"\x82", 0) + h2.continuation(1, b"\x84", 0), id="with a continuation"),
    ],
)
def test_what_was_begun_must_be_finished_in_time(make_host, sent: bytes) -> None:
    host = make_host(header_timeout_s=0.2)
    with Peer(host.address) as peer:
        peer.expect_alive()
        peer.send(sent)
        peer.expect_end()


def test_a_body_may_take_its_time(make_host) -> None:
    """Only its deadline bounds a call: a slow sender is no attacker by itself."""
    host = make_host(header_timeout_s=0.1, handshake_timeout_s=0.1, stall_timeout_s=0.1)
    with Peer(host.address) as peer:
        stream = peer.open()
        peer.send(h2.data(stream, h2.message(b"abc")[:6]))
        with pytest.raises(queue.Empty):
            host.hung.get(timeout=0.5)
        peer.send(h2.data(stream, b"bc", h2.END_STREAM))
        assert peer.answer(stream).data == b"abc"
