import asyncio
import socket

import orjson
import pytest

from services.errors import Unavailable
from services.telemetry.metrics import Metrics
from services.telemetry.snapshot import Presence
from services.workers import frames
from services.workers.link import Link, inherit


def failing() -> Metrics:
    """A process that has counted one failed load."""
    metrics = Metrics(gpus=False)
    metrics.track_load_failure("m")
    return metrics


async def open_link(metrics: Metrics) -> tuple[Link, asyncio.StreamReader, asyncio.StreamWriter]:
    """A worker's link, and the supervisor's end of it."""
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    return await Link.open(theirs, 1, metrics, 5.0), reader, writer


async def next_frame(reader: asyncio.StreamReader) -> frames.Frame:
    frame = await frames.read(reader)
    assert frame is not None
    return frame


def test_a_scrape_has_the_parts_of_all_in_the_order_of_their_numbers() -> None:
    async def scenario() -> None:
        link, reader, writer = await open_link(failing())
        collecting = asyncio.create_task(link.collect())
        number = (await next_frame(reader)).head["id"]
        body = orjson.dumps(failing().snapshot())
        writer.write(frames.encode("part", b"", id=number, worker=2, presence="gone"))
        writer.write(frames.encode("part", body, id=number, worker=0, presence="late"))
        writer.write(frames.encode("end", id=number, restarts=[1, 0, 2]))

        collection = await collecting

        presences = [(part.worker, part.presence) for part in collection.parts]
        assert presences == [(0, Presence.LATE), (1, Presence.LIVE), (2, Presence.GONE)]
        assert collection.tables().load_failures == {"m": 2}
        assert (collection.restarts, collection.started) == ([1, 0, 2], 5.0)
        writer.close()
        await link.close()

    asyncio.run(scenario())


def test_the_supervisor_is_left_what_a_scrape_says_before_the_page_is_written() -> None:
    async def scenario() -> None:
        link, reader, writer = await open_link(failing())
        collecting = asyncio.create_task(link.collect())

        frame = await next_frame(reader)

        assert frame.kind == "collect"
        assert orjson.loads(frame.body)["load_failures"] == {"m": 1}
        assert not collecting.done()
        collecting.cancel()
        writer.close()
        await link.close()

    asyncio.run(scenario())


def test_a_scrape_fails_where_the_supervisor_has_gone() -> None:
    async def scenario() -> None:
        link, _, writer = await open_link(failing())
        collecting = asyncio.create_task(link.collect())
        await asyncio.sleep(0)
        writer.close()
        with pytest.raises(Unavailable, match="Expected the supervisor"):
            await collecting
        await link.close()

    asyncio.run(scenario())


def test_the_last_snapshot_is_left_with_the_supervisor() -> None:
    async def scenario() -> None:
        link, reader, writer = await open_link(failing())
        await link.close()

        frame = await next_frame(reader)

        assert frame.kind == "snapshot"
        assert orjson.loads(frame.body)["load_failures"] == {"m": 1}
        assert await frames.read(reader) is None
        writer.close()

    asyncio.run(scenario())


def test_a_predecessor_of_another_version_leaves_nothing() -> None:
    metrics = Metrics(gpus=False)

    inherit(metrics, b"")
    inherit(metrics, b'{"format": [0]}')
    assert metrics.tables.load_failures == {}

    inherit(metrics, orjson.dumps(failing().snapshot()))
    assert metrics.tables.load_failures == {"m": 1}
