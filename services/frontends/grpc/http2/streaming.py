"""Streams of methods with any number of messages: a task per call, with back-pressure both ways."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING

from services import errors
from services.errors import CornetError, DeadlineExceeded, Internal, PayloadTooLarge, ShuttingDown
from services.frontends.grpc.call import StreamContext, StreamMethod, bounded, serve_stream
from services.frontends.grpc.http2 import messages
from services.frontends.grpc.http2.frames import CANCEL, FLOW_CONTROL_ERROR, StreamFault
from services.frontends.grpc.http2.headers import Head
from services.frontends.grpc.http2.messages import PREFIX_BYTES
from services.frontends.grpc.http2.status import trailers

if TYPE_CHECKING:
    from services.frontends.grpc.http2.streams import Streams


STOPPING = "The server is shutting down."


class StreamingCall:
    """One call: an iterator of the client's messages, and the task of the handler that answers them.

    What the handler has not taken is not acknowledged to the client, beyond the stream's window; and the handler waits
    while what it gave is pending. It ends once, by the handler, the deadline, the client or the server.
    """

    __slots__ = (
        *(
            "_buffer",
            "_connection",
            "_ended",
            "_failure",
            "_messages",
            "_needed",
            "_room",
            "_task",
            "_unread",
            "_waiting",
        ),
        *("backlog", "deadline", "head", "pending", "queued", "recv_window", "remote_closed", "send_window", "sid"),
        *("_shutting_down", "_started", "tail", "waits"),
    )

    def __init__(
        self, connection: "Streams", sid: int, head: Head, method: StreamMethod, deadline: float | None
    ) -> None:
        self._connection = connection
        self.sid = sid
        self.head = head
        self.deadline = deadline
        self.send_window = connection.sender.initial_window
        self.recv_window = connection.stream_window
        self.remote_closed = False
        self.pending: deque[memoryview] | None = None
        self.tail: bytes | None = None
        self.queued = self.waits = False
        self.backlog = 0
        self._buffer = bytearray()
        self._needed = PREFIX_BYTES
        self._messages: deque[tuple[bool, bytes]] = deque()
        self._unread = 0
        self._waiting: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._started = self._ended = self._shutting_down = False
        self._task = asyncio.get_running_loop().create_task(self._run(method))

    def data(self, buffer: bytes, start: int, stop: int, frame_bytes: int, last: int) -> None:
        """A DATA frame: where its content is, and what it counts for in flow control. Raises StreamFault."""
        content = buffer[start:stop]
        self.recv_window -= frame_bytes
        if self.recv_window < 0:
            raise StreamFault(FLOW_CONTROL_ERROR, "the stream's window is exceeded")
        try:
            self._take(content)
        except CornetError as error:
            self.abort(error)
            return
        self._unread += len(content)
        if not self._connection.context.receive(len(content)):
            self.abort(PayloadTooLarge("The server holds as much of unfinished requests as it may. Try again later."))
            return
        if last:
            self.end()
        else:
            self._replenish()
        self._wake()

    def end(self) -> None:
        """The client has said everything."""
        self.remote_closed = True
        if self._buffer:
            self.abort(Internal("The request ends in the middle of a message."))
        self._wake()

    def gone(self) -> None:
        """The client reset the stream, or the connection is lost."""
        self._connection.sender.drop(self)
        self._stop()

    def expire(self) -> None:
        """The deadline has passed."""
        self.abort(DeadlineExceeded("Deadline Exceeded"))

    def abort(self, error: CornetError) -> None:
        """End the call with an error, whatever the handler does."""
        self._shutting_down = isinstance(error, ShuttingDown)
        sender = self._connection.sender
        if self.pending or self._ended:
            sender.reset(self, CANCEL)
        elif self._started:
            sender.finish(self, trailers(error.code, bounded(str(error))))
        else:
            sender.fail(self, error.code, bounded(str(error)))
        self._stop()

    def drained(self) -> None:
        """What was pending is sent."""
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while not self._messages:
            if self.remote_closed:
                raise StopAsyncIteration
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        is_compressed, data = self._messages.popleft()
        if not self._messages:
            left = len(self._buffer)
            self._connection.context.receive(left - self._unread)
            self._unread = left
            self._replenish()
        if is_compressed:
            limit = self._connection.context.max_message_bytes
            data = await asyncio.to_thread(messages.decompressed, data, self.head.encoding, limit)
        return data

    async def _run(self, method: StreamMethod) -> None:
        code, text = errors.OK, ""
        caller, metrics = StreamContext(self.head.metadata), self._connection.context.metrics
        answers = serve_stream(method, self, caller, metrics, lambda: self._shutting_down)
        try:
            try:
                async for data in answers:
                    await self._send(data)
            finally:
                if isinstance(answers, AsyncGenerator):
                    await answers.aclose()
        except asyncio.CancelledError:
            if not self._ended:
                self._ended = True
                self._connection.sender.reset(self, CANCEL)
            raise
        except CornetError as refusal:
            code, text = refusal.code, bounded(str(refusal))
        if self._ended:
            return
        self._ended = True
        self._release()
        sender = self._connection.sender
        if code != errors.OK and not self._started:
            sender.fail(self, code, text)
            return
        self._begin()
        sender.finish(self, trailers(code, text))

    async def _send(self, data: bytes) -> None:
        context, sender = self._connection.context, self._connection.sender
        self._begin()
        if context.compression in self.head.accepts:
            sender.push(self, messages.compressed(data, context.compression), compressed=True)
        else:
            sender.push(self, data)
        if self.pending:
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    def _begin(self) -> None:
        if not self._started:
            self._started = True
            compression = self._connection.context.compression
            self._connection.sender.start(self, compression if compression in self.head.accepts else None)

    def _take(self, content: bytes) -> None:
        """Cut messages from what has arrived. Raises CornetError where it is no message, or too large a one."""
        buffer = self._buffer
        buffer += content
        while len(buffer) >= self._needed:
            if self._needed == PREFIX_BYTES:
                limit = self._connection.context.max_message_bytes
                self._needed += messages.read_prefix(bytes(buffer[:PREFIX_BYTES]), self.head.encoding, limit)
                if len(buffer) < self._needed:
                    return
            self._messages.append((buffer[0] == 1, bytes(buffer[PREFIX_BYTES : self._needed])))
            del buffer[: self._needed]
            self._needed = PREFIX_BYTES

    def _replenish(self) -> None:
        """Let the client send on, unless whole messages wait to be read; one that is incomplete must come in whole."""
        window = self._connection.stream_window
        if not self._messages and not self.remote_closed and self.recv_window < window // 2:
            self._connection.replenish(self.sid, window - self.recv_window)
            self.recv_window = window

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _stop(self) -> None:
        self._ended = True
        self._release()
        if self._task is not asyncio.current_task():
            self._task.cancel()

    def _release(self) -> None:
        self._connection.context.receive(-self._unread)
        self._unread = 0
        self._buffer.clear()
        self._messages.clear()
