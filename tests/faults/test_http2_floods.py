"""Floods of frames against a running server: the attacker is cut off or gets nowhere, an honest client is served meanwhile
and afterwards, and nothing is left behind.
"""

import select
import socket
import struct
from collections.abc import Callable, Iterator
from itertools import count, islice

import http2_frames as h2
import pytest
from grpc_host import Host
from http2_peer import Closed, Peer, request_fields
from hyperframe.frame import GoAwayFrame

CHUNK = 50
"""Parts sent between two looks at what the server says."""


@pytest.fixture
def victim() -> Iterator[Host]:
    """A server of the attack's own, with the bounds everybody gets."""
    with Host("native") as host:
        tasks, objects = host.tasks(), host.connection_objects()
        yield host
        host.settle(lambda: host.unfinished == 0, "no call left over")
        host.forget()
        host.settle(lambda: host.connections() == 0, "no connection left over")
        host.settle(lambda: host.tasks() <= tasks, "no task left over")
        host.settle(lambda: host.connection_objects() <= objects, "no connection's memory left over")
        with Peer(host.address) as honest:
            honest.expect_served()
        assert host.problems == []


@pytest.fixture
def honest(victim: Host) -> Iterator[Peer]:
    """Somebody else's connection, opened before the attack."""
    with Peer(victim.address) as peer:
        peer.expect_served()
        yield peer
        peer.expect_served()


@pytest.fixture
def attacker(victim: Host, honest: Peer) -> Iterator[Peer]:
    with Peer(victim.address) as peer:
        peer.expect_alive()
        yield peer


def flood(attacker: Peer, honest: Peer, parts: Iterator[bytes], *, most: int, reads: bool = True) -> str:
    """Send the parts, at most so many, until the server ends the connection. The honest client is served meanwhile.

    Returns `ended`, by the server; `blocked`, where the server no longer reads; `spent`, where it has taken in all of it.
    """
    attacker.socket.settimeout(2)
    for sent in range(0, most, CHUNK):
        if sent % (20 * CHUNK) == 0:
            honest.expect_served()
        try:
            if not attacker.send(*islice(parts, CHUNK)) or (reads and is_over(attacker)):
                return "ended"
        except TimeoutError:
            return "blocked"
    try:
        attacker.expect_alive()
    except Closed:
        return "ended"
    return "spent"


def is_over(attacker: Peer) -> bool:
    """Take in what the server has said by now. Whether it has ended the connection."""
    while select.select([attacker.socket], [], [], 0)[0]:
        try:
            attacker.pump("anything")
        except Closed:
            return True
    over = any(isinstance(frame, GoAwayFrame) for frame in attacker.backlog)
    if not over:
        attacker.backlog.clear()
    return over


def opening(attacker: Peer, method: str) -> tuple[int, bytes]:
    stream = attacker.next_stream()
    return stream, h2.headers(stream, attacker.encode(request_fields(method)))


def rapid_reset(attacker: Peer) -> Iterator[bytes]:
    """CVE-2023-44487: streams that are reset before they count as open."""
    while True:
        stream, start = opening(attacker, "/t.T/Hang")
        yield start + h2.data(stream, h2.message(b""), h2.END_STREAM) + h2.rst_stream(stream)


def reset_of_streams_without_a_message(attacker: Peer) -> Iterator[bytes]:
    while True:
        stream, start = opening(attacker, "/t.T/Chat")
        yield start + h2.rst_stream(stream)


def made_you_reset(attacker: Peer) -> Iterator[bytes]:
    """CVE-2025-8671: the server itself is made to reset, by an error in each stream."""
    while True:
        stream, start = opening(attacker, "/t.T/Hang")
        yield start + h2.data(stream, h2.message(b""), h2.END_STREAM) + h2.window_update(stream, 0)


def malformed_requests(attacker: Peer) -> Iterator[bytes]:
    while True:
        stream = attacker.next_stream()
        yield h2.headers(stream, attacker.encode([(":method", "POST"), ("Upper", "x")]), h2.END_HEADERS)


def settings(attacker: Peer) -> Iterator[bytes]:
    while True:
        yield h2.settings((h2.INITIAL_WINDOW_SIZE, 1000))


def pings(attacker: Peer) -> Iterator[bytes]:
    """With calls between, so that they are no strikes of keepalive's rules."""
    while True:
        stream, start = opening(attacker, "/t.T/Echo")
        yield start + h2.data(stream, h2.message(b""), h2.END_STREAM) + 20 * h2.ping()


def empty_data(attacker: Peer) -> Iterator[bytes]:
    stream, start = opening(attacker, "/t.T/Total")
    yield start
    while True:
        yield 20 * h2.data(stream)


