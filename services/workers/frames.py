"""What a supervisor and its workers say to each other: frames, each a small JSON head and a body of any bytes.

    supervisor > worker     boot: what to serve, and what its predecessor had counted
    worker > supervisor     ready | failed: how the start went
    supervisor > worker     ask: for a snapshot
    worker > supervisor     snapshot: of what it has counted, asked for or the last one
    worker > supervisor     collect: a scrape has come; its own snapshot is the body
    supervisor > worker     part, part, ..., end: the others' snapshots, and what the supervisor knows

A frame is two big-endian u32, the lengths of head and body, and both of them.
"""

import asyncio
import json
import socket
import struct
from typing import Any, NamedTuple

_LENGTHS = struct.Struct(">II")


class Frame(NamedTuple):
    head: dict[str, Any]
    body: bytes

    @property
    def kind(self) -> str:
        return str(self.head["kind"])


def encode(kind: str, body: bytes = b"", **head: Any) -> bytes:
    """A whole frame; `head` holds what JSON can say."""
    text = json.dumps({"kind": kind, **head}).encode()
    return b"".join((_LENGTHS.pack(len(text), len(body)), text, body))


async def read(stream: asyncio.StreamReader) -> Frame | None:
    """The next frame; None once the other end has gone."""
    try:
        head, body = _LENGTHS.unpack(await stream.readexactly(_LENGTHS.size))
        return Frame(json.loads(await stream.readexactly(head)), await stream.readexactly(body))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def read_blocking(channel: socket.socket) -> Frame:
    """The first frame, before there is a loop. Raises EOFError where the other end has gone."""
    head, body = _LENGTHS.unpack(_receive(channel, _LENGTHS.size))
    return Frame(json.loads(_receive(channel, head)), _receive(channel, body))


def _receive(channel: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        received = channel.recv(length - len(data))
        if not received:
            raise EOFError("the supervisor has gone")
        data += received
    return bytes(data)
