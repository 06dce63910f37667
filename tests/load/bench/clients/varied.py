"""A gRPC client whose calls are never alike: each carries a deadline, a request id and a trace id of its own.

    python varied.py <host:port> <path> <file of the message> <concurrency> <seconds>

Clients in use set deadlines and pass ids on, so that no two header blocks are the same bytes: their encoders put the new
values into the compression table and push old ones out. The blocks here come from a real encoder (`hpack`, Huffman coding and
incremental indexing as Go's and Java's clients have them), made before the measurement, because encoding costs more than
the server does. The calls in flight share up to eight connections. Answers are counted by their frames: a call that ends
without a message is an error.
"""

import asyncio
import json
import random
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import uvloop
from hpack import Encoder

from tests.load.bench.figures import percentile

CONNECTIONS = 8
WARM_S = 0.3
BLOCKS = 16_000
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_LARGEST_FRAME, _WINDOW, _LARGEST_WINDOW = 16_384, 65_535, 2**31 - 1
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def header_blocks(path: str, authority: str, count: int, seed: int = 0) -> list[bytes]:
    """Blocks of consecutive calls on one connection."""
    encoder, chance = Encoder(), random.Random(seed)  # noqa: S311 - ids that only differ
    same = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", authority)]
    same += [("te", "trailers"), ("content-type", "application/grpc"), ("user-agent", "bench-varied/1.0")]
    blocks = []
    for _ in range(count):
        trace, span, call = (chance.getrandbits(bits) for bits in (128, 64, 64))
        differs = [
            ("grpc-timeout", f"{chance.randrange(4_000_000, 5_000_000)}u"),
            ("x-request-id", f"{call:016x}"),
            ("traceparent", f"00-{trace:032x}-{span:016x}-01"),
        ]
        blocks.append(encoder.encode(same + differs))
    return blocks


class Tally:
    """The calls that ended within the measured window, and how many did at all."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.errors = 0
        self.answered = 0
        self.counting = False
        self.stopped = False


class Connection(asyncio.Protocol):
    """Keeps `calls` under way. Opens no more when the blocks are used up: the owner opens another connection."""

    def __init__(self, blocks: Sequence[bytes], message: bytes, calls: int, tally: Tally) -> None:
        self._blocks = blocks
        self._data = frame(_DATA, _END_STREAM, 0, b"\0" + len(message).to_bytes(4, "big") + message)
        self._cost = len(message) + 5
        self._calls = calls
        self._tally = tally
        self._sent = 0
        self._waiting = 0
        self._window = _WINDOW
        self._rest = b""
        self._began: dict[int, float] = {}
        self._answered: set[int] = set()
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are one in all but name
        settings = struct.pack(">HIHI", 2, 0, 4, _LARGEST_WINDOW)
        opening = frame(_WINDOW_UPDATE, 0, 0, (_LARGEST_WINDOW - _WINDOW).to_bytes(4, "big"))
        self._transport.write(_PREFACE + frame(_SETTINGS, 0, 0, settings) + opening + b"".join(self._open(self._calls)))

    def connection_lost(self, error: Exception | None) -> None:
        if not self._tally.stopped:
            self._tally.errors += len(self._began)
        if not self.closed.done():
            self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        data, position, ended = self._rest + data, 0, 0
        out: list[bytes] = []
        while len(data) - position >= 9:
            end = position + 9 + int.from_bytes(data[position : position + 3], "big")
            if end > len(data):
                break
            kind, flags = data[position + 3], data[position + 4]
            stream = int.from_bytes(data[position + 5 : position + 9], "big")
            if kind == _DATA:
                self._answered.add(stream)
            if kind <= _HEADERS:
                if flags & _END_STREAM:
                    ended += self._end(stream)
            elif kind == _RST_STREAM:
                ended += self._end(stream)
            else:
                self._control(kind, flags, stream, data[position + 9 : end], out)
            position = end
        self._rest = data[position:]
        out += self._open(ended + self._waiting)
        if out:
            self._transport.write(b"".join(out))
        if not self._began and self._sent >= len(self._blocks):
            self._transport.close()

    def _control(self, kind: int, flags: int, stream: int, payload: bytes, out: list[bytes]) -> None:
        if kind == _SETTINGS and not flags & _ACK:
            out.append(frame(_SETTINGS, _ACK, 0))
        elif kind == _PING and not flags & _ACK:
            out.append(frame(_PING, _ACK, 0, payload))
        elif kind == _WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload, "big")
        elif kind == _GOAWAY:
            self._sent = len(self._blocks)

    def _open(self, count: int) -> list[bytes]:
        """Frames of as many calls as the window lets out; the others wait for it to open."""
        out: list[bytes] = []
        now = time.perf_counter()
        self._waiting = 0
        for left in range(count, 0, -1):
            if self._sent >= len(self._blocks) or self._tally.stopped:
                break
            if self._window < self._cost:
                self._waiting = left
                break
            self._window -= self._cost
            stream = 2 * self._sent + 1
            name = stream.to_bytes(4, "big")
            block = self._blocks[self._sent]
            out += (len(block).to_bytes(3, "big"), b"\1\4", name, block, self._data[:5], name, self._data[9:])
            self._sent += 1
            self._began[stream] = now
        return out

    def _end(self, stream: int) -> int:
        """Count a call that ended: 1, or 0 where it had ended before."""
        began = self._began.pop(stream, None)
        if began is None:
            return 0
        self._tally.answered += 1
        if self._tally.counting:
            self._tally.times.append(time.perf_counter() - began)
            self._tally.errors += stream not in self._answered
        self._answered.discard(stream)
        return 1


async def keep_open(
    address: tuple[str, int], blocks: Sequence[bytes], message: bytes, calls: int, tally: Tally
) -> None:
    loop = asyncio.get_running_loop()
    while not tally.stopped:
        _, connection = await loop.create_connection(lambda: Connection(blocks, message, calls, tally), *address)
        await connection.closed


async def measure(authority: str, path: str, message: bytes, concurrency: int, seconds: float) -> None:
    if len(message) + 5 > _LARGEST_FRAME:
        raise ValueError(
            f"Expected a message of one frame, at most {_LARGEST_FRAME - 5} bytes. Received: {len(message)}"
        )
    host, _, port = authority.rpartition(":")
    blocks, tally = header_blocks(path, authority, BLOCKS), Tally()
    connections = min(CONNECTIONS, concurrency)
    shares = [concurrency // connections + (index < concurrency % connections) for index in range(connections)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(keep_open((host, int(port)), blocks, message, share, tally)) for share in shares]
        await asyncio.sleep(WARM_S)
        tally.counting, began = True, time.perf_counter()
        await asyncio.sleep(seconds)
        tally.counting, elapsed = False, time.perf_counter() - began
        tally.stopped = True
        for task in tasks:
            task.cancel()
    times = sorted(1000 * value for value in tally.times)
    figures = {
        "requests": len(times),
        "seconds": elapsed,
        "errors": tally.errors,
        "p50_ms": percentile(times, 0.5),
        "p99_ms": percentile(times, 0.99),
        "answered": tally.answered,
    }
    sys.stdout.write(f"FIGURES {json.dumps(figures)}\n")


if __name__ == "__main__":
    where, method, body, at_once, duration = sys.argv[1:6]
    uvloop.run(measure(where, method, Path(body).read_bytes(), int(at_once), float(duration)))
