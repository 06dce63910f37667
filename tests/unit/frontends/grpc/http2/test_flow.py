"""Answers under the client's windows: whose turn it is, and what the socket is given at once."""

from collections import deque
from dataclasses import dataclass, field

import pytest
from hpack import Decoder

from services.frontends.grpc.http2.flow import Sender
from services.frontends.grpc.http2.frames import DATA, HEAD, HEADERS, MAX_WINDOW, RST_STREAM
from services.frontends.grpc.http2.limits import Limits
from services.frontends.grpc.http2.outbox import Outbox

QUANTUM = 2**16
BIG = b"x" * 300_000


class Socket:
    """A transport that keeps what it is given."""

    def __init__(self) -> None:
        self.given = bytearray()
        self.waiting = 0
        self.reading = True

    def write(self, data: bytes) -> None:
        self.given += data

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def pause_reading(self) -> None:
        self.reading = False


class Loop:
    """Runs nothing: what was put off is for the test to flush."""

    def call_soon(self, callback: object) -> None:
        pass


@dataclass
class Stream:
    sid: int
    send_window: int = MAX_WINDOW
    pending: deque[memoryview] | None = None
    backlog: int = 0
    tail: bytes | None = None
    queued: bool = False
    waits: bool = False
    remote_closed: bool = True
    room: list[bool] = field(default_factory=list)

    def drained(self) -> None:
        self.room.append(True)


class Answers:
    """A sender with open streams 1, 3, 5 and a wide window, and what it wrote, as (kind, stream, payload)."""

    def __init__(self, window: int = MAX_WINDOW) -> None:
        self.socket = Socket()
        self.streams = {sid: Stream(sid) for sid in (1, 3, 5)}
        self.sender = Sender(self.socket, Loop(), self.streams, Limits(), Outbox())  # type: ignore[arg-type] # as much as it needs
        self.sender.window = window

    def frames(self) -> list[tuple[int, int, bytes]]:
        self.sender.flush()
        data, seen, at = bytes(self.socket.given), [], 0
        while at < len(data):
            word, _, sid = HEAD.unpack_from(data, at)
            end = at + HEAD.size + (word >> 8)
            seen.append((word & 0xFF, sid, data[at + HEAD.size : end]))
            at = end
        self.socket.given.clear()
        return seen


def data_of(frames: list[tuple[int, int, bytes]], sid: int) -> bytes:
    return b"".join(payload for kind, stream, payload in frames if kind == DATA and stream == sid)


def test_answers_of_one_turn_are_one_write_and_cost_few_bytes_after_the_first() -> None:
    answers, decoder = Answers(), Decoder()
    for sid, size, request_id in ((1, 5, "a"), (3, 5000, "b"), (5, 5, "c" * 128)):
        answers.sender.answer(Stream(sid), b"x" * size, request_id.encode())
    seen = answers.frames()
    blocks = [decoder.decode(payload) for kind, _, payload in seen if kind == HEADERS]
    head, ends = [(":status", "200"), ("content-type", "application/grpc")], [("grpc-status", "0")]
    assert blocks[::2] == [head] * 3
    assert blocks[1::2] == [[*ends, ("x-request-id", it)] for it in ("a", "b", "c" * 128)]
    assert data_of(seen, 3) == b"\0\0\0\x13\x88" + b"x" * 5000
    assert len(seen[3][2]) == 2
    assert answers.streams == {}


def test_large_answers_take_turns() -> None:
    answers = Answers(window=3 * QUANTUM)
    for sid in (1, 3):
        answers.sender.answer(answers.streams[sid], BIG, b"r")
    seen = answers.frames()
    assert (len(data_of(seen, 1)), len(data_of(seen, 3))) == (3 * QUANTUM, 0)
    answers.sender.enlarge(4 * QUANTUM)
    seen = answers.frames()
    assert (len(data_of(seen, 1)), len(data_of(seen, 3))) == (
        len(BIG) + 5 - 3 * QUANTUM,
        2 * QUANTUM + 3 * QUANTUM - (len(BIG) + 5) + 2 * QUANTUM,
    )


