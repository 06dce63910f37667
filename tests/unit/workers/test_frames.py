import asyncio
import socket

import pytest

from services.workers import frames
from services.workers.frames import Frame


def read_all(data: bytes) -> list[Frame | None]:
    async def read() -> list[Frame | None]:
        stream = asyncio.StreamReader()
        stream.feed_data(data)
        stream.feed_eof()
        found = []
        while (frame := await frames.read(stream)) is not None:
            found.append(frame)
        return [*found, None]

    return asyncio.run(read())


def test_frames_come_out_as_they_went_in() -> None:
    data = frames.encode("part", b"\x00\xff", worker=1, presence="late") + frames.encode("end")

    assert read_all(data) == [
        Frame({"kind": "part", "worker": 1, "presence": "late"}, b"\x00\xff"),
        Frame({"kind": "end"}, b""),
        None,
    ]


def test_half_a_frame_is_the_end() -> None:
    assert read_all(frames.encode("part", b"12345")[:-1]) == [None]


def test_the_first_frame_can_be_read_without_a_loop() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(frames.encode("boot", b"snapshot", worker=3))

        frame = frames.read_blocking(theirs)

    assert (frame.kind, frame.head["worker"], frame.body) == ("boot", 3, b"snapshot")


def test_a_supervisor_that_has_gone_is_noticed_without_a_loop() -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    with theirs, pytest.raises(EOFError):
        frames.read_blocking(theirs)
