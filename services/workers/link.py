"""A worker's end of the channel to its supervisor."""

import asyncio
import socket
from contextlib import suppress
from itertools import count
from typing import Any, Self

import orjson

from services.errors import Unavailable
from services.telemetry.log import get_logger
from services.telemetry.merged import Collection
from services.telemetry.metrics import Metrics
from services.telemetry.snapshot import Part, Presence, Snapshot, absorb, is_understood
from services.workers import frames
from services.workers.frames import Frame

_COLLECT_S = 3.0
"""How long a scrape waits for the supervisor, which itself waits a shorter time for the workers."""

_log = get_logger("cornet.worker")


class Link:
    """Says how the start went, hands out snapshots, and asks for the others' when a scrape comes (`Peers`).

        link = await Link.open(channel, number, metrics, started)
        link.say("ready", grpc="127.0.0.1:8500")
        collection = await link.collect()
        await link.close()

    `collect` raises Unavailable where the supervisor does not answer: a page of this process alone would have every
    counter fall, and a failed scrape says it better.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, worker: int, metrics: Metrics, started: float
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._worker = worker
        self._metrics = metrics
        self._started = started
        self._scrapes: dict[int, _Scrape] = {}
        self._numbers = count(1)
        self._listening = asyncio.create_task(self._listen(), name="link")

    @classmethod
    async def open(cls, channel: socket.socket, worker: int, metrics: Metrics, started: float) -> Self:
        reader, writer = await asyncio.open_unix_connection(sock=channel)
        return cls(reader, writer, worker, metrics, started)

    def say(self, kind: str, body: bytes = b"", **head: Any) -> None:
        """Send a frame; none where the supervisor has gone."""
        if not self._writer.is_closing():
            self._writer.write(frames.encode(kind, body, **head))

    async def collect(self) -> Collection:
        own = self._metrics.snapshot()
        number = next(self._numbers)
        scrape = self._scrapes[number] = _Scrape()
        # The supervisor keeps our snapshot too: what this page says must not be unsaid if this process dies next.
        self.say("collect", orjson.dumps(own), id=number)
        if self._listening.done():
            scrape.give_up()
        try:
            async with asyncio.timeout(_COLLECT_S):
                end = await scrape.ended
        except TimeoutError:
            end = None
        finally:
            del self._scrapes[number]
        if end is None:
            raise Unavailable("Expected the supervisor to collect what the workers have counted. Received: no answer.")
        here = Part(self._worker, Presence.LIVE, own)
        parts = sorted((here, *scrape.parts), key=lambda part: part.worker)
        return Collection(parts, end.head["restarts"], self._started)

    async def close(self) -> None:
        """Leave the last snapshot with the supervisor, and hang up."""
        self._say_snapshot()
        self._listening.cancel()
        self._writer.close()
        with suppress(OSError):  # the supervisor may have gone first
            await self._writer.wait_closed()

    def _say_snapshot(self) -> None:
        self.say("snapshot", orjson.dumps(self._metrics.snapshot()))

    async def _listen(self) -> None:
        while (frame := await frames.read(self._reader)) is not None:
            if frame.kind == "ask":
                self._say_snapshot()
            elif (scrape := self._scrapes.get(frame.head["id"])) is not None:
                scrape.take(frame)
        for scrape in self._scrapes.values():
            scrape.give_up()


class _Scrape:
    """A scrape that waits for the others' parts."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.ended: asyncio.Future[Frame | None] = asyncio.get_running_loop().create_future()

    def take(self, frame: Frame) -> None:
        if frame.kind == "part":
            head = frame.head
            self.parts.append(Part(head["worker"], Presence(head["presence"]), read_snapshot(frame.body)))
        elif not self.ended.done():
            self.ended.set_result(frame)

    def give_up(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


def read_snapshot(data: bytes) -> Snapshot | None:
    """A worker's snapshot; None where there is none, or one of another version of cornet."""
    if not data:
        return None
    snapshot = orjson.loads(data)
    if is_understood(snapshot):
        return dict(snapshot)
    _log.warning("a worker of another version of cornet counts in another way; its counts are left out")
    return None


def inherit(metrics: Metrics, data: bytes) -> None:
    """Go on counting where the predecessor ended."""
    snapshot = read_snapshot(data)
    if snapshot is not None:
        absorb(metrics.tables, snapshot)