def padding_alone(attacker: Peer) -> Iterator[bytes]:
    stream, start = opening(attacker, "/t.T/Total")
    yield start
    while True:
        yield 20 * h2.padded(h2.DATA, stream, b"", 3)


def priorities(attacker: Peer) -> Iterator[bytes]:
    for number in count(1, 2):
        yield 20 * h2.priority(number, 0)


def unknown_frames(attacker: Peer) -> Iterator[bytes]:
    while True:
        yield 20 * h2.frame(0x42, 0, 0, b"x")


def window_updates(attacker: Peer) -> Iterator[bytes]:
    while True:
        yield 20 * h2.window_update(0, 1)


def window_updates_of_a_stream(attacker: Peer) -> Iterator[bytes]:
    stream, start = opening(attacker, "/t.T/Hang")
    yield start
    while True:
        yield 20 * h2.window_update(stream, 1)


def empty_continuations(attacker: Peer) -> Iterator[bytes]:
    """CVE-2024-27316 and its like."""
    yield h2.headers(attacker.next_stream(), b"\x82", 0)
    while True:
        yield h2.continuation(1, b"", 0)


def long_continuations(attacker: Peer) -> Iterator[bytes]:
    yield h2.headers(attacker.next_stream(), b"\x82", 0)
    while True:
        yield h2.continuation(1, b"\x82" * 10_000, 0)


CUT_OFF = [
    rapid_reset,
    reset_of_streams_without_a_message,
    made_you_reset,
    malformed_requests,
    settings,
    pings,
    empty_data,
    padding_alone,
    priorities,
    unknown_frames,
    window_updates,
    window_updates_of_a_stream,
    empty_continuations,
    long_continuations,
]


@pytest.mark.parametrize("attack", CUT_OFF, ids=lambda attack: attack.__name__)
def test_a_flood_costs_the_attacker_its_connection(
    attacker: Peer, honest: Peer, victim: Host, attack: Callable[[Peer], Iterator[bytes]]
) -> None:
    assert flood(attacker, honest, attack(attacker), most=5000) == "ended"
    attacker.expect_connection_error(h2.ENHANCE_YOUR_CALM)


def acknowledgements(attacker: Peer) -> Iterator[bytes]:
    while True:
        yield h2.settings_ack() + h2.ping(flags=h2.ACK)


def late_frames(attacker: Peer) -> Iterator[bytes]:
    """On a stream that has ended."""
    stream, start = opening(attacker, "/t.T/Nope")
    yield start + h2.data(stream, b"", h2.END_STREAM)
    while True:
        yield h2.rst_stream(stream) + h2.window_update(stream, 1)


def goodbyes(attacker: Peer) -> Iterator[bytes]:
    while True:
        yield h2.goaway(0, h2.NO_ERROR, b"x" * 100)


@pytest.mark.parametrize("attack", [acknowledgements, late_frames, goodbyes], ids=lambda attack: attack.__name__)
def test_a_flood_that_costs_the_server_nothing_harms_nobody(
    attacker: Peer, honest: Peer, victim: Host, attack: Callable[[Peer], Iterator[bytes]]
) -> None:
    assert flood(attacker, honest, attack(attacker), most=5000) in {"ended", "spent"}


@pytest.mark.parametrize("attack", [settings, pings], ids=lambda attack: attack.__name__)
def test_a_flood_whose_answers_nobody_reads_is_stopped(
    victim: Host, honest: Peer, attack: Callable[[Peer], Iterator[bytes]]
) -> None:
    """CVE-2019-9512 and 9515: answers that pile up in memory."""
    with Peer(victim.address, receive_buffer_bytes=4096) as attacker:
        assert flood(attacker, honest, attack(attacker), most=50_000, reads=False) in {"ended", "blocked"}


def test_a_client_that_cancels_some_of_its_calls_is_no_attacker(attacker: Peer, honest: Peer, victim: Host) -> None:
    for _ in range(200):
        stream = attacker.open("/t.T/Hang")
        attacker.send_message(stream, b"", end=True)
        attacker.send(h2.rst_stream(stream))
        attacker.expect_served()


def test_connections_that_break_in_the_middle_leave_nothing(victim: Host, honest: Peer) -> None:
    """By a TCP reset, at every byte of a whole call."""
    with Peer(victim.address, preface=False) as template:
        stream, start = opening(template, "/t.T/Hang")
        whole = h2.PREFACE + h2.settings() + start + h2.data(stream, h2.message(b"abc"), h2.END_STREAM)
    for cut in range(0, len(whole), 3):
        with Peer(victim.address, preface=False) as broken:
            broken.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            broken.send(whole[:cut])
    honest.expect_served()
