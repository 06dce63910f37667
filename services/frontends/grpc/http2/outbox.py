"""Who has something to write: a server's connections, each of which writes once what it was told in one turn of the loop."""

import asyncio
from typing import Protocol

from services.telemetry.log import get_logger

_log = get_logger("cornet.grpc")


class Writer(Protocol):
    """One connection's sending half."""

    def flush(self) -> None:
        """Hand everything written so far to the socket."""

    def abort(self) -> None:
        """Drop the connection."""


class Outbox:
    """Writers wait here until the turn of the event loop ends, or until `flush`.

    Who answers many calls at once flushes: a turn ends only after the requests that have come meanwhile are read, and the
    answers would wait for that, and for the next run.
    """

    __slots__ = ("_due",)

    def __init__(self) -> None:
        self._due: list[Writer] = []

    def add(self, writer: Writer, loop: asyncio.AbstractEventLoop) -> None:
        """Have the writer flushed."""
        if not self._due:
            loop.call_soon(self.flush)
        self._due.append(writer)

    def flush(self) -> None:
        """Flush all who wait. One that fails costs its own connection only."""
        due, self._due = self._due, []
        for writer in due:
            try:
                writer.flush()
            except Exception as error:  # noqa: BLE001 - logged; the others' answers must go out
                _log.error("a gRPC connection could not be written to", cause=error)
                writer.abort()
