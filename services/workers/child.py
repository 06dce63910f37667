"""One worker process, as its supervisor sees it."""

import asyncio
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from typing import Any, Self

from services.workers import frames
from services.workers.frames import Frame
from services.workers.interpreter import command


class Child:
    """A fresh interpreter that serves. It ends by itself when this process does.

        child = await Child.start(0, lifeline, boot, snapshot, on_frame)
        status = await child.ended()       # its last frames have been seen by then
        child.send("ask")
        child.signal(signal.SIGTERM)

    `on_frame(child, frame)` is called for each frame it sends. `ready_at` is its owner's to set, None before.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        on_frame: Callable[["Child", Frame], None],
    ) -> None:
        self.process = process
        self.ready_at: float | None = None
        self.failure = ""
        self.answered: asyncio.Future[None] | None = None
        """Done with the next snapshot; None where none was asked for."""
        self._writer = writer
        self._listening = asyncio.create_task(self._listen(reader, on_frame))

    @classmethod
    async def start(
        cls, lifeline: int, boot: dict[str, Any], body: bytes, on_frame: Callable[["Child", Frame], None]
    ) -> Self:
        """Start the process; `lifeline` is the pipe's reading end, `boot` and `body` its first frame."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *command("services.worker", f"cornet-worker-{boot['worker']}", theirs.fileno(), lifeline),
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), lifeline),
                process_group=0,  # Ctrl-C in a terminal is the supervisor's to pass on, once
            )
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        child = cls(process, reader, writer, on_frame)
        child.send("boot", body, **boot)
        return child

    @property
    def lived_s(self) -> float:
        """How long it has been ready, 0 before."""
        return 0.0 if self.ready_at is None else time.monotonic() - self.ready_at

    def send(self, kind: str, body: bytes = b"", **head: Any) -> None:
        if not self._writer.is_closing():
            self._writer.write(frames.encode(kind, body, **head))

    def ask(self) -> "asyncio.Future[None]":
        """Ask for a snapshot, unless one that was asked for is still due."""
        if self.answered is None or self.answered.done():
            self.answered = asyncio.get_running_loop().create_future()
            self.send("ask")
        return self.answered

    def settle(self) -> None:
        """The snapshot that was asked for has come."""
        if self.answered is not None and not self.answered.done():
            self.answered.set_result(None)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; none to a process that has ended."""
        if self.process.returncode is None:
            self.process.send_signal(number)

    async def ended(self) -> int:
        """Wait for its end, and read what it still said. Returns the exit status, negative for a signal."""
        status = await self.process.wait()
        await self._listening
        self._writer.close()
        if self.answered is not None:
            self.answered.cancel()
        return status

    async def _listen(self, reader: asyncio.StreamReader, on_frame: Callable[["Child", Frame], None]) -> None:
        while (frame := await frames.read(reader)) is not None:
            on_frame(self, frame)


def describe(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