def test_a_stream_without_a_window_does_not_hold_up_others() -> None:
    answers = Answers()
    answers.streams[1].send_window = 0
    for sid in (1, 3):
        answers.sender.answer(answers.streams[sid], b"x" * 20_000, b"r")
    seen = answers.frames()
    assert (len(data_of(seen, 1)), len(data_of(seen, 3))) == (0, 20_005)
    assert answers.sender.enlarge_stream(answers.streams[1], 20_005)
    assert len(data_of(answers.frames(), 1)) == 20_005


def test_a_window_may_become_negative_and_is_waited_for() -> None:
    answers = Answers()
    stream = answers.streams[1]
    stream.send_window = 65_535
    answers.sender.answer(stream, BIG, b"r")
    assert len(data_of(answers.frames(), 1)) == 65_535
    assert answers.sender.change_initial_window(0)
    assert stream.send_window == -65_535
    answers.sender.enlarge_stream(stream, 65_535)
    assert answers.frames() == []
    answers.sender.enlarge_stream(stream, 1)
    assert len(data_of(answers.frames(), 1)) == 1


@pytest.mark.parametrize("widen", [lambda it: it.enlarge(1), lambda it: it.enlarge_stream(it.streams[1], 1)])
def test_a_window_has_an_end(widen) -> None:
    assert not widen(Answers().sender)


def test_a_full_socket_is_given_no_more_of_large_answers_and_nothing_is_read_from_it() -> None:
    answers = Answers()
    answers.sender.paused = True
    answers.sender.answer(answers.streams[1], BIG, b"r")
    answers.socket.waiting = Limits().max_unread_bytes + 1
    assert data_of(answers.frames(), 1) == b""
    assert not answers.socket.reading
    answers.sender.resume()
    assert len(data_of(answers.frames(), 1)) == len(BIG) + 5


def test_frames_are_as_large_as_the_client_takes() -> None:
    answers = Answers()
    answers.sender.max_frame_bytes = 20_000
    answers.sender.answer(answers.streams[1], b"x" * 50_000, b"r")
    sizes = [len(payload) for kind, _, payload in answers.frames() if kind == DATA]
    assert sizes == [20_000, 20_000, 10_005]


def test_what_waits_is_forgotten_with_its_stream() -> None:
    answers = Answers(window=0)
    stream = answers.streams[1]
    answers.sender.answer(stream, BIG, b"r")
    answers.sender.reset(stream, 8)
    assert answers.sender.backlog == 0
    answers.sender.enlarge(MAX_WINDOW)
    assert [kind for kind, _, _ in answers.frames()] == [HEADERS, RST_STREAM]


def test_a_stream_of_messages_is_told_when_there_is_room() -> None:
    answers = Answers(window=0)
    stream = answers.streams[1]
    answers.sender.start(stream)
    answers.sender.push(stream, b"one")
    assert stream.room == []
    answers.sender.enlarge(8)
    assert stream.room == [True]
    assert data_of(answers.frames(), 1) == b"\0\0\0\0\3one"


def test_a_client_with_a_small_table_gets_literals_after_one_update() -> None:
    answers, decoder = Answers(), Decoder()
    decoder.max_allowed_table_size = 0
    answers.sender.responses.resize(0)
    for sid in (1, 3):
        answers.sender.answer(answers.streams[sid], b"x", b"r")
    blocks = [payload for kind, _, payload in answers.frames() if kind == HEADERS]
    assert [block[:1] == b"\x20" for block in blocks] == [True, False, False, False]
    assert [decoder.decode(block)[-1] for block in blocks][3] == ("x-request-id", "r")


def test_trailers_that_wait_need_no_table() -> None:
    """Another answer's may be sent before them."""
    answers, decoder = Answers(window=25_000), Decoder()
    answers.sender.answer(answers.streams[1], b"x" * 30_000, b"late")
    answers.sender.enlarge(100)
    answers.sender.fail(answers.streams[3], 3, "no")
    answers.sender.enlarge(10**6)
    answers.sender.answer(answers.streams[5], b"", b"early")
    ends = [decoder.decode(payload)[-1][1] for kind, _, payload in answers.frames() if kind == HEADERS]
    assert ends == ["application/grpc", "no", "late", "application/grpc", "early"]
